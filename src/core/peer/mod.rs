//! The heart of a peer: one synchronous function, `step(event, now) -> effects`.
//!
//! [`Peer`] holds what is known of one identity. An event changes what is known; then [`Peer::step`]
//! looks at the state that *is* and decides the next act, so a lost or doubled event costs time, never
//! a message. At most one effect with an outcome is in flight (`doing`); an outcome of an older
//! incarnation is ignored.
//!
//! The parts: `event` (every cause of action), `effect` (every act), `step` (events, sessions, holds), `turn` (hooks, the end of a turn, output),
//! `delivery` (the injection of one message), `aftermath` (what becomes of it afterwards), `recover` (claims found at start or after a death),
//! `restored` (a starting daemon), `intake` (mail in and out of the queue), `interrupt` (the end of a turn from outside), `marker` (files that an operator touched), `retire` (a peer no more by
//! its profile), `sleep` (the end of a session in which nothing happens), `task` (of an ephemeral session), `trouble` (no login, no allowance),
//! `dialog` (what is ours to answer), `wake` (resume or fresh), `boot` (from a launch to READY), `death` (the end of a session).

mod aftermath;
mod boot;
mod death;
pub mod delivery;
mod dialog;
pub mod effect;
pub mod event;
mod intake;
mod interrupt;
pub mod marker;
pub mod open;
pub mod recover;
mod restored;
pub mod retire;
pub mod sleep;
pub mod step;
pub mod task;
pub mod trouble;
mod turn;
pub mod wake;

#[cfg(test)]
mod tests;

use super::Millis;
use super::guard::Guard;
use super::message::{Entry, Hold, MessageId};
use super::names::{Identity, Incarnation};
use super::profile::{ResumePolicy, WakePolicy};
use super::runtime::Definition;
use super::screen::Look;
use effect::Effect;
use serde::{Deserialize, Serialize};
pub use sleep::RestRules;
use std::sync::Arc;
pub use task::Task;
pub use trouble::Trouble;

/// Least time between two looks while a session starts.
pub const BOOT_LOOK_GAP_MS: Millis = 40;
/// A look without any output while a session starts.
pub const BOOT_LOOK_IDLE_MS: Millis = 1_000;
/// Quiet time after output before a held message looks again.
pub const QUIET_MS: Millis = 250;
/// A held message looks again after this even without any event.
pub const HOLD_RECHECK_MS: Millis = 30_000;
/// How long a dialog for a person must stand on a starting screen before it is believed: programs draw
/// frames while they start that look like one.
pub const BOOT_DIALOG_MS: Millis = 1_500;
/// How long the first message waits for the program to have asked for our tools.
pub const TOOLS_WAIT_MS: Millis = 3_000;
/// Submit attempts after the first, counted from it (`specs`: an Enter may be swallowed).
pub const RESUBMIT_AT_MS: [Millis; 3] = [500, 1_500, 4_000];
/// Submit keys for one message into one process, at most; later ones only when the composer still holds
/// the message after the outcome was called unknown.
pub const SUBMITS_MAX: u32 = 20;
/// After the last attempt: how long until the outcome is called unknown.
pub const EVIDENCE_WAIT_MS: Millis = 5_000;
/// Least time between two tries of a submit whose paste is not on the screen yet.
pub const TAKEN_GAP_MS: Millis = 15;
/// A submit later than this after its paste counts a bare placeholder as ours only while nobody is
/// attached: a person may have cleared the composer and pasted something else.
pub const SAME_BREATH_MS: Millis = 1_000;
/// How long a paste may stay unseen before the screen is looked at as a whole.
pub const TAKEN_CEILING_MS: Millis = 10_000;
/// Least time between the paste of a raw text and its submit key.
pub const RAW_SETTLE_MS: Millis = 150;
/// A turn that has just begun is not interrupted: some programs then put its text back into the composer.
pub const URGENT_AFTER_MS: Millis = 2_000;
/// Between two tries of an interrupt whose facts were not on the screen.
pub const URGENT_GAP_MS: Millis = 1_000;
/// How long an interrupt is tried, and the turn watched for its end.
pub const INTERRUPT_MS: Millis = 30_000;
/// A person who types is given this long before the next look.
pub const TYPING_MS: Millis = 2_000;
/// Pause after a terminal call that failed or timed out.
pub const RETRY_MS: Millis = 200;
/// Deaths of an agent under one claim after which the message is given up.
pub const DEATHS_PER_MESSAGE: u32 = 3;
/// A session that lived so long ends a row of deaths.
pub const STABLE_MS: Millis = 600_000;
/// First back-off after a death; doubles with each further death in the window.
pub const BACKOFF_MS: Millis = 1_000;
/// Longest back-off.
pub const BACKOFF_MAX_MS: Millis = 600_000;

/// Times that the host's settings decide.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub boot_deadline_ms: Millis,
    pub ready_gate_ms: Millis,
    pub crashloop_max: u32,
    pub crashloop_window_ms: Millis,
    pub draft_notice_ms: Millis,
}

/// What is known of one identity.
#[derive(Debug, Clone)]
pub struct Peer {
    pub identity: Identity,
    pub definition: Arc<Definition>,
    pub timing: Timing,
    pub wake_policy: WakePolicy,
    pub resume_policy: ResumePolicy,
    pub at_most_once: bool,
    /// A person talks to it: it goes on where it was.
    pub person_facing: bool,
    pub rules: RestRules,
    pub session: Session,
    /// Waiting mail in the order of delivery; the message in flight is not among it.
    pub queue: Vec<Entry>,
    pub flight: Option<Flight>,
    /// What an ephemeral session is working on.
    pub task: Option<Task>,
    pub markers: Markers,
    /// The conversation that a resume would name.
    pub resumable: Option<Resumable>,
    pub deaths: Vec<Death>,
    /// Highest incarnation ever used.
    pub incarnation: Incarnation,
    /// A launch asked for without mail.
    pub wanted: Option<Wanted>,
    pub hold: Option<Hold>,
    /// Not before this may the next launch happen.
    pub not_before: Millis,
    /// The one effect whose outcome is awaited.
    pub doing: Option<Doing>,
    /// A message is being accepted with a claim for the session that runs: no other claim is begun.
    pub promised: bool,
    /// The daemon is ending: finish what is in flight, start nothing.
    pub draining: bool,
    /// Its last session ended without an order, and something waits: its next launch is one of many, perhaps, and takes its turn.
    pub came_back: bool,
    /// The whole host is frozen.
    pub host_frozen: bool,
    /// The daemon ends all sessions: one that is just starting ends as well.
    pub resting: bool,
    /// The peer is no more: mail that is left is given up.
    pub removed: bool,
    /// Since when its profile or the registry names it no more: its session ends, its mail is kept.
    pub retired: Option<Millis>,
}

/// Which effect is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Launch,
    Look,
    Key,
    Claim,
    Paste,
    Probe,
    Submit,
    Inquire,
    End,
    Collect,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Markers {
    pub stopped: bool,
    pub idle_reaped: bool,
    pub fresh_next: bool,
    /// When its session is over, it comes back at once, fresh.
    pub new_eager: bool,
    /// The task of an ephemeral session is done.
    pub ephemeral_armed: Option<Armed>,
    /// Nothing is started and nothing delivered until it is lifted.
    pub frozen: bool,
    pub topics: Vec<String>,
}

/// Which session has done its task; an empty file means the one that runs when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Armed {
    pub inc: Option<Incarnation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumable {
    pub session_id: String,
    pub transcript: Option<String>,
    /// The transcript was there when last looked at.
    pub proven: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    pub at: Millis,
    pub cause: String,
    pub age_ms: Millis,
    pub incarnation: Incarnation,
    pub claimed: Option<MessageId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub cause: WantedBy,
}

/// Who asked for a launch without mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WantedBy {
    /// `iapeer <runtime>` in the folder, `new`, `attach --fresh`.
    FolderLaunch,
    /// `attach`.
    Attach,
    /// `start`, and the wake call of the API.
    Start,
    /// It asked for a fresh session of itself.
    Eager,
    /// `keep_alive`, after a death.
    KeepAlive,
    /// The host came back.
    Restore,
}

impl WantedBy {
    /// Nobody ordered it: a stopped peer stays stopped.
    pub(super) fn by_itself(self) -> bool {
        matches!(self, WantedBy::Eager | WantedBy::KeepAlive | WantedBy::Restore)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    None,
    Launching {
        inc: Incarnation,
        fresh: bool,
        wanted: Option<WantedBy>,
    },
    Up(Box<Up>),
    Ending {
        inc: Incarnation,
        why: EndWhy,
    },
    /// Died; what is left of it is being collected.
    Dead {
        inc: Incarnation,
    },
}

/// A session that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    pub inc: Incarnation,
    pub since: Millis,
    /// When the ready screen was first proven.
    pub ready_at: Option<Millis>,
    /// The launch has been reported as READY or as failed.
    pub reported: bool,
    /// A fresh conversation whose first message still carries the seed.
    pub seed_due: bool,
    /// The program's own start hook came.
    pub started_hook: bool,
    pub tools_listed: bool,
    /// Ready looks in a row.
    pub ready_looks: u8,
    pub first_ready_look: Option<Millis>,
    pub turn: Turn,
    /// Since when, within this turn, every look has shown a ready screen.
    pub ready_since: Option<Millis>,
    pub attached: u32,
    /// Next look, when nothing happens before.
    pub look_due: Option<Millis>,
    pub last_look: Millis,
    /// Output came while an act was under way: what the act saw may be old already.
    pub moved: bool,
    /// The next frame to press of a start dialog.
    pub dialog: Option<(String, usize)>,
    /// Since when a dialog for a person has stood on the starting screen.
    pub asking_since: Option<Millis>,
    /// An order to end it waits for the effect in flight.
    pub end: Option<EndWhy>,
    /// Since when a draft has stood in the way of mail, and whether the operator was told.
    pub draft_since: Option<Millis>,
    pub draft_told: bool,
    /// When urgent mail may press the interrupt key; `None`: it has, in this turn.
    pub interrupt_from: Option<Millis>,
    /// The transcript has the message of the running turn.
    pub shown: bool,
    /// The last turn event, delivery, message of its own, wake or attached person.
    pub active_at: Millis,
    /// A session that was not at rest when its bound had passed is not looked at again before.
    pub doze_until: Millis,
    /// The look under way decides about its rest.
    pub drowsy: bool,
    /// It said that it has nothing left to do.
    pub done: bool,
    /// It asked for a fresh session, and ends with its turn.
    pub eager: bool,
    /// Its one task is done.
    pub armed: bool,
    /// Its own questions to others that nobody has answered.
    pub asked: Vec<MessageId>,
    /// The screen after a turn is judged then.
    pub judge_at: Option<Millis>,
    pub trouble: Option<Trouble>,
    /// Somebody wants the running turn to be interrupted.
    pub interrupt: Option<Interrupt>,
    /// Until then an interrupted turn is watched for its end.
    pub watch_until: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupt {
    pub by: String,
    /// When the key is tried.
    pub at: Millis,
    /// When that is given up.
    pub until: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndWhy {
    Stop,
    New,
    /// The operator ends the daemon with all its sessions: they sleep.
    Rest,
    /// Nothing happens in it.
    Idle,
    /// Older than its peer allows.
    Age,
    /// An ephemeral session whose task is done.
    Ephemeral,
    /// An ephemeral session that never said so.
    Unarmed,
    /// It asked for a fresh session of itself.
    Eager,
    /// A turn that no interrupt ends.
    Force,
    /// Its task failed for want of a login or an allowance: the next worker gets it.
    Again,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    Idle,
    Working {
        message: Option<MessageId>,
    },
    /// For a person: permission, question.
    Waiting,
}

/// The one message being delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    pub entry: Entry,
    pub attempt: u32,
    pub deaths: u32,
    pub stage: Stage,
    /// Tries of the current stage that the guard refused without a reason on the screen.
    pub tries: u32,
    /// A paste was asked for and no answer said that it did not happen.
    pub doubt: bool,
    /// Found at start: somebody may have been at the terminal since the paste.
    pub recovered: bool,
    /// A turn was running at the submit: only the transcript proves then.
    pub busy_at_submit: bool,
    /// The turn's end was reported before its evidence.
    pub turn_ended: bool,
    /// So was its answer.
    pub answered: bool,
    pub started: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Claiming,
    /// Claimed; the paste has not succeeded. `guard` binds it to a look, else the definition's facts.
    ToPaste {
        guard: Option<Guard>,
        leave_mode: bool,
    },
    /// Guard refused with a reason; waits for the next look.
    Waiting,
    /// The mark stands; waits until the screen shows the paste.
    Pasted {
        at: Millis,
        next: Millis,
    },
    /// Shown; waits out the settle time.
    Settling {
        at: Millis,
        until: Millis,
    },
    /// A submit key followed.
    Submitted {
        at: Millis,
        attempt: u32,
        unknown: bool,
    },
    /// Looking for evidence in hooks and transcript before anything else is done.
    Inquiring {
        after: AfterInquiry,
    },
}

/// What an inquiry without a find leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterInquiry {
    /// The recovery table, by the marks of the live pane.
    Marks,
    /// Typed and submitted long ago without evidence: never typed again, only looked for.
    StayUnknown { at: Millis, attempt: u32 },
    /// Pasted, and gone from a ready screen: never typed again by itself, put aside for a person.
    PasteLost,
    /// The process that may have had it is gone: again, to the next one.
    Redeliver { charge_death: bool },
}

impl Peer {
    pub fn inc(&self) -> Option<Incarnation> {
        match &self.session {
            Session::None => None,
            Session::Launching { inc, .. } | Session::Ending { inc, .. } | Session::Dead { inc } => Some(*inc),
            Session::Up(up) => Some(up.inc),
        }
    }

    pub fn up(&self) -> Option<&Up> {
        if let Session::Up(up) = &self.session { Some(up) } else { None }
    }

    pub(crate) fn up_mut(&mut self) -> Option<&mut Up> {
        if let Session::Up(up) = &mut self.session { Some(up) } else { None }
    }

    /// The closed list of peer states (`live`, `starting`, `stopping`, `asleep`, `stopped`, `held`).
    pub fn state_word(&self) -> &'static str {
        match &self.session {
            Session::Launching { .. } => "starting",
            Session::Up(up) if up.end.is_some() => "stopping",
            Session::Up(up) if up.ready_at.is_none() && self.hold.is_none() => "starting",
            Session::Up(up) if up.ready_at.is_none() => "held",
            Session::Up(_) => "live",
            Session::Ending { .. } => "stopping",
            _ if self.identity.runtime.is_none() => "absent",
            Session::None | Session::Dead { .. } if self.markers.stopped => "stopped",
            Session::None | Session::Dead { .. } if self.hold.is_some() => "held",
            Session::None | Session::Dead { .. } => "asleep",
        }
    }

    pub fn frozen(&self) -> bool {
        self.markers.frozen || self.host_frozen
    }

    /// Nothing new begins; what is begun goes on.
    fn quiet(&self) -> bool {
        self.draining || self.frozen() || self.retired.is_some()
    }

    /// The message whose turn is running.
    pub fn turn_message(&self) -> Option<&MessageId> {
        match self.up().map(|u| &u.turn) {
            Some(Turn::Working { message }) => message.as_ref(),
            _ => None,
        }
    }

    /// Whether output on the terminal can change a decision now.
    pub fn wants_output(&self) -> bool {
        // A program that tells nothing of its turns is known to be at work by what it draws.
        let only_sign = !self.definition.tells_turns() && self.rest_due().is_some();
        self.up().is_some_and(|up| up.ready_at.is_none() || up.turn == Turn::Waiting || self.flight.is_some() || !self.queue.is_empty() || only_sign)
    }

    fn enqueue(&mut self, entry: Entry) {
        if self.queue.iter().any(|e| e.id() == entry.id()) || self.flight.as_ref().is_some_and(|f| f.entry.id() == entry.id()) {
            return;
        }
        let at = self.queue.partition_point(|e| e.key.rank() < entry.key.rank());
        self.queue.insert(at, entry);
    }

    fn act(&mut self, doing: Doing, effect: Effect, fx: &mut Vec<Effect>) {
        debug_assert!(self.doing.is_none(), "{} has {:?} in flight and would start {doing:?}", self.identity, self.doing);
        self.doing = Some(doing);
        if let Some(up) = self.up_mut() {
            up.moved = false;
        }
        fx.push(effect);
    }

    /// When what holds it is over by itself.
    pub fn held_until(&self) -> Option<Millis> {
        match self.hold? {
            Hold::Limit => self.up().map_or(Some(self.not_before), |up| up.trouble?.until),
            Hold::Backoff | Hold::Capacity => Some(self.not_before),
            _ => None,
        }
    }

    /// Keeps or changes the hold reason; a change is said once.
    fn set_hold(&mut self, hold: Option<Hold>, fx: &mut Vec<Effect>) {
        if self.hold == hold {
            return;
        }
        let waiting = self.flight.as_ref().map(|f| &f.entry).or(self.queue.first()).map(|e| e.id().clone());
        match hold {
            Some(reason) => fx.push(Effect::Held { inc: self.inc(), reason, message: waiting }),
            None => fx.push(Effect::Released { inc: self.inc(), was: self.hold, message: waiting }),
        }
        self.hold = hold;
    }
}

/// What a look says about typing now.
pub(crate) fn obstacle(look: &Look) -> Option<Hold> {
    use super::screen::{Class, Composer};
    if look.input_off {
        return Some(Hold::InputOff);
    }
    if look.in_mode && look.attached > 0 {
        return Some(Hold::CopyMode);
    }
    match (&look.class, &look.composer) {
        (Class::Dialog(_), _) => Some(Hold::Dialog),
        (Class::Picker, _) => Some(Hold::Picker),
        (Class::Busy, _) => Some(Hold::Busy),
        (Class::Unknown, _) => Some(Hold::UnknownScreen),
        (Class::Ready, Composer::Text(_)) => Some(Hold::Draft),
        (Class::Ready, Composer::Absent) => Some(Hold::UnknownScreen),
        (Class::Ready, Composer::Empty { .. }) if look.typing => Some(Hold::AttachedTyping),
        (Class::Ready, Composer::Empty { .. }) => None,
    }
}
