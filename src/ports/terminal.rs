//! The terminal holder: starts sessions, looks, types under a guard, ends.

use super::Later;
use crate::core::guard::Guard;
use crate::core::message::{MessageId, ProcessRef};
use crate::core::names::{Identity, Incarnation};
use crate::core::runtime::KeyName;
use std::path::PathBuf;

/// How to reach one pane of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaneRef {
    pub socket: PathBuf,
    /// `%N`: never a name, `-t peer1` would match `peer10`.
    pub pane: String,
    /// The pane's own process; a guard compares it.
    pub keeper_pid: i32,
    pub incarnation: Incarnation,
}

#[derive(Debug, Clone)]
pub struct StartSpec {
    pub identity: Identity,
    pub socket: PathBuf,
    pub cwd: PathBuf,
    /// The pane's command, argument by argument; no shell sees it.
    pub argv: Vec<String>,
    pub columns: u16,
    pub rows: u16,
    /// The shell command that the pane's output is piped to.
    pub pipe: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    pub pane: String,
    pub tty: PathBuf,
    pub keeper_pid: i32,
    pub server: ProcessRef,
}

/// What the terminal holder says of a pane in one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// With escape sequences for attributes.
    pub screen: String,
    pub cursor: (u16, u16),
    pub cursor_shown: bool,
    pub title: String,
    pub dead: bool,
    pub in_mode: bool,
    pub input_off: bool,
    pub attached: u32,
    /// Unix second of the last key of an attached person.
    pub client_activity: Option<i64>,
    pub pane_pid: i32,
    pub mark_pasted: String,
    pub mark_entered: String,
}

/// How a guarded act ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acted {
    Done { submitted_too: bool },
    Refused(Box<Captured>),
}

#[derive(Debug, Clone)]
pub struct Paste {
    pub id: MessageId,
    /// The rendered text, sanitised and neutralised.
    pub text: String,
    pub guard: Guard,
    pub leave_mode: bool,
    /// Submit in the same list, with this key.
    pub submit: Option<KeyName>,
}

#[derive(Debug, Clone)]
pub struct Submit {
    pub id: MessageId,
    pub attempt: u32,
    pub guard: Guard,
    pub key: KeyName,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum TerminalError {
    #[error("tmux is not installed, or not in PATH; install it (Debian: apt-get install tmux)")]
    Missing,
    #[error("tmux {found} is too old: {wanted} or newer is needed")]
    TooOld { found: String, wanted: &'static str },
    #[error("tmux cannot be driven directly: {0}")]
    SelfTest(String),
    #[error("no answer from tmux within {0} ms")]
    Deadline(u64),
    #[error("tmux: {0}")]
    Said(String),
    #[error("{0}")]
    Io(String),
}

pub trait Terminal: Send + Sync {
    fn start(&self, spec: StartSpec) -> Later<'_, Result<Started, TerminalError>>;
    /// What a pane whose program has ended showed: a look, and the row above it, which tmux scrolls away to tell of
    /// the end.
    fn last_look(&self, pane: PaneRef) -> Later<'_, Result<Captured, TerminalError>>;
    fn look(&self, pane: PaneRef) -> Later<'_, Result<Captured, TerminalError>>;
    /// The guarded paste and its mark, as one list.
    fn paste(&self, pane: PaneRef, paste: Paste) -> Later<'_, Result<Acted, TerminalError>>;
    /// Whether the guard of a submit would hold now; types nothing.
    fn probe(&self, pane: PaneRef, id: MessageId, guard: Guard) -> Later<'_, Result<Acted, TerminalError>>;
    /// The guarded submit and its mark, as one list.
    fn submit(&self, pane: PaneRef, submit: Submit) -> Later<'_, Result<Acted, TerminalError>>;
    /// Presses one key while the guard holds.
    fn key(&self, pane: PaneRef, guard: Guard, key: KeyName) -> Later<'_, Result<Acted, TerminalError>>;
    /// Forgets the paste of a message, so that it may be pasted again.
    fn unmark(&self, pane: PaneRef, id: MessageId) -> Later<'_, Result<(), TerminalError>>;
    /// The process that holds the terminals on a socket; `None`: nobody does any more.
    fn server(&self, socket: PathBuf) -> Later<'_, Result<Option<ProcessRef>, TerminalError>>;
    /// Ends the terminal holder of one session.
    fn kill(&self, socket: PathBuf) -> Later<'_, Result<(), TerminalError>>;
}
