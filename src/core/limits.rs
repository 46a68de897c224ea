//! Limits of the mailbox, with their defaults. Configurable under `limits:` in `config.yaml`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Live sessions on this host; left out: one for each 512 MiB of memory, at most 64.
    pub live_peers: Option<usize>,
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
    /// Messages per second from one sending peer, and how many may come at once.
    pub sender_per_second: u64,
    pub sender_burst: u64,
    /// Messages per second from the operator.
    pub operator_per_second: u64,
    /// Messages that two agents may exchange at once; beyond that they are paced.
    pub pair_burst: u64,
    /// Seconds for each message beyond.
    pub pair_interval_secs: u64,
    /// Seconds of pacing without a pause after which a pair counts as a loop and is parked.
    pub loop_after_secs: u64,
    /// Messages that may follow from one another before the last is parked as a loop.
    pub hops: u32,
    /// Files that may travel with one message.
    pub attachments: usize,
    /// Largest attachment, in MiB.
    pub attachment_mib: u64,
    /// Attachments kept for one recipient, in MiB.
    pub inbox_mib: u64,
    /// How long attachments and large bodies are kept in a recipient's inbox, in days.
    pub inbox_days: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            live_peers: None,
            body_bytes: 1024 * 1024,
            topic_chars: 200,
            waiting_per_peer: 1000,
            waiting_per_sender: 200,
            ttl_hours: 72,
            disk_floor_mib: 64,
            done_days: 7,
            done_records: 10_000,
            sender_per_second: 10,
            sender_burst: 60,
            operator_per_second: 500,
            pair_burst: 30,
            pair_interval_secs: 20,
            loop_after_secs: 1800,
            hops: 200,
            attachments: 20,
            attachment_mib: 64,
            inbox_mib: 1024,
            inbox_days: 30,
        }
    }
}

/// Characters of a body that an envelope shows when the body travels as a file.
pub const FILE_BODY_PREVIEW_CHARS: usize = 2000;
/// Longest description of a peer, in characters.
pub const DESCRIPTION_CHARS: usize = 450;
