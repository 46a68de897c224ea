//! An ext4 file system in a file, whose power can be cut. Needs root and a loop device.

#![allow(unsafe_code, reason = "the ioctl that shuts a file system down has no wrapper")]

use crate::harness::{Host, PATIENCE};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

mod ioctl {
    nix::ioctl_read!(shutdown, b'X', 125, u32);
}

/// Nothing of what is still in memory reaches the disk, the file system's own journal included.
const NO_LOG_FLUSH: u32 = 2;

pub struct Card {
    image: PathBuf,
    at: PathBuf,
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let out = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() { Ok(()) } else { Err(format!("{program}: {}", String::from_utf8_lossy(&out.stderr).trim())) }
}

impl Card {
    /// Makes one and mounts it, for us alone; what is missing where that cannot be.
    pub fn new(image: PathBuf, at: PathBuf, mebibytes: u64, options: &[&str]) -> Result<Card, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root may mount".into());
        }
        File::create(&image).and_then(|f| f.set_len(mebibytes << 20)).map_err(|e| e.to_string())?;
        run("mkfs.ext4", &[&["-q", "-F"], options, &[&image.to_string_lossy()]].concat())?;
        std::fs::create_dir_all(&at).map_err(|e| e.to_string())?;
        let card = Card { image, at };
        card.mount()?;
        std::os::unix::fs::chown(&card.at, Some(0), Some(0)).map_err(|e| e.to_string())?;
        std::fs::set_permissions(&card.at, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(|e| e.to_string())?;
        Ok(card)
    }

    pub fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop,errors=remount-ro", &self.image.to_string_lossy(), &self.at.to_string_lossy()])
    }

    /// Whoever used it is ending: waits for that.
    pub fn unmount(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            match run("umount", &[&self.at.to_string_lossy()]) {
                Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
                done => break done?,
            }
        }
        // In another namespace it lives on while a process does.
        while !self.device().is_empty() {
            if began.elapsed() > PATIENCE {
                return Err(format!("{} stays in use", self.image.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The loop device that holds it; empty when none does.
    fn device(&self) -> String {
        let out = Command::new("losetup").args(["-n", "-O", "NAME", "-j"]).arg(&self.image).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_string()
    }

    /// As a file system that has met an error and was made for it: read-only until it is mounted anew.
    pub fn make_read_only(&self) -> Result<(), String> {
        let device = self.device();
        let name = device.rsplit('/').next().unwrap_or_default();
        std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test").map_err(|e| format!("{device}: {e}"))
    }

    /// Repairs it while it is not mounted.
    pub fn check(&self) -> Result<(), String> {
        // 1: there was something to repair.
        let out = Command::new("e2fsck").args(["-f", "-y"]).arg(&self.image).output().map_err(|e| format!("e2fsck: {e}"))?;
        if matches!(out.status.code(), Some(0 | 1)) { Ok(()) } else { Err(String::from_utf8_lossy(&out.stdout).into_owned()) }
    }

    /// From now on every write fails, and what was not synced is lost.
    pub fn cut_power(&self) {
        let root = File::open(&self.at).unwrap();
        let mut how = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open and the kernel reads one word.
        unsafe { ioctl::shutdown(std::os::fd::AsRawFd::as_raw_fd(&root), &raw mut how) }.unwrap();
    }

    pub fn path(&self) -> &Path {
        &self.at
    }
}

/// A host whose root lies on a card.
pub struct OnCard {
    pub host: Host,
    pub card: Card,
}

impl OnCard {
    pub fn new(mebibytes: u64, options: &[&str]) -> Result<OnCard, String> {
        let host = Host::new();
        let card = Card::new(host.dir.path().join("card"), host.root(), mebibytes, options)?;
        Ok(OnCard { host, card })
    }
}

impl Drop for OnCard {
    fn drop(&mut self) {
        // While what it finds them by can be read.
        self.host.end();
        let _ = self.card.unmount();
    }
}
