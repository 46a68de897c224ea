//! The result: a table for the terminal, JSON, and the page of the docs.

use crate::runtimes::{self, Kind, Runtime};
use crate::shapes::Shape;
use crate::stage::STATES;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::process::Command;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Held(String),
    /// Again, to the next process, and said so.
    Again,
    Absent(String),
    Failed(String),
}

impl Outcome {
    fn symbol(&self) -> &'static str {
        match self {
            Outcome::Delivered => "●",
            Outcome::Held(_) => "◐",
            Outcome::Again => "↻",
            Outcome::Absent(_) => "–",
            Outcome::Failed(_) => "✗",
        }
    }

    fn text(&self) -> String {
        match self {
            Outcome::Delivered => "delivered".into(),
            Outcome::Held(reason) => format!("held {reason}"),
            Outcome::Again => "redelivered".into(),
            Outcome::Absent(why) => format!("absent {why}"),
            Outcome::Failed(why) => format!("failed {why}"),
        }
    }

    fn parse(text: &str) -> Outcome {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("delivered", _) => Outcome::Delivered,
            ("held", reason) => Outcome::Held(reason.into()),
            ("redelivered", _) => Outcome::Again,
            ("absent", why) => Outcome::Absent(why.into()),
            (_, why) => Outcome::Failed(why.into()),
        }
    }
}

pub struct Row {
    pub runtime: String,
    pub state: String,
    pub cells: Vec<(String, Outcome)>,
}

impl Row {
    pub fn new(runtime: &str, state: &str) -> Row {
        Row { runtime: runtime.into(), state: state.into(), cells: Vec::new() }
    }

    fn cell(&self, shape: &str) -> &'static str {
        self.cells.iter().find(|(name, _)| name == shape).map_or("", |(_, outcome)| outcome.symbol())
    }

    /// The reason for which its mail was held, or why it was not run.
    fn remark(&self) -> String {
        let mut remarks: Vec<&str> = Vec::new();
        for (_, outcome) in &self.cells {
            match outcome {
                Outcome::Held(text) | Outcome::Absent(text) | Outcome::Failed(text) if !remarks.contains(&text.as_str()) => remarks.push(text),
                _ => {}
            }
        }
        remarks.join("; ")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells: Vec<&str> = self.cells.iter().map(|(_, o)| o.symbol()).collect();
        write!(f, "{:<9} {:<20} {}  {}", self.runtime, self.state, cells.join(" "), self.remark())
    }
}

pub struct Report {
    shapes: Vec<&'static str>,
    pub rows: Vec<Row>,
    /// Name and version of tmux and of the real programs.
    programs: BTreeMap<String, String>,
}

fn version_of(program: &str, argument: &str) -> String {
    let out = Command::new(program).arg(argument).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    out.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit())).unwrap_or("unknown").into()
}

pub fn json<'a>(rows: impl Iterator<Item = &'a Row>, programs: &BTreeMap<String, String>) -> String {
    let row = |r: &Row| {
        let cells: Map<String, Value> = r.cells.iter().map(|(shape, o)| (shape.clone(), json!(o.text()))).collect();
        json!({"runtime": r.runtime, "state": r.state, "cells": cells})
    };
    // One row a line, so that two results can be compared.
    let rows: Vec<String> = rows.map(|r| format!("  {}", row(r))).collect();
    format!("{{\"programs\": {},\n\"rows\": [\n{}\n]}}\n", json!(programs), rows.join(",\n"))
}

impl Report {
    pub fn new(shapes: &[Shape]) -> Report {
        let programs = BTreeMap::from([("tmux".into(), version_of("tmux", "-V"))]);
        Report { shapes: shapes.iter().map(|s| s.name).collect(), rows: Vec::new(), programs }
    }

    pub fn note_programs<'a>(&mut self, used: impl Iterator<Item = &'a Runtime>) {
        for runtime in used.filter(|r| r.kind == Kind::Real) {
            self.programs.entry(runtime.name.into()).or_insert_with(|| version_of(runtime.name, "--version"));
        }
    }

    fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.rows.iter().flat_map(|r| &r.cells).map(|(_, o)| o)
    }

    pub fn failed(&self) -> usize {
        self.outcomes().filter(|o| matches!(o, Outcome::Failed(_))).count()
    }

    fn held(&self) -> usize {
        self.outcomes().filter(|o| !matches!(o, Outcome::Failed(_) | Outcome::Absent(_))).count()
    }

    /// Rows and programs of an earlier result; a cell that was run again stays as it was run last.
    pub fn merge(&mut self, text: &str) {
        let earlier: Value = serde_json::from_str(text).expect("a result of the matrix");
        for (name, version) in earlier["programs"].as_object().into_iter().flatten() {
            self.programs.entry(name.clone()).or_insert_with(|| version.as_str().unwrap_or_default().into());
        }
        for row in earlier["rows"].as_array().into_iter().flatten() {
            let mut read = Row::new(row["runtime"].as_str().unwrap_or_default(), row["state"].as_str().unwrap_or_default());
            read.cells =
                row["cells"].as_object().into_iter().flatten().map(|(shape, o)| (shape.clone(), Outcome::parse(o.as_str().unwrap_or_default()))).collect();
            match self.rows.iter_mut().find(|r| r.runtime == read.runtime && r.state == read.state) {
                None => self.rows.push(read),
                Some(row) => {
                    read.cells.retain(|(shape, _)| !row.cells.iter().any(|(name, _)| name == shape));
                    row.cells.append(&mut read.cells);
                }
            }
        }
    }

    pub fn json(&self) -> String {
        json(self.rows.iter(), &self.programs)
    }

    pub fn print(&self) {
        for row in &self.rows {
            println!("{row}");
        }
        println!("{} cells hold, {} fail", self.held(), self.failed());
    }

    pub fn page(&self) -> String {
        let mut page = String::from(HEAD);
        let programs: Vec<String> = self.programs.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let _ = writeln!(page, "**{} cells hold, {} fail.** Run with {}.\n", self.held(), self.failed(), programs.join(", "));
        page.push_str(LEGEND);
        for runtime in runtimes::all() {
            let rows: Vec<&Row> = STATES.iter().filter_map(|s| self.rows.iter().find(|r| r.runtime == runtime.name && r.state == s.name())).collect();
            if rows.is_empty() {
                continue;
            }
            let _ = writeln!(page, "\n## {}\n\n{}.\n", runtime.name, runtime.note);
            let columns: Vec<String> = self.shapes.iter().map(|s| format!("`{s}`")).collect();
            let _ = writeln!(page, "| state | {} | |\n|---|{}---|", columns.join(" | "), ":-:|".repeat(columns.len()));
            for row in rows {
                let cells: Vec<&str> = self.shapes.iter().map(|s| row.cell(s)).collect();
                let _ = writeln!(page, "| {} | {} | {} |", row.state, cells.join(" | "), row.remark().replace('|', "\\|"));
            }
        }
        page
    }
}

const HEAD: &str = "\
# Delivery matrix

Every agent, in every state, gets a message of every shape. Generated by `scripts/matrix --write`; not edited by hand.

What is compared is the agent's own record, never the daemon's word alone: the log of the fake agent (every byte it read,
every turn it was given), the transcript of `echo`, the request bodies at the mock model server for Claude Code and Codex.
A cell holds when the message is there exactly once, in order, alone in its turn and byte for byte after the
sanitiser and the changes that the runtime definition declares, when the daemon says `submitted` (`entered` where nothing can prove
more), and when no dialog was answered, nothing picked and nothing executed. Every copy is counted once more at the end of its row.

";

const LEGEND: &str = "\
| sign | means |
|---|---|
| ● | delivered |
| ◐ | held for the reason at the end of the row, nothing typed meanwhile; delivered within seconds once the obstacle was gone |
| ↻ | the agent was killed with KILL in the midst of it; delivered to the next process, which was told so |
| – | not applicable, for the reason at the end of the row |
| ✗ | failed |

| state | how it is made |
|---|---|
| busy | a turn runs |
| starting | sent while another process of the agent starts; fake agents stay at `loading` until the message waits |
| asleep | the agent has ended with exit code 0 |
| not reading | the agent is stopped (STOP) until the text has been typed |
| killed at the paste | KILL after the paste, before Enter |
| killed at Enter | KILL when Enter arrives, before it takes effect |
| draft, dialog, picker | a person's half typed text, a question whose Enter is consent, a list whose Enter picks |
| copy mode | a person is attached and scrolls back |
| resizing | a person is attached and changes the size of the terminal without pause for two seconds |

| shape | what it is |
|---|---|
| shell | `$(…)`, backquotes, quotes, tmux formats |
| ESC[201~ | the end mark of a paste, CR, C0 and C1 controls |
| `/` `!` `#` `@` | the first character that switches a composer's mode |
| 50 rapid | fifty messages without waiting |
| 1 MiB | the largest body; as a file where the runtime takes less inline |
";
