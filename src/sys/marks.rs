//! Processes that carry the mark of a session in their environment, and signals to exactly those.
//!
//! Every agent is started with `IAPEER_SESSION=<identity>@<incarnation>` and `IAPEER_ROOT`; whatever it
//! starts inherits both, also when it leaves the process group and the process session. Both must fit: a
//! second host of the same user (a test, a development root) has identities of the same name.
//!
//! A process counts only with our own user and the environment it was started with, and is signalled only
//! while pid, start time and mark are still the same. The asking process and what is above it are never
//! among those found, nor is what it has started itself, should it carry a mark of its own (a daemon that
//! was started from inside a session). Known gaps: a program that overwrites its environment is not found;
//! and without `/proc` (macOS) nothing is found at all, so that there only recorded processes are ended.

use super::process;
use crate::core::message::ProcessRef;
use crate::core::names::{Identity, Incarnation};
use nix::sys::signal::Signal;
use std::path::Path;

const SESSION: &[u8] = b"IAPEER_SESSION=";
const ROOT: &[u8] = b"IAPEER_ROOT=";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    pub process: ProcessRef,
    pub identity: Identity,
    pub incarnation: Incarnation,
}

/// Every living process that carries a mark of this root.
pub fn find(root: &Path) -> Vec<Marked> {
    find_for(read(std::process::id() as i32, root).as_ref(), root)
}

fn find_for(own: Option<&Marked>, root: &Path) -> Vec<Marked> {
    let me = std::process::id() as i32;
    let above = process::ancestors(me);
    let inherited = |m: &Marked| own.is_some_and(|o| (&o.identity, o.incarnation) == (&m.identity, m.incarnation));
    // Below PID 1 is everything: only what may have its mark from us is spared for being below us.
    let spared = |m: &Marked| above.contains(&m.process) || (inherited(m) && process::ancestors(m.process.pid).iter().any(|p| p.pid == me));
    process::all().into_iter().filter_map(|pid| read(pid, root)).filter(|m| !spared(m)).collect()
}

/// Signals a marked process, if it still is the one that was found. `Ok(false)`: it is gone.
pub fn signal(marked: &Marked, root: &Path, number: Signal) -> nix::Result<bool> {
    process::signal_if(marked.process.pid, number, || read(marked.process.pid, root).as_ref() == Some(marked))
}

fn read(pid: i32, root: &Path) -> Option<Marked> {
    let environment = process::read_proc(pid, "environ").ok()?;
    let value = |name: &[u8]| environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(name));
    let (identity, incarnation) = parse(value(SESSION)?)?;
    let process = process::reference(pid).filter(process::is_alive)?;
    (same(value(ROOT)?, root) && is_ours(pid)).then_some(Marked { process, identity, incarnation })
}

fn parse(mark: &[u8]) -> Option<(Identity, Incarnation)> {
    let (identity, incarnation) = std::str::from_utf8(mark).ok()?.rsplit_once('@')?;
    Some((identity.parse().ok()?, incarnation.parse().ok()?))
}

/// The same directory, however it is spelt.
fn same(written: &[u8], root: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let written = Path::new(std::ffi::OsStr::from_bytes(written));
    written == root || written.canonicalize().is_ok_and(|w| root.canonicalize().is_ok_and(|r| w == r))
}

/// Started by our user. The owner of the entry in `/proc` would not do: it is root's for a program that
/// must not be dumped.
fn is_ours(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let real = status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().next()?.parse::<u32>().ok());
    real == Some(nix::unistd::getuid().as_raw())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::process::Command;

    /// A process that is no child of this one, as everything that is looked for.
    fn orphan(session: &str, root: &Path) -> Orphan {
        let script = "sleep 600 > /dev/null 2>&1 & echo $!";
        let out = Command::new("sh").args(["-c", script]).env("IAPEER_SESSION", session).env("IAPEER_ROOT", root).output().unwrap();
        let pid = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
        until_it_runs(pid);
        Orphan(process::reference(pid).unwrap())
    }

    /// A process that is just becoming another program has no environment for a moment.
    fn until_it_runs(pid: i32) {
        let began = std::time::Instant::now();
        while process::name(pid) != "sleep" || std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| e.is_empty()) {
            assert!(began.elapsed().as_secs() < 30, "{pid} does not start");
            std::thread::yield_now();
        }
    }

    struct Orphan(ProcessRef);

    impl Drop for Orphan {
        fn drop(&mut self) {
            let _ = process::signal(&self.0, Signal::SIGKILL);
        }
    }

    #[test]
    fn a_mark_is_identity_and_incarnation() {
        assert_eq!(parse(b"echo-a@7"), Some(("echo-a".parse().unwrap(), 7)));
        for broken in [&b"echo-a"[..], b"@7", b"echo-a@", b"echo-a@x", b"\xff@1"] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn only_marks_of_this_root_are_found_and_only_the_one_that_was_found_is_signalled() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mine, foreign) = (orphan("echo-a@7", ours.path()), orphan("echo-a@7", other.path()));
        let found = find(ours.path());
        assert_eq!(found, [Marked { process: mine.0.clone(), identity: "echo-a".parse().unwrap(), incarnation: 7 }]);
        // The pid belongs to somebody else now.
        let reused = Marked { process: foreign.0.clone(), ..found[0].clone() };
        let later = Marked { process: ProcessRef { start: mine.0.start + 1, ..mine.0 }, ..found[0].clone() };
        let renamed = Marked { incarnation: 8, ..found[0].clone() };
        for wrong in [&reused, &later, &renamed] {
            assert_eq!(signal(wrong, ours.path(), Signal::SIGKILL), Ok(false), "{wrong:?}");
        }
        assert!(process::is_alive(&mine.0) && process::is_alive(&foreign.0));
        assert_eq!(signal(&found[0], ours.path(), Signal::SIGKILL), Ok(true));
        assert!(process::is_alive(&foreign.0));
    }

    #[test]
    fn what_is_above_the_asking_process_and_what_it_gave_its_own_mark_is_spared() {
        let root = tempfile::tempdir().unwrap();
        let mut below = Command::new("sleep").arg("600").env("IAPEER_SESSION", "echo-a@1").env("IAPEER_ROOT", root.path()).spawn().unwrap();
        until_it_runs(below.id() as i32);
        let found = find_for(None, root.path());
        assert_eq!(found.len(), 1, "a mark that is not ours");
        let own = Marked { process: process::reference(std::process::id() as i32).unwrap(), ..found[0].clone() };
        assert_eq!(find_for(Some(&own), root.path()), []);
        assert_eq!(find_for(Some(&Marked { incarnation: 2, ..own }), root.path()), found);
        below.kill().unwrap();
        below.wait().unwrap();
    }
}
