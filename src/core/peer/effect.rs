//! Every act of a peer. Each carries the incarnation it is meant for; repeating one does no harm.

use super::marker::MarkerChange;
use super::wake::{Mode, WakeCause};
use super::{Death, Markers, Trouble};
use crate::core::guard::Guard;
use crate::core::message::{Entry, Evidence, Hold, MessageId, State};
use crate::core::names::Incarnation;
use crate::core::runtime::{Frame, KeyName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    // With an outcome: one at a time.
    Launch {
        inc: Incarnation,
        mode: Mode,
        cause: WakeCause,
        for_message: Option<MessageId>,
        /// It comes back after a death or a reboot: not too many at once.
        again: bool,
    },
    Look {
        inc: Incarnation,
    },
    /// Press one key of a start dialog, or the interrupt of a turn, while its frame is proven.
    Key {
        inc: Incarnation,
        frame: Frame,
    },
    /// Write and sync the claim before anything is typed.
    Claim {
        inc: Incarnation,
        entry: Entry,
    },
    /// The guarded paste. `submit` adds the guarded submit to the same command list.
    Paste {
        inc: Incarnation,
        entry: Entry,
        attempt: u32,
        guard: Guard,
        seed: bool,
        leave_mode: bool,
        submit: Option<KeyName>,
    },
    /// Is the paste on the screen yet?
    Probe {
        inc: Incarnation,
        id: MessageId,
    },
    /// The guarded submit; `bound` adds what the last look saw.
    Submit {
        inc: Incarnation,
        id: MessageId,
        attempt: u32,
        key: KeyName,
        bound: Option<Guard>,
    },
    /// Look for the id in spooled hooks and in the transcript behind the claim's offset.
    Inquire {
        entry: Entry,
    },
    /// End the session: the keeper's ladder, then proof.
    End {
        inc: Incarnation,
    },
    /// Save the last screen, end the empty tmux server, remove `session.json`.
    Collect {
        inc: Incarnation,
    },

    // Without an outcome.
    /// Move the record to where it ended.
    Finish {
        entry: Entry,
        attempt: u32,
        inc: Incarnation,
        state: State,
        evidence: Option<Evidence>,
        reason: Option<String>,
    },
    /// The agent has its task; the record stays claimed until the task is done.
    Taken {
        entry: Entry,
        evidence: Evidence,
        state: State,
    },
    /// The open questions of a session, for the next daemon.
    /// Keep what stands in the way of its turns, or that nothing does any more.
    SaveTrouble {
        inc: Incarnation,
        trouble: Option<Trouble>,
    },
    SaveAsked {
        inc: Incarnation,
        asked: Vec<MessageId>,
    },
    /// Launch this personality again, fresh, on its default runtime.
    Eager,
    /// Put a damaged record aside and say so once.
    Quarantine {
        entry: Entry,
        reason: String,
    },
    /// Give the message back to `new/`.
    Release {
        entry: Entry,
        how: Giveback,
    },
    SetMarkers(Markers),
    SaveDeaths(Vec<Death>),
    /// The session is READY: written into `session.json`.
    MarkReady {
        inc: Incarnation,
        seed_due: bool,
    },

    /// Take our mark off the pane: the paste it stands for is gone, and a person may send it again.
    Unmark {
        inc: Incarnation,
        id: MessageId,
    },

    // Told.
    /// A message changed its state.
    Report {
        inc: Option<Incarnation>,
        id: MessageId,
        state: State,
        reason: Option<String>,
        evidence: Option<Evidence>,
        attempt: u32,
    },
    Held {
        inc: Option<Incarnation>,
        reason: Hold,
        message: Option<MessageId>,
    },
    Released {
        inc: Option<Incarnation>,
        was: Option<Hold>,
        message: Option<MessageId>,
    },
    Ready {
        inc: Incarnation,
        ms: u64,
    },
    WakeFailed {
        inc: Incarnation,
        reason: String,
        detail: String,
    },
    Died {
        inc: Incarnation,
        cause: String,
        age_ms: u64,
        claimed: Option<MessageId>,
    },
    Adopted {
        inc: Incarnation,
    },
    /// A decision about a session that nobody ordered.
    Supervise {
        inc: Incarnation,
        action: &'static str,
        age_ms: u64,
        reason: String,
        outcome: &'static str,
    },
    /// An ephemeral session begins a task.
    Drain {
        inc: Incarnation,
        seq: u64,
        depth: usize,
    },
    /// Its task is done.
    Armed {
        inc: Incarnation,
        by: &'static str,
    },
    Order {
        verb: &'static str,
        by: String,
    },
    /// A marker was changed by another hand than ours.
    Marker {
        inc: Option<Incarnation>,
        file: &'static str,
        change: MarkerChange,
    },
    CrashLoop {
        count: u32,
    },
    Backoff {
        until_ms: u64,
        /// Deaths in a row.
        count: u32,
    },
    /// Tell the sender, once, that a message will not be delivered.
    TellSender {
        entry: Entry,
        state: State,
        reason: String,
    },
    /// Tell the operator once.
    Notice {
        text: String,
    },
}

/// Whether a message that goes back to `new/` may have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Giveback {
    /// Nothing reached the process: this attempt does not count.
    Untouched,
    /// The process that may have had it is gone: the next copy says `redelivered`.
    Redeliver { deaths: u32 },
}
