//! `lifecycle.log` and `delivery.log`: logfmt, one line, one write, rotated by size.
//!
//! The closed table of events is in `docs/logs.md`. Values are quoted and newline-free; bodies never
//! stand here. A failure of a log never fails an act.

use crate::core::sanitize;
use chrono::{DateTime, SecondsFormat, Utc};
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The events of `lifecycle.log`. A test compares this with the docs.
pub const LIFECYCLE_EVENTS: &[&str] = &[
    "wake",
    "ready",
    "wake-failed",
    "death",
    "crash-loop",
    "backoff",
    "held",
    "released",
    "stop",
    "start",
    "new",
    "adopted",
    "stray-ended",
    "registry",
    "profile",
    "runtime",
    "marker",
    "daemon-start",
    "daemon-stop",
    "notice",
    "freeze",
    "unfreeze",
    "remove",
    "interrupt",
    "compact",
    "attach",
    "detach",
    "refresh",
    "self-fresh",
    "supervise",
    "ephemeral-drain",
    "ephemeral-armed",
    "schedule",
];

/// One line being built.
pub struct Line {
    text: String,
}

impl Line {
    pub fn new(event: &str) -> Self {
        Line { text: format!("ev={event}") }
    }

    pub fn with(mut self, key: &str, value: impl Display) -> Self {
        self.text.push(' ');
        self.text.push_str(key);
        self.text.push('=');
        self.text.push_str(&quote(&value.to_string()));
        self
    }

    pub fn maybe(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(v) => self.with(key, v),
            None => self,
        }
    }
}

fn quote(value: &str) -> String {
    let clean = sanitize::line(value);
    let plain = !clean.is_empty() && clean.chars().all(|c| !c.is_whitespace() && c != '"' && c != '=');
    if plain { clean } else { format!("\"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// A log file that is rotated when it reaches its size.
pub struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: Mutex<Option<(File, u64)>>,
}

impl LogFile {
    pub fn new(path: PathBuf, max_bytes: u64, keep: u32) -> Self {
        LogFile { path, max_bytes, keep, open: Mutex::new(None) }
    }

    pub fn write(&self, at: DateTime<Utc>, line: Line) {
        let text = format!("ts={} {}\n", at.to_rfc3339_opts(SecondsFormat::Millis, true), line.text);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.append(&mut open, text.as_bytes()) {
            *open = None;
            tracing::warn!(path = %self.path.display(), %error, "a log line was lost");
        }
    }

    fn append(&self, open: &mut Option<(File, u64)>, bytes: &[u8]) -> io::Result<()> {
        if open.as_ref().is_some_and(|(_, size)| *size + bytes.len() as u64 > self.max_bytes) {
            *open = None;
            self.rotate()?;
        }
        if open.is_none() {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
            let size = file.metadata()?.len();
            *open = Some((file, size));
        }
        if let Some((file, size)) = open {
            file.write_all(bytes)?;
            *size += bytes.len() as u64;
        }
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        let numbered = |n: u32| PathBuf::from(format!("{}.{n}", self.path.display()));
        for n in (1..self.keep).rev() {
            match std::fs::rename(numbered(n), numbered(n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if self.keep == 0 { std::fs::remove_file(&self.path) } else { std::fs::rename(&self.path, numbered(1)) }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_forge_a_line_or_a_field() {
        let line = Line::new("held").with("reason", "x\nts=1 ev=death").with("who", "a\"b").with("empty", "");
        assert_eq!(line.text, r#"ev=held reason="x ts=1 ev=death" who="a\"b" empty="""#);
    }

    #[test]
    fn a_full_log_is_rotated_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile::new(dir.path().join("l.log"), 100, 2);
        for n in 0..12 {
            log.write(Utc::now(), Line::new("wake").with("n", n));
        }
        let mut names: Vec<String> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["l.log", "l.log.1", "l.log.2"]);
        assert!(std::fs::read_to_string(dir.path().join("l.log")).unwrap().contains("n=11"));
    }
}
