//! The floors: what one durable write costs on this file system, and what a pseudo-terminal costs without
//! anybody in between.

use crate::arrivals::Arrivals;
use crate::raw_agent::{ID_MARK, PASTE, SUBMITTED, monotonic_ns};
use nix::pty::openpty;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A raw program on a pseudo-terminal of our own.
pub struct Pty {
    master: File,
    child: Child,
    dir: PathBuf,
    next: usize,
}

impl Pty {
    pub fn start(dir: &Path, arrivals: &Arrivals) -> Pty {
        let pair = openpty(None, None).expect("a pseudo-terminal");
        let slave = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("raw-agent").arg(&arrivals.socket).stdin(slave()).stdout(slave()).stderr(slave());
        let child = command.spawn().expect("the raw program starts");
        drop(command);
        let mut master = File::from(pair.master);
        wait_for_screen(&mut master);
        let dir = dir.join("floor");
        std::fs::create_dir(&dir).unwrap();
        Pty { master, child, dir, next: 0 }
    }

    /// Two file syncs, then the write: nanoseconds until the program had read the submit key.
    pub fn deliver(&mut self, arrivals: &Arrivals, body: &str) -> u64 {
        let id = uuid::Uuid::now_v7().to_string();
        let text = framed(&id, body);
        let began = monotonic_ns();
        for (part, bytes) in [("record", body.as_bytes()), ("claim", &[b'c'; 300])] {
            self.next += 1;
            write_synced(&self.dir.join(format!("{}.{part}", self.next)), bytes);
        }
        self.master.write_all(&text).unwrap();
        arrivals.wait(&id) - began
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for_screen(master: &mut File) {
    let mut seen = Vec::new();
    let mut chunk = [0; 1024];
    while !seen.ends_with(b"> ") {
        let n = master.read(&mut chunk).expect("the raw program draws its screen");
        seen.extend_from_slice(&chunk[..n]);
    }
}

/// A body as every raw program wants to see it.
pub fn with_id(id: &str, body: &str) -> String {
    format!("{}{id}\">\n{body}", String::from_utf8_lossy(ID_MARK))
}

fn framed(id: &str, body: &str) -> Vec<u8> {
    [PASTE, with_id(id, body).as_bytes(), SUBMITTED].concat()
}

fn write_synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create_new(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_data().unwrap();
}

/// One file that grows by durable writes.
pub struct Journal {
    file: File,
    dir: PathBuf,
    next: usize,
}

impl Journal {
    pub fn open(dir: &Path) -> Journal {
        let dir = dir.join("journal");
        std::fs::create_dir_all(dir.join("kept")).unwrap();
        let file = OpenOptions::new().create(true).append(true).open(dir.join("appended")).unwrap();
        Journal { file, dir, next: 0 }
    }

    /// The least that durable can mean: one write and one sync on an open file.
    pub fn append(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).unwrap();
        self.file.sync_all().unwrap();
    }

    /// The least that a file of its own can cost which survives a power cut: written, synced, renamed into
    /// its place, the directory synced.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.next += 1;
        let (temp, place) = (self.dir.join("temp"), self.dir.join("kept"));
        write_synced(&temp, bytes);
        std::fs::rename(&temp, place.join(self.next.to_string())).unwrap();
        File::open(&place).unwrap().sync_all().unwrap();
    }
}
