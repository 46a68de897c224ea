//! Knowing without polling: output on a pane's terminal, growth of a transcript, files that another hand
//! changes, by inotify.
//!
//! One inotify instance for the daemon. A watch is a hint: its loss costs time, never a message, since
//! every decision also has a due time of its own. On systems without inotify nothing is watched and the
//! due times alone drive.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
pub use linux::FileWatch;
#[cfg(not(target_os = "linux"))]
pub use other::FileWatch;

/// Called from the watcher's task; must not block.
pub type OnChange = Box<dyn Fn() + Send + Sync>;

/// The names in a directory that matter.
pub type Names = fn(&OsStr) -> bool;

/// What is said of files in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Whole ones: written and closed, moved in or out, deleted. One that is still being written is no news.
    Whole,
    /// Also whatever is just made: what counts by being there.
    Any,
}

/// Whether no more can be watched: the user's share of watches is used up.
pub fn is_used_up(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::ENOSPC)
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use crate::sys::wait;
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
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
        calls: HashMap<WatchDescriptor, Vec<Call>>,
        /// Called when events were lost.
        lost: Vec<OnChange>,
        next: u64,
    }

    struct Call {
        ticket: u64,
        names: Option<Names>,
        on_change: OnChange,
    }

    impl Watched {
        fn tell(&self, event: &InotifyEvent) {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.lost.iter().for_each(|call| call());
            }
            for call in self.calls.get(&event.wd).into_iter().flatten() {
                // An event of the directory itself names nothing and concerns all that is in it.
                if call.names.zip(event.name.as_deref()).is_none_or(|(wanted, name)| wanted(name)) {
                    (call.on_change)();
                }
            }
        }
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
                        events.iter().for_each(|event| watched.tell(event));
                    }
                }
            });
            Ok(FileWatch { inner })
        }

        /// Calls `on_change` whenever the file is written to, or touched.
        pub fn modified(&self, path: &Path, on_change: OnChange) -> std::io::Result<Watching> {
            self.add(path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB, None, on_change)
        }

        /// Calls `on_change` whenever an entry appears in the directory, or goes.
        pub fn entries(&self, dir: &Path, on_change: OnChange) -> std::io::Result<Watching> {
            self.add(dir, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE, None, on_change)
        }

        /// The same, and whenever one of its entries is written to, or the directory itself goes.
        pub fn contents(&self, dir: &Path, on_change: OnChange) -> std::io::Result<Watching> {
            let entries = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
            let written = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
            self.add(dir, entries | written | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF, None, on_change)
        }

        /// Calls `on_change` whenever a file of such a name comes, changes or goes, or the directory does.
        pub fn files(&self, dir: &Path, what: Files, names: Names, on_change: OnChange) -> std::io::Result<Watching> {
            let mut mask = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
            mask |= AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ONLYDIR;
            if what == Files::Any {
                mask |= AddWatchFlags::IN_CREATE;
            }
            self.add(dir, mask, Some(names), on_change)
        }

        /// Calls `on_lost` whenever events were lost: then only looking at everything tells what changed.
        pub fn on_loss(&self, on_lost: OnChange) {
            self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner).lost.push(on_lost);
        }

        fn add(&self, path: &Path, what: AddWatchFlags, names: Option<Names>, on_change: OnChange) -> std::io::Result<Watching> {
            #[cfg(debug_assertions)]
            if names.is_some() && std::env::var_os("IAPEER_TEST_NO_WATCHES").is_some() {
                return Err(std::io::Error::from_raw_os_error(nix::libc::ENOSPC));
            }
            let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
            // One place watched for several reasons has one descriptor: it tells what any of them wants.
            let descriptor = self.inner.inotify.add_watch(path, what | AddWatchFlags::from_bits_retain(nix::libc::IN_MASK_ADD))?;
            watched.next += 1;
            let ticket = watched.next;
            watched.calls.entry(descriptor).or_default().push(Call { ticket, names, on_change });
            Ok(Watching { inner: self.inner.clone(), descriptor, ticket })
        }
    }

    impl Drop for Watching {
        fn drop(&mut self) {
            let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(calls) = watched.calls.get_mut(&self.descriptor) else { return };
            calls.retain(|call| call.ticket != self.ticket);
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
        pub fn files(&self, _dir: &Path, _what: Files, _names: Names, _on_change: OnChange) -> std::io::Result<Watching> {
            Ok(Watching)
        }
        pub fn on_loss(&self, _on_lost: OnChange) {}
    }
}

#[cfg(target_os = "linux")]
pub use linux::Watching;
#[cfg(not(target_os = "linux"))]
pub use other::Watching;

/// Most bytes that are read of a file at once, and of one line.
const MOST_AT_ONCE: u64 = 64 * 1024 * 1024;

/// Its path comes from a program: what is no regular file must not hold up whoever reads it.
fn open_regular(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

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
        let Ok(mut file) = open_regular(&self.path) else { return Vec::new() };
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return Vec::new();
        }
        let mut fresh = Vec::new();
        if file.take(MOST_AT_ONCE).read_to_end(&mut fresh).is_err() {
            return Vec::new();
        }
        self.offset += fresh.len() as u64;
        self.rest.extend(fresh);
        let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else {
            // No program writes such a line.
            if self.rest.len() as u64 > MOST_AT_ONCE {
                self.rest = Vec::new();
            }
            return Vec::new();
        };
        let complete: Vec<u8> = self.rest.drain(..=end).collect();
        String::from_utf8_lossy(&complete).lines().map(String::from).collect()
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Notify;

    #[test]
    fn what_is_no_file_has_no_lines_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [pipe, dir.path().to_path_buf(), "/dev/zero".into(), dir.path().join("none")] {
            assert_eq!(Tail::new(path, 0).lines(), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn a_file_that_matters_is_told_of_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let watch = FileWatch::start().unwrap();
        let (told, other) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let call = |n: &Arc<Notify>| {
            let n = n.clone();
            Box::new(move || n.notify_one())
        };
        let _any = watch.files(dir.path(), Files::Any, |n| n == "a", call(&told)).unwrap();
        let _whole = watch.files(dir.path(), Files::Whole, |n| n == "b", call(&other)).unwrap();
        std::fs::write(dir.path().join("c"), "").unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        told.notified().await;
        std::fs::remove_dir(dir.path().join("a")).unwrap();
        told.notified().await;
        std::fs::write(dir.path().join("b"), "x").unwrap();
        other.notified().await;
        // The directory itself: all that was in it is gone.
        std::fs::rename(dir.path(), dir.path().with_extension("moved")).unwrap();
        told.notified().await;
        other.notified().await;
        std::fs::rename(dir.path().with_extension("moved"), dir.path()).unwrap();
    }
}
