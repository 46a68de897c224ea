//! tmux, the terminal holder: one server per live peer, one command list per act.
//!
//! `argv` builds every command list, `format` every guard, `answer` reads what they printed. `driver` runs
//! them with a deadline: `direct`, in tmux's own protocol (`wire`), where `selftest` finds that the
//! installed tmux speaks it, else by a process (`spawn`). Nothing here decides anything; no persistent client is kept, no session name or untrusted text is ever used
//! as a target or inside a format.

pub mod answer;
pub mod argv;
pub mod direct;
pub mod driver;
pub mod format;
pub mod selftest;
pub mod spawn;
pub mod watch;
pub mod wire;

/// Longest time one list may take.
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

/// Oldest tmux that has `copy-mode -q`, `capture-pane` and pane options as they are used here.
pub const FLOOR: (u32, u32) = (3, 2);
/// The floor in words.
pub const FLOOR_TEXT: &str = "3.2";
