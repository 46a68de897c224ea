//! The driver behind the terminal port: the lists of `argv`, run `direct` on the server's socket or by a
//! `spawn`ed client, one deadline for both.
//!
//! A direct call that meets anything unexpected is handed to a spawned client: the lists are guarded and
//! leave marks, so that a list which did run already does nothing when it comes again. A key of a dialog
//! leaves none, so that call is handed over only when the server never saw it.

use super::DEADLINE;
use super::answer::Answer;
use super::argv::{self, List, OK_PASTE, OK_PROBE, OK_SUBMIT};
use super::direct::{self, Failed};
use super::selftest;
use super::spawn::Spawn;
use crate::core::guard::Guard;
use crate::core::message::{MessageId, ProcessRef};
use crate::core::runtime::KeyName;
use crate::core::settings::DriverChoice;
use crate::ports::Later;
use crate::ports::terminal::{Acted, Captured, PaneRef, Paste, StartSpec, Started, Submit, Terminal, TerminalError};
use crate::sys::{process, wait};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time a server gets to end after `kill-server` before it is killed.
const SERVER_GRACE: Duration = Duration::from_secs(2);

pub struct Driver {
    spawn: Spawn,
    direct: bool,
    /// A direct call was handed to a spawned client.
    fell_back: AtomicBool,
}

impl Driver {
    /// Finds tmux, checks its version, and the way to drive it.
    pub async fn find(scratch: PathBuf, path: String, choice: DriverChoice) -> Result<(Self, String), TerminalError> {
        let (spawn, version) = Spawn::find(scratch, path)?;
        let mut driver = Driver { spawn, direct: choice != DriverChoice::Spawn, fell_back: AtomicBool::new(false) };
        if driver.direct
            && let Err(why) = selftest::run(&driver, driver.spawn.scratch()).await
        {
            if choice == DriverChoice::Direct {
                return Err(TerminalError::SelfTest(why));
            }
            tracing::warn!(%why, "the direct tmux driver fails its self-test: every list gets a client process");
            driver.direct = false;
        }
        Ok((driver, version))
    }

    pub fn program(&self) -> &Path {
        &self.spawn.program
    }

    pub fn name(&self) -> &'static str {
        if self.direct { "direct" } else { "spawn" }
    }

    /// Whether any direct call was handed to a spawned client.
    pub fn fell_back(&self) -> bool {
        self.fell_back.load(Ordering::Relaxed)
    }

    async fn run(&self, socket: &Path, list: &List, text: Option<&str>) -> Result<Answer, TerminalError> {
        self.run_either(socket, list, text, true).await
    }

    async fn run_either(&self, socket: &Path, list: &List, text: Option<&str>, repeatable: bool) -> Result<Answer, TerminalError> {
        if self.direct {
            match direct::run(socket, list, text).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Late) => return Err(TerminalError::Deadline(DEADLINE.as_millis() as u64)),
                Err(failed) => {
                    if !self.fell_back.swap(true, Ordering::Relaxed) {
                        tracing::debug!(%failed, socket = %socket.display(), "a direct call is handed to a tmux client; further ones are not told");
                    }
                    if !repeatable && !failed.unsent() {
                        return Err(TerminalError::Io(failed.to_string()));
                    }
                }
            }
        }
        self.spawn.run(socket, list, text).await
    }

    /// For the self-test: a list by itself.
    pub(super) async fn say(&self, socket: &Path, list: &List) -> Result<Answer, TerminalError> {
        self.run(socket, list, None).await
    }

    async fn start_session(&self, spec: StartSpec) -> Result<Started, TerminalError> {
        self.kill_server(&spec.socket).await?;
        // Without a server there is no socket to speak on.
        self.spawn.run(&spec.socket, &argv::start(&spec), None).await?.started()
    }

    /// Ends the server on a socket and waits until its process is gone; the file alone means nothing.
    async fn kill_server(&self, socket: &Path) -> Result<(), TerminalError> {
        if socket.symlink_metadata().is_err() {
            return Ok(());
        }
        if let Some(server) = direct::server_of(socket).await?.and_then(process::reference) {
            // Its answer does not matter: only the end of the process does.
            let _ = tokio::time::timeout(SERVER_GRACE, self.spawn.run(socket, &argv::kill_server(), None)).await;
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

impl Terminal for Driver {
    fn start(&self, spec: StartSpec) -> Later<'_, Result<Started, TerminalError>> {
        Box::pin(self.start_session(spec))
    }
    fn look(&self, pane: PaneRef) -> Later<'_, Result<Captured, TerminalError>> {
        Box::pin(async move { self.run(&pane.socket, &argv::look(&pane), None).await?.looked() })
    }
    fn last_look(&self, pane: PaneRef) -> Later<'_, Result<Captured, TerminalError>> {
        Box::pin(async move { self.run(&pane.socket, &argv::last_look(&pane), None).await?.looked() })
    }
    fn paste(&self, pane: PaneRef, paste: Paste) -> Later<'_, Result<Acted, TerminalError>> {
        Box::pin(async move { self.run(&pane.socket, &argv::paste(&pane, &paste), Some(&paste.text)).await?.acted(OK_PASTE) })
    }
    fn probe(&self, pane: PaneRef, id: MessageId, guard: Guard) -> Later<'_, Result<Acted, TerminalError>> {
        Box::pin(async move { self.run(&pane.socket, &argv::probe(&pane, &id, &guard), None).await?.acted(OK_PROBE) })
    }
    fn submit(&self, pane: PaneRef, submit: Submit) -> Later<'_, Result<Acted, TerminalError>> {
        Box::pin(async move { self.run(&pane.socket, &argv::submit(&pane, &submit), None).await?.acted(OK_SUBMIT) })
    }
    fn key(&self, pane: PaneRef, guard: Guard, key: KeyName) -> Later<'_, Result<Acted, TerminalError>> {
        Box::pin(async move { self.run_either(&pane.socket, &argv::key(&pane, &guard, &key), None, false).await?.acted(OK_PROBE) })
    }
    fn unmark(&self, pane: PaneRef, id: MessageId) -> Later<'_, Result<(), TerminalError>> {
        Box::pin(async move { self.run(&pane.socket, &argv::unmark(&pane, &id), None).await.map(drop) })
    }
    fn server(&self, socket: PathBuf) -> Later<'_, Result<Option<ProcessRef>, TerminalError>> {
        Box::pin(async move { Ok(direct::server_of(&socket).await?.and_then(process::reference)) })
    }
    fn kill(&self, socket: PathBuf) -> Later<'_, Result<(), TerminalError>> {
        Box::pin(async move { self.kill_server(&socket).await })
    }
}
