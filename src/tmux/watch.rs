//! Knowing without polling: output on a pane's terminal and growth of a transcript, by inotify.
//!
//! One inotify instance for the daemon. A watch is a hint: its loss costs time, never a message, since
//! every decision also has a due time of its own. On systems without inotify nothing is watched and the
//! due times alone drive.

use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
pub use linux::FileWatch;
#[cfg(not(target_os = "linux"))]
pub use other::FileWatch;

/// Called from the watcher's task; must not block.
pub type OnChange = Box<dyn Fn() + Send + Sync>;

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use crate::sys::wait;
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
    use std::collections::HashMap;
    use std::os::fd::AsFd;
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Clone)]
    pub struct FileWatch {
        inner: Arc<Inner>,
    }

    struct Inner {
        inotify: Inotify,
        watched: Mutex<Watched>,
    }

    #[derive(Default)]
    struct Watched {
        calls: HashMap<WatchDescriptor, Vec<(u64, Arc<OnChange>)>>,
        next: u64,
    }

    /// Ends its watch when dropped.
    pub struct Watching {
        inner: Arc<Inner>,
        descriptor: WatchDescriptor,
        ticket: u64,
    }

    impl FileWatch {
        /// Must be called inside the runtime.
        pub fn start() -> std::io::Result<Self> {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            let inner = Arc::new(Inner { inotify, watched: Mutex::default() });
            let fd = wait::readable(inner.inotify.as_fd().try_clone_to_owned()?)?;
            let reader = inner.clone();
            tokio::spawn(async move {
                while let Ok(mut ready) = fd.readable().await {
                    ready.clear_ready();
                    while let Ok(events) = reader.inotify.read_events() {
                        let watched = reader.watched.lock().unwrap_or_else(PoisonError::into_inner);
                        for event in events {
                            for (_, call) in watched.calls.get(&event.wd).into_iter().flatten() {
                                call();
                            }
                        }
                    }
                }
            });
            Ok(FileWatch { inner })
        }

        /// Calls `on_change` whenever the file is written to, or touched.
        pub fn modified(&self, path: &Path, on_change: OnChange) -> std::io::Result<Watching> {
            self.add(path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB, on_change)
        }

        /// Calls `on_change` whenever an entry appears in the directory, or goes.
        pub fn entries(&self, dir: &Path, on_change: OnChange) -> std::io::Result<Watching> {
            self.add(dir, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE, on_change)
        }

        /// The same, and whenever one of its entries is written to, or the directory itself goes.
        pub fn contents(&self, dir: &Path, on_change: OnChange) -> std::io::Result<Watching> {
            let entries = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
            let written = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
            self.add(dir, entries | written | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF, on_change)
        }

        fn add(&self, path: &Path, what: AddWatchFlags, on_change: OnChange) -> std::io::Result<Watching> {
            let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
            // One place watched for several reasons has one descriptor: it tells what any of them wants.
            let descriptor = self.inner.inotify.add_watch(path, what | AddWatchFlags::from_bits_retain(nix::libc::IN_MASK_ADD))?;
            watched.next += 1;
            let ticket = watched.next;
            watched.calls.entry(descriptor).or_default().push((ticket, Arc::new(on_change)));
            Ok(Watching { inner: self.inner.clone(), descriptor, ticket })
        }
    }

    impl Drop for Watching {
        fn drop(&mut self) {
            let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(calls) = watched.calls.get_mut(&self.descriptor) else { return };
            calls.retain(|(ticket, _)| *ticket != self.ticket);
            if calls.is_empty() {
                watched.calls.remove(&self.descriptor);
                // Gone with its file already: nothing to do.
                let _ = self.inner.inotify.rm_watch(self.descriptor);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::*;

    #[derive(Clone)]
    pub struct FileWatch;
    pub struct Watching;

    impl FileWatch {
        pub fn start() -> std::io::Result<Self> {
            Ok(FileWatch)
        }
        pub fn modified(&self, _path: &Path, _on_change: OnChange) -> std::io::Result<Watching> {
            Ok(Watching)
        }
        pub fn entries(&self, _dir: &Path, _on_change: OnChange) -> std::io::Result<Watching> {
            Ok(Watching)
        }
        pub fn contents(&self, _dir: &Path, _on_change: OnChange) -> std::io::Result<Watching> {
            Ok(Watching)
        }
    }
}

#[cfg(target_os = "linux")]
pub use linux::Watching;
#[cfg(not(target_os = "linux"))]
pub use other::Watching;

/// A file that grows: reads what came since the last read, line by line.
pub struct Tail {
    pub path: PathBuf,
    pub offset: u64,
    rest: Vec<u8>,
}

impl Tail {
    pub fn new(path: PathBuf, offset: u64) -> Self {
        Tail { path, offset, rest: Vec::new() }
    }

    /// Complete lines that have appeared. A file that is not there yet has none.
    pub fn lines(&mut self) -> Vec<String> {
        use std::io::{Read, Seek, SeekFrom};
        let Ok(mut file) = std::fs::File::open(&self.path) else { return Vec::new() };
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return Vec::new();
        }
        let mut fresh = Vec::new();
        if file.read_to_end(&mut fresh).is_err() {
            return Vec::new();
        }
        self.offset += fresh.len() as u64;
        self.rest.extend(fresh);
        let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else { return Vec::new() };
        let complete: Vec<u8> = self.rest.drain(..=end).collect();
        String::from_utf8_lossy(&complete).lines().map(String::from).collect()
    }
}
