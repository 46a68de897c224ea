//! Waiting for a moment of the wall clock, without polling.
//!
//! The runtime's own timers stand still while the host sleeps and know nothing of a clock that is set.
//! This one rings at its moment, when the host wakes after it, and whenever the clock is set: whoever
//! waits looks at the time again. Where the kernel has no such timer the time is looked at now and then.

use chrono::{DateTime, Utc};

#[cfg(target_os = "linux")]
pub use linux::Alarm;
#[cfg(not(target_os = "linux"))]
pub use other::Alarm;

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use crate::sys::wait;
    use nix::sys::time::{TimeSpec, TimeValLike};
    use nix::sys::timer::{Expiration, TimerSetTimeFlags};
    use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use tokio::io::unix::AsyncFd;

    pub struct Alarm {
        timer: TimerFd,
        rings: AsyncFd<OwnedFd>,
    }

    impl Alarm {
        /// Must be called inside the runtime.
        pub fn new() -> io::Result<Self> {
            let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
            let rings = wait::readable(timer.as_fd().try_clone_to_owned()?)?;
            Ok(Alarm { timer, rings })
        }

        /// Returns at that moment, or earlier: the caller looks at the clock again.
        pub async fn until(&mut self, at: DateTime<Utc>) {
            // A moment of zero would disarm it.
            let moment = TimeSpec::milliseconds(at.timestamp_millis().max(1));
            let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
            if let Err(error) = self.timer.set(Expiration::OneShot(moment), flags) {
                tracing::error!(%error, "a timer could not be set");
                return tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            if let Ok(mut ready) = self.rings.readable().await {
                ready.clear_ready();
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::*;
    use std::time::Duration;

    /// Longest time after which the clock is looked at again.
    const LOOK: Duration = Duration::from_secs(20);

    pub struct Alarm;

    impl Alarm {
        pub fn new() -> std::io::Result<Self> {
            Ok(Alarm)
        }
        pub async fn until(&mut self, at: DateTime<Utc>) {
            tokio::time::sleep((at - Utc::now()).to_std().unwrap_or_default().min(LOOK)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[tokio::test]
    async fn it_rings_at_its_moment_again_and_again() {
        let mut alarm = Alarm::new().unwrap();
        for ms in [30, 0, -5_000, 20] {
            let at = Utc::now() + TimeDelta::milliseconds(ms);
            while Utc::now() < at {
                alarm.until(at).await;
            }
        }
    }

    #[tokio::test]
    async fn an_alarm_that_is_set_anew_forgets_the_old_moment() {
        let mut alarm = Alarm::new().unwrap();
        let far = Utc::now() + TimeDelta::days(400);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), alarm.until(far)).await.is_err());
        let near = Utc::now() + TimeDelta::milliseconds(20);
        while Utc::now() < near {
            alarm.until(near).await;
        }
    }
}
