//! The closed list of error codes, with HTTP status, exit code and whether a retry can help.
//!
//! One table serves the command line, the API and MCP; `docs/errors.md` prints it and a test compares.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! codes {
    ($($variant:ident $word:literal $status:literal $exit:literal $retryable:literal $meaning:literal;)*) => {
        /// Why a request was refused or failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $(#[serde(rename = $word)] $variant,)* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];
            pub fn word(self) -> &'static str { match self { $(Code::$variant => $word,)* } }
            /// HTTP status of the answer.
            pub fn status(self) -> u16 { match self { $(Code::$variant => $status,)* } }
            /// Exit code of the command line.
            pub fn exit(self) -> u8 { match self { $(Code::$variant => $exit,)* } }
            pub fn retryable(self) -> bool { match self { $(Code::$variant => $retryable,)* } }
            pub fn meaning(self) -> &'static str { match self { $(Code::$variant => $meaning,)* } }
        }
    };
}

codes! {
    Invalid           "invalid"            400 2 false "the request is malformed or names something impossible";
    PeerUnknown       "peer_unknown"       404 3 false "no peer has this name";
    PeerAmbiguous     "peer_ambiguous"     409 3 false "several presences fit; name the identity";
    PeerStopped       "peer_stopped"       409 3 false "the peer was stopped by the operator";
    SelfSend          "self_send"          400 2 false "a peer cannot send to itself";
    Frozen            "frozen"             409 3 true  "the peer or the host is frozen";
    Draining          "draining"           503 3 true  "the daemon is ending its work";
    QueueFull         "queue_full"         429 3 true  "too much mail waits for this peer";
    RateLimited       "rate_limited"       429 3 true  "this sender is too fast";
    TooLarge          "too_large"          413 2 false "the body or an attachment is over its limit";
    BadAttachment     "bad_attachment"     400 2 false "an attachment is missing, not a regular file, or unreadable";
    KeyConflict       "key_conflict"       409 3 false "the id or key was used for another message";
    NotAllowed        "not_allowed"        403 3 false "this caller may not do that";
    Unauthorized      "unauthorized"       401 3 false "the caller could not be identified";
    MessageUnknown    "message_unknown"    404 3 false "no message has this id";
    Capacity          "capacity"           503 3 true  "no room for another live peer, or for a look at the caller";
    NothingToResume   "nothing_to_resume"  409 3 false "there is no earlier conversation to resume";
    WakeFailed        "wake_failed"        502 1 true  "the peer could not be started";
    NotConfirmed      "not_confirmed"      502 1 false "typed, but nothing proves that the agent took it";
    Timeout           "timeout"            504 5 true  "the awaited state was not reached in time";
    DiskFull          "disk_full"          507 1 true  "too little disk space to accept mail safely";
    StoreDegraded     "store_degraded"     503 1 true  "the store could not be written";
    DaemonUnreachable "daemon_unreachable" 503 4 true  "no daemon answers on the socket";
    VersionSkew       "version_skew"       426 1 false "this program and the daemon do not speak the same protocol";
    Conflict          "conflict"           409 3 false "the thing is in another state than the request needs";
    Internal          "internal"           500 1 false "a defect of iapeer";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// An error as a user sees it: what happened, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub code: Code,
    /// What happened, one line.
    pub message: String,
    /// What to do, one line; empty when there is nothing to do.
    #[serde(default)]
    pub hint: String,
    #[serde(default)]
    pub retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Fault { code, message: message.into(), hint: String::new(), retryable: code.retryable(), retry_after_ms: None }
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_serde_agree() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert!((1..=5).contains(&code.exit()), "{code}");
        }
        assert_eq!(Code::ALL.len(), 26);
    }
}
