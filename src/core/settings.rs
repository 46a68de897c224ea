//! The host's settings: `<root>/config.yaml` and its `IAPEER_*` overrides, as values.

use super::limits::Limits;
use super::names::RuntimeName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Runtime of `iapeer create` without `--runtime`.
    pub default_runtime: RuntimeName,
    /// Longest time from launch to the ready screen, in seconds (`IAPEER_BOOT_DEADLINE_SECS`).
    pub boot_deadline_secs: u64,
    /// Longest time from the ready screen to the evidence of the first message, in seconds
    /// (`IAPEER_READY_GATE_SECS`).
    pub ready_gate_secs: u64,
    /// Deaths within the window that stop waking (`IAPEER_CRASHLOOP_MAX`).
    pub crashloop_max: u32,
    /// The window, in seconds (`IAPEER_CRASHLOOP_WINDOW_SECS`).
    pub crashloop_window_secs: u64,
    /// How long the agent gets between TERM and KILL, in seconds.
    pub term_grace_secs: u64,
    /// Size of `lifecycle.log` at which it is rotated, in bytes (`IAPEER_LIFECYCLE_LOG_MAX_BYTES`).
    pub lifecycle_log_max_bytes: u64,
    /// Rotated files kept (`IAPEER_LIFECYCLE_LOG_KEEP`).
    pub lifecycle_log_keep: u32,
    /// The same for `delivery.log` (`IAPEER_DELIVERY_LOG_MAX_BYTES`, `IAPEER_DELIVERY_LOG_KEEP`).
    pub delivery_log_max_bytes: u64,
    pub delivery_log_keep: u32,
    /// Terminal size of a session while nobody is attached.
    pub window: Window,
    pub tmux: Tmux,
    pub limits: Limits,
    /// Seconds after which the operator is told, once, that a draft holds mail.
    pub draft_notice_secs: u64,
    /// A name for several recipients.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Run for each message to the operator: program and arguments; the message as JSON on standard input.
    pub on_notice: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    pub columns: u16,
    pub rows: u16,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tmux {
    /// How command lists reach tmux (`IAPEER_TMUX_DRIVER`).
    pub driver: DriverChoice,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverChoice {
    /// Direct where the installed tmux passes the self-test, else a process per list.
    #[default]
    Auto,
    /// A process per list.
    Spawn,
    /// On the server's socket; a tmux that fails the self-test refuses the start.
    Direct,
}

impl DriverChoice {
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "auto" => DriverChoice::Auto,
            "spawn" => DriverChoice::Spawn,
            "direct" => DriverChoice::Direct,
            _ => return None,
        })
    }
}

impl Default for Window {
    fn default() -> Self {
        Window { columns: 200, rows: 50 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            default_runtime: RuntimeName::echo(),
            boot_deadline_secs: 240,
            ready_gate_secs: 120,
            crashloop_max: 3,
            crashloop_window_secs: 300,
            term_grace_secs: 5,
            lifecycle_log_max_bytes: 5 * 1024 * 1024,
            lifecycle_log_keep: 5,
            delivery_log_max_bytes: 5 * 1024 * 1024,
            delivery_log_keep: 5,
            window: Window::default(),
            tmux: Tmux::default(),
            limits: Limits::default(),
            draft_notice_secs: 120,
            groups: BTreeMap::new(),
            on_notice: Vec::new(),
        }
    }
}
