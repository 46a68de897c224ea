//! What `echo` draws: history above, composer and footer at the bottom, or a dialog instead of them.

use crate::core::sanitize;
use std::fmt::Write;

/// A paste of more lines or characters than this collapses to a placeholder.
pub const INLINE_LINES: usize = 8;
pub const INLINE_CHARS: usize = 900;

#[derive(Debug, Default)]
pub struct View {
    pub history: Vec<String>,
    /// The composer's parts, in order.
    pub composer: Vec<Part>,
    pub busy: Option<String>,
    pub dialog: Option<Dialog>,
    pub session_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Typed(String),
    /// Shown as a placeholder, submitted as what it is.
    Pasted {
        text: String,
        number: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    pub question: String,
    pub yes: bool,
}

impl View {
    pub fn composed(&self) -> String {
        self.composer
            .iter()
            .map(|p| match p {
                Part::Typed(t) => t.as_str(),
                Part::Pasted { text, .. } => text.as_str(),
            })
            .collect()
    }

    fn shown_composer(&self) -> String {
        self.composer
            .iter()
            .map(|p| match p {
                Part::Typed(t) => t.clone(),
                Part::Pasted { text, number } => format!("[pasted text #{number}, {} bytes]", text.len()),
            })
            .collect()
    }

    pub fn paste(&mut self, text: String, number: usize) {
        if text.lines().count() > INLINE_LINES || text.chars().count() > INLINE_CHARS {
            self.composer.push(Part::Pasted { text, number });
        } else {
            self.type_text(&text);
        }
    }

    pub fn type_text(&mut self, text: &str) {
        match self.composer.last_mut() {
            Some(Part::Typed(t)) => t.push_str(text),
            _ => self.composer.push(Part::Typed(text.into())),
        }
    }

    pub fn backspace(&mut self) {
        match self.composer.last_mut() {
            Some(Part::Typed(t)) if !t.is_empty() => {
                t.pop();
            }
            Some(_) => {
                self.composer.pop();
            }
            None => {}
        }
    }

    /// The whole screen as one write, for a terminal of this size.
    pub fn draw(&self, columns: usize, rows: usize) -> String {
        let rule = "─".repeat(columns.min(400));
        let mut bottom: Vec<String> = Vec::new();
        let (mut cursor_row, mut cursor_column) = (0, 0);
        match &self.dialog {
            Some(dialog) => {
                bottom.push(rule.clone());
                bottom.push(format!("? {}", sanitize::line(&dialog.question)));
                bottom.push(format!("{} 1. Yes", if dialog.yes { "›" } else { " " }));
                bottom.push(format!("{} 2. No", if dialog.yes { " " } else { "›" }));
                bottom.push("Enter to confirm · Esc to cancel".into());
            }
            None => {
                if let Some(busy) = &self.busy {
                    bottom.push(format!("* {busy} · esc to interrupt"));
                }
                bottom.push(rule.clone());
                let lines = wrap(&self.shown_composer(), columns.saturating_sub(3).max(1));
                let shown = lines.len().min(rows.saturating_sub(6).max(1));
                for (i, line) in lines[lines.len() - shown..].iter().enumerate() {
                    bottom.push(format!("{} {line}", if i == 0 { "›" } else { " " }));
                }
                cursor_column = 2 + lines.last().map_or(0, |l| l.chars().count());
                cursor_row = bottom.len();
                bottom.push(rule);
                let state = if self.busy.is_some() { "busy" } else { "ready" };
                bottom.push(format!("  echo · {state} · session {} · /quit ends", self.session_id));
            }
        }
        let space = rows.saturating_sub(bottom.len());
        let history: Vec<String> = self.history.iter().rev().take(space).rev().flat_map(|h| wrap(h, columns)).collect();
        let history = &history[history.len().saturating_sub(space)..];
        let mut out = String::from("\x1b[?25l\x1b[H");
        for line in history {
            let _ = write!(out, "{line}\x1b[K\r\n");
        }
        for _ in history.len()..space {
            out.push_str("\x1b[K\r\n");
        }
        for (i, line) in bottom.iter().enumerate() {
            let cut: String = line.chars().take(columns).collect();
            let _ = write!(out, "{cut}\x1b[K{}", if i + 1 < bottom.len() { "\r\n" } else { "" });
        }
        if self.dialog.is_none() {
            let _ = write!(out, "\x1b[{};{}H\x1b[?25h", space + cursor_row, cursor_column + 1);
        }
        out
    }
}

/// Lines of at most `width` characters; controls are shown as U+FFFD, TAB as a space.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    text.split('\n')
        .flat_map(|line| {
            let chars: Vec<char> = sanitize::line(line).chars().collect();
            let pieces: Vec<String> = chars.chunks(width).map(|c| c.iter().collect()).collect();
            if pieces.is_empty() { vec![String::new()] } else { pieces }
        })
        .collect()
}
