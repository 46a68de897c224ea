//! tmux, the terminal holder: one server per live peer, one chained client per act.
//!
//! `argv` builds every command list, `format` every guard, `driver` runs them with a deadline. Nothing
//! here decides anything; no persistent client is kept, no session name or untrusted text is ever used
//! as a target or inside a format.

pub mod argv;
pub mod driver;
pub mod format;
pub mod watch;

/// Oldest tmux that has `copy-mode -q`, `capture-pane` and pane options as they are used here.
pub const FLOOR: (u32, u32) = (3, 2);
/// The floor in words.
pub const FLOOR_TEXT: &str = "3.2";
