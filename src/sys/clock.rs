//! Wall clock, boot-time clock and boot id.

use crate::core::Millis;
use crate::core::zone::Zone;
use crate::ports::Clock;
use chrono::{DateTime, Local, Utc};
use nix::time::{ClockId, clock_gettime};

#[cfg(target_os = "linux")]
const BOOT_CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const BOOT_CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// Milliseconds since boot, suspend included; no jump of the wall clock moves it.
pub fn boot_ms() -> Millis {
    read(BOOT_CLOCK)
}

fn read(clock: ClockId) -> Millis {
    clock_gettime(clock).map_or(0, |t| t.tv_sec() as u64 * 1000 + t.tv_nsec() as u64 / 1_000_000)
}

/// Where the system names its boots not.
pub const NO_BOOT_ID: &str = "unknown";

/// Names this boot of the host: state of another boot speaks of processes that are gone.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_string()).unwrap_or_else(|_| NO_BOOT_ID.into())
}

/// The zone of the host, by its IANA name: that of `TZ`, else what the system is set to, else UTC.
pub fn zone() -> Zone {
    let by_environment = std::env::var("TZ").ok().and_then(|name| name.trim_start_matches(':').parse().ok());
    by_environment.or_else(|| iana_time_zone::get_timezone().ok()?.parse().ok()).unwrap_or(Zone::utc())
}

/// The clock of the host.
pub struct HostClock;

impl Clock for HostClock {
    fn boot_ms(&self) -> Millis {
        boot_ms()
    }
    fn awake_ms(&self) -> Millis {
        read(ClockId::CLOCK_MONOTONIC)
    }
    fn utc(&self) -> DateTime<Utc> {
        Utc::now()
    }
    fn local(&self) -> DateTime<Local> {
        Local::now()
    }
}
