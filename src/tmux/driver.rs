//! The `spawn` driver: one chained tmux client per list, a deadline on every call.
//!
//! An exit code of 0 is never taken as proof: a guarded list prints a word of ours when it acted, and
//! prints the pane's state and screen when its guard refused. Neither: the call failed, and the act may
//! or may not have happened; the marks in the pane tell the next call.

#![allow(clippy::disallowed_methods, reason = "this is where tmux is run")]

use super::argv::{self, LOOK, List, OK_PASTE, OK_PROBE, OK_SUBMIT, SEPARATOR, STARTED};
use super::{FLOOR, FLOOR_TEXT};
use crate::core::guard::Guard;
use crate::core::message::{MessageId, ProcessRef};
use crate::core::runtime::KeyName;
use crate::ports::Later;
use crate::ports::terminal::{Acted, Captured, PaneRef, Paste, StartSpec, Started, Submit, Terminal, TerminalError};
use crate::sys::{process, wait};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::process::Command;

/// Longest time one tmux client may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Time a server gets to end after `kill-server` before it is killed.
const SERVER_GRACE: Duration = Duration::from_secs(2);

pub struct SpawnDriver {
    program: PathBuf,
    /// A directory of our own for texts on their way (each is unlinked before tmux starts).
    #[cfg_attr(target_os = "linux", allow(dead_code, reason = "a text is in memory there"))]
    scratch: PathBuf,
    path: String,
    #[cfg_attr(target_os = "linux", allow(dead_code, reason = "a text is in memory there"))]
    next: AtomicU64,
}

impl SpawnDriver {
    /// Finds tmux and checks its version.
    pub fn find(scratch: PathBuf, path: String) -> Result<(Self, String), TerminalError> {
        let program = process::find_program("tmux", &path).ok_or(TerminalError::Missing)?;
        let out = std::process::Command::new(&program).arg("-V").output().map_err(|e| TerminalError::Io(format!("{}: {e}", program.display())))?;
        let version = String::from_utf8_lossy(&out.stdout).trim().trim_start_matches("tmux ").to_string();
        if parse_version(&version).is_some_and(|v| v < FLOOR) {
            return Err(TerminalError::TooOld { found: version, wanted: FLOOR_TEXT });
        }
        Ok((SpawnDriver { program, scratch, path, next: AtomicU64::new(0) }, version))
    }

    pub fn program(&self) -> &Path {
        &self.program
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
        let path = self.scratch.join(format!(".paste-{}-{}", std::process::id(), self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let written = file.write_all(text.as_bytes());
        let reader = File::open(&path);
        std::fs::remove_file(&path)?;
        written?;
        reader
    }

    async fn run(&self, socket: &Path, list: &List, stdin: Option<File>) -> Result<String, TerminalError> {
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
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() && !text.contains(LOOK) {
            return Err(TerminalError::Said(String::from_utf8_lossy(&out.stderr).trim().chars().take(300).collect()));
        }
        Ok(text)
    }

    async fn act(&self, pane: &PaneRef, list: &List, stdin: Option<File>, done: &str) -> Result<Acted, TerminalError> {
        let out = self.run(&pane.socket, list, stdin).await?;
        if out.lines().any(|l| l == done) {
            return Ok(Acted::Done { submitted_too: out.lines().any(|l| l == OK_SUBMIT) });
        }
        match parse_look(&out) {
            Some(captured) => Ok(Acted::Refused(Box::new(captured))),
            None => Err(TerminalError::Said("the list neither acted nor refused".into())),
        }
    }

    async fn start_session(&self, spec: StartSpec) -> Result<Started, TerminalError> {
        self.kill_server(&spec.socket).await?;
        let out = self.run(&spec.socket, &argv::start(&spec), None).await?;
        let line = out.lines().find(|l| l.starts_with(STARTED)).ok_or_else(|| TerminalError::Said("new-session printed nothing".into()))?;
        let mut fields = line.split(SEPARATOR).skip(1);
        let mut field = || fields.next().unwrap_or_default().to_string();
        let (pane, keeper_pid, server_pid, tty) = (field(), field(), field(), field());
        let number = |s: &str| s.parse::<i32>().map_err(|_| TerminalError::Said(format!("unexpected answer {line:?}")));
        let server = process::reference(number(&server_pid)?).ok_or_else(|| TerminalError::Said("the server ended at once".into()))?;
        Ok(Started { pane, tty: tty.into(), keeper_pid: number(&keeper_pid)?, server })
    }

    /// Ends the server on a socket and waits until its process is gone; the file alone means nothing.
    async fn kill_server(&self, socket: &Path) -> Result<(), TerminalError> {
        if socket.symlink_metadata().is_err() {
            return Ok(());
        }
        let server = match self.run(socket, &argv::server_pid(), None).await {
            Ok(out) => out.trim().parse().ok().and_then(process::reference),
            Err(TerminalError::Said(_)) => None,
            Err(other) => return Err(other),
        };
        if let Some(server) = server {
            // Its answer does not matter: only the end of the process does.
            let _ = self.run(socket, &argv::kill_server(), None).await;
            if !gone_within(&server, SERVER_GRACE).await {
                process::signal(&server, Signal::SIGKILL).map_err(|e| TerminalError::Io(format!("kill {}: {e}", server.pid)))?;
                if !gone_within(&server, SERVER_GRACE).await {
                    return Err(TerminalError::Said(format!("the tmux server {} does not end", server.pid)));
                }
            }
        }
        let _ = std::fs::remove_file(socket);
        Ok(())
    }
}

/// Waits for the end of a process by its pidfd.
pub async fn gone_within(process: &ProcessRef, limit: Duration) -> bool {
    let gone = async {
        match process::pidfd(process).and_then(wait::readable) {
            Ok(fd) => drop(fd.readable().await),
            Err(_) => {
                // No pidfd on this system: look now and then.
                while process::is_alive(process) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    };
    tokio::time::timeout(limit, gone).await.is_ok() || !process::is_alive(process)
}

impl Terminal for SpawnDriver {
    fn start(&self, spec: StartSpec) -> Later<'_, Result<Started, TerminalError>> {
        Box::pin(self.start_session(spec))
    }
    fn look(&self, pane: PaneRef) -> Later<'_, Result<Captured, TerminalError>> {
        Box::pin(async move {
            let out = self.run(&pane.socket, &argv::look(&pane), None).await?;
            parse_look(&out).ok_or_else(|| TerminalError::Said("no look in the answer".into()))
        })
    }
    fn paste(&self, pane: PaneRef, paste: Paste) -> Later<'_, Result<Acted, TerminalError>> {
        Box::pin(async move {
            let stdin = self.text_as_stdin(&paste.text).map_err(|e| TerminalError::Io(format!("{}: {e}", self.scratch.display())))?;
            self.act(&pane, &argv::paste(&pane, &paste), Some(stdin), OK_PASTE).await
        })
    }
    fn probe(&self, pane: PaneRef, id: MessageId, guard: Guard) -> Later<'_, Result<Acted, TerminalError>> {
        Box::pin(async move { self.act(&pane, &argv::probe(&pane, &id, &guard), None, OK_PROBE).await })
    }
    fn submit(&self, pane: PaneRef, submit: Submit) -> Later<'_, Result<Acted, TerminalError>> {
        Box::pin(async move { self.act(&pane, &argv::submit(&pane, &submit), None, OK_SUBMIT).await })
    }
    fn key(&self, pane: PaneRef, guard: Guard, key: KeyName) -> Later<'_, Result<Acted, TerminalError>> {
        Box::pin(async move { self.act(&pane, &argv::key(&pane, &guard, &key), None, OK_PROBE).await })
    }
    fn unmark(&self, pane: PaneRef, id: MessageId) -> Later<'_, Result<(), TerminalError>> {
        Box::pin(async move { self.run(&pane.socket, &argv::unmark(&pane, &id), None).await.map(drop) })
    }
    fn kill(&self, socket: PathBuf) -> Later<'_, Result<(), TerminalError>> {
        Box::pin(async move { self.kill_server(&socket).await })
    }
}

fn parse_look(out: &str) -> Option<Captured> {
    let at = out.find(LOOK)?;
    let (header, screen) = out[at..].split_once('\n')?;
    let mut fields = header.splitn(13, SEPARATOR).skip(1);
    let mut field = || fields.next().unwrap_or_default();
    let number = |s: &str| s.parse().unwrap_or(0);
    Some(Captured {
        cursor: (number(field()), number(field())),
        cursor_shown: field() == "1",
        dead: field() == "1",
        in_mode: !matches!(field(), "0" | ""),
        input_off: field() == "1",
        attached: field().parse().unwrap_or(0),
        client_activity: field().parse().ok(),
        pane_pid: field().parse().unwrap_or(0),
        mark_pasted: field().to_string(),
        mark_entered: field().to_string(),
        title: field().to_string(),
        screen: screen.to_string(),
    })
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
