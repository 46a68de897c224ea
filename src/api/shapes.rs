//! JSON shapes of the API, first version. Stable: fields are added, never changed.

use crate::core::message::{Evidence, Intelligence, MessageId, SCHEDULED, State};
use crate::core::names::{Identity, Incarnation, Party, Personality, RuntimeName};
use crate::core::peer::WantedBy;
use crate::core::profile::{ApprovalMode, WakePolicy};
use crate::core::schedule::Missed;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of requests and answers; a daemon speaks its own and the one before.
pub const PROTOCOL: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// Chosen by the caller: repeating the request with the same id changes nothing.
    #[serde(default)]
    pub id: Option<MessageId>,
    pub to: Recipients,
    pub text: String,
    #[serde(default)]
    pub topic: Option<String>,
    #[serde(default)]
    pub in_reply_to: Option<MessageId>,
    #[serde(default)]
    pub urgent: bool,
    /// Accept for a stopped peer, too.
    #[serde(default)]
    pub queue: bool,
    #[serde(default)]
    pub via: Via,
    /// The sender's own key: repeating the request with the same key and content changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Absolute paths of files that travel with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<PathBuf>,
    /// Type the text as it is, without an envelope (the operator only).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// In whose name the operator sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// When a spooled message was sent; the daemon's own word.
    #[serde(skip)]
    pub sent: Option<String>,
}

impl SendRequest {
    /// A plain message.
    pub fn new(to: Recipients, text: String, via: Via) -> Self {
        SendRequest {
            id: None,
            to,
            text,
            topic: None,
            in_reply_to: None,
            urgent: false,
            queue: false,
            via,
            idempotency_key: None,
            attachments: Vec::new(),
            raw: false,
            from: None,
            sent: None,
        }
    }

    /// The door by which it came.
    pub fn door(&self) -> &'static str {
        if self.from.is_some() { "operator" } else { self.via.word() }
    }
}

/// One recipient, or several: peers, `operator`, groups of the host's settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Recipients {
    One(String),
    Many(Vec<String>),
}

impl Recipients {
    pub fn names(&self) -> Vec<&str> {
        match self {
            Recipients::One(name) => vec![name],
            Recipients::Many(names) => names.iter().map(String::as_str).collect(),
        }
    }
}

/// The door by which a message came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    Cli,
    Mcp,
    #[default]
    Api,
    /// The spool: no daemon ran when it was sent.
    Offline,
    /// A schedule of the recipient; the daemon's own word.
    #[serde(skip_deserializing)]
    Schedule,
}

impl Via {
    pub fn word(self) -> &'static str {
        match self {
            Via::Cli => "cli",
            Via::Mcp => "mcp",
            Via::Api => "api",
            Via::Offline => "offline",
            Via::Schedule => SCHEDULED,
        }
    }
}

/// A message as every surface shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageView {
    pub id: MessageId,
    pub from: Party,
    pub to: Party,
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<MessageId>,
    /// Place among the waiting mail of its recipient, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// Whether a session was started for it.
    #[serde(default)]
    pub woke: bool,
    /// How: a fresh conversation or its earlier one, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake: Option<WakeView>,
    pub accepted: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<String>,
    /// What answers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    #[serde(default)]
    pub attempt: u32,
    pub len: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WakeView {
    /// `fresh` or `resume`.
    pub mode: String,
    /// A cause of `docs/lifecycle.md`, and the same in words.
    pub cause: String,
    pub why: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The message that answers; none when the turn's own final text does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
    pub by: AnsweredBy,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnsweredBy {
    /// The recipient sent a message that answers this one.
    Message,
    /// The turn of this message ended with this text.
    TurnEnd,
}

/// Mail with its body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mail {
    pub id: MessageId,
    pub from: Party,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Party>,
    pub intelligence: Intelligence,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<MessageId>,
    pub sent: String,
    pub text: String,
    /// Paths of the files that came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<String>,
    pub acknowledged: bool,
}

/// One schedule of a peer, as every surface shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScheduleView {
    pub peer: Personality,
    pub name: String,
    /// `on`, `off`, `waits` (its peer takes no mail now), `invalid`.
    pub state: String,
    /// Why it waits: `stopped`, `frozen`, `profile-invalid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The zone that `cron` is read in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Missed>,
    /// When it fires next, in its own zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The slot, or the change, that fired last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message: Option<MessageId>,
    /// Messages sent, and slots that got none of their own.
    pub fires: u64,
    pub missed: u64,
    /// File, line and what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A message of the past, with its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryView {
    #[serde(flatten)]
    pub view: MessageView,
    pub text: String,
}

/// What an operator does with one message of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueAct {
    /// Again: what was given up, has expired or is parked.
    Retry,
    /// Given up; the sender is told.
    Drop,
    /// Put aside until it is released.
    Hold,
    /// No longer put aside.
    Release,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueRequest {
    pub act: QueueAct,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FreezeRequest {
    /// None: the whole host.
    pub peer: Option<String>,
    pub reason: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct QueueView {
    pub waiting: usize,
    pub held: usize,
    pub dead: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PresenceView {
    pub runtime: RuntimeName,
    pub identity: Identity,
    /// `live`, `starting`, `stopping`, `asleep`, `stopped`, `held`.
    pub state: String,
    /// `idle`, `working`, `waiting`, of a live session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    pub queue: QueueView,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerView {
    pub personality: Personality,
    pub runtimes: Vec<PresenceView>,
    pub default_runtime: RuntimeName,
    pub wake_policy: WakePolicy,
    pub approval_mode: ApprovalMode,
    pub description: String,
    pub folder: PathBuf,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PeerCounts {
    pub live: usize,
    pub starting: usize,
    pub asleep: usize,
    pub stopped: usize,
    pub held: usize,
    pub absent: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusView {
    pub version: String,
    pub protocol: u32,
    pub pid: i32,
    pub started: String,
    pub updated: String,
    /// False in what is read from the file that a daemon left.
    #[serde(default)]
    pub running: bool,
    pub healthy: bool,
    pub degraded: Vec<String>,
    pub root: PathBuf,
    pub socket: PathBuf,
    pub tmux: String,
    pub peers: PeerCounts,
    pub mail: QueueView,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WakeRequest {
    pub cause: WantedBy,
    /// Replace a live session by a fresh one.
    #[serde(default)]
    pub fresh: bool,
    /// Also one whose turn is running.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_turn: bool,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InterruptRequest {
    /// When the turn does not end, end its session.
    pub force: bool,
}

/// A person opens a peer's terminal in this process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttachedRequest {
    /// Columns and rows of their terminal, `200x50`.
    pub size: String,
    pub read_only: bool,
}

/// Where a peer stood when the wait for it was over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WaitedView {
    pub identity: Identity,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How to attach to a live session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachView {
    pub identity: Identity,
    pub incarnation: Incarnation,
    pub tmux: PathBuf,
    pub socket: PathBuf,
    pub pane: String,
    /// Whether a session was started by this call.
    pub woke: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookRequest {
    pub event: String,
    #[serde(default)]
    pub payload: serde_json::Value,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScreenView {
    pub identity: Identity,
    pub text: String,
    /// From the live terminal, or what was saved when the session ended.
    pub live: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: crate::core::fault::Fault,
}
