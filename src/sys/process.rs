//! What the kernel says about processes. Signals go only to recorded processes whose start time fits.

use crate::core::message::ProcessRef;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Longest chain of parents that is looked at.
const DEEPEST: usize = 1_000;
/// Walks along one, until two have seen the same.
const WALKS: usize = 8;

/// One line of `/proc/PID/stat` as far as it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub state: char,
    pub parent: i32,
    pub session: i32,
    /// Clock ticks since boot.
    pub start: u64,
}

/// A file of `/proc/PID`. Their sizes are not known before, and a program is asked for with its whole
/// chain of parents: one read of a page instead of many small ones.
pub fn read_proc(pid: i32, file: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    std::io::Read::read_to_end(&mut std::fs::File::open(format!("/proc/{pid}/{file}"))?, &mut bytes)?;
    Ok(bytes)
}

pub fn stat(pid: i32) -> Option<Stat> {
    stat_of(pid).ok().flatten()
}

#[cfg(target_os = "linux")]
fn stat_of(pid: i32) -> io::Result<Option<Stat>> {
    let text = read_proc(pid, "stat")?;
    parse_stat(&String::from_utf8_lossy(&text)).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(not(target_os = "linux"))]
fn stat_of(pid: i32) -> io::Result<Option<Stat>> {
    // Without /proc a pid is only known to exist; `ps` gives its parent and start.
    let out = std::process::Command::new("ps").args(["-o", "state=,ppid=,sess=,lstart=", "-p", &pid.to_string()]).output()?;
    Ok(parse_ps(&String::from_utf8_lossy(&out.stdout)))
}

#[cfg(not(target_os = "linux"))]
fn parse_ps(text: &str) -> Option<Stat> {
    let mut words = text.split_whitespace();
    let state = words.next()?.chars().next()?;
    let parent = words.next()?.parse().ok()?;
    let session = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
    let stamp: String = words.collect::<Vec<_>>().join(" ");
    let start = chrono::NaiveDateTime::parse_from_str(&stamp, "%a %b %d %H:%M:%S %Y").ok()?.and_utc().timestamp() as u64;
    Some(Stat { state, parent, session, start })
}

#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn parse_stat(text: &str) -> Option<Stat> {
    // The command name may hold anything, also ") R 1"; the last parenthesis ends it.
    let after = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = after.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// A process as it is now, to be recognised later.
pub fn reference(pid: i32) -> Option<ProcessRef> {
    stat(pid).map(|s| ProcessRef { pid, start: s.start })
}

/// Whether the very process still runs. A zombie counts as gone.
pub fn is_alive(process: &ProcessRef) -> bool {
    stat(process.pid).is_some_and(|s| s.start == process.start && s.state != 'Z' && s.state != 'X')
}

/// Signals the very process, never a successor with its pid. `Ok(false)`: it is gone.
pub fn signal(process: &ProcessRef, signal: Signal) -> nix::Result<bool> {
    signal_if(process.pid, signal, || is_alive(process))
}

/// Opens the process, asks whether it still is the one that is meant, and signals what was opened: between
/// the question and the signal the pid may get another owner, the descriptor cannot.
#[cfg(target_os = "linux")]
pub(super) fn signal_if(pid: i32, number: Signal, still: impl Fn() -> bool) -> nix::Result<bool> {
    use nix::errno::Errno;
    use rustix::process::{Pid as RawPid, PidfdFlags, Signal as RawSignal, pidfd_open, pidfd_send_signal};
    let (Some(raw), Some(named)) = (RawPid::from_raw(pid), RawSignal::from_named_raw(number as i32)) else { return Err(Errno::EINVAL) };
    let sent = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(_) if !still() => return Ok(false),
        Ok(opened) => pidfd_send_signal(opened, named).map_err(|e| Errno::from_raw(e.raw_os_error())),
        Err(e) if e.raw_os_error() != Errno::ENOSYS as i32 => Err(Errno::from_raw(e.raw_os_error())),
        // A kernel older than 5.3.
        Err(_) => return plain_signal(pid, number, still),
    };
    gone_is_no_error(sent)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn signal_if(pid: i32, number: Signal, still: impl Fn() -> bool) -> nix::Result<bool> {
    plain_signal(pid, number, still)
}

fn plain_signal(pid: i32, number: Signal, still: impl Fn() -> bool) -> nix::Result<bool> {
    if still() { gone_is_no_error(kill(Pid::from_raw(pid), number)) } else { Ok(false) }
}

fn gone_is_no_error(sent: nix::Result<()>) -> nix::Result<bool> {
    match sent {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::ESRCH) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The name of a process as the kernel keeps it; never its arguments, which may hold a secret.
pub fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).map(|n| n.trim().to_string()).unwrap_or_default()
}

/// How long a process has been running, in seconds.
#[cfg(target_os = "linux")]
pub fn age_secs(process: &ProcessRef) -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1) as u64;
    (super::clock::boot_ms() / 1000).saturating_sub(process.start / ticks)
}

#[cfg(not(target_os = "linux"))]
pub fn age_secs(process: &ProcessRef) -> u64 {
    (chrono::Utc::now().timestamp() as u64).saturating_sub(process.start)
}

/// The chain of parents, nearest first, ending at a process without a parent.
pub fn ancestors(pid: i32) -> Vec<ProcessRef> {
    let mut chain = Vec::new();
    let mut next = pid;
    while let Some(s) = stat(next).filter(|_| chain.len() < DEEPEST) {
        chain.push(ProcessRef { pid: next, start: s.start });
        if s.parent <= 0 {
            break;
        }
        next = s.parent;
    }
    chain
}

/// The same, up to the process that has no parent, or an error. Parents that end meanwhile, and whoever gets their
/// pids, are no way out of it: two walks in a row have to see the same.
pub fn lineage(pid: i32) -> io::Result<Vec<ProcessRef>> {
    let mut last = None;
    for _ in 0..WALKS {
        let chain = walk(pid)?;
        if chain.as_ref().is_some_and(Vec::is_empty) || (chain.is_some() && chain == last) {
            return Ok(chain.unwrap_or_default());
        }
        last = chain;
    }
    Err(io::Error::other("its parents end faster than they can be looked at"))
}

/// Up to the process that has no parent, or to the first that cannot be seen; `None` when one ended on the way.
fn walk(pid: i32) -> io::Result<Option<Vec<ProcessRef>>> {
    let mut chain = Vec::new();
    let mut next = pid;
    while let Some(s) = look(next)? {
        chain.push(ProcessRef { pid: next, start: s.start });
        if s.parent <= 0 {
            return Ok(Some(chain));
        }
        if chain.len() >= DEEPEST {
            return Err(io::Error::other("it has more parents than are looked at"));
        }
        next = s.parent;
    }
    // A `/proc` that hides the processes of other users (hidepid) shows no more than this.
    Ok((chain.is_empty() || is_anothers(next)).then_some(chain))
}

/// Whether a process is there and belongs to another user.
fn is_anothers(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) == Err(nix::Error::EPERM)
}

/// The pid by which `/proc` knows this process.
pub fn own_pid() -> i32 {
    let own = std::fs::read_link("/proc/self").ok().and_then(|p| p.to_str()?.parse().ok());
    own.unwrap_or(std::process::id() as i32)
}

/// Names the space in which this process has its pid; `None` where there is but one.
pub fn pid_namespace() -> Option<String> {
    Some(std::fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned())
}

/// What the kernel says of a process; `None` when it has ended. An error says nothing about it.
pub fn look(pid: i32) -> io::Result<Option<Stat>> {
    match stat_of(pid) {
        Err(e) if has_ended(&e) => Ok(None),
        looked => looked,
    }
}

/// Whether a file of `/proc` could not be read because its process is gone.
pub fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

/// All living processes below `root`, found by their parents. Each is named by what the same look has seen of it:
/// whoever gets its pid later is another.
pub fn descendants(root: i32) -> Vec<ProcessRef> {
    let mut below: std::collections::HashMap<i32, Vec<(i32, Stat)>> = std::collections::HashMap::new();
    for pid in all() {
        if let Some(s) = stat(pid) {
            below.entry(s.parent).or_default().push((pid, s));
        }
    }
    let mut found = Vec::new();
    let mut todo = vec![root];
    while let Some(pid) = todo.pop() {
        for (child, s) in below.get(&pid).into_iter().flatten() {
            found.extend((s.state != 'Z').then_some(ProcessRef { pid: *child, start: s.start }));
            todo.push(*child);
        }
    }
    found
}

/// The living children of a process.
pub fn children(parent: i32) -> Vec<i32> {
    all().into_iter().filter(|pid| stat(*pid).is_some_and(|s| s.parent == parent && s.state != 'Z')).collect()
}

/// Every pid there is; none where there is no /proc.
pub(super) fn all() -> Vec<i32> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// The launch file of a keeper, from its arguments; `None`: the process is no keeper.
pub fn keeps(pid: i32) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let line = read_proc(pid, "cmdline").ok()?;
    let mut words = line.split(|b| *b == 0).skip(1);
    let launch_file = words.next().filter(|w| *w == b"keep").and(words.next())?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(launch_file)))
}

/// A descriptor that becomes readable when the process ends.
#[cfg(target_os = "linux")]
pub fn pidfd(process: &ProcessRef) -> std::io::Result<OwnedFd> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let pid = Pid::from_raw(process.pid).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    let fd = pidfd_open(pid, PidfdFlags::empty())?;
    if is_alive(process) { Ok(fd) } else { Err(std::io::Error::from(std::io::ErrorKind::NotFound)) }
}

#[cfg(not(target_os = "linux"))]
pub fn pidfd(_process: &ProcessRef) -> std::io::Result<OwnedFd> {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
}

/// Finds a program as a shell would, in the given PATH.
pub fn find_program(name: &str, path: &str) -> Option<PathBuf> {
    use nix::unistd::{AccessFlags, access};
    let executable = |p: &PathBuf| p.is_file() && access(p, AccessFlags::X_OK).is_ok();
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(executable);
    }
    path.split(':').filter(|d| !d.is_empty()).map(|d| PathBuf::from(d).join(name)).find(executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_does_not_confuse_stat() {
        let text = "42 (a) R 1 (b) S 7 42 43 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 999 0";
        assert_eq!(parse_stat(text), Some(Stat { state: 'S', parent: 7, session: 43, start: 999 }));
    }

    #[test]
    fn a_reused_pid_is_not_the_process() {
        let me = reference(std::process::id() as i32).unwrap();
        assert!(is_alive(&me));
        let another = ProcessRef { start: me.start + 1, ..me };
        assert!(!is_alive(&another));
        assert_eq!(signal(&another, Signal::SIGKILL), Ok(false), "we still run");
    }

    #[test]
    fn the_age_of_a_process_is_small_and_never_negative() {
        let me = reference(std::process::id() as i32).unwrap();
        assert!(age_secs(&me) < 24 * 3600, "{}", age_secs(&me));
        assert_eq!(age_secs(&ProcessRef { start: u64::MAX, ..me }), 0);
    }
}
