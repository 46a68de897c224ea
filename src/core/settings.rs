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
    /// Seconds without activity after which a session is put to sleep; 0: never (`IAPEER_IDLE_SECS`).
    pub idle_secs: u64,
    /// Seconds after which a session is ended between two turns; 0: never (`IAPEER_MAX_AGE_SECS`). Left
    /// out: 14400 for ephemeral peers, never for others.
    pub max_age_secs: Option<u64>,
    /// Quiet seconds after which an ephemeral session whose task is done is ended
    /// (`IAPEER_EPHEMERAL_QUIET_SECS`).
    pub ephemeral_quiet_secs: u64,
    /// Seconds without a turn after which an ephemeral session is ended that never said that its task is
    /// done (`IAPEER_EPHEMERAL_UNARMED_IDLE_SECS`).
    pub ephemeral_unarmed_secs: u64,
    /// What is launched when the host has come back from a reboot.
    pub restore: Restore,
    /// How long the agent gets between TERM and KILL, in seconds.
    pub term_grace_secs: u64,
    /// Size of `lifecycle.log` at which it is rotated, in bytes (`IAPEER_LIFECYCLE_LOG_MAX_BYTES`).
    pub lifecycle_log_max_bytes: u64,
    /// Rotated files kept (`IAPEER_LIFECYCLE_LOG_KEEP`).
    pub lifecycle_log_keep: u32,
    /// The same for `delivery.log` (`IAPEER_DELIVERY_LOG_MAX_BYTES`, `IAPEER_DELIVERY_LOG_KEEP`).
    pub delivery_log_max_bytes: u64,
    pub delivery_log_keep: u32,
    /// Size at which the log of what a terminal shows is rotated, in bytes; one rotated file is kept; 0: none is
    /// written (`IAPEER_PANE_LOG_MAX_BYTES`).
    pub pane_log_max_bytes: u64,
    /// Size of all of them together above which the oldest are removed (`IAPEER_PANE_LOGS_TOTAL_BYTES`).
    pub pane_logs_total_bytes: u64,
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

/// Oldest age of an ephemeral session, in seconds, when nothing else is said.
pub const EPHEMERAL_MAX_AGE_SECS: u64 = 14_400;

/// What is launched again when the host has come back from a reboot; everything else sleeps until its mail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restore {
    #[default]
    None,
    /// The sessions that the reboot ended.
    Awake,
    /// Every warm peer on its default runtime.
    All,
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
            idle_secs: 3600,
            max_age_secs: None,
            ephemeral_quiet_secs: 20,
            ephemeral_unarmed_secs: 600,
            restore: Restore::None,
            term_grace_secs: 5,
            lifecycle_log_max_bytes: 5 * 1024 * 1024,
            lifecycle_log_keep: 5,
            delivery_log_max_bytes: 5 * 1024 * 1024,
            delivery_log_keep: 5,
            pane_log_max_bytes: 1024 * 1024,
            pane_logs_total_bytes: 256 * 1024 * 1024,
            window: Window::default(),
            tmux: Tmux::default(),
            limits: Limits::default(),
            draft_notice_secs: 120,
            groups: BTreeMap::new(),
            on_notice: Vec::new(),
        }
    }
}
