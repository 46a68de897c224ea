//! What a reader must know of the machine to place the figures. No names, no paths.

use crate::{Plan, tmux};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

pub fn facts(plan: &Plan) -> Value {
    json!({
        "mode": plan.pick("quick", "full"),
        "commit": commit(),
        "cores": cores(),
        "cpu": cpu(),
        "memory_mib": memory_mib(),
        "kernel": first_line(Command::new("uname").arg("-sr")),
        "tmux": first_line(Command::new(tmux::program()).arg("-V")),
        "file_system": file_system(plan),
        "load_before": load(),
    })
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub fn load() -> Value {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).into()
}

/// Waits until most of the CPUs' time was idle for a moment.
pub fn wait_until_quiet(patience: Duration) {
    let began = Instant::now();
    while began.elapsed() < patience {
        let (busy, all) = cpu_ticks();
        std::thread::sleep(Duration::from_secs(1));
        let (busy_now, all_now) = cpu_ticks();
        if (busy_now - busy) * 4 < all_now - all {
            return;
        }
    }
}

/// Ticks that all CPUs have been busy, and all ticks.
fn cpu_ticks() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    // The fourth and fifth are idle, and idle while something waits for a disk.
    (all - ticks.iter().skip(3).take(2).sum::<u64>(), all)
}

/// The script knows it; without it the working tree is asked.
fn commit() -> String {
    if let Ok(told) = std::env::var("IAPEER_BENCH_COMMIT") {
        return told;
    }
    let head = first_line(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
    let changed = !first_line(Command::new("git").args(["status", "--porcelain", "src"])).is_empty();
    format!("{head}{}", if changed { " with changes" } else { "" })
}

fn first_line(command: &mut Command) -> String {
    let out = command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    out.lines().next().unwrap_or_default().trim().to_string()
}

fn value_of(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn cpu() -> Option<String> {
    value_of("/proc/cpuinfo", "model name")
}

fn memory_mib() -> Option<u64> {
    let text = value_of("/proc/meminfo", "MemTotal")?;
    text.split(' ').next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

fn file_system(plan: &Plan) -> String {
    first_line(Command::new("stat").args(["-f", "-c", "%T"]).arg(&plan.dir))
}
