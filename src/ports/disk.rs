//! The durable operations of the store, one method each, so that a fault shim can fail the n-th.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

pub trait Disk: Send + Sync {
    /// Creates a file that must not exist, writes all of it, syncs it.
    fn create_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// The same without the sync: for what a later look can find out again.
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// The same for several files; a disk that can lets them share the cost of the sync. When it fails,
    /// any of them may be there.
    fn create_all_synced(&self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
        files.iter().try_for_each(|(path, bytes)| self.create_synced(path, bytes))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes renames and removals in a directory survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Reads a regular file of our own, no symlink followed, at most `cap` bytes.
    fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>>;
    /// Names in a directory, sorted; also those that are no text.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// Creates a directory with its parents, mode 0700; what was created survives a power cut.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Free bytes for us on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}
