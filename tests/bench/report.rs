//! The rows of a run: printed as a table, written as JSON.

use crate::machine;
use serde_json::{Value, json};
use std::path::Path;

#[derive(Clone)]
pub struct Row {
    pub group: &'static str,
    pub what: String,
    pub value: String,
    pub baseline: String,
    /// How value and baseline stand to each other, in the direction of the goal.
    pub ratio: Option<f64>,
    pub goal: String,
    /// `None`: no goal for what is built now.
    pub met: Option<bool>,
    pub details: Value,
}

impl Row {
    pub fn new(group: &'static str, what: impl Into<String>) -> Row {
        Row { group, what: what.into(), value: String::new(), baseline: "–".into(), ratio: None, goal: "–".into(), met: None, details: Value::Null }
    }
    pub fn value(mut self, text: impl Into<String>) -> Row {
        self.value = text.into();
        self
    }
    pub fn baseline(mut self, text: impl Into<String>) -> Row {
        self.baseline = text.into();
        self
    }
    pub fn ratio(mut self, ratio: f64) -> Row {
        self.ratio = Some(ratio);
        self
    }
    /// A goal, and whether it is met.
    pub fn goal(mut self, text: impl Into<String>, met: bool) -> Row {
        self.goal = text.into();
        self.met = Some(met);
        self
    }
    pub fn at_most(self, what: f64, most: f64, text: impl Into<String>) -> Row {
        self.goal(text, what <= most)
    }
    pub fn at_least(self, what: f64, least: f64, text: impl Into<String>) -> Row {
        self.goal(text, what >= least)
    }
    pub fn details(mut self, details: Value) -> Row {
        self.details = details;
        self
    }

    fn met_word(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "–",
        }
    }

    fn ratio_text(&self) -> String {
        self.ratio.map_or("–".into(), |r| {
            if r >= 100.0 {
                format!("{r:.0}×")
            } else if r >= 10.0 {
                format!("{r:.1}×")
            } else {
                format!("{r:.2}×")
            }
        })
    }

    fn json(&self) -> Value {
        json!({ "group": self.group, "what": self.what, "value": self.value, "baseline": self.baseline, "ratio": self.ratio, "goal": self.goal, "met": self.met, "details": self.details })
    }
}

pub struct Report {
    machine: Value,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(machine: Value) -> Report {
        Report { machine, rows: Vec::new() }
    }

    pub fn add(&mut self, row: Row) {
        eprintln!("{:<10} {}: {} (baseline {}, ratio {}) {}", row.group, row.what, row.value, row.baseline, row.ratio_text(), row.met_word());
        self.rows.push(row);
    }

    pub fn finish(&mut self) {
        self.machine["load_after"] = machine::load();
    }

    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["row", "what", "value", "baseline", "ratio", "goal", ""]);
        for row in &self.rows {
            table.add_row([row.group, &row.what, &row.value, &row.baseline, &row.ratio_text(), &row.goal, row.met_word()]);
        }
        let facts: Vec<String> =
            self.machine.as_object().into_iter().flatten().map(|(k, v)| format!("{k}: {}", v.as_str().map_or(v.to_string(), String::from))).collect();
        format!("\n{}\n\n{table}\n", facts.join("  ·  "))
    }

    pub fn write_json(&self, path: &Path) {
        let all = json!({ "v": 1, "machine": self.machine, "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>() });
        let text = serde_json::to_string_pretty(&all).unwrap() + "\n";
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, text));
        written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}
