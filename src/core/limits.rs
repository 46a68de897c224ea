//! Limits of the mailbox, with their defaults. Configurable under `limits:` in `config.yaml`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest body, in bytes.
    pub body_bytes: usize,
    /// Longest topic, in characters; one line.
    pub topic_chars: usize,
    /// Messages that may wait for one peer.
    pub waiting_per_peer: usize,
    /// Messages from one sending peer that may wait for one recipient.
    pub waiting_per_sender: usize,
    /// Time to live of mail to a peer, in hours.
    pub ttl_hours: u64,
    /// Free disk space below which mail is refused, in MiB.
    pub disk_floor_mib: u64,
    /// How long the ledger of delivered mail is kept, in days.
    pub done_days: u64,
    /// How many records the ledger of one peer keeps.
    pub done_records: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 1024 * 1024,
            topic_chars: 200,
            waiting_per_peer: 1000,
            waiting_per_sender: 200,
            ttl_hours: 72,
            disk_floor_mib: 64,
            done_days: 7,
            done_records: 10_000,
        }
    }
}

/// Characters of a body that an envelope shows when the body travels as a file.
pub const FILE_BODY_PREVIEW_CHARS: usize = 2000;
/// Longest description of a peer, in characters.
pub const DESCRIPTION_CHARS: usize = 450;
