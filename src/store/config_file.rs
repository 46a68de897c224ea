//! `<root>/config.yaml` and its `IAPEER_*` overrides. A bad value refuses the start.

use super::disk::read_own;
use super::layout::Root;
use super::yaml::{self, YamlError};
use crate::core::settings::{DriverChoice, Settings};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Yaml(#[from] YamlError),
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{name}={value:?} is not a whole number; unset it or give one")]
    Override { name: &'static str, value: String },
    #[error("{DRIVER}={0:?} is none of auto, spawn, direct; unset it or give one")]
    Driver(String),
}

const DRIVER: &str = "IAPEER_TMUX_DRIVER";

pub fn load(root: &Root, var: impl Fn(&str) -> Option<String>) -> Result<Settings, ConfigError> {
    let path = root.config();
    let mut settings: Settings = match read_own(&path, 1024 * 1024) {
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Settings::default(),
        Ok(bytes) => yaml::parse(&path, &String::from_utf8_lossy(&bytes))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Settings::default(),
        Err(source) => return Err(ConfigError::Read { path: path.display().to_string(), source }),
    };
    let number = |name: &'static str| -> Result<Option<u64>, ConfigError> {
        match var(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(value) => value.parse().map(Some).map_err(|_| ConfigError::Override { name, value }),
        }
    };
    let s = &mut settings;
    for (name, slot) in [
        ("IAPEER_BOOT_DEADLINE_SECS", &mut s.boot_deadline_secs),
        ("IAPEER_READY_GATE_SECS", &mut s.ready_gate_secs),
        ("IAPEER_CRASHLOOP_WINDOW_SECS", &mut s.crashloop_window_secs),
        ("IAPEER_IDLE_SECS", &mut s.idle_secs),
        ("IAPEER_EPHEMERAL_QUIET_SECS", &mut s.ephemeral_quiet_secs),
        ("IAPEER_EPHEMERAL_UNARMED_IDLE_SECS", &mut s.ephemeral_unarmed_secs),
        ("IAPEER_LIFECYCLE_LOG_MAX_BYTES", &mut s.lifecycle_log_max_bytes),
        ("IAPEER_DELIVERY_LOG_MAX_BYTES", &mut s.delivery_log_max_bytes),
        ("IAPEER_PANE_LOG_MAX_BYTES", &mut s.pane_log_max_bytes),
        ("IAPEER_PANE_LOGS_TOTAL_BYTES", &mut s.pane_logs_total_bytes),
    ] {
        if let Some(n) = number(name)? {
            *slot = n;
        }
    }
    for (name, slot) in [
        ("IAPEER_CRASHLOOP_MAX", &mut s.crashloop_max),
        ("IAPEER_LIFECYCLE_LOG_KEEP", &mut s.lifecycle_log_keep),
        ("IAPEER_DELIVERY_LOG_KEEP", &mut s.delivery_log_keep),
    ] {
        if let Some(n) = number(name)? {
            *slot = u32::try_from(n).map_err(|_| ConfigError::Override { name, value: n.to_string() })?;
        }
    }
    if let Some(n) = number("IAPEER_MAX_AGE_SECS")? {
        s.max_age_secs = Some(n);
    }
    if let Some(word) = var(DRIVER).filter(|v| !v.is_empty()) {
        s.tmux.driver = DriverChoice::parse(&word).ok_or(ConfigError::Driver(word))?;
    }
    Ok(settings)
}
