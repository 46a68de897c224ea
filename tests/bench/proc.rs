//! What the kernel says of processes: CPU time, memory, children.

use std::fs;

/// CPU time of a process since its start, ended threads included, in nanoseconds.
pub fn cpu_ns(pid: i32) -> u64 {
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid));
    clock.and_then(nix::time::clock_gettime).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

fn sum_of(file: &str, prefix: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|l| l.starts_with(prefix)).filter_map(|l| first_number(l.split_once(':')?.1)).sum()
}

pub fn rss_kib(pid: i32) -> u64 {
    sum_of(&format!("/proc/{pid}/status"), "VmRSS")
}

/// Memory that no other process shares.
pub fn private_kib(pid: i32) -> u64 {
    sum_of(&format!("/proc/{pid}/smaps_rollup"), "Private_")
}

/// Page faults of children that have been waited for: grows exactly when a child has come and gone.
pub fn faults_of_ended_children(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().nth(8).and_then(|n| n.parse().ok()).unwrap_or(0)
}

pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

/// Processes and threads started on the whole machine since boot.
pub fn forks_of_the_machine() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("processes ")?.trim().parse().ok()).unwrap_or(0)
}
