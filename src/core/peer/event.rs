//! Every cause of action of a peer, on one screen.

use super::{Death, Markers, Resumable, Trouble, WantedBy};
use crate::core::Millis;
use crate::core::message::{Claim, Entry, Evidence, Hold, MessageId, State};
use crate::core::names::{Incarnation, Party};
use crate::core::screen::Look;

#[derive(Debug, Clone)]
pub enum Event {
    /// What the disk and the processes said when the daemon started. Always the first event.
    Restored(Box<Restored>),

    // From outside.
    /// A message was accepted into this mailbox.
    Accepted(Entry),
    /// A message was accepted and claimed for this session in one write.
    AcceptedClaimed {
        inc: Incarnation,
        entry: Entry,
    },
    /// Nothing came of a promised claim: the message was not kept, or not claimed.
    PromiseBroken,
    /// A launch without mail.
    Want(WantedBy),
    /// `stop`: marker first, then the end of the session.
    Stop {
        by: String,
    },
    /// `start`: clears `stopped` and a crash-loop hold.
    Start {
        by: String,
    },
    /// The operator takes a waiting message out of the queue: parked, or given up.
    Withdraw {
        id: MessageId,
        state: State,
        reason: &'static str,
    },
    Freeze {
        by: String,
    },
    Unfreeze {
        by: String,
    },
    /// The whole host was frozen, or is no longer.
    HostFrozen(bool),
    /// What the marker files say, read after everything that this daemon has written.
    MarkersSeen(Markers),
    /// A record that waited lies nowhere any more: somebody has deleted its file.
    Vanished {
        id: MessageId,
    },
    /// The profile names its runtime no more, or the registry the peer; or they do again.
    Retire(bool),
    /// Profile or runtime definition were edited: what they kept from being launched is tried again.
    Mended,
    /// The peer is removed from the host.
    Remove {
        by: String,
    },
    /// `refresh`: the next session is a fresh one.
    Refresh {
        by: String,
    },
    /// The agent of this session sent a message.
    Sent {
        inc: Incarnation,
        id: MessageId,
        to: Party,
        in_reply_to: Option<MessageId>,
    },
    /// The agent says that it has nothing left to do.
    SelfDone {
        inc: Incarnation,
    },
    /// The agent wants a fresh session of itself.
    SelfFresh {
        inc: Incarnation,
    },
    /// A person has closed the terminal.
    Detached,
    /// A session has ended somewhere on this host.
    RoomMade,
    /// The fresh session that it asked for is that of another runtime.
    EagerDone,
    /// The host slept for so long.
    Suspended {
        ms: Millis,
    },
    /// `interrupt`: the running turn, by the program's own key.
    Interrupt {
        by: String,
    },
    /// The turn did not end: its session does.
    Force {
        by: String,
    },
    /// `new`: end what runs, then a fresh session.
    New {
        by: String,
    },
    /// End the session, as a sleep.
    Rest,
    /// The daemon ends; sessions stay.
    Drain,
    /// The agent's program told something by a hook.
    Hook {
        inc: Incarnation,
        fact: HookFact,
    },
    /// The transcript shows user turns with these ids.
    TranscriptShows {
        inc: Incarnation,
        ids: Vec<MessageId>,
    },
    TranscriptTurnEnd {
        inc: Incarnation,
    },
    /// The program drew on its terminal.
    Output {
        inc: Incarnation,
    },
    /// The keeper or the tmux server is gone.
    Died {
        inc: Incarnation,
        cause: DeathCause,
    },
    /// Time passed.
    Tick,
    /// Somebody wants to read in the log what keeps this session.
    Review,

    // Outcomes of effects.
    Launched {
        inc: Incarnation,
        result: Result<(), LaunchFault>,
    },
    Looked {
        inc: Incarnation,
        result: Result<Look, String>,
    },
    Keyed {
        inc: Incarnation,
        pressed: bool,
    },
    /// The claim stands, with the attempt it is and the deaths charged to it so far.
    Claimed {
        id: MessageId,
        result: Result<(u32, u32), String>,
    },
    Pasted {
        inc: Incarnation,
        id: MessageId,
        result: ActResult,
    },
    /// The record of the message in flight is damaged: there is nothing that could be typed.
    Unreadable {
        id: MessageId,
        reason: String,
    },
    Probed {
        inc: Incarnation,
        id: MessageId,
        result: ActResult,
    },
    Submitted {
        inc: Incarnation,
        id: MessageId,
        attempt: u32,
        result: ActResult,
    },
    Inquired {
        id: MessageId,
        found: Option<crate::core::message::Evidence>,
    },
    /// The session's processes are proven gone.
    Ended {
        inc: Incarnation,
        result: Result<(), String>,
    },
    /// The dead session's remains are saved and removed.
    /// `last`: what the terminal of one that died showed.
    Collected {
        inc: Incarnation,
        last: Option<Box<Look>>,
    },
}

#[derive(Debug, Clone, Default)]
pub struct Restored {
    pub queue: Vec<Entry>,
    pub claim: Option<(Claim, Entry)>,
    /// The task of an ephemeral session, and what proved that the agent has it.
    pub task: Option<(Claim, Entry, Evidence)>,
    pub markers: Markers,
    pub resumable: Option<Resumable>,
    pub deaths: Vec<Death>,
    pub incarnation: Incarnation,
    /// A session that outlived the daemon.
    pub adopted: Option<Adopted>,
    /// A recorded session that is gone: its incarnation and what ended it.
    pub lost: Option<(Incarnation, DeathCause)>,
    /// How old the lost session became.
    pub lost_age_ms: Millis,
    /// It was ended by an order that the daemon did not live to see carried out.
    pub lost_to_order: bool,
}

#[derive(Debug, Clone)]
pub struct Adopted {
    pub inc: Incarnation,
    /// It had been proven ready.
    pub ready: bool,
    /// And the log says so.
    pub reported: bool,
    pub seed_due: bool,
    /// Its launch, on the boot clock.
    pub since: Millis,
    /// Its own questions that nobody has answered.
    pub asked: Vec<MessageId>,
    /// Why no turn of it would come to anything, when the last daemon knew.
    pub trouble: Option<Trouble>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookFact {
    SessionStarted,
    ToolsListed,
    PromptSubmitted {
        ids: Vec<MessageId>,
    },
    TurnEnded,
    /// It ended because the model could not be asked.
    TurnFailed,
    PermissionAsked,
}

/// How a guarded act ended.
#[derive(Debug, Clone)]
pub enum ActResult {
    /// Done, by this call or by an earlier one whose answer was lost.
    Done { submitted_too: bool },
    /// The guard said no; what the pane looked like in the same moment.
    Refused(Box<Look>),
    /// The call itself failed or timed out: the act may or may not have happened.
    Failed(String),
    /// It could not even be tried.
    NotTried(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchFault {
    MissingBinary(String),
    ProfileInvalid(String),
    FolderGone(String),
    Other(String),
    /// Nothing was tried: the host has no room, or too many come back at once.
    NotNow {
        hold: Hold,
        retry_ms: Millis,
    },
}

impl LaunchFault {
    pub fn reason(&self) -> &'static str {
        match self {
            LaunchFault::MissingBinary(_) => "missing-binary",
            LaunchFault::ProfileInvalid(_) => "profile-invalid",
            LaunchFault::FolderGone(_) => "folder-gone",
            LaunchFault::Other(_) => "launch-failed",
            LaunchFault::NotNow { hold, .. } => hold.word(),
        }
    }
    pub fn detail(&self) -> &str {
        match self {
            LaunchFault::MissingBinary(s) | LaunchFault::ProfileInvalid(s) | LaunchFault::FolderGone(s) | LaunchFault::Other(s) => s,
            LaunchFault::NotNow { .. } => "tried again by itself",
        }
    }
}

/// What ended a session, as exactly as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeathCause {
    Exit(i32),
    Signal(i32),
    TmuxLost,
    HostReboot,
    /// The kernel killed it for want of memory.
    Oom,
    Unknown,
}

impl std::fmt::Display for DeathCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeathCause::Exit(code) => write!(f, "exit-{code}"),
            DeathCause::Signal(signal) => write!(f, "signal-{signal}"),
            DeathCause::TmuxLost => f.write_str("tmux-lost"),
            DeathCause::HostReboot => f.write_str("host-reboot"),
            DeathCause::Oom => f.write_str("oom"),
            DeathCause::Unknown => f.write_str("unknown"),
        }
    }
}

impl DeathCause {
    /// The host ended it, not the agent: the conversation may be resumed as if put to sleep.
    pub fn by_host(&self) -> bool {
        matches!(self, DeathCause::TmuxLost | DeathCause::HostReboot)
    }
}
