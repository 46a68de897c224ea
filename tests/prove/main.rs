//! The proof suite: faults at every point and at random against a real daemon, real tmux and the embedded
//! agent, each row with the figure it must reach.
//!
//! Started by `scripts/prove` (or `cargo test --test prove -- --quick`); a row that fails makes the exit
//! code 1. Found in a PATH under the name `tmux` it is the tracer of the first row: see `tracer`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and see the program from outside"
)]

mod api;
mod card;
mod connections;
mod daemon_kill;
mod daemons;
mod deaths;
mod dialog;
mod draft;
mod edge;
mod fairness;
mod fakes;
#[path = "../suite/harness.rs"]
#[allow(dead_code, reason = "shared with the suite, which uses more of it")]
mod harness;
mod power_cut;
mod proc;
mod refusing;
mod report;
#[path = "../matrix/runtimes.rs"]
#[allow(dead_code, reason = "shared with the matrix, which uses more of it")]
mod runtimes;
#[path = "../faults/seccomp.rs"]
mod seccomp;
mod soak;
mod tally;
mod tmux_client;
mod tmux_port;
mod tracer;
mod upgrade;
mod waiting;

use report::{Report, Verdict};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const HELP: &str = "\
usage: prove [--quick | --full] [--only ROWS] [--seed N] [--json FILE]

  --quick      sizes for every change: a few minutes on two cores (default)
  --full       the long sizes
  --only ROWS  some of the rows, comma-separated
  --seed N     repeats the random choices of a run (default: new ones; every run prints its seed)
  --json FILE  where the figures go (default: target/prove.json)
";

/// One proof: its name, what it must show, and how it is run.
struct Row {
    name: &'static str,
    wanted: &'static str,
    run: fn(&Plan) -> Verdict,
}

const ROWS: &[Row] = &[
    Row { name: "tmux-client-killed", wanted: "killed before each system call of paste and submit: one copy, one turn", run: tmux_client::run },
    Row { name: "daemon-kill-random", wanted: "kill -9 under traffic: 0 lost, 0 doubled, 0 sessions restarted", run: daemon_kill::run },
    Row { name: "upgrade", wanted: "another build takes over amid 100 deliveries: 0 lost, 0 doubled, 0 sessions restarted", run: upgrade::run },
    Row { name: "ten-daemons", wanted: "started at once: one winner in every round", run: daemons::run },
    Row { name: "power-cut", wanted: "ext4 cut off under traffic: 0 acknowledged lost; disks that lie are caught", run: power_cut::run },
    Row { name: "refusing-disk", wanted: "read-only, no inodes, no descriptors: refused, nothing acknowledged, goes on by itself", run: refusing::run },
    Row { name: "busy-to-idle-edge", wanted: "one turn each, in order, none waits over 1 s for an idle peer", run: edge::run },
    Row { name: "dialog-at-random", wanted: "0 dialogs answered, one copy each after a person answers", run: dialog::run },
    Row { name: "draft-untouched", wanted: "50 held, the draft byte-identical, then 50 in order", run: draft::run },
    Row { name: "ten-thousand-waiting", wanted: "10,000 over kill -9 and a restart: it answers, 0 lost, in order, < 64 MiB", run: waiting::run },
    Row { name: "fairness", wanted: "p99 of another sender's accept + submitted < 100 ms (--quick: < 1 s)", run: fairness::run },
    Row { name: "kill-everything", wanted: "every death found and classified, mail kept, never two agents", run: deaths::run },
    Row { name: "sleepers-and-workers", wanted: "every fake agent: asleep, resumed on its topic; tasks in order, one process each", run: fakes::run },
    Row { name: "soak", wanted: "message after message: < 6 KiB of each stay in the daemon, < 8 KiB in tmux, no descriptors more", run: soak::run },
    Row { name: "slow-and-broken-connections", wanted: "answers beside them, no descriptor more, < 1 MiB more", run: connections::run },
];

/// What one run proves, and how long.
pub struct Plan {
    pub full: bool,
    pub seed: u64,
    only: Vec<String>,
    json: PathBuf,
}

impl Plan {
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.full { full } else { quick }
    }

    /// Random choices of its own for each user, the same ones for the same seed.
    pub fn random(&self, user: u64) -> Random {
        Random(self.seed ^ user.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn parse(mut args: impl Iterator<Item = String>) -> Result<Plan, String> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
        let mut plan = Plan { full: false, seed: now % 1_000_000_007, only: Vec::new(), json: target.join("prove.json") };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => plan.full = false,
                "--full" => plan.full = true,
                "--only" => plan.only = value()?.split(',').map(String::from).collect(),
                "--seed" => plan.seed = value()?.parse().map_err(|e| format!("--seed: {e}"))?,
                "--json" => plan.json = value()?.into(),
                "--help" | "-h" => return Err(HELP.into()),
                other => return Err(format!("unknown argument {other}\n\n{HELP}")),
            }
        }
        match plan.only.iter().find(|o| ROWS.iter().all(|r| r.name != o.as_str())) {
            Some(unknown) => Err(format!("no row {unknown}; there are: {}\n", ROWS.iter().map(|r| r.name).collect::<Vec<_>>().join(" "))),
            None => Ok(plan),
        }
    }
}

/// A small generator (SplitMix64): a run is repeated by its seed.
pub struct Random(u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Lets a random time pass. The random instant is the point of it, not a wait for something.
    pub fn pause(&mut self, most: Duration) {
        std::thread::sleep(Duration::from_micros(self.below(most.as_micros().max(1) as u64)));
    }
}

fn main() {
    if tracer::is_called_tmux() {
        tracer::run();
    }
    let plan = Plan::parse(std::env::args().skip(1)).unwrap_or_else(|text| {
        eprint!("{text}");
        std::process::exit(2);
    });
    let mut report = Report::new(&plan);
    println!("{}\n", report.head());
    for row in ROWS.iter().filter(|r| plan.only.is_empty() || plan.only.iter().any(|o| o == r.name)) {
        let began = Instant::now();
        let verdict = std::panic::catch_unwind(|| (row.run)(&plan)).unwrap_or_else(|_| Verdict::failed("it broke off; the reason stands on standard error"));
        report.add(row.name, row.wanted, verdict, began.elapsed());
    }
    println!("{}", report.table());
    report.write_json(&plan.json);
    println!("figures: {}", plan.json.display());
    std::process::exit(i32::from(!report.all_ok()));
}
