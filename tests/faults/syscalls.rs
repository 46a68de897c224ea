//! The real disk really syncs: with every sync call failing in the kernel, no write may say that it was
//! durable.
//!
//! A seccomp filter answers `fsync`, `fdatasync` and `syncfs` with EIO, in one thread that nobody else uses. A
//! missing call shows as a success.

use crate::seccomp::{Answers, SYNCS};
use iapeer::ports::disk::Disk;
use iapeer::store::disk::{OsDisk, replace};
use iapeer::store::spare::SpareDisk;
use nix::libc;
use std::path::Path;

/// Fails the sync calls of this thread from now on.
fn let_syncs_fail() {
    Answers::new(&SYNCS, libc::EIO as u16).install().unwrap();
}

fn code(answer: std::io::Result<()>) -> Option<i32> {
    answer.err().and_then(|e| e.raw_os_error())
}

/// Whether what a disk says it has synced needed the sync calls.
fn syncs(disk: &dyn Disk, path: &Path) {
    assert_eq!(code(disk.create_synced(&path.join("file"), b"x")), Some(libc::EIO), "the bytes of a file");
    let several = [(path.join("first"), b"x".to_vec()), (path.join("second"), b"x".to_vec())];
    assert_eq!(code(disk.create_all_synced(&several)), Some(libc::EIO), "the bytes of several files");
    std::fs::write(path.join("there"), "x").unwrap();
    assert_eq!(code(disk.overwrite_synced(&path.join("there"), 0, b"y")), Some(libc::EIO), "bytes in a file");
    assert_eq!(code(disk.sync_all(path)), Some(libc::EIO), "a file system");
    assert_eq!(code(disk.sync_dir(path)), Some(libc::EIO), "the names of a directory");
    assert_eq!(code(replace(disk, &path.join("replaced"), b"x")), Some(libc::EIO), "a replaced file");
    assert_eq!(code(disk.create_dir(&path.join("one/two"))), Some(libc::EIO), "a new directory");
    assert_eq!(code(disk.create(&path.join("lazy"), b"x")), None, "what need not be synced is not");
    assert_eq!(code(disk.create_dir(path)), None, "a directory that is there");
}

#[test]
fn the_real_disk_syncs_what_it_says_it_has_synced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    std::thread::spawn(move || {
        OsDisk.create_synced(&path.join("before"), b"x").unwrap();
        let_syncs_fail();
        syncs(&OsDisk, &path);
    })
    .join()
    .unwrap();
}

#[test]
fn files_made_ahead_are_synced_as_others_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let disk = SpareDisk::start(&path).unwrap();
    while disk.waiting() < 16 {
        std::thread::yield_now();
    }
    std::thread::spawn(move || {
        let_syncs_fail();
        syncs(&disk, &path);
    })
    .join()
    .unwrap();
}
