//! Files made ahead. Making a file can cost several times what writing and syncing it costs: a well-filled
//! file system searches long for a free inode. So some wait here that have no name yet, and a kept record
//! only has to be written, synced and named.
//!
//! A file without a name (`O_TMPFILE`) leaves nothing behind when the daemon dies, and gets its name only
//! with all its bytes in it. File systems that know no such files get plain ones.

use super::disk::OsDisk;
use crate::ports::disk::Disk;
use nix::fcntl::{AtFlags, OFlag};
use nix::unistd::linkat;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So many wait at most; with fewer than a quarter of them, more are made at once.
const SPARES: usize = 64;
/// More are made when none was taken for so long: making them slows the syncs of the same file system.
const QUIET: Duration = Duration::from_millis(5);

/// The real disk with files made ahead on the file system of one directory.
pub struct SpareDisk {
    shelf: Arc<Shelf>,
}

#[derive(Default)]
struct Shelf {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    files: VecDeque<File>,
    taken: u64,
    over: bool,
}

impl Shelf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<File> {
        let mut state = self.state();
        state.taken += 1;
        let there = state.files.len();
        let file = state.files.pop_front();
        // In between, whoever makes them looks by itself.
        if there >= SPARES || there <= SPARES / 4 {
            self.changed.notify_one();
        }
        file
    }

    /// Waits until one is wanted; `false` when no more are.
    fn wanted(&self) -> bool {
        let mut state = self.state();
        loop {
            if state.over {
                return false;
            }
            let taken = state.taken;
            state = if state.files.len() >= SPARES {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else if state.files.len() < SPARES / 4 {
                return true;
            } else {
                let (state, waited) = self.changed.wait_timeout(state, QUIET).unwrap_or_else(PoisonError::into_inner);
                if waited.timed_out() && state.taken == taken {
                    return !state.over;
                }
                state
            };
        }
    }
}

impl SpareDisk {
    /// Makes files on the file system of `dir` until it is dropped.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let shelf = Arc::new(Shelf::default());
        let (theirs, dir) = (shelf.clone(), dir.to_path_buf());
        std::thread::Builder::new().name("spares".into()).spawn(move || {
            while theirs.wanted() {
                match nameless(&dir) {
                    Ok(file) => theirs.state().files.push_back(file),
                    // It knows none, or is full: whoever writes next meets the reason.
                    Err(error) => return tracing::debug!(%error, dir = %dir.display(), "no files are made ahead"),
                }
            }
        })?;
        Ok(SpareDisk { shelf })
    }

    /// How many wait to be used.
    pub fn waiting(&self) -> usize {
        self.shelf.state().files.len()
    }

    /// Writes all into one of them; `None` when there is none.
    fn written(&self, bytes: &[u8]) -> Option<io::Result<File>> {
        let mut file = self.shelf.take()?;
        Some(file.write_all(bytes).map(|()| file))
    }

    fn write(&self, path: &Path, bytes: &[u8], sync: impl Fn(&File) -> io::Result<()>, plain: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match self.written(bytes) {
            None => plain(),
            Some(written) => {
                let file = written?;
                sync(&file)?;
                if name(&file, path)? { Ok(()) } else { plain() }
            }
        }
    }
}

impl Drop for SpareDisk {
    fn drop(&mut self) {
        self.shelf.state().over = true;
        self.shelf.changed.notify_all();
    }
}

fn nameless(dir: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).mode(0o600).custom_flags(OFlag::O_TMPFILE.bits()).open(dir)
}

/// Gives it its name, which must be free; `false` when it cannot have one there.
fn name(file: &File, path: &Path) -> io::Result<bool> {
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(nix::fcntl::AT_FDCWD, open.as_str(), nix::fcntl::AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW) {
        Ok(()) => Ok(true),
        // Another file system, or no `/proc`; a directory that is missing is met again by the plain way.
        Err(nix::Error::EXDEV | nix::Error::ENOENT | nix::Error::EPERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Disk for SpareDisk {
    fn create_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write(path, bytes, File::sync_data, || OsDisk.create_synced(path, bytes))
    }
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write(path, bytes, |_| Ok(()), || OsDisk.create(path, bytes))
    }
    fn create_all_synced(&self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
        let mut open = Vec::with_capacity(files.len());
        for (path, bytes) in files {
            match self.written(bytes) {
                Some(file) => open.push((file?, path)),
                None => return OsDisk.create_all_synced(files),
            }
        }
        // All are written: one commit of the file system's journal serves most of these.
        open.iter().try_for_each(|(file, _)| file.sync_data())?;
        for (n, (file, path)) in open.iter().enumerate() {
            if !name(file, path)? {
                return OsDisk.create_all_synced(&files[n..]);
            }
        }
        Ok(())
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        OsDisk.append(path, bytes)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }
    fn overwrite_synced(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        OsDisk.overwrite_synced(path, at, bytes)
    }
    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_all(dir)
    }
    fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>> {
        OsDisk.read(path, cap)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        OsDisk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.create_dir(dir)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        OsDisk.free_bytes(path)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// A disk whose spares are there.
    fn disk(dir: &Path) -> SpareDisk {
        let disk = SpareDisk::start(dir).unwrap();
        while disk.waiting() < SPARES {
            std::thread::yield_now();
        }
        disk
    }

    #[test]
    fn a_file_made_ahead_is_as_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(dir.path());
        assert!(disk.list(dir.path()).unwrap().is_empty(), "they have no names");
        let path = |n: u32| dir.path().join(n.to_string());
        disk.create_synced(&path(1), b"one").unwrap();
        disk.create(&path(2), b"two").unwrap();
        disk.create_all_synced(&[(path(3), b"three".to_vec()), (path(4), b"four".to_vec())]).unwrap();
        for (n, text) in [(1, "one"), (2, "two"), (3, "three"), (4, "four")] {
            let meta = std::fs::symlink_metadata(path(n)).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.nlink(), meta.is_file()), (0o600, 1, true));
            assert_eq!(disk.read(&path(n), 10).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn a_name_that_is_taken_is_refused_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(dir.path());
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        disk.create(&path, b"old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for taken in [&path, &link] {
            assert_eq!(disk.create_synced(taken, b"new").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(disk.create_all_synced(&[(taken.clone(), b"new".to_vec())]).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let missing = dir.path().join("no/file");
        assert_eq!(disk.create_synced(&missing, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn many_at_once_and_other_file_systems_get_plain_files() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(dir.path());
        let files: Vec<(PathBuf, Vec<u8>)> = (0..3 * SPARES).map(|n| (dir.path().join(n.to_string()), vec![b'x'; n])).collect();
        disk.create_all_synced(&files).unwrap();
        assert!(files.iter().all(|(path, bytes)| std::fs::read(path).unwrap() == *bytes));
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
        let path = other.path().join("file");
        disk.create_synced(&path, b"there").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"there");
    }

    #[test]
    fn what_knows_no_nameless_files_is_written_all_the_same() {
        // Procfs knows none.
        let dir = tempfile::tempdir().unwrap();
        let disk = SpareDisk::start(Path::new("/proc")).unwrap();
        disk.create_synced(&dir.path().join("file"), b"plain").unwrap();
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"plain");
    }
}
