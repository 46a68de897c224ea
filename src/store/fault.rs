//! A real disk that fails on demand, for tests of the whole daemon; it exists in debug builds only.
//!
//! `IAPEER_TEST_FAULT` says what happens at which writing operation, counted from 1 at the start of the
//! daemon: `kill@17` (SIGKILL to itself before it), `killed@17` (after it), `eio@17`, `enospc@17-40`,
//! `short@17` (half of the bytes, then the error), `floor` (no space is reported as free), `stall@FILE` (no
//! operation goes on while FILE exists).

use super::disk::OsDisk;
use crate::ports::disk::Disk;
use nix::libc::{EIO, ENOSPC};
use nix::sys::signal::{Signal, raise};
use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    KillBefore,
    KillAfter,
    Error(i32),
    Short,
    Floor,
    Stall,
}

/// What goes wrong, and at which operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    kind: Kind,
    at: RangeInclusive<usize>,
    /// What stalls everything while it exists.
    gate: PathBuf,
}

impl FromStr for Plan {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no fault (kill@N, killed@N, eio@N-M, enospc@N-M, short@N, floor, stall@FILE)");
        let (word, place) = text.split_once('@').unwrap_or((text, ""));
        let kind = match word {
            "kill" => Kind::KillBefore,
            "killed" => Kind::KillAfter,
            "eio" => Kind::Error(EIO),
            "enospc" => Kind::Error(ENOSPC),
            "short" => Kind::Short,
            "floor" if place.is_empty() => return Ok(Plan { kind: Kind::Floor, at: 0..=0, gate: PathBuf::new() }),
            "stall" if !place.is_empty() => return Ok(Plan { kind: Kind::Stall, at: 0..=usize::MAX, gate: place.into() }),
            _ => return Err(wrong()),
        };
        let (first, last) = place.split_once('-').unwrap_or((place, place));
        let number = |n: &str| n.parse().map_err(|_| wrong());
        Ok(Plan { kind, at: number(first)?..=number(last)?, gate: PathBuf::new() })
    }
}

pub struct FaultDisk {
    plan: Plan,
    count: AtomicUsize,
}

impl FaultDisk {
    pub fn new(plan: Plan) -> Self {
        FaultDisk { plan, count: AtomicUsize::new(0) }
    }

    /// Counts an operation and runs it, or what is to happen instead; `half` leaves what a short write does.
    fn operation(&self, whole: impl FnOnce() -> io::Result<()>, half: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if !self.plan.at.contains(&number) {
            return whole();
        }
        match self.plan.kind {
            Kind::KillBefore => die(),
            Kind::KillAfter => whole().and_then(|()| die()),
            Kind::Error(code) => Err(io::Error::from_raw_os_error(code)),
            Kind::Short => half().and(Err(io::Error::from_raw_os_error(ENOSPC))),
            Kind::Floor => whole(),
            Kind::Stall => {
                self.stall();
                whole()
            }
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a hung disk is what is played here")]
    fn stall(&self) {
        while self.plan.gate.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn die() -> io::Result<()> {
    raise(Signal::SIGKILL).map_err(io::Error::from)
}

impl Disk for FaultDisk {
    fn create_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.operation(|| OsDisk.create_synced(path, bytes), || OsDisk.create(path, &bytes[..bytes.len() / 2]))
    }
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.operation(|| OsDisk.create(path, bytes), || OsDisk.create(path, &bytes[..bytes.len() / 2]))
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.operation(|| OsDisk.append(path, bytes), || OsDisk.append(path, &bytes[..bytes.len() / 2]))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation(|| OsDisk.rename(from, to), || Ok(()))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation(|| OsDisk.remove(path), || Ok(()))
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operation(|| OsDisk.sync_dir(dir), || Ok(()))
    }
    fn overwrite_synced(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.operation(|| OsDisk.overwrite_synced(path, at, bytes), || OsDisk.overwrite_synced(path, at, &bytes[..bytes.len() / 2]))
    }
    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        self.operation(|| OsDisk.sync_all(dir), || Ok(()))
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
        if self.plan.kind == Kind::Floor { Ok(0) } else { OsDisk.free_bytes(path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_plan_is_understood_and_nothing_else() {
        let plan = |text: &str| text.parse::<Plan>();
        assert_eq!(plan("kill@17"), Ok(Plan { kind: Kind::KillBefore, at: 17..=17, gate: PathBuf::new() }));
        assert_eq!(plan("enospc@17-40"), Ok(Plan { kind: Kind::Error(ENOSPC), at: 17..=40, gate: PathBuf::new() }));
        assert_eq!(plan("floor").map(|p| p.kind), Ok(Kind::Floor));
        assert_eq!(plan("stall@/x@y").map(|p| p.gate), Ok(PathBuf::from("/x@y")));
        for wrong in ["", "kill", "kill@", "eio@x", "floor@3", "stall", "melt@1"] {
            assert!(plan(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_fault_comes_at_its_operation_and_is_over_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultDisk::new("short@2".parse().unwrap());
        let path = |n: u32| dir.path().join(n.to_string());
        disk.create_synced(&path(1), b"1234").unwrap();
        assert_eq!(disk.create_synced(&path(2), b"1234").unwrap_err().raw_os_error(), Some(ENOSPC));
        assert_eq!(std::fs::read(path(2)).unwrap(), b"12");
        disk.create_synced(&path(3), b"1234").unwrap();
    }
}
