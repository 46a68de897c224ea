//! Resume or fresh: a pure decision, logged with its cause before anything is done.

use super::{Peer, WantedBy};
use crate::core::profile::{ResumePolicy, WakePolicy};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Fresh,
    Resume { session_id: String },
}

impl Mode {
    pub fn word(&self) -> &'static str {
        match self {
            Mode::Fresh => "fresh",
            Mode::Resume { .. } => "resume",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeCause {
    FolderLaunch,
    SelfFresh,
    Attach,
    Restore,
    SoftReload,
    EphemeralPolicy,
    CrashOrSelfClose,
    FirstWake,
    CrashResume,
    IdleReapedHuman,
    IdleReapedNoTopic,
    IdleReapedNewTopic,
    IdleReapedResume,
    IdleReapedNoResume,
}

impl WakeCause {
    pub fn word(self) -> &'static str {
        match self {
            WakeCause::FolderLaunch => "folder-launch",
            WakeCause::SelfFresh => "self-fresh",
            WakeCause::Attach => "attach",
            WakeCause::Restore => "restore",
            WakeCause::SoftReload => "soft-reload",
            WakeCause::EphemeralPolicy => "ephemeral-policy",
            WakeCause::CrashOrSelfClose => "crash-or-self-close",
            WakeCause::FirstWake => "first-wake",
            WakeCause::CrashResume => "crash-resume",
            WakeCause::IdleReapedHuman => "idle-reaped-human",
            WakeCause::IdleReapedNoTopic => "idle-reaped-no-topic",
            WakeCause::IdleReapedNewTopic => "idle-reaped-new-topic",
            WakeCause::IdleReapedResume => "idle-reaped-resume",
            WakeCause::IdleReapedNoResume => "idle-reaped-no-resume",
        }
    }
}

impl WakeCause {
    /// The same for a person who has just written to a sleeper.
    pub fn why(self) -> &'static str {
        match self {
            WakeCause::FolderLaunch | WakeCause::SoftReload => "a fresh conversation was ordered",
            WakeCause::SelfFresh => "it asked for a fresh session of itself",
            WakeCause::Attach => "somebody attaches",
            WakeCause::Restore => "the host was rebooted",
            WakeCause::EphemeralPolicy => "each task gets a session of its own",
            WakeCause::CrashOrSelfClose => "its last session ended by itself",
            WakeCause::FirstWake => "it has not run before",
            WakeCause::CrashResume => "its profile resumes also after a crash",
            WakeCause::IdleReapedHuman => "it faces a person, or its profile always resumes",
            WakeCause::IdleReapedNoTopic => "no topic; `--topic T` or `iapeer attach` resumes",
            WakeCause::IdleReapedNewTopic => "it does not know this topic; one that it knows or `iapeer attach` resumes",
            WakeCause::IdleReapedResume => "it knows this topic",
            WakeCause::IdleReapedNoResume => "the transcript of its conversation is gone",
        }
    }
}

/// The table of `docs/lifecycle.md`, first match wins. `topic` is that of the message that wakes it.
pub fn decide(peer: &Peer, wanted: Option<WantedBy>, topic: Option<&str>) -> (Mode, WakeCause) {
    let proven = peer.resumable.as_ref().filter(|r| r.proven).map(|r| Mode::Resume { session_id: r.session_id.clone() });
    let slept = peer.markers.idle_reaped;
    match (wanted, proven) {
        (Some(WantedBy::FolderLaunch), _) => (Mode::Fresh, WakeCause::FolderLaunch),
        (Some(WantedBy::Eager), _) => (Mode::Fresh, WakeCause::SelfFresh),
        (Some(WantedBy::Attach), Some(resume)) => (resume, WakeCause::Attach),
        _ if peer.markers.new_eager => (Mode::Fresh, WakeCause::SelfFresh),
        (Some(WantedBy::Restore), Some(resume)) if peer.wake_policy == WakePolicy::Warm => (resume, WakeCause::Restore),
        _ if peer.markers.fresh_next => (Mode::Fresh, WakeCause::SoftReload),
        _ if peer.wake_policy == WakePolicy::Ephemeral => (Mode::Fresh, WakeCause::EphemeralPolicy),
        (_, proven) if !slept => match (peer.resume_policy, proven) {
            (ResumePolicy::Always, Some(resume)) => (resume, WakeCause::CrashResume),
            _ if peer.incarnation == 0 => (Mode::Fresh, WakeCause::FirstWake),
            _ => (Mode::Fresh, WakeCause::CrashOrSelfClose),
        },
        (_, Some(resume)) if peer.person_facing || peer.resume_policy == ResumePolicy::Always => (resume, WakeCause::IdleReapedHuman),
        _ if topic.is_none() || peer.resume_policy == ResumePolicy::Never => (Mode::Fresh, WakeCause::IdleReapedNoTopic),
        _ if !peer.markers.topics.iter().any(|t| Some(t.as_str()) == topic) => (Mode::Fresh, WakeCause::IdleReapedNewTopic),
        (_, Some(resume)) => (resume, WakeCause::IdleReapedResume),
        (_, None) => (Mode::Fresh, WakeCause::IdleReapedNoResume),
    }
}
