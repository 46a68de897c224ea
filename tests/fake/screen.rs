//! What the agent draws: a history, and at the bottom composer and footer, or a dialog instead of them.

use std::fmt::Write;

/// What stands in the composer, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Typed(Vec<u8>),
    /// Shown as a placeholder, submitted as what it is.
    Collapsed {
        text: Vec<u8>,
        number: usize,
    },
}

#[derive(Debug, Default)]
pub struct Screen {
    pub history: Vec<String>,
    pub composer: Vec<Part>,
    pub loading: bool,
    pub busy: bool,
    pub picker: bool,
    pub dialog: bool,
    pub ghost: String,
}

/// Only the end of a long text fits on a screen.
const SHOWN_BYTES: usize = 8 * 1024;

impl Screen {
    pub fn text(&self) -> Vec<u8> {
        self.composer
            .iter()
            .flat_map(|p| match p {
                Part::Typed(text) | Part::Collapsed { text, .. } => text.clone(),
            })
            .collect()
    }

    pub fn typed(&mut self, text: &[u8]) {
        match self.composer.last_mut() {
            Some(Part::Typed(t)) => t.extend_from_slice(text),
            _ => self.composer.push(Part::Typed(text.to_vec())),
        }
    }

    pub fn backspace(&mut self) {
        match self.composer.last_mut() {
            Some(Part::Typed(t)) if t.len() > 1 => drop(t.pop()),
            _ => drop(self.composer.pop()),
        }
    }

    fn shown(&self, width: usize) -> Vec<String> {
        let mut text = String::new();
        for part in &self.composer {
            match part {
                Part::Typed(t) => {
                    let end = &t[t.len().saturating_sub(SHOWN_BYTES)..];
                    text += &String::from_utf8_lossy(end);
                }
                Part::Collapsed { text: t, number } => {
                    let lines = t.iter().filter(|b| **b == b'\n').count();
                    let _ = write!(text, "[Pasted text #{number} +{lines} lines]");
                }
            }
        }
        let clean = |c: char| {
            if c == '\t' {
                ' '
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        };
        let wrap = |line: &str| {
            let chars: Vec<char> = line.chars().map(clean).collect();
            let rows: Vec<String> = chars.chunks(width).map(|c| c.iter().collect()).collect();
            if rows.is_empty() { vec![String::new()] } else { rows }
        };
        text.split('\n').flat_map(wrap).collect()
    }

    /// The whole screen as one write, for a terminal of this size.
    pub fn draw(&self, columns: usize, rows: usize) -> String {
        let rule = "─".repeat(columns.min(300));
        let (mut bottom, mut cursor) = (Vec::new(), (1, 1));
        if self.loading {
            bottom.push("  fake · loading".to_string());
        } else if self.dialog {
            bottom.extend(["? Run it".into(), "> 1. Yes".into(), "  2. No".into(), "  enter confirms · n refuses".into()]);
        } else {
            bottom.push(rule.clone());
            // Wide characters take two columns: half the width is always enough.
            let lines = self.shown((columns / 2).saturating_sub(2).max(10));
            let first = lines.len().saturating_sub(rows.saturating_sub(6).max(1));
            for (n, line) in lines.iter().enumerate().skip(first) {
                bottom.push(format!("{} {line}", if n == 0 { ">" } else { " " }));
            }
            cursor = (bottom.len(), 3 + lines.last().map_or(0, |l| l.chars().count()));
            if self.composer.is_empty() && !self.ghost.is_empty() {
                let last = bottom.len() - 1;
                bottom[last] = format!("> \x1b[2m{}\x1b[0m", self.ghost);
            }
            bottom.push(rule);
            let state = if self.picker {
                "picker"
            } else if self.busy {
                "busy"
            } else {
                "ready"
            };
            bottom.push(format!("  fake · {state}"));
        }
        let space = rows.saturating_sub(bottom.len());
        let history = &self.history[self.history.len().saturating_sub(space)..];
        let mut out = String::from("\x1b[?25l\x1b[H");
        for n in 0..space {
            let line = (n + history.len()).checked_sub(space).and_then(|i| history.get(i)).map_or("", String::as_str);
            let line: String = line.chars().take(columns).collect();
            let _ = write!(out, "{line}\x1b[K\r\n");
        }
        out += &bottom.iter().map(|l| format!("{l}\x1b[K")).collect::<Vec<_>>().join("\r\n");
        let _ = write!(out, "\x1b[{};{}H", space + cursor.0, cursor.1);
        if !self.dialog && !self.loading {
            out += "\x1b[?25h";
        }
        out
    }
}
