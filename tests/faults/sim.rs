//! A disk in memory that knows what has been synced, can lose the rest, and can fail any operation.
//!
//! What survives a power cut: a file's bytes if the file was synced; a directory operation if a directory
//! that it touches was synced, and then also what came before it on the same file. A rename is one
//! operation. Everything else is up to the variant of the crash.

use iapeer::ports::disk::Disk;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// What is left of what was not synced.
#[derive(Debug, Clone, Copy)]
pub enum Crash {
    /// All of it: a killed program on a healthy machine.
    Everything,
    /// None of it: operations gone, files empty.
    Nothing,
    /// All operations, but the bytes of unsynced files torn: cut, or zeros.
    Torn(u64),
    /// Some of it; the operations of one directory survive in their order, as journals keep it.
    Ordered(u64),
    /// Some of it, in an order of its own: only what concerns the same file keeps its order.
    Unordered(u64),
}

impl Crash {
    /// Every kind of power cut, the random ones with several seeds.
    pub fn power_cuts(seeds: u64) -> Vec<Crash> {
        let mut all = vec![Crash::Nothing, Crash::Everything];
        for seed in 1..=seeds {
            all.extend([Crash::Torn(seed), Crash::Ordered(seed), Crash::Unordered(seed)]);
        }
        all
    }
    pub fn keeps_order(self) -> bool {
        !matches!(self, Crash::Unordered(_))
    }
}

/// What happens at an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// The operation fails with this error; a file that it was to write is there, unsynced.
    Error(i32),
    /// Half of the bytes are written, then this error; what writes no bytes just fails.
    Short(i32),
    /// This and everything later fails: the program is gone, or the power.
    Stop,
}

/// A disk that says yes and does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lies {
    pub file_sync: bool,
    pub dir_sync: bool,
}

#[derive(Debug, Clone)]
struct File {
    bytes: Vec<u8>,
    synced: bool,
    /// What it held when it was last synced, if it was written into since.
    before: Option<Vec<u8>>,
}

/// One directory operation: names that are set or cleared, all or none.
#[derive(Debug, Clone)]
struct Step {
    file: usize,
    sets: Vec<(PathBuf, Option<usize>)>,
    durable: bool,
}

impl Step {
    fn touches(&self, dir: &Path) -> bool {
        self.sets.iter().any(|(path, _)| path.parent() == Some(dir))
    }
}

#[derive(Default)]
struct State {
    files: Vec<File>,
    dirs: BTreeSet<PathBuf>,
    /// Names as they were when the machine started.
    before: BTreeMap<PathBuf, usize>,
    names: BTreeMap<PathBuf, usize>,
    steps: Vec<Step>,
    writes: usize,
    faults: BTreeMap<usize, Fault>,
    stopped: bool,
    /// Names that can be neither renamed nor removed, as a mount point.
    stuck: BTreeSet<PathBuf>,
    log: Vec<String>,
}

pub struct SimDisk {
    lies: Lies,
    state: Mutex<State>,
}

fn os(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// A small generator, so that a seed is a history.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

impl State {
    /// Counts a writing operation; the fault that is due at it.
    fn due(&mut self, what: String) -> io::Result<Option<Fault>> {
        if self.stopped {
            return Err(os(nix::libc::EIO));
        }
        self.writes += 1;
        self.log.push(what);
        match self.faults.get(&self.writes).copied() {
            Some(Fault::Stop) => {
                self.stopped = true;
                Err(os(nix::libc::EIO))
            }
            other => Ok(other),
        }
    }

    fn apply(&mut self, file: usize, sets: Vec<(PathBuf, Option<usize>)>) {
        for (path, to) in &sets {
            set(&mut self.names, path, *to);
        }
        self.steps.push(Step { file, sets, durable: false });
    }

    fn create(&mut self, path: &Path, bytes: &[u8], what: &str, synced: bool) -> io::Result<()> {
        let fault = self.due(format!("{what} {}", path.display()))?;
        let dir = path.parent().unwrap();
        if !self.dirs.contains(dir) {
            return Err(os(nix::libc::ENOENT));
        }
        if self.names.contains_key(path) || self.dirs.contains(path) {
            return Err(os(nix::libc::EEXIST));
        }
        let (kept, failed) = match fault {
            None => (bytes, None),
            Some(Fault::Error(code)) => (bytes, Some(code)),
            Some(Fault::Short(code)) => (&bytes[..bytes.len() / 2], Some(code)),
            Some(Fault::Stop) => unreachable!("it has returned"),
        };
        let file = self.files.len();
        self.files.push(File { bytes: kept.to_vec(), synced: synced && failed.is_none(), before: None });
        self.apply(file, vec![(path.to_path_buf(), Some(file))]);
        failed.map_or(Ok(()), |code| Err(os(code)))
    }

    fn overwrite(&mut self, what: &str, path: &Path, at: usize, bytes: &[u8], synced: bool) -> io::Result<()> {
        let fault = self.due(format!("{what} {} {at}", path.display()))?;
        let file = *self.names.get(path).ok_or(os(nix::libc::ENOENT))?;
        let (written, failed) = match fault {
            Some(Fault::Error(code)) => (bytes, Some(code)),
            Some(Fault::Short(code)) => (&bytes[..bytes.len() / 2], Some(code)),
            _ => (bytes, None),
        };
        let file = &mut self.files[file];
        let before = file.before.take().unwrap_or_else(|| file.bytes.clone());
        let end = file.bytes.len().max(at + written.len());
        file.bytes.resize(end, 0);
        file.bytes[at..at + written.len()].copy_from_slice(written);
        if !synced || failed.is_some() {
            file.before = Some(before);
        }
        failed.map_or(Ok(()), |code| Err(os(code)))
    }

    /// Fails as the fault that is due says.
    fn counted(&mut self, what: String) -> io::Result<()> {
        match self.due(what)? {
            Some(Fault::Error(code) | Fault::Short(code)) => Err(os(code)),
            _ => Ok(()),
        }
    }

    /// What survives, as flags over the steps: `chosen`, and what each of those rests on.
    fn survivors(&self, chosen: impl Fn(usize) -> bool, by_directory: bool) -> Vec<bool> {
        let mut files = BTreeSet::new();
        let mut dirs = BTreeSet::new();
        let mut kept = vec![false; self.steps.len()];
        for (n, step) in self.steps.iter().enumerate().rev() {
            let parents = || step.sets.iter().filter_map(|(path, _)| path.parent());
            let needed = files.contains(&step.file) || (by_directory && parents().any(|d| dirs.contains(d)));
            if chosen(n) || needed {
                kept[n] = true;
                files.insert(step.file);
                dirs.extend(parents());
            }
        }
        kept
    }
}

fn set(names: &mut BTreeMap<PathBuf, usize>, path: &Path, to: Option<usize>) {
    match to {
        Some(file) => names.insert(path.to_path_buf(), file),
        None => names.remove(path),
    };
}

impl SimDisk {
    pub fn new(lies: Lies) -> SimDisk {
        SimDisk { lies, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next run of operations: counts from 1 again, with these faults.
    pub fn arm(&self, faults: impl IntoIterator<Item = (usize, Fault)>) {
        let mut state = self.state();
        state.writes = 0;
        state.log.clear();
        state.faults = faults.into_iter().collect();
    }

    pub fn writes(&self) -> usize {
        self.state().writes
    }

    /// The operations since they were last counted from 1.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// A foreign file, as if it had always been there.
    pub fn plant(&self, path: &Path, bytes: &[u8], stuck: bool) {
        let mut state = self.state();
        let file = state.files.len();
        state.files.push(File { bytes: bytes.to_vec(), synced: true, before: None });
        state.names.insert(path.to_path_buf(), file);
        state.before.insert(path.to_path_buf(), file);
        if stuck {
            state.stuck.insert(path.to_path_buf());
        }
    }

    /// The disk as the next start finds it.
    pub fn crash(&self, how: Crash) -> SimDisk {
        let state = self.state();
        let (seed, random) = match how {
            Crash::Everything | Crash::Nothing => (0, false),
            Crash::Torn(seed) => (seed, false),
            Crash::Ordered(seed) | Crash::Unordered(seed) => (seed, true),
        };
        let mut dice = Dice::new(seed + 1);
        let lucky: Vec<bool> = state.steps.iter().map(|_| random && dice.below(4) == 0).collect();
        let all = matches!(how, Crash::Everything | Crash::Torn(_));
        let kept = state.survivors(|n| all || state.steps[n].durable || lucky[n], matches!(how, Crash::Ordered(_)));
        let mut names = state.before.clone();
        for (step, _) in state.steps.iter().zip(kept).filter(|(_, kept)| *kept) {
            for (path, to) in &step.sets {
                set(&mut names, path, *to);
            }
        }
        let mut files = state.files.clone();
        for file in &mut files {
            let Some(before) = file.before.take() else { continue };
            let torn = |cut: usize| file.bytes[..cut].iter().chain(before.get(cut..).unwrap_or_default()).copied().collect();
            match how {
                Crash::Everything => {}
                Crash::Nothing => file.bytes = before,
                _ if dice.below(2) == 0 => file.bytes = before,
                _ => file.bytes = torn(dice.below(file.bytes.len() as u64 + 1) as usize),
            }
        }
        for file in files.iter_mut().filter(|f| !f.synced) {
            let len = file.bytes.len();
            match how {
                Crash::Everything => {}
                Crash::Nothing => file.bytes.clear(),
                _ => match dice.below(4) {
                    0 => file.bytes.clear(),
                    1 => file.bytes.truncate(dice.below(len as u64 + 1) as usize),
                    2 => file.bytes = vec![0; len],
                    _ => {}
                },
            }
            file.synced = true;
        }
        let next = State { files, dirs: state.dirs.clone(), before: names.clone(), names, stuck: state.stuck.clone(), ..State::default() };
        SimDisk { lies: self.lies, state: Mutex::new(next) }
    }

    /// Every name with its bytes: two disks that look the same are the same.
    pub fn picture(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(path, file)| (path.clone(), state.files[*file].bytes.clone())).collect()
    }
}

impl Disk for SimDisk {
    fn create_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.state().create(path, bytes, "create_synced", !self.lies.file_sync)
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.state().create(path, bytes, "create", false)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let file = *state.names.get(path).ok_or(os(nix::libc::ENOENT))?;
        let end = state.files[file].bytes.len();
        state.overwrite("append", path, end, bytes, false)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.counted(format!("rename {} {}", from.display(), to.display()))?;
        let file = *state.names.get(from).ok_or(os(nix::libc::ENOENT))?;
        if !state.dirs.contains(to.parent().unwrap()) {
            return Err(os(nix::libc::ENOENT));
        }
        if state.stuck.contains(from) {
            return Err(os(nix::libc::EBUSY));
        }
        state.apply(file, vec![(from.to_path_buf(), None), (to.to_path_buf(), Some(file))]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.counted(format!("remove {}", path.display()))?;
        let file = *state.names.get(path).ok_or(os(nix::libc::ENOENT))?;
        if state.stuck.contains(path) {
            return Err(os(nix::libc::EBUSY));
        }
        state.apply(file, vec![(path.to_path_buf(), None)]);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.counted(format!("sync_dir {}", dir.display()))?;
        if !state.dirs.contains(dir) {
            return Err(os(nix::libc::ENOENT));
        }
        if !self.lies.dir_sync {
            let kept = state.survivors(|n| state.steps[n].durable || state.steps[n].touches(dir), false);
            for (step, kept) in state.steps.iter_mut().zip(kept) {
                step.durable = kept;
            }
        }
        Ok(())
    }

    fn overwrite_synced(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.state().overwrite("overwrite_synced", path, at as usize, bytes, !self.lies.file_sync)
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.counted(format!("sync_all {}", dir.display()))?;
        if !self.lies.file_sync {
            state.files.iter_mut().for_each(|f| (f.synced, f.before) = (true, None));
        }
        if !self.lies.dir_sync {
            state.steps.iter_mut().for_each(|s| s.durable = true);
        }
        Ok(())
    }

    fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>> {
        let state = self.state();
        if state.stopped {
            return Err(os(nix::libc::EIO));
        }
        let file = state.names.get(path).ok_or(os(nix::libc::ENOENT))?;
        let bytes = &state.files[*file].bytes;
        if bytes.len() as u64 > cap { Err(io::ErrorKind::InvalidData.into()) } else { Ok(bytes.clone()) }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        if state.stopped {
            return Err(os(nix::libc::EIO));
        }
        if !state.dirs.contains(dir) {
            return Err(os(nix::libc::ENOENT));
        }
        let within = state.names.keys().chain(&state.dirs).filter(|p| p.parent() == Some(dir));
        let mut names: Vec<OsString> = within.filter_map(|p| p.file_name()).map(OsString::from).collect();
        names.sort();
        Ok(names)
    }

    /// Durable at once, as the port says.
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.dirs.contains(dir) {
            return if state.stopped { Err(os(nix::libc::EIO)) } else { Ok(()) };
        }
        state.counted(format!("create_dir {}", dir.display()))?;
        state.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
