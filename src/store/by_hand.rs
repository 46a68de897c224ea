//! A mailbox in which somebody else has moved files: what came into `new/`, and where what waited has gone.
//!
//! Runs on the store thread, so that no operation of ours is half-way. What is just being copied is left alone
//! until it rests: only then can it be said that it is no message.

use super::mailbox::{Mailbox, RecordFault, read_ending};
use crate::core::message::{Entry, Key, MessageId};
use crate::ports::disk::Disk;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A file that was written to this lately may not be whole yet.
const AT_REST: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub struct Looked {
    pub came: Vec<Came>,
    pub gone: Vec<(MessageId, Gone)>,
    /// What was no message, or one too many, with the reason.
    pub quarantined: Vec<(String, String)>,
    /// Something is still being written: look again.
    pub again: bool,
}

#[derive(Debug)]
pub struct Came {
    pub entry: Entry,
    /// It had ended before: a note of that still lies there.
    pub ended: bool,
}

/// Where a record that waited lies now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Parked,
    GivenUp,
    Done,
    Nowhere,
}

/// Compares `new/` with what the peer has waiting and in flight.
pub fn look(disk: &dyn Disk, mailbox: &Mailbox, waiting: &[Key], in_flight: Option<&Key>, now: SystemTime) -> io::Result<Looked> {
    let dir = mailbox.dir().join("new");
    let names = disk.list(&dir)?;
    let known: HashMap<&MessageId, String> = waiting.iter().chain(in_flight).map(|k| (&k.id, k.file_name())).collect();
    let files: HashSet<&str> = known.values().map(String::as_str).collect();
    let mut looked = Looked::default();
    for name in names.iter().filter(|n| n.to_str().is_none_or(|n| !files.contains(n))) {
        let reason = match mailbox.peek(disk, "new", name.to_str().unwrap_or_default()) {
            Ok(entry) if !known.contains_key(entry.id()) => {
                let ended = read_ending(disk, mailbox.dir(), &entry.key).is_some();
                looked.came.push(Came { entry, ended });
                continue;
            }
            Ok(_) => "a second record of the message".into(),
            Err(RecordFault::Content(_)) if written_since(&dir, name, now) => {
                looked.again = true;
                continue;
            }
            Err(RecordFault::Content(reason)) => reason,
            Err(RecordFault::Io(error)) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(RecordFault::Io(error)) => return Err(error),
        };
        looked.quarantined.push(mailbox.put_foreign_aside(disk, "new", name, reason));
    }
    let here: HashSet<&OsStr> = names.iter().map(|n| n.as_os_str()).collect();
    for key in waiting.iter().filter(|k| !here.contains(OsStr::new(&k.file_name()))) {
        let name = key.file_name();
        if mailbox.lies_in(disk, "cur", &name) {
            // Claimed by nobody: it waits.
            disk.rename(&mailbox.dir().join("cur").join(&name), &dir.join(&name))?;
            continue;
        }
        let places = [("held", Gone::Parked), ("dead", Gone::GivenUp), ("done", Gone::Done)];
        let found = places.into_iter().find(|(folder, _)| mailbox.lies_in(disk, folder, &name));
        looked.gone.push((key.id.clone(), found.map_or(Gone::Nowhere, |(_, gone)| gone)));
    }
    Ok(looked)
}

fn written_since(dir: &Path, name: &OsStr, now: SystemTime) -> bool {
    let changed = dir.join(name).symlink_metadata().ok().filter(|m| m.is_file()).and_then(|m| m.modified().ok());
    changed.is_some_and(|at| now.duration_since(at).unwrap_or_default() < AT_REST)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use crate::core::message::{Ending, Message, State};
    use crate::core::record::tests::sample;
    use crate::store::disk::OsDisk;

    struct Box {
        _dir: tempfile::TempDir,
        mailbox: Mailbox,
        waiting: Vec<Key>,
    }

    fn mailbox(records: u64) -> Box {
        let dir = tempfile::tempdir().unwrap();
        let mailbox = Mailbox::open(&OsDisk, dir.path().join("queue")).unwrap();
        let keep = |n: u64| {
            let message = Message { id: format!("0199a0b0-0000-7000-8000-{n:012}").parse().unwrap(), seq: n, ..sample(b"x") };
            mailbox.enqueue(&OsDisk, &message).unwrap();
            message.key()
        };
        let waiting = (1..=records).map(keep).collect();
        Box { _dir: dir, mailbox, waiting }
    }

    impl Box {
        fn look(&self) -> Looked {
            look(&OsDisk, &self.mailbox, &self.waiting, None, SystemTime::now()).unwrap()
        }
        fn mv(&self, n: usize, from: &str, to: &str) {
            let name = self.waiting[n].file_name();
            std::fs::rename(self.mailbox.dir().join(from).join(&name), self.mailbox.dir().join(to).join(&name)).unwrap();
        }
    }

    #[test]
    fn what_was_moved_out_is_found_where_it_lies() {
        let b = mailbox(6);
        for (n, to) in [(0, "held"), (1, "dead"), (2, "done"), (3, "cur")] {
            b.mv(n, "new", to);
        }
        std::fs::remove_file(b.mailbox.dir().join("new").join(b.waiting[4].file_name())).unwrap();
        let looked = b.look();
        let id = |n: usize| b.waiting[n].id.clone();
        assert_eq!(looked.gone, [(id(0), Gone::Parked), (id(1), Gone::GivenUp), (id(2), Gone::Done), (id(4), Gone::Nowhere)]);
        assert!(b.mailbox.dir().join("new").join(b.waiting[3].file_name()).exists(), "claimed by nobody: it waits again");
        assert!(looked.came.is_empty() && looked.quarantined.is_empty());
    }

    #[test]
    fn what_was_moved_in_has_come_and_is_known_to_have_ended() {
        let mut b = mailbox(2);
        let ending = Ending { state: State::Dead, evidence: None, reason: None, at: String::new(), attempt: 1, incarnation: 1 };
        b.mailbox.finish(&OsDisk, &b.waiting[0], &ending).unwrap();
        b.mv(0, "dead", "new");
        let moved = b.waiting.remove(0);
        let looked = b.look();
        assert_eq!(looked.came.iter().map(|c| (c.entry.key.clone(), c.ended)).collect::<Vec<_>>(), [(moved, true)]);
    }

    #[test]
    fn what_is_no_message_is_put_aside_once_it_rests() {
        let b = mailbox(1);
        let new = b.mailbox.dir().join("new");
        let whole = std::fs::read(new.join(b.waiting[0].file_name())).unwrap();
        let half = Key { id: "0199a0b0-0000-7000-8000-000000000009".parse().unwrap(), seq: 9, urgent: false }.file_name();
        std::fs::write(new.join(&half), &whole[..whole.len() / 2]).unwrap();
        std::fs::write(new.join(Key { seq: 8, ..b.waiting[0].clone() }.file_name()), &whole).unwrap();
        let looked = b.look();
        assert!(looked.again && looked.quarantined.is_empty(), "it may still be on its way: {looked:?}");
        let later = SystemTime::now() + AT_REST;
        let looked = look(&OsDisk, &b.mailbox, &b.waiting, None, later).unwrap();
        assert_eq!(looked.quarantined.len(), 2, "{looked:?}");
        assert_eq!(OsDisk.list(&new).unwrap().len(), 1);
        assert_eq!(OsDisk.list(&b.mailbox.dir().join("corrupt")).unwrap().len(), 2);
    }
}
