//! The durable operations of the store, one method each, so that a fault shim can fail the n-th.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// A file on its way to where it is kept: a record, a claim.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Where it is written, on the same file system.
    pub temp: PathBuf,
    pub kept: PathBuf,
    pub bytes: Vec<u8>,
    /// An earlier one may lie there; it stays when this one cannot be kept.
    pub replaces: bool,
}

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
    /// Keeps files: all of them, or none. When this returns, they survive a power cut. What they share, they
    /// sync once.
    fn keep(&self, placed: &[Placed]) -> io::Result<()> {
        let files: Vec<(PathBuf, Vec<u8>)> = placed.iter().map(|p| (p.temp.clone(), p.bytes.clone())).collect();
        let mut dirs: Vec<&Path> = placed.iter().filter_map(|p| p.kept.parent()).collect();
        dirs.sort();
        dirs.dedup();
        let kept = self
            .create_all_synced(&files)
            .and_then(|()| placed.iter().try_for_each(|p| self.rename(&p.temp, &p.kept)))
            .and_then(|()| dirs.iter().try_for_each(|d| self.sync_dir(d)));
        kept.inspect_err(|_| self.forget(placed))
    }
    /// The sender hears that nothing was accepted; then nothing may be delivered later.
    fn forget(&self, placed: &[Placed]) {
        for file in placed {
            let _ = self.remove(&file.temp);
            if !file.replaces {
                let _ = self.remove(&file.kept);
            }
        }
    }
    /// Writes behind the last byte of a file that is there; no sync.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes renames and removals in a directory survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Writes into a file that is there, at an offset, and syncs that.
    fn overwrite_synced(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything that was done on the file system of a directory survive a power cut.
    fn sync_all(&self, dir: &Path) -> io::Result<()>;
    /// Reads a regular file of our own, no symlink followed, at most `cap` bytes.
    fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>>;
    /// Names in a directory, sorted; also those that are no text.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// Creates a directory with its parents, mode 0700; what was created survives a power cut.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Free bytes for us on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}
