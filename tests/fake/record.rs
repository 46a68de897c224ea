//! What the agent leaves behind: the ground-truth log, the transcript, hooks.
//!
//! `log.jsonl`: `{"ev":"start","pid"}`, `{"ev":"bytes","data"}` for every chunk that was read (one character
//! per byte, U+0000 to U+00FF), `{"ev":"turn","text"}` for every submitted turn, and a line for everything that
//! must not happen: `consent`, `picked`, `lost`. Each has `ms`, the time since the start.

use crate::profile::{Hooks, Profile};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between the two pieces of a split record.
const SPLIT: Duration = Duration::from_millis(60);

pub struct Record {
    log: File,
    began: Instant,
    iapeer: PathBuf,
    session_id: String,
    transcript: PathBuf,
    /// Pieces of the transcript and when they are due, in order.
    late: VecDeque<(Instant, Vec<u8>)>,
}

impl Record {
    pub fn open(dir: &Path, iapeer: PathBuf, session_id: String) -> Record {
        let append = |name: &str| OpenOptions::new().append(true).create(true).open(dir.join(name)).expect("the steering folder can be written");
        let transcript = dir.join(format!("{session_id}.jsonl"));
        Record { log: append("log.jsonl"), began: Instant::now(), iapeer, session_id, transcript, late: VecDeque::new() }
    }

    pub fn log(&mut self, event: &str, mut line: Value) {
        line["ev"] = json!(event);
        line["ms"] = json!(self.began.elapsed().as_millis() as u64);
        self.log.write_all(format!("{line}\n").as_bytes()).expect("the log takes lines");
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.log("bytes", json!({"data": bytes.iter().map(|b| char::from(*b)).collect::<String>()}));
    }

    pub fn transcript(&mut self, profile: &Profile, record: Value) {
        if !profile.transcript {
            return;
        }
        let line = format!("{record}\n").into_bytes();
        let due = Instant::now() + Duration::from_millis(profile.transcript_delay_ms);
        let due = self.late.back().map_or(due, |(last, _)| due.max(*last));
        if profile.transcript_split {
            let (head, tail) = line.split_at(line.len() / 2);
            self.late.extend([(due, head.to_vec()), (due + SPLIT, tail.to_vec())]);
        } else {
            self.late.push_back((due, line));
        }
        self.write_due();
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.late.front().map(|(due, _)| *due)
    }

    pub fn write_due(&mut self) {
        while self.late.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let (_, piece) = self.late.pop_front().expect("there is one");
            let mut file = OpenOptions::new().append(true).create(true).open(&self.transcript).expect("the transcript can be written");
            file.write_all(&piece).expect("the transcript takes lines");
        }
    }

    pub fn hook(&self, profile: &Profile, event: &str, mut payload: Value) {
        let told = match profile.hooks {
            Hooks::All => true,
            Hooks::Start => event == "SessionStart",
            Hooks::None => false,
        };
        if !told {
            return;
        }
        payload["hook_event_name"] = json!(event);
        payload["session_id"] = json!(self.session_id);
        if profile.transcript {
            payload["transcript_path"] = json!(self.transcript);
        }
        let spawned = Command::new(&self.iapeer).args(["hook", event]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if let Ok(mut child) = spawned {
            let _ = child.stdin.take().expect("piped").write_all(payload.to_string().as_bytes());
            let _ = child.wait();
        }
    }
}
