//! One party's mailbox on disk: the folders `tmp new cur held done dead corrupt` of `queue/`.
//!
//! Accepted means kept (`Disk::keep`): a record survives a power cut before anybody hears of its id, a claim
//! before anything is typed. Only the store thread writes here.

use super::disk::{is_temp, remove_if_there, replace, temp_beside};
use crate::core::message::{Claim, Ending, Entry, Evidence, Key, Message, MessageId, State};
use crate::core::peer::effect::Giveback;
use crate::core::record::{self, RECORD_CAP};
use crate::ports::disk::{Disk, Placed};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 7] = ["tmp", "new", "cur", "held", "done", "dead", "corrupt"];
/// Where records end, and what the note beside one is called.
const NOTES: [(&str, &str); 3] = [("done", "end"), ("dead", "why"), ("held", "why")];
/// Sequence numbers reserved by one write of the counter.
const SEQ_BLOCK: u64 = 1000;
const PEEK: u64 = 16 * 1024;
/// Longest claim or note that is read.
pub const NOTE_CAP: u64 = 64 * 1024;
/// Longest file name of the usual file systems.
const NAME_BYTES: usize = 255;

pub struct Mailbox {
    dir: PathBuf,
    next_seq: u64,
    reserved: u64,
}

/// What the folders hold at start.
#[derive(Default)]
pub struct Scan {
    pub waiting: Vec<Entry>,
    pub claim: Option<(Claim, Entry)>,
    /// What an ephemeral session was working on.
    pub task: Option<(Claim, Entry)>,
    /// Every record this mailbox has kept and not yet forgotten.
    pub keys: Vec<Key>,
    /// What was put into `corrupt/`, with the reason.
    pub quarantined: Vec<(String, String)>,
}

impl Mailbox {
    /// Opens `queue/`, creating what is missing, and empties `tmp/`.
    pub fn open(disk: &dyn Disk, dir: PathBuf) -> io::Result<Self> {
        for folder in FOLDERS {
            disk.create_dir(&dir.join(folder))?;
        }
        let mailbox = Mailbox { dir, next_seq: 1, reserved: 0 };
        for (folder, ours) in [("tmp", (|_| true) as fn(&OsStr) -> bool), ("cur", is_temp), ("", is_temp)] {
            for name in disk.list(&mailbox.dir.join(folder))?.iter().filter(|n| ours(n)) {
                // Whatever can be neither unlinked (a directory, say) nor moved must not take the mailbox out.
                let _ = disk.remove(&mailbox.dir.join(folder).join(name)).or_else(|_| mailbox.quarantine(disk, folder, name));
            }
        }
        let dir = mailbox.dir;
        let stored = match disk.read(&dir.join("seq"), 64) {
            Ok(bytes) => String::from_utf8_lossy(&bytes)
                .trim()
                .parse()
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{} does not hold a number", dir.join("seq").display())))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        Ok(Mailbox { dir, next_seq: stored + 1, reserved: stored })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The next place in the order. Survives an emptied mailbox and a lost power.
    pub fn take_seq(&mut self, disk: &dyn Disk) -> io::Result<u64> {
        if self.next_seq > self.reserved {
            let reserve = self.next_seq + SEQ_BLOCK;
            replace(disk, &self.dir.join("seq"), reserve.to_string().as_bytes())?;
            self.reserved = reserve;
        }
        self.next_seq += 1;
        Ok(self.next_seq - 1)
    }

    /// Keeps a message. When this returns, it survives a power cut.
    pub fn enqueue(&self, disk: &dyn Disk, message: &Message) -> io::Result<()> {
        disk.keep(&[self.place_for(message)])
    }

    /// Where a message is written, and where it is kept.
    pub fn place_for(&self, message: &Message) -> Placed {
        let name = message.key().file_name();
        Placed { temp: self.dir.join("tmp").join(&name), kept: self.dir.join("new").join(&name), bytes: record::encode(message), replaces: false }
    }

    /// Looks at every folder; puts aside what is not a message.
    pub fn scan(&self, disk: &dyn Disk) -> io::Result<Scan> {
        let mut scan = Scan::default();
        let mut claimed = Vec::new();
        let mut claims = Vec::new();
        for folder in ["new", "cur"] {
            for name in disk.list(&self.dir.join(folder))? {
                let text = name.to_str().unwrap_or_default();
                let claim_key = text.strip_suffix(".claim").filter(|_| folder == "cur").and_then(Key::from_file_name);
                let found = match &claim_key {
                    Some(key) => self.parse_claim(disk, key).map(|(claim, ended)| claims.push((key.clone(), claim, ended))),
                    None => self.peek(disk, folder, text).map(|entry| if folder == "new" { scan.waiting.push(entry) } else { claimed.push(entry) }),
                };
                if let Err(fault) = found {
                    let reason = match fault {
                        RecordFault::Content(reason) => reason,
                        // The disk may be well again in a moment; the record is.
                        RecordFault::Io(error) => return Err(error),
                    };
                    scan.quarantined.push(self.put_foreign_aside(disk, folder, &name, reason));
                }
            }
        }
        for (key, claim, ended) in claims {
            let at = |list: &[Entry]| list.iter().position(|e| *e.id() == claim.id);
            if ended {
                // The end of a delivery that was written and not carried out any more.
                for list in [&mut claimed, &mut scan.waiting] {
                    list.retain(|e| e.key != key);
                }
                match self.move_to_ledger(disk, &key) {
                    // Its record was taken away.
                    moved if is_missing(&moved) => {}
                    moved => moved?,
                }
                continue;
            }
            let entry = match (at(&claimed), at(&scan.waiting)) {
                (Some(i), _) if claim.released => {
                    // Given back, but the rename did not happen any more.
                    let entry = claimed.remove(i);
                    self.back_to_new(disk, &entry.key)?;
                    scan.waiting.push(entry);
                    continue;
                }
                (Some(i), _) => claimed.remove(i),
                (None, Some(_)) if claim.released => continue,
                (None, Some(i)) => {
                    // A crash between the claim and the rename leaves the record in new/.
                    let entry = scan.waiting.remove(i);
                    disk.rename(&self.dir.join("new").join(entry.key.file_name()), &self.dir.join("cur").join(entry.key.file_name()))?;
                    entry
                }
                (None, None) => {
                    // The record has moved on; only its claim stayed.
                    self.drop_claims_of(disk, &claim)?;
                    continue;
                }
            };
            if claim.taken.is_some() && scan.task.is_none() {
                scan.task = Some((claim, entry));
            } else if claim.taken.is_none() && scan.claim.is_none() {
                scan.claim = Some((claim, entry));
            } else {
                // One message is in flight at a time: a second claim was never acted on by us.
                self.write_claim(disk, &entry.key, &Claim { released: true, taken: None, ..claim })?;
                self.back_to_new(disk, &entry.key)?;
                scan.waiting.push(entry);
            }
        }
        for entry in claimed {
            self.back_to_new(disk, &entry.key)?;
            scan.waiting.push(entry);
        }
        scan.waiting.sort_by_key(|e| e.key.rank());
        self.drop_doubles(disk, &mut scan);
        for folder in ["new", "cur", "held", "done", "dead"] {
            scan.keys.extend(keys_in(disk, &self.dir.join(folder)));
        }
        Ok(scan)
    }

    /// No operation of ours leaves two records of one message: the first counts.
    fn drop_doubles(&self, disk: &dyn Disk, scan: &mut Scan) {
        let mut seen: HashSet<MessageId> = scan.claim.iter().chain(&scan.task).map(|(claim, _)| claim.id.clone()).collect();
        let (first, doubles): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut scan.waiting).into_iter().partition(|e| seen.insert(e.id().clone()));
        scan.waiting = first;
        for double in doubles {
            let reason = "a second record of the message".to_string();
            scan.quarantined.push(self.put_foreign_aside(disk, "new", OsStr::new(&double.key.file_name()), reason));
        }
    }

    fn back_to_new(&self, disk: &dyn Disk, key: &Key) -> io::Result<()> {
        disk.rename(&self.dir.join("cur").join(key.file_name()), &self.dir.join("new").join(key.file_name()))
    }

    /// A claim, and whether the end of its message follows in it.
    fn parse_claim(&self, disk: &dyn Disk, key: &Key) -> Result<(Claim, bool), RecordFault> {
        let bytes = disk.read(&self.claim_path(key), NOTE_CAP).map_err(RecordFault::of)?;
        let claim = claim_in(&bytes).map_err(|e| RecordFault::Content(e.to_string()))?;
        if claim.id == key.id { Ok((claim, ending_in(&bytes).is_some())) } else { Err(RecordFault::Content("the name and the claim do not agree".into())) }
    }

    fn drop_claims_of(&self, disk: &dyn Disk, claim: &Claim) -> io::Result<()> {
        for name in disk.list(&self.dir.join("cur"))? {
            let key = name.to_str().and_then(|n| n.strip_suffix(".claim")).and_then(Key::from_file_name);
            if key.is_some_and(|k| k.id == claim.id) {
                remove_if_there(disk, &self.dir.join("cur").join(name))?;
            }
        }
        Ok(())
    }

    pub(super) fn peek(&self, disk: &dyn Disk, folder: &str, name: &str) -> Result<Entry, RecordFault> {
        let content = RecordFault::Content;
        let key = Key::from_file_name(name).ok_or_else(|| content("not a name of a message record".into()))?;
        let path = self.dir.join(folder).join(name);
        // Small records are read whole and checked; of large ones the header, and the size.
        let entry = match disk.read(&path, PEEK) {
            Ok(bytes) => record::decode(&bytes).map_err(|e| content(e.to_string()))?.entry(),
            Err(_) => {
                let bytes = disk.read(&path, RECORD_CAP).map_err(RecordFault::of)?;
                let (message, len) = record::peek(&bytes).map_err(|e| content(e.to_string()))?;
                if len != bytes.len() as u64 {
                    return Err(content(format!("{} bytes, the header says {len}", bytes.len())));
                }
                message.entry()
            }
        };
        if entry.key == key { Ok(entry) } else { Err(content("the name and the header do not agree".into())) }
    }

    /// Quarantines and tells of it. What cannot be moved (a mount point, say) stays and is told of again.
    pub(super) fn put_foreign_aside(&self, disk: &dyn Disk, folder: &str, name: &OsStr, reason: String) -> (String, String) {
        let stays = self.quarantine(disk, folder, name).err().map(|e| format!("; it cannot be moved: {e}"));
        (format!("{folder}/{}", name.to_string_lossy()), reason + &stays.unwrap_or_default())
    }

    fn quarantine(&self, disk: &dyn Disk, folder: &str, name: &OsStr) -> io::Result<()> {
        let numbered = |n: u64| {
            if n == 0 {
                return name.to_os_string();
            }
            // Cut, so that the number still fits behind the longest name.
            let bytes = name.as_bytes();
            let mut cut = OsStr::from_bytes(&bytes[..bytes.len().min(NAME_BYTES - 21)]).to_os_string();
            cut.push(format!(".{n}"));
            cut
        };
        let taken: HashSet<OsString> = disk.list(&self.dir.join("corrupt"))?.into_iter().collect();
        let target = (0..).map(numbered).find(|n| !taken.contains(n));
        target.map_or(Ok(()), |t| disk.rename(&self.dir.join(folder).join(name), &self.dir.join("corrupt").join(t)))
    }

    /// Puts a record aside that turned out to be damaged after it was claimed.
    pub fn put_aside(&self, disk: &dyn Disk, key: &Key) -> io::Result<()> {
        let name = key.file_name();
        // In neither, when an earlier try failed after it had moved the record.
        if let Some(folder) = ["cur", "new"].into_iter().find(|f| self.lies_in(disk, f, &name)) {
            self.quarantine(disk, folder, OsStr::new(&name))?;
        }
        remove_if_there(disk, &self.claim_path(key))
    }

    pub(super) fn lies_in(&self, disk: &dyn Disk, folder: &str, name: &str) -> bool {
        disk.list(&self.dir.join(folder)).is_ok_and(|names| names.iter().any(|n| n == name))
    }

    fn claim_path(&self, key: &Key) -> PathBuf {
        self.dir.join("cur").join(format!("{}.claim", key.file_name()))
    }

    pub fn read_claim(&self, disk: &dyn Disk, key: &Key) -> Option<Claim> {
        claim_in(&disk.read(&self.claim_path(key), NOTE_CAP).ok()?).ok()
    }

    /// Claims a record; `claim` comes with everything but the counts, which an earlier claim may carry.
    pub fn claim(&self, disk: &dyn Disk, key: &Key, claim: Claim) -> io::Result<Claim> {
        let claim = self.counted(disk, key, claim);
        disk.keep(&[self.place_for_claim(key, &claim)?])?;
        self.claimed(disk, key)?;
        Ok(claim)
    }

    /// One more try than an earlier claim tells of.
    pub fn counted(&self, disk: &dyn Disk, key: &Key, mut claim: Claim) -> Claim {
        if let Some(earlier) = self.read_claim(disk, key) {
            claim.attempt = earlier.attempt;
            claim.deaths = earlier.deaths;
        }
        claim.attempt += 1;
        claim
    }

    /// Where a claim is written, and where it is kept, in the place of an earlier one.
    pub fn place_for_claim(&self, key: &Key, claim: &Claim) -> io::Result<Placed> {
        let kept = self.claim_path(key);
        Ok(Placed { temp: temp_beside(&kept), kept, bytes: serde_json::to_vec(claim).map_err(io::Error::other)?, replaces: true })
    }

    /// Where a new message and its first claim are written, and where they are kept.
    pub fn place_claimed(&self, message: &Message, claim: &Claim) -> io::Result<[Placed; 2]> {
        let record = self.place_for(message);
        let claim = self.place_for_claim(&message.key(), claim)?;
        // The record first: without its claim it counts as waiting.
        Ok([Placed { kept: self.dir.join("cur").join(message.key().file_name()), ..record }, Placed { replaces: false, ..claim }])
    }

    /// Moves a record whose claim is kept.
    pub fn claimed(&self, disk: &dyn Disk, key: &Key) -> io::Result<()> {
        let (new, cur) = (self.dir.join("new").join(key.file_name()), self.dir.join("cur").join(key.file_name()));
        match disk.rename(&new, &cur) {
            // Moved by an earlier try whose release did not get through.
            moved if is_missing(&moved) && self.lies_in(disk, "cur", &key.file_name()) => Ok(()),
            moved => moved,
        }
    }

    /// Notes in the claim that the agent has the message, which stays claimed all the same.
    pub fn taken(&self, disk: &dyn Disk, key: &Key, evidence: Evidence) -> io::Result<()> {
        match self.read_claim(disk, key).filter(|c| !c.released) {
            Some(claim) => self.write_claim(disk, key, &Claim { taken: Some(evidence), ..claim }),
            None => Ok(()),
        }
    }

    /// Goes on counting where an operator's second try finds a message that was given up or parked.
    pub fn count_on(&self, disk: &dyn Disk, key: &Key, noted: &[u8]) -> io::Result<()> {
        match claim_in(noted).ok().filter(|claim| claim.id == key.id && claim.attempt > 0) {
            Some(claim) => self.write_claim(disk, key, &Claim { released: true, deaths: 0, taken: None, ..claim }),
            None => Ok(()),
        }
    }

    fn write_claim(&self, disk: &dyn Disk, key: &Key, claim: &Claim) -> io::Result<()> {
        disk.keep(&[self.place_for_claim(key, claim)?])
    }

    pub fn release(&self, disk: &dyn Disk, key: &Key, how: Giveback) -> io::Result<()> {
        if let Some(mut claim) = self.read_claim(disk, key).filter(|c| !c.released) {
            match how {
                Giveback::Untouched => claim.attempt = claim.attempt.saturating_sub(1),
                Giveback::Redeliver { deaths } => claim.deaths = deaths,
            }
            claim.released = true;
            claim.taken = None;
            self.write_claim(disk, key, &claim)?;
        }
        let name = key.file_name();
        match disk.rename(&self.dir.join("cur").join(&name), &self.dir.join("new").join(&name)) {
            // Moved by an earlier try.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.lies_in(disk, "new", &name) => Ok(()),
            moved => moved,
        }
    }

    /// Moves a record to where it ended, from wherever it waits.
    pub fn finish(&self, disk: &dyn Disk, key: &Key, ending: &Ending) -> io::Result<()> {
        let (folder, suffix) = match ending.state {
            State::Dead | State::Expired => ("dead", "why"),
            State::Parked => ("held", "why"),
            _ => ("done", "end"),
        };
        let name = key.file_name();
        for (folder, suffix) in NOTES {
            // Of an earlier ending, or of one that failed half-way.
            remove_if_there(disk, &self.dir.join(folder).join(format!("{name}.{suffix}")))?;
        }
        let note = self.dir.join(folder).join(format!("{name}.{suffix}"));
        let bytes = serde_json::to_vec(ending).map_err(io::Error::other)?;
        // A delivered message whose note a power cut takes is found again by its evidence; a decision
        // to give up is not.
        if folder == "done" && self.end_in_claim(disk, key, &bytes)? {
            return self.move_to_ledger(disk, key);
        } else if folder == "done" {
            disk.create(&note, &bytes)?
        } else {
            // Behind its claim as well: should it be delivered after all, that copy is not the first.
            let claim = self.read_claim(disk, key).map(|claim| serde_json::to_vec(&claim)).transpose().map_err(io::Error::other)?;
            let behind = claim.map_or_else(|| bytes.clone(), |claim| [&claim[..], b"\n", &bytes].concat());
            disk.create_synced(&note, &behind)?
        }
        let target = self.dir.join(folder).join(&name);
        // What was parked may be given up as well.
        let froms: &[&str] = if folder == "dead" { &["cur", "new", "held"] } else { &["cur", "new"] };
        let moved = froms.iter().map(|from| disk.rename(&self.dir.join(from).join(&name), &target)).find(|moved| !is_missing(moved));
        match moved {
            Some(moved) => moved?,
            // Moved by an earlier try that failed later on.
            None if self.lies_in(disk, folder, &name) => {}
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        if folder != "done" {
            disk.sync_dir(&self.dir.join(folder))?;
        }
        remove_if_there(disk, &self.claim_path(key))
    }

    /// Writes the end of a message into its claim; `false` when there is none. Making no file and freeing none is
    /// what a delivery saves by it.
    fn end_in_claim(&self, disk: &dyn Disk, key: &Key, ending: &[u8]) -> io::Result<bool> {
        match disk.append(&self.claim_path(key), &[b"\n", ending].concat()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => match RecordFault::of(e) {
                // Something else in its place.
                RecordFault::Content(_) => Ok(false),
                RecordFault::Io(e) => Err(e),
            },
        }
    }

    /// Moves a delivered message into the ledger, and the claim that tells of its end with it.
    fn move_to_ledger(&self, disk: &dyn Disk, key: &Key) -> io::Result<()> {
        let (name, done) = (key.file_name(), self.dir.join("done"));
        let moved = ["cur", "new"].iter().map(|from| disk.rename(&self.dir.join(from).join(&name), &done.join(&name))).find(|moved| !is_missing(moved));
        match moved {
            Some(moved) => moved?,
            None if self.lies_in(disk, "done", &name) => {}
            // Its record is no more.
            None => return remove_if_there(disk, &self.claim_path(key)).and(Err(io::ErrorKind::NotFound.into())),
        }
        disk.rename(&self.claim_path(key), &done.join(format!("{name}.end")))
    }
}

/// The first line of a claim's file.
fn claim_in(bytes: &[u8]) -> serde_json::Result<Claim> {
    serde_json::from_slice(bytes.split(|b| *b == b'\n').next().unwrap_or_default())
}

/// The last line of a note, or of a claim whose message has ended.
fn ending_in(bytes: &[u8]) -> Option<Ending> {
    serde_json::from_slice(bytes.rsplit(|b| *b == b'\n').next()?).ok()
}

fn is_missing(moved: &io::Result<()>) -> bool {
    moved.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Reads a whole record, checked, from the first of these folders of `queue/` that has it.
pub fn read_record(disk: &dyn Disk, queue: &Path, key: &Key, folders: &[&str]) -> Result<Message, RecordFault> {
    let name = key.file_name();
    for folder in folders {
        match disk.read(&queue.join(folder).join(&name), RECORD_CAP) {
            Ok(bytes) => return record::decode(&bytes).map_err(|e| RecordFault::Content(format!("{folder}/{name}: {e}"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(RecordFault::of(e)),
        }
    }
    Err(RecordFault::Content(format!("{name}: no such record")))
}

/// The folders in which a known message may lie.
pub const ALL_FOLDERS: &[&str] = &["new", "cur", "done", "held", "dead"];

/// Why a record could not be had: a verdict about its content, or a fault that may pass.
#[derive(Debug, thiserror::Error)]
pub enum RecordFault {
    #[error("{0}")]
    Content(String),
    #[error(transparent)]
    Io(io::Error),
}

impl RecordFault {
    /// What reading says of planted things (no regular file, too large, a symlink, a socket, another
    /// user's) is a verdict; everything else (no descriptors, no memory, a bad disk) is not.
    pub(super) fn of(error: io::Error) -> Self {
        use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, PermissionDenied};
        let planted = matches!(error.kind(), InvalidData | PermissionDenied | IsADirectory | NotADirectory);
        let odd = matches!(error.raw_os_error(), Some(nix::libc::ELOOP | nix::libc::ENXIO));
        if planted || odd { RecordFault::Content(error.to_string()) } else { RecordFault::Io(error) }
    }
}

/// How a record ended, by the note beside it.
pub fn read_ending(disk: &dyn Disk, queue: &Path, key: &Key) -> Option<Ending> {
    NOTES.iter().find_map(|(folder, suffix)| {
        let path = queue.join(folder).join(format!("{}.{suffix}", key.file_name()));
        ending_in(&disk.read(&path, NOTE_CAP).ok()?)
    })
}

/// Keys of the records in a folder, in order; a folder that is not there has none.
pub fn keys_in(disk: &dyn Disk, dir: &Path) -> Vec<Key> {
    let mut keys: Vec<Key> = disk.list(dir).unwrap_or_default().iter().filter_map(|n| Key::from_file_name(n.to_str()?)).collect();
    keys.sort_by_key(Key::rank);
    keys
}
