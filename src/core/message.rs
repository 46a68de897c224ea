//! A message, its states, and the closed list of reasons for which one waits.

use super::Millis;
use super::names::{Identity, Incarnation, Party};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A message id: a version-7 UUID in its canonical lowercase form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MessageId(String);

impl MessageId {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When it was made, in Unix milliseconds: the first 48 bits of a version-7 UUID.
    pub fn unix_ms(&self) -> u64 {
        let digits: String = self.0.chars().filter(|c| *c != '-').take(12).collect();
        u64::from_str_radix(&digits, 16).unwrap_or(0)
    }
}
impl FromStr for MessageId {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let ok = s.len() == 36
            && s.bytes().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
            });
        if ok {
            Ok(MessageId(s.into()))
        } else {
            Err(format!("{:?} is not a message id (36 characters, as `iapeer send` prints it)", s.chars().take(60).collect::<String>()))
        }
    }
}
impl TryFrom<String> for MessageId {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}
impl From<MessageId> for String {
    fn from(m: MessageId) -> String {
        m.0
    }
}
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of mind stands behind a party.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intelligence {
    /// A model.
    #[default]
    Artificial,
    /// A person.
    #[serde(alias = "human")]
    Natural,
    /// A program.
    #[serde(alias = "scripted")]
    Absent,
}

impl Intelligence {
    pub fn word(self) -> &'static str {
        match self {
            Intelligence::Artificial => "artificial",
            Intelligence::Natural => "natural",
            Intelligence::Absent => "absent",
        }
    }
}

/// A durable message. The byte format of its record is in `state/README.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub id: MessageId,
    /// Place in the recipient's order; a persisted counter, never a clock.
    pub seq: u64,
    pub from: Party,
    pub intelligence: Intelligence,
    /// The door by which it came: `cli`, `mcp`, `api`, `offline`, `system`.
    pub via: String,
    pub to: Party,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<MessageId>,
    #[serde(default)]
    pub hops: u32,
    #[serde(default)]
    pub urgent: bool,
    /// When it was accepted, RFC 3339 with offset.
    pub sent: String,
    /// Wall-clock second at which it expires; `None` for mail that never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// The random word that closes its envelope; the body does not contain it.
    pub fence: String,
    /// When it was accepted, by the clocks that a jump of the wall clock does not touch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// The sender's own key: the same key and content is the same message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Typed as it is, without an envelope; the operator's privilege.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    #[serde(skip)]
    pub body: Vec<u8>,
}

/// The door of what a peer's own schedules send it. The system signs it; unlike a notice it wakes its peer.
pub const SCHEDULED: &str = "schedule";

/// A moment by three clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub boot_id: String,
    /// Milliseconds since that boot.
    pub boot_ms: Millis,
    /// Unix seconds.
    pub unix: i64,
}

impl Stamp {
    /// Seconds since then. Within one boot by its clock, which no wall clock moves.
    pub fn age_secs(&self, now: &Stamp) -> i64 {
        if self.boot_id == now.boot_id {
            i64::try_from(now.boot_ms.saturating_sub(self.boot_ms) / 1000).unwrap_or(i64::MAX)
        } else {
            now.unix.saturating_sub(self.unix)
        }
    }
}

/// A file that travels with a message: a copy in the recipient's inbox, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The copy that the recipient reads.
    pub path: String,
    /// SHA-256 of the content, hex.
    pub sha256: String,
    pub bytes: u64,
}

impl Message {
    pub fn key(&self) -> Key {
        Key { id: self.id.clone(), seq: self.seq, urgent: self.urgent }
    }

    pub fn entry(&self) -> Entry {
        Entry {
            key: self.key(),
            from: self.from.clone(),
            topic: self.topic.clone(),
            in_reply_to: self.in_reply_to.clone(),
            hops: self.hops,
            fence: self.fence.clone(),
            raw: self.raw,
            notice: self.from == Party::System && self.via != SCHEDULED,
            expires: self.expires,
            stamp: self.stamp.clone(),
            due: None,
            not_before: 0,
        }
    }
}

/// What the decision needs to know of a waiting message; the body stays on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub from: Party,
    pub topic: Option<String>,
    pub in_reply_to: Option<MessageId>,
    pub hops: u32,
    /// Closes its envelope; shows on the screen that a paste is this message.
    pub fence: String,
    pub raw: bool,
    /// A notice of the system: it waits for a session that runs for another reason.
    pub notice: bool,
    /// Unix second at which it expires.
    pub expires: Option<i64>,
    pub stamp: Option<Stamp>,
    /// The same on the boot clock of this daemon; set when the mail comes to its peer.
    pub due: Option<Millis>,
    /// Paced: not delivered before this, on the boot clock.
    pub not_before: Millis,
}

impl Entry {
    pub fn id(&self) -> &MessageId {
        &self.key.id
    }

    pub fn wakes(&self) -> bool {
        !self.notice
    }

    /// When its time to live is over, on the boot clock. Within one boot the boot clock alone counts, so
    /// that a jump of the wall clock expires nothing.
    pub fn deadline(&self, now: &Stamp) -> Option<Millis> {
        let expires = self.expires?;
        let millis = |seconds: i64| seconds.max(0) as Millis * 1000;
        Some(match &self.stamp {
            Some(stamp) if stamp.boot_id == now.boot_id => stamp.boot_ms + millis(expires - stamp.unix),
            _ => now.boot_ms + millis(expires - now.unix),
        })
    }
}

/// What a record's file name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub id: MessageId,
    pub seq: u64,
    pub urgent: bool,
}

impl Key {
    /// Urgent before normal, then in order of acceptance.
    pub fn rank(&self) -> (bool, u64) {
        (!self.urgent, self.seq)
    }
    /// The file name of its record: sorts in the order of delivery.
    pub fn file_name(&self) -> String {
        format!("{}-{:020}-{}.msg", if self.urgent { 0 } else { 1 }, self.seq, self.id)
    }
    pub fn from_file_name(name: &str) -> Option<Key> {
        let stem = name.strip_suffix(".msg")?;
        let (urgent, rest) = stem.split_once('-')?;
        let (seq, id) = rest.split_at_checked(20)?;
        let urgent = match urgent {
            "0" => true,
            "1" => false,
            _ => return None,
        };
        if !seq.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Key { id: id.strip_prefix('-')?.parse().ok()?, seq: seq.parse().ok()?, urgent })
    }
}

/// What proves that the agent's own software made a user turn of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// A hook that the agent program ran on prompt submission, carrying the id.
    Hook,
    /// A transcript record behind the stored offset, carrying the id.
    Transcript,
    /// The recipient's own reader took it.
    Acknowledged,
    /// Nothing can prove more than that the submit key followed (`evidence: none`).
    None,
}

impl Evidence {
    pub fn word(self) -> &'static str {
        match self {
            Evidence::Hook => "hook",
            Evidence::Transcript => "transcript",
            Evidence::Acknowledged => "acknowledged",
            Evidence::None => "none",
        }
    }
}

/// Why a message or a peer waits. Closed: the same words in the API, the logs and the docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    Starting,
    Busy,
    Draft,
    Dialog,
    Picker,
    CopyMode,
    InputOff,
    UnknownScreen,
    AttachedTyping,
    Approval,
    Limit,
    Login,
    MissingBinary,
    CrashLoop,
    Backoff,
    Capacity,
    Stopped,
    Frozen,
    Draining,
    ProfileInvalid,
    ProfileChanged,
    Paced,
    Loop,
    ByOperator,
}

impl Hold {
    pub fn word(self) -> &'static str {
        match self {
            Hold::Starting => "starting",
            Hold::Busy => "busy",
            Hold::Draft => "draft",
            Hold::Dialog => "dialog",
            Hold::Picker => "picker",
            Hold::CopyMode => "copy-mode",
            Hold::InputOff => "input-off",
            Hold::UnknownScreen => "unknown-screen",
            Hold::AttachedTyping => "attached-typing",
            Hold::Approval => "approval",
            Hold::Limit => "limit",
            Hold::Login => "login",
            Hold::MissingBinary => "missing-binary",
            Hold::CrashLoop => "crash-loop",
            Hold::Backoff => "backoff",
            Hold::Capacity => "capacity",
            Hold::Stopped => "stopped",
            Hold::Frozen => "frozen",
            Hold::Draining => "draining",
            Hold::ProfileInvalid => "profile-invalid",
            Hold::ProfileChanged => "profile-changed",
            Hold::Paced => "paced",
            Hold::Loop => "loop",
            Hold::ByOperator => "by-operator",
        }
    }
}
impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where a message stands, as every surface reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Accepted,
    Held,
    Injected,
    Entered,
    Unknown,
    Submitted,
    Answered,
    Acknowledged,
    Expired,
    Dead,
    Parked,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Accepted => "accepted",
            State::Held => "held",
            State::Injected => "injected",
            State::Entered => "entered",
            State::Unknown => "unknown",
            State::Submitted => "submitted",
            State::Answered => "answered",
            State::Acknowledged => "acknowledged",
            State::Expired => "expired",
            State::Dead => "dead",
            State::Parked => "parked",
        }
    }
    /// The recipient has it (or, for `evidence: none`, all that can be known has happened).
    pub fn is_delivered(self) -> bool {
        matches!(self, State::Submitted | State::Answered | State::Acknowledged)
    }
    /// Nothing more will happen by itself.
    pub fn is_end(self) -> bool {
        self.is_delivered() || matches!(self, State::Expired | State::Dead)
    }
}

/// How a message ended; kept beside its record in `queue/done/` or `queue/dead/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub at: String,
    #[serde(default)]
    pub attempt: u32,
    #[serde(default)]
    pub incarnation: Incarnation,
}

/// Processes by which a claim knows, after a restart, whether it still speaks to the same session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: i32,
    /// Start time in clock ticks since boot (`/proc/PID/stat` field 22): tells a reused pid apart.
    pub start: u64,
}

/// Where the transcript stood when a message was claimed: only bytes behind this count as evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptMark {
    pub path: String,
    pub inode: u64,
    pub offset: u64,
}

/// Written and synced before anything is typed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub v: u32,
    pub id: MessageId,
    /// 1 for the first time; above that the copy says `redelivered`.
    pub attempt: u32,
    /// Deaths of the agent under this claim so far.
    pub deaths: u32,
    pub identity: Identity,
    pub incarnation: Incarnation,
    pub boot_id: String,
    pub server: ProcessRef,
    pub keeper: ProcessRef,
    pub pane: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<TranscriptMark>,
    /// An ephemeral worker's task: the agent has it, and this proved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Evidence>,
    /// Given back: the record belongs to `new/` again, this file only carries the counts on.
    #[serde(default)]
    pub released: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_wall_clock_expires_nothing_within_a_boot() {
        let stamp = |boot: &str, boot_ms, unix| Stamp { boot_id: boot.into(), boot_ms, unix };
        let sent = stamp("a", 1_000, 1_000_000);
        let entry = Entry { expires: Some(1_000_000 + 3600), stamp: Some(sent), ..crate::core::record::tests::sample(b"x").entry() };
        let ten_days = 10 * 86_400;
        for jump in [-ten_days, 0, ten_days] {
            assert_eq!(entry.deadline(&stamp("a", 2_000, 1_000_001 + jump)), Some(1_000 + 3_600_000));
        }
        // After a reboot the wall clock is all there is.
        assert_eq!(entry.deadline(&stamp("b", 50, 1_000_600)), Some(50 + 3_000_000));
        assert_eq!(entry.deadline(&stamp("b", 50, 2_000_000)), Some(50));
    }

    #[test]
    fn file_names_sort_in_the_order_of_delivery() {
        let id: MessageId = "0199a0b0-0000-7000-8000-000000000001".parse().unwrap();
        let e = |urgent, seq| Key { id: id.clone(), seq, urgent };
        let mut names = [e(false, 9), e(false, 10), e(true, 11)].map(|e| e.file_name());
        names.sort();
        let back: Vec<Key> = names.iter().map(|n| Key::from_file_name(n).unwrap()).collect();
        assert_eq!(back, [e(true, 11), e(false, 9), e(false, 10)]);
        for foreign in ["x.msg", "1-1-2.msg", ".msg", "1-00000000000000000009-zz.msg", "2-00000000000000000009-0199a0b0-0000-7000-8000-000000000001.msg"] {
            assert_eq!(Key::from_file_name(foreign), None, "{foreign}");
        }
    }
}
