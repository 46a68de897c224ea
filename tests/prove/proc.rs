//! What the kernel says of processes: memory, descriptors, children, who runs as an agent.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;

pub fn rss_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

pub fn end(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// The processes that run as `echo` on these transcripts. A child that has not become another program
/// yet still looks like its parent and is not counted.
pub fn agents(transcripts: &Path) -> Vec<i32> {
    let transcripts = transcripts.as_os_str().as_encoded_bytes();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let found: Vec<i32> = pids
        .filter(|pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|b| *b == 0);
            words.nth(1) == Some(b"echo-agent") && words.any(|w| w == transcripts)
        })
        .collect();
    let parent = |pid: i32| iapeer::sys::process::stat(pid).map_or(0, |s| s.parent);
    found.iter().copied().filter(|pid| !found.contains(&parent(*pid))).collect()
}
