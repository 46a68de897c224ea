//! What lies on disk of a peer's schedules beside the profile: their memory, and the marks of watched
//! paths.
//!
//! `schedules.json` in the state of the peer's default identity: a peer whose default runtime changes
//! takes its memory along.

use super::disk::replace;
use crate::core::schedule::due::Memory;
use crate::core::schedule::watched::Seen;
use crate::ports::disk::Disk;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FILE: &str = "schedules.json";
const CAP: u64 = 16 * 1024 * 1024;
/// Entries of a watched directory that are told apart.
pub const ENTRIES: usize = 10_000;

pub type Memories = BTreeMap<String, Memory>;

#[derive(Serialize, Deserialize)]
struct Kept {
    v: u32,
    schedules: Memories,
}

/// The memory of a peer's schedules, the newest of what its identities' states hold; and the files that
/// could not be understood.
pub fn read(disk: &dyn Disk, states: &[PathBuf]) -> (Memories, Vec<PathBuf>) {
    let mut memories = Memories::new();
    let mut broken = Vec::new();
    for path in states.iter().map(|dir| dir.join(FILE)) {
        let kept = match disk.read(&path, CAP) {
            Ok(bytes) => serde_json::from_slice::<Kept>(&bytes).map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => Err(e),
        };
        let Ok(kept) = kept else {
            broken.push(path);
            continue;
        };
        for (name, memory) in kept.schedules {
            if memories.get(&name).is_none_or(|known| known.from < memory.from) {
                memories.insert(name, memory);
            }
        }
    }
    (memories, broken)
}

pub fn write(disk: &dyn Disk, state: &Path, memories: &Memories) -> io::Result<()> {
    let kept = Kept { v: 1, schedules: memories.clone() };
    replace(disk, &state.join(FILE), &serde_json::to_vec(&kept).map_err(io::Error::other)?)
}

/// What lies at a watched path now: the file, or what lies directly in the directory. Names that begin
/// with a dot are left out there, editors and `git` keep their own things under them.
///
/// # Errors
/// One line for a person: a path that cannot be read, or holds too much to be told apart.
pub fn look(path: &Path) -> Result<Seen, String> {
    let fail = |e: io::Error| format!("{}: {e}", path.display());
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Seen::default()),
        Err(e) => return Err(fail(e)),
    };
    let mut seen = BTreeMap::new();
    if !meta.is_dir() {
        seen.insert(String::new(), mark(&meta));
        return Ok(Seen(seen));
    }
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // What goes while it is looked at is gone.
        let Some(meta) = entry.metadata().ok().filter(|_| !name.starts_with('.')) else { continue };
        seen.insert(name, mark(&meta));
        if seen.len() > ENTRIES {
            return Err(format!("{} holds more than {ENTRIES} entries; watch a smaller directory", path.display()));
        }
    }
    Ok(Seen(seen))
}

/// What lies deeper in a directory is not its own change.
fn mark(meta: &std::fs::Metadata) -> String {
    if meta.is_dir() { format!("{}", meta.ino()) } else { format!("{}.{}.{}.{}", meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()) }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use crate::store::disk::OsDisk;

    #[test]
    fn memory_survives_and_goes_along_to_another_runtime() {
        let dir = tempfile::tempdir().unwrap();
        let states = ["echo-a", "codex-a"].map(|n| dir.path().join(n));
        states.iter().for_each(|s| std::fs::create_dir(s).unwrap());
        let memory = |from: &str| Memory::begin("cron".into(), from.parse().unwrap(), Seen::default());
        let older = Memories::from([("m".into(), memory("2026-03-01T09:00:00Z"))]);
        let newer = Memories::from([("m".into(), memory("2026-03-02T09:00:00Z"))]);
        write(&OsDisk, &states[0], &newer).unwrap();
        write(&OsDisk, &states[1], &older).unwrap();
        assert_eq!(read(&OsDisk, &states), (newer, Vec::new()));
        std::fs::write(states[0].join(FILE), "{half").unwrap();
        assert_eq!(read(&OsDisk, &states), (older, vec![states[0].join(FILE)]));
    }

    #[test]
    fn files_and_what_lies_in_directories_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        assert!(look(&path).unwrap().is_empty(), "not there yet");
        std::fs::create_dir(&path).unwrap();
        let empty = look(&path).unwrap();
        std::fs::write(path.join(".hidden"), "x").unwrap();
        assert!(!look(&path).unwrap().is_news_to(&empty));
        std::fs::create_dir(path.join("sub")).unwrap();
        let with_sub = look(&path).unwrap();
        assert!(with_sub.is_news_to(&empty));
        std::fs::write(path.join("sub/deep"), "x").unwrap();
        assert!(!look(&path).unwrap().is_news_to(&with_sub), "not recursive");
        std::fs::write(path.join("a"), "one").unwrap();
        let (dir_seen, file_seen) = (look(&path).unwrap(), look(&path.join("a")).unwrap());
        assert!(dir_seen.is_news_to(&with_sub) && file_seen.is_news_to(&Seen::default()));
        std::fs::write(path.join("a"), "longer").unwrap();
        assert!(look(&path).unwrap().is_news_to(&dir_seen) && look(&path.join("a")).unwrap().is_news_to(&file_seen));
        std::fs::remove_file(path.join("a")).unwrap();
        assert!(!look(&path).unwrap().is_news_to(&dir_seen));
    }
}
