//! How many records lie in a folder, without listing it again while it has not changed.

use super::mailbox::keys_in;
use crate::ports::disk::Disk;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A folder that changed this short a time before it was listed may change again within the same tick of
/// the file system's clock, which its time would not show.
const SETTLED: Duration = Duration::from_millis(100);

#[derive(Default)]
pub struct FolderCounts {
    known: Mutex<HashMap<PathBuf, (SystemTime, usize)>>,
}

impl FolderCounts {
    pub fn of(&self, disk: &dyn Disk, dir: &Path) -> usize {
        let changed = std::fs::metadata(dir).and_then(|m| m.modified()).ok();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(changed), Some((at, count))) = (changed, known.get(dir)) {
            if *at == changed {
                return *count;
            }
        }
        let count = keys_in(disk, dir).len();
        match changed.filter(|at| at.elapsed().is_ok_and(|age| age > SETTLED)) {
            Some(at) => known.insert(dir.into(), (at, count)),
            None => known.remove(dir),
        };
        count
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use crate::store::disk::OsDisk;

    #[test]
    fn a_count_follows_its_folder_also_within_one_tick() {
        let dir = tempfile::tempdir().unwrap();
        let counts = FolderCounts::default();
        let count = || counts.of(&OsDisk, dir.path());
        for n in 0..20u32 {
            assert_eq!(count(), n as usize);
            std::fs::write(dir.path().join(format!("1-{n:020}-01890a5d-ac96-774b-bcce-b302099a8057.msg")), "").unwrap();
        }
        // An hour later.
        let old = SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::open(dir.path()).unwrap().set_modified(old).unwrap();
        assert_eq!((count(), count()), (20, 20));
        assert!(!counts.known.lock().unwrap().is_empty(), "it is remembered");
        std::fs::write(dir.path().join("note"), "").unwrap();
        assert_eq!(count(), 20, "and looked at again");
        assert_eq!(counts.of(&OsDisk, Path::new("/nowhere")), 0);
    }
}
