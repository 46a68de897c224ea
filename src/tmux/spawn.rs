//! A client of tmux as a process: one chained `tmux` per list. It works with every version.

#![allow(clippy::disallowed_methods, reason = "this is where tmux is run")]

use super::answer::Answer;
use super::argv::{self, List};
use super::{DEADLINE, FLOOR, FLOOR_TEXT};
use crate::ports::terminal::TerminalError;
use crate::sys::process;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
#[cfg(not(target_os = "linux"))]
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::process::Command;

pub struct Spawn {
    pub program: PathBuf,
    path: String,
    /// A directory of our own for texts on their way (each is unlinked before tmux starts).
    scratch: PathBuf,
    #[cfg(not(target_os = "linux"))]
    next: AtomicU64,
}

impl Spawn {
    /// Finds tmux and checks its version.
    pub fn find(scratch: PathBuf, path: String) -> Result<(Self, String), TerminalError> {
        let program = process::find_program("tmux", &path).ok_or(TerminalError::Missing)?;
        let out = std::process::Command::new(&program).arg("-V").output().map_err(|e| TerminalError::Io(format!("{}: {e}", program.display())))?;
        let version = String::from_utf8_lossy(&out.stdout).trim().trim_start_matches("tmux ").to_string();
        if parse_version(&version).is_some_and(|v| v < FLOOR) {
            return Err(TerminalError::TooOld { found: version, wanted: FLOOR_TEXT });
        }
        let spawn = Spawn {
            program,
            path,
            scratch,
            #[cfg(not(target_os = "linux"))]
            next: AtomicU64::new(0),
        };
        Ok((spawn, version))
    }

    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// A complete text as standard input. A pipe would hand tmux half a text if this process died while
    /// writing it, and the guarded paste would take the half for the whole.
    #[cfg(target_os = "linux")]
    fn text_as_stdin(&self, text: &str) -> std::io::Result<File> {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        use std::io::Seek;
        let mut file = File::from(memfd_create("iapeer-paste", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(file)
    }

    #[cfg(not(target_os = "linux"))]
    fn text_as_stdin(&self, text: &str) -> std::io::Result<File> {
        let path = self.scratch.join(format!(".paste-{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed)));
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let written = file.write_all(text.as_bytes());
        let reader = File::open(&path);
        std::fs::remove_file(&path)?;
        written?;
        reader
    }

    pub async fn run(&self, socket: &Path, list: &List, text: Option<&str>) -> Result<Answer, TerminalError> {
        let stdin = text.map(|t| self.text_as_stdin(t)).transpose().map_err(|e| TerminalError::Io(format!("{}: {e}", self.scratch.display())))?;
        let mut command = Command::new(&self.program);
        command
            .args(argv::client(socket))
            .args(list.words())
            .env_clear()
            .env("PATH", &self.path)
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .current_dir("/")
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let run = tokio::time::timeout(DEADLINE, command.output()).await;
        let out = run.map_err(|_| TerminalError::Deadline(DEADLINE.as_millis() as u64))?;
        let out = out.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => TerminalError::Missing,
            _ => TerminalError::Io(format!("{}: {e}", self.program.display())),
        })?;
        Ok(Answer::new(out.status.code().unwrap_or(-1), &out.stdout, &out.stderr))
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let (major, rest) = digits.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_builds_are_understood() {
        for (text, want) in [("3.3a", Some((3, 3))), ("next-3.6", Some((3, 6))), ("3.2", Some((3, 2))), ("master", None), ("openbsd-7.4", Some((7, 4)))] {
            assert_eq!(parse_version(text), want, "{text}");
        }
    }
}
