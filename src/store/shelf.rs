//! What happens to a mailbox beside delivery: idempotency keys, an operator's second try, retention.

use super::disk::{remove_if_there, replace};
use super::mailbox::{ALL_FOLDERS, Mailbox, NOTE_CAP, RecordFault, keys_in, read_record};
use crate::core::message::{Entry, Key, MessageId, Stamp};
use crate::core::names::Party;
use crate::core::record::hex;
use crate::ports::disk::Disk;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// One sender's key in one mailbox: `queue/keys/<hash>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    pub v: u32,
    pub id: MessageId,
    /// Unix second of its first use.
    pub at: i64,
    /// SHA-256 of what was to be sent, hex.
    pub payload: String,
}

/// What a key says about a message that comes with it.
#[derive(Debug, PartialEq, Eq)]
pub enum Keyed {
    /// The message with this key has this id; it may be new, or kept already.
    Is(MessageId),
    /// The key was used for something else.
    Conflict(MessageId),
}

/// Ties a key to an id, before the message is accepted: a crash between the two leaves the same id for
/// the next try.
pub fn tie_key(disk: &dyn Disk, queue: &Path, from: &Party, key: &str, payload: &str, id: &MessageId, at: i64) -> io::Result<Keyed> {
    let path = key_path(queue, from, key);
    match disk.read(&path, 4096) {
        Ok(bytes) => {
            // What does not parse was never written by us in full; its message was never accepted.
            if let Ok(known) = serde_json::from_slice::<KeyRecord>(&bytes) {
                return Ok(if known.payload == payload { Keyed::Is(known.id) } else { Keyed::Conflict(known.id) });
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let record = KeyRecord { v: 1, id: id.clone(), at, payload: payload.into() };
    disk.create_dir(&queue.join("keys"))?;
    replace(disk, &path, &serde_json::to_vec(&record).map_err(io::Error::other)?)?;
    Ok(Keyed::Is(id.clone()))
}

/// Whether a sender has used a key in this mailbox.
pub fn is_tied(disk: &dyn Disk, queue: &Path, from: &Party, key: &str) -> bool {
    disk.read(&key_path(queue, from, key), 4096).is_ok()
}

fn key_path(queue: &Path, from: &Party, key: &str) -> PathBuf {
    let hash = hex(&Sha256::digest(format!("{from}\n{key}").as_bytes())[..16]);
    queue.join("keys").join(format!("{hash}.json"))
}

/// Puts a parked or given-up record back to its old place in `new/`, with a new time to live.
pub fn back_to_new(disk: &dyn Disk, mailbox: &Mailbox, key: &Key, now: &Stamp) -> Result<Entry, RecordFault> {
    again(disk, mailbox, key, now, &["held", "dead"])
}

/// The same for one that somebody has moved back there already.
pub fn renew(disk: &dyn Disk, mailbox: &Mailbox, key: &Key, now: &Stamp) -> Result<Entry, RecordFault> {
    again(disk, mailbox, key, now, &["new"])
}

fn again(disk: &dyn Disk, mailbox: &Mailbox, key: &Key, now: &Stamp, from: &[&str]) -> Result<Entry, RecordFault> {
    let queue = mailbox.dir();
    let mut message = read_record(disk, queue, key, from)?;
    let life = message.expires.zip(message.stamp.as_ref()).map(|(expires, stamp)| expires - stamp.unix);
    message.expires = life.map(|seconds| now.unix + seconds);
    message.stamp = Some(now.clone());
    mailbox.enqueue(disk, &message).map_err(RecordFault::Io)?;
    let name = key.file_name();
    for folder in ["held", "dead"] {
        if let Ok(noted) = disk.read(&queue.join(folder).join(format!("{name}.why")), NOTE_CAP) {
            mailbox.count_on(disk, key, &noted).map_err(RecordFault::Io)?;
        }
    }
    for left in ["held", "dead"].into_iter().flat_map(|f| [queue.join(f).join(&name), queue.join(f).join(format!("{name}.why"))]) {
        remove_if_there(disk, &left).map_err(RecordFault::Io)?;
    }
    Ok(message.entry())
}

/// Forgets the oldest of what was delivered, acknowledged or given up: beyond `records`, or accepted more than
/// `most_secs` ago. Returns the ids that are known no more.
pub fn prune(disk: &dyn Disk, queue: &Path, now: &Stamp, most_secs: i64, records: usize) -> io::Result<Vec<MessageId>> {
    let mut forgotten = Vec::new();
    for (folder, note) in [("done", "end"), ("dead", "why")] {
        let dir = queue.join(folder);
        let keys = keys_in(disk, &dir);
        let excess = keys.len().saturating_sub(records);
        let mut by_age = keys;
        by_age.sort_by_key(|k| k.seq);
        for (place, key) in by_age.into_iter().enumerate() {
            // In the order of acceptance: the first that stays is the end.
            if place >= excess && age_secs(disk, queue, &key, folder, now) <= most_secs {
                break;
            }
            remove_if_there(disk, &dir.join(key.file_name()))?;
            remove_if_there(disk, &dir.join(format!("{}.{note}", key.file_name())))?;
            forgotten.push(key.id);
        }
    }
    let folders = ALL_FOLDERS.iter().map(|folder| queue.join(folder));
    let kept: HashSet<MessageId> = folders.flat_map(|dir| keys_in(disk, &dir)).map(|key| key.id).collect();
    for name in disk.list(&queue.join("keys")).unwrap_or_default() {
        let path = queue.join("keys").join(&name);
        let known = disk.read(&path, 4096).ok().and_then(|b| serde_json::from_slice::<KeyRecord>(&b).ok());
        // A key lives as long as its message; one whose message was never accepted, as long as any.
        if known.is_some_and(|k| forgotten.contains(&k.id) || (!kept.contains(&k.id) && now.unix - k.at > most_secs)) {
            remove_if_there(disk, &path)?;
        }
    }
    Ok(forgotten)
}

/// How long ago a message was accepted; its id is the caller's and proves nothing, unless there is nothing else.
fn age_secs(disk: &dyn Disk, queue: &Path, key: &Key, folder: &str, now: &Stamp) -> i64 {
    let stamp = read_record(disk, queue, key, &[folder]).ok().and_then(|m| m.stamp);
    stamp.map_or(now.unix - (key.id.unix_ms() / 1000) as i64, |s| s.age_secs(now))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use crate::core::message::{Claim, Ending, Message, ProcessRef, State};
    use crate::core::record::tests::sample;
    use crate::store::disk::OsDisk;
    use crate::store::mailbox::read_ending;

    fn id(unix_ms: u64) -> MessageId {
        let time = format!("{unix_ms:012x}");
        format!("{}-{}-7000-8000-000000000001", &time[..8], &time[8..]).parse().unwrap()
    }

    fn stamp(boot: &str, unix: i64) -> Stamp {
        Stamp { boot_id: boot.into(), boot_ms: 1, unix }
    }

    #[test]
    fn a_key_stands_for_one_message() {
        let dir = tempfile::tempdir().unwrap();
        let from: Party = "echo-a".parse().unwrap();
        let tie = |key: &str, payload: &str, ms| tie_key(&OsDisk, dir.path(), &from, key, payload, &id(ms), 1).unwrap();
        assert_eq!(tie("k", "p", 1), Keyed::Is(id(1)));
        assert_eq!(tie("k", "p", 2), Keyed::Is(id(1)), "the first id stays");
        assert_eq!(tie("k", "other", 3), Keyed::Conflict(id(1)));
        assert_eq!(tie("k2", "p", 4), Keyed::Is(id(4)));
        assert_eq!(tie_key(&OsDisk, dir.path(), &Party::Operator, "k", "p", &id(5), 1).unwrap(), Keyed::Is(id(5)), "another sender's key");
    }

    #[test]
    fn the_ledger_is_pruned_by_age_and_by_count_and_keys_go_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue");
        let mailbox = Mailbox::open(&OsDisk, queue.clone()).unwrap();
        let done = Ending { state: State::Submitted, evidence: None, reason: None, at: String::new(), attempt: 1, incarnation: 1 };
        for n in 1..=5u64 {
            // An id from a clock that is wrong forgets nothing early.
            let at = stamp("b", n as i64);
            let message = Message { id: id(n), seq: n, stamp: Some(at), ..sample(b"x") };
            mailbox.enqueue(&OsDisk, &message).unwrap();
            tie_key(&OsDisk, &queue, &message.from, &n.to_string(), "p", &message.id, n as i64).unwrap();
            if n < 5 {
                mailbox.finish(&OsDisk, &message.entry().key, &done).unwrap();
            }
        }
        let ten_days_on = Stamp { boot_ms: 60_000, ..stamp("b", 864_000) };
        assert_eq!(prune(&OsDisk, &queue, &ten_days_on, 600, 10).unwrap(), [], "a wall clock that jumps makes nothing older");
        assert_eq!(prune(&OsDisk, &queue, &stamp("later", 11), 9, 10).unwrap(), [id(1)], "by age");
        assert_eq!(prune(&OsDisk, &queue, &stamp("later", 11), 100, 2).unwrap(), [id(2)], "by count");
        let names = |folder: &str| OsDisk.list(&queue.join(folder)).unwrap().len();
        assert_eq!((names("new"), names("done"), names("keys")), (1, 4, 3), "what waits stays, notes go with their records");
    }

    #[test]
    fn a_second_try_goes_on_counting_the_copies() {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue");
        let mailbox = Mailbox::open(&OsDisk, queue.clone()).unwrap();
        for (n, state) in [(1, State::Parked), (2, State::Dead)] {
            let message = Message { id: id(n), seq: n, ..sample(b"x") };
            let key = message.key();
            mailbox.enqueue(&OsDisk, &message).unwrap();
            let nobody = ProcessRef { pid: i32::MAX, start: 1 };
            let (identity, boot_id, pane) = ("echo-a".parse().unwrap(), String::new(), String::new());
            let (server, keeper) = (nobody.clone(), nobody);
            let first = Claim {
                v: 1,
                id: id(n),
                attempt: 0,
                deaths: 3,
                identity,
                incarnation: 1,
                boot_id,
                transcript: None,
                server,
                keeper,
                pane,
                taken: None,
                released: false,
            };
            assert_eq!(mailbox.claim(&OsDisk, &key, first.clone()).unwrap().attempt, 1);
            let end = Ending { state, evidence: None, reason: None, at: String::new(), attempt: 1, incarnation: 1 };
            mailbox.finish(&OsDisk, &key, &end).unwrap();
            assert_eq!(read_ending(&OsDisk, &queue, &key), Some(end));
            back_to_new(&OsDisk, &mailbox, &key, &stamp("b", 5)).unwrap();
            let scan = Mailbox::open(&OsDisk, queue.clone()).unwrap().scan(&OsDisk).unwrap();
            assert_eq!((scan.claim, scan.waiting.len(), scan.quarantined.len()), (None, 1, 0));
            let again = mailbox.claim(&OsDisk, &key, Claim { deaths: 0, ..first }).unwrap();
            assert_eq!((again.attempt, again.deaths), (2, 0), "the copy says so, and may meet as many deaths as any");
            let done = Ending { state: State::Submitted, evidence: None, reason: None, at: String::new(), attempt: 2, incarnation: 1 };
            mailbox.finish(&OsDisk, &key, &done).unwrap();
        }
    }

    #[test]
    fn what_was_given_up_gets_its_old_place_again() {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue");
        let mailbox = Mailbox::open(&OsDisk, queue.clone()).unwrap();
        let stamp = |unix| Stamp { boot_id: "b".into(), boot_ms: 1, unix };
        let message = Message { expires: Some(1060), stamp: Some(stamp(1000)), ..sample(b"x") };
        let key = message.entry().key;
        mailbox.enqueue(&OsDisk, &message).unwrap();
        let dead = Ending { state: State::Expired, evidence: None, reason: Some("ttl".into()), at: String::new(), attempt: 0, incarnation: 0 };
        mailbox.finish(&OsDisk, &key, &dead).unwrap();
        let entry = back_to_new(&OsDisk, &mailbox, &key, &stamp(5000)).unwrap();
        assert_eq!((entry.key, entry.expires), (key.clone(), Some(5060)), "with a new time to live");
        assert_eq!(keys_in(&OsDisk, &queue.join("new")), std::slice::from_ref(&key));
        assert!(OsDisk.list(&queue.join("dead")).unwrap().is_empty());
        assert!(matches!(back_to_new(&OsDisk, &mailbox, &key, &stamp(5000)), Err(RecordFault::Content(_))), "it waits already");
    }
}
