//! What the journal knows and the disk may have lost, done again.
//!
//! A record that lies anywhere in its mailbox has moved there after it was kept: it only gets its bytes back.
//! One that had ended is moved where it ended. Of the claims of one record the last one counts, and none of a
//! record that has ended.

use super::log::Step;
use crate::core::message::{Key, MessageId};
use crate::ports::disk::{Disk, Placed};
use crate::store::disk::remove_if_there;
use crate::store::mailbox::{NOTE_CAP, RecordFault};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 6] = ["new", "cur", "held", "done", "dead", "corrupt"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// A record that lies nowhere was lost.
    PowerCut,
    /// A record that lies nowhere was taken away; all others are written anew, whatever they look like.
    FailedSync,
}

/// Does the steps again; how many files had to be written or moved.
pub fn redo(disk: &dyn Disk, base: &Path, steps: &[Step], after: After) -> io::Result<usize> {
    let mut records = BTreeMap::new();
    let mut claims = BTreeMap::new();
    let mut ends = BTreeMap::new();
    // By what name each message was kept last: who had no answer may have sent it again.
    let mut latest = BTreeMap::new();
    for step in steps {
        match step {
            Step::Kept { path, bytes } if path.ends_with(".claim") => drop(claims.insert(base.join(path), bytes)),
            Step::Kept { path, bytes } => {
                let path = base.join(path);
                if let Some((file, id)) = File::of(&path).and_then(|file| id_of(&file.name).map(|id| (file, id))) {
                    latest.insert((file.queue, id), file.name);
                }
                records.insert(path, bytes);
            }
            Step::Moved { from, to } => drop(File::of(&base.join(from)).map(|file| ends.insert(file, base.join(to)))),
        }
    }
    let mut redo = Redo { disk, after, names: BTreeMap::new(), latest, ids: BTreeMap::new(), changed: 0 };
    for (path, bytes) in records {
        let Some(file) = File::of(&path) else { continue };
        readable(&path, redo.record(&file, ends.get(&file).unwrap_or(&path), bytes))?;
    }
    for (file, to) in &ends {
        readable(to, redo.end(file, to))?;
    }
    for (path, bytes) in claims {
        let Some(file) = File::of(&path.with_extension("")) else { continue };
        readable(&path, redo.claim(&file, &path, bytes))?;
    }
    Ok(redo.changed)
}

/// What stands in the way of one mailbox by being something else (a file in the place of a folder) is no reason to
/// serve none; a disk that refuses is.
fn readable(path: &Path, done: io::Result<()>) -> io::Result<()> {
    match done.map_err(RecordFault::of) {
        Ok(()) => Ok(()),
        Err(RecordFault::Content(error)) => {
            tracing::error!(%error, path = %path.display(), "what the journal knows could not be put in its place");
            Ok(())
        }
        Err(RecordFault::Io(error)) => Err(error),
    }
}

fn id_of(name: &OsStr) -> Option<MessageId> {
    name.to_str().and_then(Key::from_file_name).map(|key| key.id)
}

/// A record, wherever it lies in its mailbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    queue: PathBuf,
    name: OsString,
}

impl File {
    fn of(path: &Path) -> Option<File> {
        Some(File { queue: path.parent()?.parent()?.into(), name: path.file_name()?.into() })
    }
}

struct Redo<'a> {
    disk: &'a dyn Disk,
    after: After,
    /// What lies in the folders looked at so far.
    names: BTreeMap<PathBuf, BTreeSet<OsString>>,
    latest: BTreeMap<(PathBuf, MessageId), OsString>,
    /// The messages that each mailbox had when it was first looked at.
    ids: BTreeMap<PathBuf, BTreeSet<MessageId>>,
    changed: usize,
}

impl Redo<'_> {
    fn names(&mut self, dir: &Path) -> io::Result<&mut BTreeSet<OsString>> {
        if !self.names.contains_key(dir) {
            let listed = match self.disk.list(dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
                listed => listed?,
            };
            self.names.insert(dir.into(), listed.into_iter().collect());
        }
        Ok(self.names.entry(dir.into()).or_default())
    }

    fn lies(&mut self, file: &File) -> io::Result<Option<&'static str>> {
        for folder in FOLDERS {
            if self.names(&file.queue.join(folder))?.contains(&file.name) {
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    /// Whether its mailbox has a record of the same message under another name.
    fn has_another(&mut self, file: &File) -> io::Result<bool> {
        let Some(id) = id_of(&file.name) else { return Ok(false) };
        if self.latest.get(&(file.queue.clone(), id.clone())).is_some_and(|name| *name != file.name) {
            return Ok(true);
        }
        if !self.ids.contains_key(&file.queue) {
            let mut ids = BTreeSet::new();
            for folder in FOLDERS {
                ids.extend(self.names(&file.queue.join(folder))?.iter().filter_map(|name| id_of(name)));
            }
            self.ids.insert(file.queue.clone(), ids);
        }
        Ok(self.ids.get(&file.queue).is_some_and(|ids| ids.contains(&id)))
    }

    fn record(&mut self, file: &File, lost: &Path, bytes: &[u8]) -> io::Result<()> {
        match self.lies(file)? {
            // Whatever lies there has been looked at by then.
            Some("corrupt") => Ok(()),
            Some(folder) => self.give(file, file.queue.join(folder).join(&file.name), bytes),
            // Sent again, after a kill: that one counts.
            None if self.has_another(file)? => Ok(()),
            // A peer that was removed has no mailbox any more.
            None if self.after == After::PowerCut && !self.names(&file.queue)?.is_empty() => self.give(file, lost.into(), bytes),
            None => Ok(()),
        }
    }

    fn end(&mut self, file: &File, to: &Path) -> io::Result<()> {
        let Some(folder @ ("new" | "cur")) = self.lies(file)? else { return Ok(()) };
        let (Some(dir), Some(name)) = (to.parent(), to.file_name()) else { return Ok(()) };
        let from = file.queue.join(folder);
        self.disk.rename(&from.join(&file.name), to)?;
        self.disk.sync_dir(dir)?;
        self.names(&from)?.remove(&file.name);
        self.names(dir)?.insert(name.into());
        self.changed += 1;
        Ok(())
    }

    fn claim(&mut self, file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match self.lies(file)? {
            Some("new" | "cur") => self.give(file, path.into(), bytes),
            // The end of the message may follow in it, which is for the mailbox to see.
            Some("done") if self.disk.read(path, NOTE_CAP).is_ok_and(|there| there.starts_with(bytes)) => Ok(()),
            // What may be left of it is of no use to anybody.
            _ => remove_if_there(self.disk, path),
        }
    }

    fn give(&mut self, file: &File, kept: PathBuf, bytes: &[u8]) -> io::Result<()> {
        let cap = bytes.len() as u64;
        if self.after == After::PowerCut && self.disk.read(&kept, cap).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let (Some(dir), Some(name)) = (kept.parent().map(Path::to_path_buf), kept.file_name().map(OsString::from)) else { return Ok(()) };
        let temp = file.queue.join("tmp").join(&name);
        // A copy of a tree may have left its empty folders out.
        self.disk.create_dir(&file.queue.join("tmp"))?;
        self.disk.create_dir(&dir)?;
        remove_if_there(self.disk, &temp)?;
        self.disk.keep(&[Placed { temp, kept, bytes: bytes.to_vec(), replaces: true }])?;
        self.names(&dir)?.insert(name);
        self.changed += 1;
        Ok(())
    }
}
