//! How the agent misbehaves: `profile.json` in its steering folder, read at the start and again on the
//! order `profile`. What is not named there is well-behaved.

use serde::Deserialize;
use std::path::Path;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// Until then after the start input is lost, and the screen says `loading`.
    pub start_settle_ms: u64,
    /// Stays `loading` until the order `open`.
    pub start_gated: bool,
    /// Shows the composer although input does not count yet.
    pub early_composer: bool,
    /// An Enter so soon after a paste is swallowed.
    pub paste_settle_ms: u64,
    /// An Enter so soon after a paste, or after typed text, is a line feed in the text.
    pub burst_ms: u64,
    /// Enters swallowed after the start, and after each paste.
    pub swallow_first: u32,
    pub swallow_after_paste: u32,
    /// How late the screen shows what has changed.
    pub redraw_ms: u64,
    /// A paste of more lines collapses to a placeholder; 0: never.
    pub collapse_lines: usize,
    /// Asks for bracketed paste.
    pub bracketed: bool,
    /// `/` first, `@` before the last word or `name.ext` as the last word opens a picker; Enter then picks.
    pub picker: bool,
    /// Faint text behind the prompt of an empty composer.
    pub ghost: String,
    /// A yes/no dialog pops up so long after a paste, at random between the two.
    pub dialog_after_paste_ms: Option<(u64, u64)>,
    pub while_busy: WhileBusy,
    pub hooks: Hooks,
    pub transcript: bool,
    pub transcript_delay_ms: u64,
    /// Each record is written in two pieces.
    pub transcript_split: bool,
    pub ignore_term: bool,
    /// Never reads its input, until the order `hear`.
    pub deaf: bool,
    /// How long each turn takes.
    pub turn_ms: u64,
}

/// Which events the program tells by its hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hooks {
    All,
    /// Only that it has started, and where its transcript is.
    Start,
    None,
}

/// What Enter does to a text while a turn runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhileBusy {
    Queue,
    Lose,
}

impl Default for Profile {
    fn default() -> Self {
        Profile {
            start_settle_ms: 0,
            start_gated: false,
            early_composer: false,
            paste_settle_ms: 0,
            burst_ms: 0,
            swallow_first: 0,
            swallow_after_paste: 0,
            redraw_ms: 0,
            collapse_lines: 0,
            bracketed: true,
            picker: false,
            ghost: String::new(),
            dialog_after_paste_ms: None,
            while_busy: WhileBusy::Queue,
            hooks: Hooks::All,
            transcript: true,
            transcript_delay_ms: 0,
            transcript_split: false,
            ignore_term: false,
            deaf: false,
            turn_ms: 0,
        }
    }
}

impl Profile {
    /// # Panics
    /// A profile that cannot be read is a mistake of the test.
    pub fn read(dir: &Path) -> Profile {
        match std::fs::read(dir.join("profile.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("profile.json: {e}")),
            Err(_) => Profile::default(),
        }
    }
}
