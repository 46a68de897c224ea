//! The transcript: one JSON object a line, appended as things happen.
//!
//! `{"type":"message","role":"user","text":…,"ts":…}` for a user turn, `{"type":"turn_end",…}` at its
//! end, `{"type":"note",…}` for what happened in between.

use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub struct Transcript {
    pub path: PathBuf,
    file: File,
}

impl Transcript {
    pub fn open(dir: &Path, session_id: &str, must_exist: bool) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join(format!("{session_id}.jsonl"));
        let file = OpenOptions::new().append(true).create(!must_exist).mode(0o600).open(&path)?;
        Ok(Transcript { path, file })
    }

    fn append(&mut self, mut record: Value) -> io::Result<()> {
        record["ts"] = json!(chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        let mut line = record.to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes())
    }
    pub fn user(&mut self, text: &str) -> io::Result<()> {
        self.append(json!({"type": "message", "role": "user", "text": text}))
    }
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        self.append(json!({"type": "note", "text": text}))
    }
    pub fn turn_end(&mut self) -> io::Result<()> {
        self.append(json!({"type": "turn_end"}))
    }

    /// The texts of earlier user turns, oldest first.
    pub fn earlier(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .filter(|v| v["role"] == "user")
            .filter_map(|v| v["text"].as_str().map(String::from))
            .collect()
    }
}
