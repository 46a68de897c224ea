//! The real disk behind the store's port.

use crate::ports::disk::Disk;
use nix::fcntl::OFlag;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub struct OsDisk;

impl Disk for OsDisk {
    fn create_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = new_file(path)?;
        file.write_all(bytes)?;
        file.sync_data()
    }
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        new_file(path)?.write_all(bytes)
    }
    fn create_all_synced(&self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
        let mut open = Vec::with_capacity(files.len());
        for (path, bytes) in files {
            let mut file = new_file(path)?;
            file.write_all(bytes)?;
            open.push(file);
        }
        // All are written: one commit of the file system's journal serves most of these.
        open.iter().try_for_each(File::sync_data)
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let mut file = OpenOptions::new().append(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        file.write_all(bytes)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
    fn overwrite_synced(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
        file.write_all_at(bytes, at).and_then(|()| File::sync_data(&file))
    }
    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        sync_file_system(&File::open(dir)?)
    }
    fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>> {
        read_own(path, cap)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let mut names = fs::read_dir(dir)?.map(|e| Ok(e?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|d| !d.exists()).collect();
        create_dir(dir)?;
        missing.iter().filter_map(|d| d.parent()).try_for_each(|parent| self.sync_dir(parent))
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        fs2::available_space(path)
    }
}

#[cfg(target_os = "linux")]
fn sync_file_system(dir: &File) -> io::Result<()> {
    nix::unistd::syncfs(dir).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_dir: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)
}

pub fn create_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Reads a regular file of our own user: no symlink, no FIFO, no device, at most `cap` bytes.
pub fn read_own(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    if meta.uid() != nix::unistd::getuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "belongs to another user"));
    }
    if meta.len() > cap {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {cap} bytes")));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(cap).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A name that `replace` gives to what it is writing; one that lies there at a start was left by a kill.
pub fn is_temp(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".") && name.as_bytes().ends_with(b".tmp")
}

static TEMP: AtomicU64 = AtomicU64::new(0);

/// Where a file is written that is to take the place of another.
pub fn temp_beside(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("file");
    path.with_file_name(format!(".{name}.{}.{}.tmp", std::process::id(), TEMP.fetch_add(1, Ordering::Relaxed)))
}

/// Replaces a small file: it is the old one or the new one, also after a power cut.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let temp = temp_beside(path);
    let written = disk.create_synced(&temp, bytes).and_then(|()| disk.rename(&temp, path));
    if let Err(error) = written {
        // What is left of a failed write must not stay; its own failure changes nothing.
        let _ = disk.remove(&temp);
        return Err(error);
    }
    disk.sync_dir(dir)
}

/// Replaces several small files at the price of one: each is the old one or the new one, and when this returns
/// all are new, also after a power cut.
pub fn replace_all(disk: &dyn Disk, files: &[(&Path, &[u8])]) -> io::Result<()> {
    let temps: Vec<(PathBuf, Vec<u8>)> = files.iter().map(|(path, bytes)| (temp_beside(path), bytes.to_vec())).collect();
    let written = disk.create_all_synced(&temps).and_then(|()| temps.iter().zip(files).try_for_each(|((temp, _), (path, _))| disk.rename(temp, path)));
    if let Err(error) = written {
        for (temp, _) in &temps {
            let _ = disk.remove(temp);
        }
        return Err(error);
    }
    let mut dirs: Vec<&Path> = files.iter().filter_map(|(path, _)| path.parent()).collect();
    dirs.sort();
    dirs.dedup();
    dirs.iter().try_for_each(|dir| disk.sync_dir(dir))
}

/// Removes a file that may be gone already.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
