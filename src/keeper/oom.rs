//! Whether the kernel killed the agent for want of memory.
//!
//! A signal does not tell its sender, but the control group counts such kills. The count speaks of the
//! agent only where the group holds nothing but this session: in a group that is shared, a rise could be
//! anybody's, and then it stays `signal-9`.

use crate::sys::process;
use std::path::{Path, PathBuf};

pub struct Counter {
    group: PathBuf,
    at_start: u64,
}

impl Counter {
    pub fn of_this_process() -> Option<Counter> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let group = places(&groups, Path::new("/sys/fs/cgroup")).into_iter().find(|g| kills(g).is_some())?;
        Some(Counter { at_start: kills(&group)?, group })
    }

    /// Whether a kill was counted since, in a group that is this session's own.
    pub fn has_risen(&self, keeper: i32) -> bool {
        let members = std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        // The tmux server is the keeper's parent.
        let server = process::stat(keeper).map_or(0, |s| s.parent);
        let ours = |pid: i32| pid == server || process::ancestors(pid).iter().any(|p| p.pid == keeper);
        let alone = members.lines().filter_map(|l| l.parse().ok()).all(ours);
        alone && kills(&self.group).is_some_and(|now| now > self.at_start)
    }
}

/// Where the memory group of a process may lie, by its `/proc/PID/cgroup`: version 1, then 2.
fn places(groups: &str, mount: &Path) -> Vec<PathBuf> {
    let path = |wanted: &str| {
        groups.lines().find_map(|l| {
            let (controllers, path) = l.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|c| c == wanted).then(|| path.trim_start_matches('/').to_string())
        })
    };
    let first = path("memory").map(|p| mount.join("memory").join(p));
    let second = path("").into_iter().flat_map(|p| [mount.join(&p), mount.join("unified").join(p)]);
    first.into_iter().chain(second).collect()
}

fn kills(group: &Path) -> Option<u64> {
    ["memory.events", "memory.oom_control"].iter().find_map(|file| count(&std::fs::read_to_string(group.join(file)).ok()?))
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_both_versions() {
        assert_eq!(count("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"), Some(3));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(count("oom_kill_disable 0\n"), None);
    }

    #[test]
    fn the_group_is_found_where_each_version_mounts_it() {
        let mount = Path::new("/c");
        assert_eq!(places("0::/user.slice/a.scope\n", mount), [Path::new("/c/user.slice/a.scope"), Path::new("/c/unified/user.slice/a.scope")]);
        let old = "9:name=systemd:/\n4:cpu,memory:/jobs/1\n0::/\n";
        assert_eq!(places(old, mount)[0], Path::new("/c/memory/jobs/1"));
    }

    #[test]
    fn a_shared_group_and_a_count_that_stands_say_nothing() {
        let group = tempfile::tempdir().unwrap();
        let me = std::process::id() as i32;
        let write = |kills: u64, members: &str| {
            std::fs::write(group.path().join("memory.events"), format!("oom_kill {kills}\n")).unwrap();
            std::fs::write(group.path().join("cgroup.procs"), members).unwrap();
        };
        let counter = Counter { group: group.path().to_path_buf(), at_start: 1 };
        write(2, &format!("{me}\n"));
        assert!(counter.has_risen(me));
        write(1, &format!("{me}\n"));
        assert!(!counter.has_risen(me), "nothing was counted");
        write(2, &format!("{me}\n1\n"));
        assert!(!counter.has_risen(me), "PID 1 is not below us");
    }
}
