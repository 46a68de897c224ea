//! The rows of a run: printed as they end, then as a table, written as JSON.

use crate::Plan;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a row showed.
pub struct Verdict {
    pub measured: String,
    pub ok: bool,
    /// What went wrong, a line each.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Good when there are no faults.
    pub fn new(measured: impl Into<String>, faults: Vec<String>) -> Verdict {
        Verdict { measured: measured.into(), ok: faults.is_empty(), faults }
    }
    pub fn failed(why: &str) -> Verdict {
        Verdict::new("–", vec![why.into()])
    }
}

struct Done {
    name: &'static str,
    wanted: &'static str,
    verdict: Verdict,
    seconds: f64,
}

pub struct Report {
    facts: Value,
    rows: Vec<Done>,
}

impl Report {
    pub fn new(plan: &Plan) -> Report {
        let facts = json!({
            "mode": plan.pick("quick", "full"),
            "seed": plan.seed,
            "version": env!("CARGO_PKG_VERSION"),
            "commit": commit(),
            "tmux": first_line(Command::new(crate::harness::tmux()).arg("-V")),
            "kernel": first_line(Command::new("uname").arg("-sr")),
            "cores": std::thread::available_parallelism().map_or(1, usize::from),
        });
        Report { facts, rows: Vec::new() }
    }

    pub fn head(&self) -> String {
        let facts = self.facts.as_object().into_iter().flatten();
        facts.map(|(k, v)| format!("{k}: {}", v.as_str().map_or(v.to_string(), String::from))).collect::<Vec<_>>().join("  ·  ")
    }

    pub fn add(&mut self, name: &'static str, wanted: &'static str, verdict: Verdict, took: Duration) {
        let word = if verdict.ok { "ok" } else { "FAILED" };
        println!("{name}: {} ({:.0} s) {word}", verdict.measured, took.as_secs_f64());
        verdict.faults.iter().take(20).for_each(|f| println!("  {f}"));
        self.rows.push(Done { name, wanted, verdict, seconds: took.as_secs_f64() });
    }

    pub fn all_ok(&self) -> bool {
        self.rows.iter().all(|r| r.verdict.ok)
    }

    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["row", "wanted", "measured", "s", ""]);
        for row in &self.rows {
            let word = if row.verdict.ok { "ok" } else { "FAILED" };
            table.add_row([row.name, row.wanted, &row.verdict.measured, &format!("{:.0}", row.seconds), word]);
        }
        format!("\n{table}\n")
    }

    pub fn write_json(&self, path: &Path) {
        let row = |r: &Done| json!({ "row": r.name, "wanted": r.wanted, "measured": r.verdict.measured, "ok": r.verdict.ok, "faults": r.verdict.faults, "seconds": r.seconds });
        let all = json!({ "v": 1, "run": self.facts, "rows": self.rows.iter().map(row).collect::<Vec<_>>() });
        let text = serde_json::to_string_pretty(&all).unwrap() + "\n";
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, text));
        written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// The script knows it; without it the working tree is asked.
fn commit() -> String {
    std::env::var("IAPEER_PROVE_COMMIT").unwrap_or_else(|_| first_line(Command::new("git").args(["rev-parse", "--short", "HEAD"])))
}

fn first_line(command: &mut Command) -> String {
    let out = command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    out.lines().next().unwrap_or_default().trim().to_string()
}
