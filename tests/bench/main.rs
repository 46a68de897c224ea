//! The benchmark suite: a real daemon, real tmux, real files, against baselines measured in the same run.
//!
//! It reports and never fails on a missed goal: on a shared machine only ratios within one run count.
//! Started by `scripts/bench` (or `cargo bench --bench bench -- --quick`); `docs/benchmarks.md` says what
//! each row means. `bench raw-agent SOCKET` is not for people: it is the program inside the measured
//! terminals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod accept;
mod arrivals;
mod commands;
mod delivery;
mod floor;
mod host;
mod idle;
mod machine;
mod proc;
mod raw_agent;
mod report;
mod size;
mod stats;
mod sustained;
mod tmux;
mod wake;

use report::Report;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
usage: bench [--quick | --full] [--only ROWS] [--driver D] [--peers N] [--json FILE] [--patience S] [--dir DIR]

  --quick       fewer samples, 100 idle peers (default)
  --full        more samples, 100 peers under load, 500 idle peers, 10,000 waiting messages
  --only ROWS   of: delivery accept sustained wake idle restart commands size (comma-separated)
  --driver D    of: spawn direct; the rows delivery and sustained run with this one (default: with both)
  --peers N     live peers of the rows idle and restart
  --json FILE   where the figures go (default: target/bench.json)
  --patience S  wait up to S seconds before each group of rows for a machine that is not busy (default: 0)
  --dir DIR     file system to measure on (default: the directory for temporary files)
";

/// How a daemon of the bench reaches tmux, and what is wanted of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Spawn,
    Direct,
}

impl Driver {
    fn parse(word: &str) -> Result<Driver, String> {
        [Driver::Spawn, Driver::Direct].into_iter().find(|d| d.name() == word).ok_or_else(|| format!("--driver: {word} is neither spawn nor direct"))
    }
    pub fn name(self) -> &'static str {
        self.pick("spawn", "direct")
    }
    pub fn pick<T>(self, spawn: T, direct: T) -> T {
        if self == Driver::Spawn { spawn } else { direct }
    }
}

/// What one run measures, and how long.
pub struct Plan {
    pub full: bool,
    only: Vec<String>,
    /// How the daemon drives tmux.
    pub drivers: Vec<Driver>,
    pub idle_peers: usize,
    pub dir: PathBuf,
    json: PathBuf,
    patience: Duration,
}

impl Plan {
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.full { full } else { quick }
    }

    /// Before a group of rows: a busy machine makes every handover between processes cost a time slice.
    fn settle(&self) {
        machine::wait_until_quiet(self.patience);
    }

    fn wants(&self, rows: &[&str]) -> bool {
        self.only.is_empty() || rows.iter().any(|r| self.only.iter().any(|o| o == r))
    }

    fn parse(mut args: impl Iterator<Item = String>) -> Result<Plan, String> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let mut plan = Plan {
            full: false,
            only: Vec::new(),
            drivers: vec![Driver::Spawn, Driver::Direct],
            idle_peers: 0,
            dir: std::env::temp_dir(),
            json: target.join("bench.json"),
            patience: Duration::ZERO,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => plan.full = false,
                "--full" => plan.full = true,
                "--only" => plan.only = value()?.split(',').map(String::from).collect(),
                "--driver" => plan.drivers = vec![Driver::parse(&value()?)?],
                "--peers" => plan.idle_peers = value()?.parse().map_err(|e| format!("--peers: {e}"))?,
                "--json" => plan.json = value()?.into(),
                "--patience" => plan.patience = Duration::from_secs(value()?.parse().map_err(|e| format!("--patience: {e}"))?),
                "--dir" => plan.dir = value()?.into(),
                // Cargo's own word for a bench target.
                "--bench" => {}
                "--help" | "-h" => return Err(HELP.into()),
                other => return Err(format!("unknown argument {other}\n\n{HELP}")),
            }
        }
        if plan.idle_peers == 0 {
            plan.idle_peers = plan.pick(100, 500);
        }
        Ok(plan)
    }
}

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().map(String::as_str) == Some("raw-agent") {
        let socket = args.nth(1).expect("raw-agent needs the socket that it reports to");
        return raw_agent::run(socket.as_ref());
    }
    let plan = Plan::parse(args).unwrap_or_else(|text| {
        eprint!("{text}");
        std::process::exit(2);
    });
    host::clean_up_on_signals();
    let mut report = Report::new(machine::facts(&plan));
    measure(&plan, &mut report);
    report.finish();
    print!("{}", report.table());
    report.write_json(&plan.json);
    println!("\nfigures: {}", plan.json.display());
}

/// One host with raw programs for everything about messages, one with echo peers for everything about
/// sessions.
fn measure(plan: &Plan, report: &mut Report) {
    if plan.wants(&["delivery", "accept", "sustained", "commands"]) {
        let peers = if plan.wants(&["sustained"]) { plan.pick(20, 100) } else { 1 };
        let mut beds: Vec<delivery::Bed> = plan.drivers.iter().map(|driver| delivery::Bed::new(plan, peers, *driver)).collect();
        if plan.wants(&["delivery"]) {
            plan.settle();
            delivery::measure(plan, &mut beds, report);
        }
        if let Some(bed) = beds.last_mut() {
            if plan.wants(&["accept"]) {
                plan.settle();
                accept::measure(plan, bed, report);
            }
            if plan.wants(&["commands"]) {
                plan.settle();
                commands::measure(plan, bed, report);
            }
        }
        if plan.wants(&["sustained"]) {
            plan.settle();
            sustained::measure(plan, &mut beds, report);
        }
    }
    if plan.wants(&["wake", "idle", "restart"]) {
        plan.settle();
        let mut host = wake::measure(plan, report);
        if plan.wants(&["idle", "restart"]) {
            wake::bring_up_the_rest(plan, &host);
        }
        if plan.wants(&["idle"]) {
            plan.settle();
            idle::measure(plan, &host, report);
        }
        if plan.wants(&["restart"]) {
            plan.settle();
            idle::measure_restart(plan, &mut host, report);
        }
    }
    if plan.wants(&["size"]) {
        size::measure(report);
    }
}
