//! What the journal keeps, brings back and leaves alone.

#![allow(clippy::disallowed_methods, reason = "tests write the files they read")]

use super::*;
use crate::core::message::{Ending, Key, Message, State};
use crate::core::record::tests::sample;
use crate::store::disk::OsDisk;
use crate::store::mailbox::Mailbox;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

const SMALL: usize = 16 * BLOCK;

fn letter(n: u64) -> Message {
    Message { id: format!("0199a0b0-0000-7000-8000-{n:012}").parse().unwrap(), seq: n, ..sample(format!("letter {n}").as_bytes()) }
}

struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        Bed { dir: tempfile::tempdir().unwrap() }
    }
    fn open(&self, boot: &str) -> JournalDisk {
        JournalDisk::inline(Arc::new(OsDisk), self.dir.path(), boot, SMALL).unwrap()
    }
    fn queue(&self) -> PathBuf {
        self.dir.path().join("state/peers/echo-ann/queue")
    }
    fn record(&self, folder: &str, n: u64) -> PathBuf {
        self.queue().join(folder).join(letter(n).key().file_name())
    }
    fn log(&self, log: usize) -> log::Content {
        log::read(&fs::read(self.dir.path().join(format!("state/journal/{log}.log"))).unwrap()).unwrap()
    }
}

#[test]
fn what_the_disk_lost_is_made_again_after_a_power_cut_and_only_then() {
    let bed = Bed::new();
    let disk = bed.open("first");
    let mailbox = Mailbox::open(&disk, bed.queue()).unwrap();
    (1..=3).for_each(|n| mailbox.enqueue(&disk, &letter(n)).unwrap());
    let ending = Ending { state: State::Submitted, evidence: None, reason: None, at: "t".into(), attempt: 1, incarnation: 1 };
    mailbox.finish(&disk, &letter(3).key(), &ending).unwrap();
    mailbox.enqueue(&disk, &letter(4)).unwrap();
    drop(disk);
    // As a power cut may leave it: gone, torn, at its old place.
    fs::remove_file(bed.record("new", 1)).unwrap();
    fs::write(bed.record("new", 2), "iapeer").unwrap();
    fs::rename(bed.record("done", 3), bed.record("new", 3)).unwrap();
    drop(bed.open("first"));
    assert!(!bed.record("new", 1).exists(), "a kill loses nothing, so nothing is made again");
    let disk = bed.open("second");
    let scan = Mailbox::open(&disk, bed.queue()).unwrap().scan(&disk).unwrap();
    let waiting: Vec<u64> = scan.waiting.iter().map(|e| e.key.seq).collect();
    assert_eq!((waiting, scan.quarantined), (vec![1, 2, 4], vec![]));
    assert!(bed.record("done", 3).exists(), "what had ended has ended");
    assert!((0..2).all(|log| bed.log(log).steps.is_empty()), "the logs are begun anew");
}

/// The real disk, until it is full: then only what is there can be written over.
#[derive(Default)]
struct Filling(AtomicBool);

impl Filling {
    fn room<T>(&self, done: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.0.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { done() }
    }
}

impl Disk for Filling {
    fn create_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.room(|| OsDisk.create_synced(path, bytes))
    }
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.room(|| OsDisk.create(path, bytes))
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.room(|| OsDisk.append(path, bytes))
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
        self.room(|| OsDisk.sync_all(dir))
    }
    fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>> {
        OsDisk.read(path, cap)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        OsDisk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.create_dir(dir)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        OsDisk.free_bytes(path)
    }
}

#[test]
fn a_refused_message_stays_refused_when_nothing_can_be_mended() {
    let bed = Bed::new();
    let filling = Arc::new(Filling::default());
    let disk = JournalDisk::inline(filling.clone(), bed.dir.path(), "first", SMALL).unwrap();
    let mailbox = Mailbox::open(&disk, bed.queue()).unwrap();
    mailbox.enqueue(&disk, &letter(1)).unwrap();
    filling.0.store(true, Ordering::SeqCst);
    mailbox.enqueue(&disk, &letter(2)).unwrap_err();
    drop(disk);
    let disk = bed.open("second");
    let waiting: Vec<u64> = Mailbox::open(&disk, bed.queue()).unwrap().scan(&disk).unwrap().waiting.iter().map(|e| e.key.seq).collect();
    assert_eq!(waiting, [1]);
}

#[test]
fn a_message_that_was_sent_again_after_a_kill_comes_back_once() {
    let bed = Bed::new();
    let disk = bed.open("first");
    let mailbox = Mailbox::open(&disk, bed.queue()).unwrap();
    mailbox.enqueue(&disk, &letter(1)).unwrap();
    drop(disk);
    // Killed before its file was made and its sender had an answer.
    fs::remove_file(bed.record("new", 1)).unwrap();
    let disk = bed.open("first");
    let again = Message { seq: 2, ..letter(1) };
    mailbox.enqueue(&disk, &again).unwrap();
    let ending = Ending { state: State::Submitted, evidence: None, reason: None, at: "t".into(), attempt: 1, incarnation: 1 };
    mailbox.finish(&disk, &again.key(), &ending).unwrap();
    mailbox.enqueue(&disk, &letter(3)).unwrap();
    drop(disk);
    let whole = bed.dir.path().join("whole");
    let copied = std::process::Command::new("cp").arg("-r").arg(bed.dir.path().join("state")).arg(&whole).status().unwrap();
    assert!(copied.success());
    // A power cut takes nothing, or all files.
    for nothing_left in [false, true] {
        if nothing_left {
            fs::remove_dir_all(bed.dir.path().join("state")).unwrap();
            fs::rename(&whole, bed.dir.path().join("state")).unwrap();
            let files = ["new", "cur", "done"].map(|f| fs::read_dir(bed.queue().join(f)).unwrap()).into_iter().flatten();
            files.for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
        }
        let disk = bed.open("second");
        let scan = Mailbox::open(&disk, bed.queue()).unwrap().scan(&disk).unwrap();
        let waiting: Vec<Key> = scan.waiting.into_iter().map(|e| e.key).collect();
        assert_eq!(waiting, [letter(3).key()], "nothing left: {nothing_left}");
        assert_eq!(fs::read_dir(bed.queue().join("done")).unwrap().count(), if nothing_left { 1 } else { 2 });
    }
}

#[test]
fn what_stands_in_the_way_of_one_mailbox_keeps_no_other_from_coming_back() {
    let bed = Bed::new();
    let disk = bed.open("first");
    let other = bed.dir.path().join("state/peers/echo-bob/queue");
    for (queue, n) in [(bed.queue(), 1), (other.clone(), 2)] {
        Mailbox::open(&disk, queue).unwrap().enqueue(&disk, &letter(n)).unwrap();
    }
    drop(disk);
    // Ann's folders are gone but for a file in the place of one; Bob's are empty.
    fs::remove_dir_all(bed.queue()).unwrap();
    fs::create_dir(bed.queue()).unwrap();
    fs::write(bed.queue().join("new"), "").unwrap();
    for folder in ["new", "tmp"] {
        fs::remove_dir_all(other.join(folder)).unwrap();
    }
    bed.open("second");
    assert!(other.join("new").join(letter(2).key().file_name()).exists());
}

#[test]
fn a_mailbox_that_was_removed_does_not_come_back() {
    let bed = Bed::new();
    let disk = bed.open("first");
    Mailbox::open(&disk, bed.queue()).unwrap().enqueue(&disk, &letter(1)).unwrap();
    fs::rename(bed.queue(), bed.dir.path().join("removed")).unwrap();
    drop(disk);
    bed.open("second");
    assert!(!bed.queue().exists());
}

#[test]
fn a_log_that_is_full_makes_way_for_the_other_one_and_is_begun_anew() {
    let bed = Bed::new();
    let disk = JournalDisk::open(Arc::new(OsDisk), bed.dir.path(), "first").unwrap();
    let mailbox = Mailbox::open(&disk, bed.queue()).unwrap();
    let first = bed.log(0).head.epoch;
    let large = |n: u64| Message { body: vec![b'x'; LOG_BYTES / 8], ..letter(n) };
    (1..=12).for_each(|n| mailbox.enqueue(&disk, &large(n)).unwrap());
    while bed.log(0).head.epoch == first {
        std::thread::yield_now();
    }
    let length = |log: usize| fs::metadata(bed.dir.path().join(format!("state/journal/{log}.log"))).unwrap().len();
    assert!(length(0) <= LOG_BYTES as u64 && length(1) > BLOCK as u64, "{} {}", length(0), length(1));
    assert_eq!(mailbox.scan(&disk).unwrap().waiting.len(), 12);
}

#[test]
fn something_else_in_the_place_of_a_log_is_put_aside() {
    let bed = Bed::new();
    let dir = bed.dir.path().join("state/journal");
    fs::create_dir_all(&dir).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.join("0.log")).unwrap();
    fs::create_dir(dir.join("1.log")).unwrap();
    let disk = bed.open("first");
    Mailbox::open(&disk, bed.queue()).unwrap().enqueue(&disk, &letter(1)).unwrap();
    assert!(bed.log(0).steps.len() + bed.log(1).steps.len() == 1);
    assert!(fs::symlink_metadata(dir.join("0.corrupt")).unwrap().is_symlink() && dir.join("1.corrupt").is_dir());
}
