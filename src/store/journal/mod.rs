//! A journal in front of the mailboxes. What is kept is written there first, with one sync; its files are made
//! without any, and the disk brings them down in its own time.
//!
//! There are two logs. When one is full, or nothing was kept for a while, the other one takes over, and once
//! everything on the file system is synced the full one is begun anew. After a power cut, or when the file system
//! was taken away and has come back, the files that were lost are made again from what the logs hold (`redo`);
//! after a kill nothing is lost.

pub mod log;
mod redo;

use crate::ports::disk::{Disk, Placed};
use crate::store::disk::replace;
use crate::store::mailbox::RecordFault;
use log::{BLOCK, Head, Step};
use redo::{After, redo};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most bytes of each log.
const LOG_BYTES: usize = 4 * 1024 * 1024;
/// A log grows by so many bytes at once: an entry that only overwrites costs the disk less than one that makes its file
/// longer.
const GROWTH: usize = 1024 * 1024;
/// A log is begun anew when nothing was kept for so long.
const QUIET: Duration = Duration::from_secs(5);

/// A disk that keeps files by way of a journal, and does everything else as the one below it.
pub struct JournalDisk {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    base: PathBuf,
    dir: PathBuf,
    /// On the file system that is synced.
    mailboxes: PathBuf,
    /// Which boot, and which mount within it: within one, a kill loses nothing.
    boot: String,
    log_bytes: usize,
    logs: Mutex<Logs>,
    changed: Condvar,
}

struct Logs {
    logs: [Log; 2],
    active: usize,
    /// Records that were moved where they ended since the last entry: told of with the next one.
    moved: Vec<(String, String)>,
    /// The latest that any log has had.
    epoch: u64,
    /// Entries written so far.
    entries: u64,
    /// The one that is not active is being brought down.
    busy: bool,
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Log {
    epoch: u64,
    /// Where the next entry goes.
    end: usize,
    /// Bytes of its file, as far as known.
    length: usize,
    /// A write or a sync failed: what it holds must be brought down, and it begun anew, before anything is kept.
    failed: bool,
}

impl Log {
    fn is_empty(self) -> bool {
        self.end == BLOCK && !self.failed
    }
}

impl Logs {
    /// The one with the latest entries; of two empty ones the earlier, so that the other one's will be later.
    fn choose(&mut self) {
        let rank = |log: &Log| if log.is_empty() { (false, u64::MAX - log.epoch) } else { (true, log.epoch) };
        self.active = usize::from(rank(&self.logs[1]) > rank(&self.logs[0]));
    }
}

impl JournalDisk {
    /// Opens the journal below `base`, after a power cut with what was lost made again.
    pub fn open(disk: Arc<dyn Disk>, base: &Path, boot: &str) -> io::Result<Self> {
        let journal = Self::inline(disk, base, boot, LOG_BYTES)?;
        let shared = journal.shared.clone();
        std::thread::Builder::new().name("journal".into()).spawn(move || shared.bring_down())?;
        Ok(journal)
    }

    /// The same with logs of another size, and without a thread that begins them anew.
    pub fn inline(disk: Arc<dyn Disk>, base: &Path, boot: &str, log_bytes: usize) -> io::Result<Self> {
        let (dir, mailboxes, boot) = (base.join("state/journal"), base.join("state/peers"), boot.to_string());
        disk.create_dir(&dir)?;
        disk.create_dir(&mailboxes)?;
        let logs = Mutex::new(Logs {
            logs: [Log { epoch: 0, end: log_bytes, length: 0, failed: true }; 2],
            active: 0,
            moved: Vec::new(),
            epoch: 0,
            entries: 0,
            busy: false,
            over: false,
        });
        let shared = Shared { disk, base: base.into(), dir, mailboxes, boot, log_bytes, logs, changed: Condvar::new() };
        shared.begin()?;
        Ok(JournalDisk { shared: Arc::new(shared) })
    }
}

impl Drop for JournalDisk {
    fn drop(&mut self) {
        self.shared.logs().over = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn logs(&self) -> MutexGuard<'_, Logs> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, log: usize) -> PathBuf {
        self.dir.join(format!("{log}.log"))
    }

    /// The bytes of a log, none when there is none.
    fn read(&self, log: usize) -> io::Result<Vec<u8>> {
        match self.disk.read(&self.path(log), self.log_bytes as u64) {
            Ok(bytes) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => match RecordFault::of(e) {
                RecordFault::Content(reason) => {
                    let aside = self.dir.join(format!("{log}.corrupt"));
                    tracing::error!(file = %self.path(log).display(), %reason, aside = %aside.display(), "this is no journal; it is put aside");
                    self.disk.rename(&self.path(log), &aside).map(|()| Vec::new())
                }
                RecordFault::Io(e) => Err(e),
            },
        }
    }

    /// Takes over what the last daemon has left.
    fn begin(&self) -> io::Result<()> {
        let mut found = Vec::new();
        let mut logs = self.logs();
        for log in 0..2 {
            let bytes = self.read(log)?;
            let content = log::read(&bytes);
            logs.epoch = logs.epoch.max(content.as_ref().map_or_else(|| log::latest(&bytes), |content| content.head.epoch));
            logs.logs[log].length = bytes.len();
            found.extend(content.map(|content| (log, content)));
        }
        found.sort_by_key(|(_, content)| content.head.epoch);
        if found.iter().any(|(_, content)| !content.steps.is_empty() && content.head.boot != self.boot) {
            let steps: Vec<Step> = found.iter_mut().flat_map(|(_, content)| std::mem::take(&mut content.steps)).collect();
            let changed = redo(&*self.disk, &self.base, &steps, After::PowerCut)?;
            tracing::info!(steps = steps.len(), changed, "the journal of an earlier boot or mount was read");
            self.disk.sync_all(&self.mailboxes)?;
        }
        for (log, content) in found {
            let failed = content.head.boot != self.boot;
            logs.logs[log] = Log { epoch: content.head.epoch, end: content.end, failed, ..logs.logs[log] };
        }
        // Should the disk refuse, it is tried again before anything is kept.
        let _ = self.write_heads(&mut logs, |log| log.failed);
        Ok(())
    }

    /// Begins those logs anew, the earlier one first: of the claims of one message the last one counts, so no
    /// log may outlive a later one.
    fn write_heads(&self, logs: &mut Logs, which: impl Fn(&Log) -> bool) -> io::Result<()> {
        let mut order: Vec<usize> = (0..2).filter(|log| which(&logs.logs[*log])).collect();
        order.sort_by_key(|log| logs.logs[*log].epoch);
        let written = order.into_iter().try_for_each(|log| {
            logs.epoch += 1;
            let written = self.write_head_of(log, logs.epoch);
            logs.logs[log] = after_head(logs.logs[log], logs.epoch, &written);
            written
        });
        logs.choose();
        written
    }

    /// The first block of a log; its file is made when there is none.
    fn write_head_of(&self, log: usize, epoch: u64) -> io::Result<()> {
        let head = log::head(&Head { epoch, boot: self.boot.clone() });
        let path = self.path(log);
        match self.disk.overwrite_synced(&path, 0, &head) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => replace(&*self.disk, &path, &head),
            written => written,
        }
    }

    /// Begins the logs anew after a failure. Nobody keeps anything meanwhile, so nothing moves.
    fn mend(&self, logs: &mut Logs) -> io::Result<()> {
        let mut found = Vec::new();
        for (log, state) in logs.logs.into_iter().enumerate() {
            let bytes = self.read(log)?;
            found.extend(log::read(&bytes[..bytes.len().min(state.end)]));
        }
        found.sort_by_key(|content| content.head.epoch);
        let steps: Vec<Step> = found.into_iter().flat_map(|content| content.steps).filter(|s| matches!(s, Step::Kept { .. })).collect();
        redo(&*self.disk, &self.base, &steps, After::FailedSync)?;
        self.disk.sync_all(&self.mailboxes)?;
        logs.moved.clear();
        self.write_heads(logs, |log| !log.is_empty())
    }

    /// Logs of which the active one has room for an entry with so many bytes of files.
    fn with_room(&self, files: usize) -> io::Result<MutexGuard<'_, Logs>> {
        let mut logs = self.logs();
        loop {
            let moved: usize = logs.moved.iter().map(|(from, to)| 2 * (from.len() + to.len()) + 32).sum();
            if moved > self.log_bytes / 4 {
                self.disk.sync_all(&self.mailboxes)?;
                logs.moved.clear();
                continue;
            }
            let bytes = (files + moved).next_multiple_of(BLOCK);
            let (active, other) = (logs.logs[logs.active], logs.logs[1 - logs.active]);
            let failed = active.failed || other.failed;
            if logs.busy && (failed || active.end + bytes > self.log_bytes) {
                logs = self.changed.wait(logs).unwrap_or_else(PoisonError::into_inner);
            } else if failed {
                self.mend(&mut logs)?;
            } else if active.end + bytes <= self.log_bytes {
                return Ok(logs);
            } else if other.is_empty() {
                logs.active = 1 - logs.active;
                self.changed.notify_all();
            } else {
                logs = self.begin_anew(logs);
            }
        }
    }

    /// A path as entries have it.
    fn below<'a>(&self, path: &'a Path) -> Option<&'a str> {
        path.strip_prefix(&self.base).ok()?.to_str()
    }

    /// What ends a record without a sync is to be known before the next one is claimed.
    fn note_end(&self, from: &Path, to: &Path) {
        let ends = to.parent().and_then(Path::file_name).is_some_and(|folder| folder == "done" || folder == "corrupt");
        if let (true, Some(from), Some(to)) = (ends, self.below(from), self.below(to)) {
            self.logs().moved.push((from.into(), to.into()));
        }
    }

    fn keep(&self, placed: &[Placed]) -> io::Result<()> {
        let paths: Option<Vec<&str>> = placed.iter().map(|p| self.below(&p.kept)).collect();
        let Some(paths) = paths else { return self.disk.keep(placed) };
        let files: Vec<(&str, &[u8])> = paths.into_iter().zip(placed.iter().map(|p| p.bytes.as_slice())).collect();
        let most = files.iter().map(|(path, bytes)| 2 * path.len() + bytes.len() + 32).sum::<usize>() + 512;
        // A large file is not written twice.
        if most > self.log_bytes / 4 {
            return self.disk.keep(placed);
        }
        let mut logs = self.with_room(most)?;
        let active = logs.active;
        let log = logs.logs[active];
        let entry = log::entry(log.epoch, &logs.moved, &files);
        let end = log.end + entry.len();
        let kept = self
            .write(active, log, &entry)
            .inspect(|length| logs.logs[active].length = *length)
            .and_then(|_| placed.iter().try_for_each(|p| self.disk.create(&p.temp, &p.bytes).and_then(|()| self.disk.rename(&p.temp, &p.kept))));
        match kept {
            Ok(()) => {
                logs.logs[active].end = end;
                logs.moved.clear();
            }
            Err(_) => {
                // What was refused must not come back after a power cut, also when nothing can be mended: this
                // needs no room.
                let _ = self.disk.overwrite_synced(&self.path(active), log.end as u64, &[0; BLOCK]);
                self.disk.forget(placed);
                logs.logs[active].failed = true;
                if !logs.busy {
                    let _ = self.mend(&mut logs);
                }
            }
        }
        logs.entries += 1;
        if log.is_empty() {
            // Who waits for later ones looks by itself.
            self.changed.notify_all();
        }
        kept
    }

    /// Writes an entry where a log ends, and makes its file longer when it has to; the length of the file.
    fn write(&self, active: usize, log: Log, entry: &[u8]) -> io::Result<usize> {
        let (path, end) = (self.path(active), log.end + entry.len());
        if end > log.length {
            let mut longer = entry.to_vec();
            longer.resize(entry.len() + GROWTH.min(self.log_bytes.saturating_sub(end)), 0);
            match self.disk.overwrite_synced(&path, log.end as u64, &longer) {
                // There may still be room for the entry alone.
                Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {}
                written => return written.map(|()| log.end + longer.len()),
            }
        }
        self.disk.overwrite_synced(&path, log.end as u64, entry).map(|()| log.length.max(end))
    }

    /// Begins logs anew whose time has come, until the journal is over.
    fn bring_down(&self) {
        let mut logs = self.logs();
        while !logs.over {
            let (active, other) = (logs.logs[logs.active], logs.logs[1 - logs.active]);
            if logs.busy || active.failed || other.failed || (active.is_empty() && other.is_empty()) {
                logs = self.changed.wait(logs).unwrap_or_else(PoisonError::into_inner);
            } else if !other.is_empty() {
                logs = self.begin_anew(logs);
            } else {
                let entries = logs.entries;
                let (woken, waited) = self.changed.wait_timeout(logs, QUIET).unwrap_or_else(PoisonError::into_inner);
                logs = woken;
                if waited.timed_out() && logs.entries == entries {
                    logs.active = 1 - logs.active;
                }
            }
        }
    }

    /// Brings down what the log that is not active holds. Nobody writes into it before it is empty.
    fn begin_anew<'a>(&'a self, mut logs: MutexGuard<'a, Logs>) -> MutexGuard<'a, Logs> {
        logs.busy = true;
        logs.epoch += 1;
        let (log, epoch) = (1 - logs.active, logs.epoch);
        drop(logs);
        let begun = self.disk.sync_all(&self.mailboxes).and_then(|()| self.write_head_of(log, epoch));
        if let Err(error) = &begun {
            tracing::error!(%error, "what the journal holds could not be brought down");
        }
        let mut logs = self.logs();
        logs.busy = false;
        logs.logs[log] = after_head(logs.logs[log], epoch, &begun);
        self.changed.notify_all();
        logs
    }
}

fn after_head(log: Log, epoch: u64, written: &io::Result<()>) -> Log {
    if written.is_ok() { Log { epoch, end: BLOCK, failed: false, ..log } } else { Log { failed: true, ..log } }
}

impl Disk for JournalDisk {
    fn keep(&self, placed: &[Placed]) -> io::Result<()> {
        self.shared.keep(placed)
    }
    fn create_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.shared.disk.create_synced(path, bytes)
    }
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.shared.disk.create(path, bytes)
    }
    fn create_all_synced(&self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
        self.shared.disk.create_all_synced(files)
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.shared.disk.append(path, bytes)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.disk.rename(from, to)?;
        self.shared.note_end(from, to);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.shared.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.shared.disk.sync_dir(dir)
    }
    fn overwrite_synced(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.shared.disk.overwrite_synced(path, at, bytes)
    }
    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        self.shared.disk.sync_all(dir)
    }
    fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>> {
        self.shared.disk.read(path, cap)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.shared.disk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.shared.disk.create_dir(dir)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.shared.disk.free_bytes(path)
    }
}

#[cfg(test)]
mod tests;
