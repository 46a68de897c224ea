//! How many sessions run on this host at once, and how many come back at once after a death.

use crate::core::Millis;
use crate::core::limits::Limits;
use crate::core::message::Hold;
use crate::core::names::Identity;
use nix::unistd::{SysconfVar, sysconf};
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Memory that a live agent is reckoned with.
const BYTES_PER_PEER: u64 = 512 * 1024 * 1024;
const LIVE_MOST: usize = 64;
/// How often room is looked for again, besides the moment in which a session ends.
const ROOM_RETRY_MS: Millis = 30_000;
/// Launches after a death, or after a reboot, over the whole host.
const REWAKES: usize = 3;
const REWAKE_WINDOW_MS: Millis = 10_000;

pub struct Capacity {
    pub most: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    live: HashSet<Identity>,
    waiting: HashSet<Identity>,
    rewakes: VecDeque<Millis>,
}

/// Not now: why, and when it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotNow {
    pub hold: Hold,
    pub retry_ms: Millis,
}

impl Capacity {
    pub fn new(limits: &Limits) -> Self {
        Capacity { most: limits.live_peers.unwrap_or_else(by_memory), inner: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session that runs already.
    pub fn note(&self, identity: &Identity) {
        self.lock().live.insert(identity.clone());
    }

    /// Room for one more; `again`: it comes back after a death or a reboot.
    pub fn take(&self, identity: &Identity, again: bool, now: Millis) -> Result<(), NotNow> {
        let mut inner = self.lock();
        if !inner.live.contains(identity) && inner.live.len() >= self.most {
            inner.waiting.insert(identity.clone());
            return Err(NotNow { hold: Hold::Capacity, retry_ms: ROOM_RETRY_MS });
        }
        if again {
            inner.rewakes.retain(|at| at + REWAKE_WINDOW_MS > now);
            if inner.rewakes.len() >= REWAKES {
                let first = inner.rewakes.front().copied().unwrap_or(now);
                return Err(NotNow { hold: Hold::Backoff, retry_ms: first + REWAKE_WINDOW_MS - now });
            }
            inner.rewakes.push_back(now);
        }
        inner.live.insert(identity.clone());
        inner.waiting.remove(identity);
        Ok(())
    }

    /// The session is over: who waits for its room.
    pub fn give(&self, identity: &Identity) -> Vec<Identity> {
        let mut inner = self.lock();
        if inner.live.remove(identity) { inner.waiting.drain().collect() } else { Vec::new() }
    }
}

fn by_memory() -> usize {
    let read = |var| sysconf(var).ok().flatten().and_then(|n| u64::try_from(n).ok());
    let memory = read(SysconfVar::_PHYS_PAGES).zip(read(SysconfVar::PAGE_SIZE)).map(|(pages, size)| pages * size);
    memory.map_or(LIVE_MOST, |bytes| usize::try_from(bytes / BYTES_PER_PEER).unwrap_or(LIVE_MOST).clamp(1, LIVE_MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> Identity {
        format!("echo-p{n}").parse().unwrap()
    }

    #[test]
    fn room_is_given_until_there_is_none_and_those_who_wait_hear_of_it() {
        let capacity = Capacity::new(&Limits { live_peers: Some(2), ..Limits::default() });
        capacity.note(&peer(1));
        assert_eq!(capacity.take(&peer(2), false, 0), Ok(()));
        assert_eq!(capacity.take(&peer(2), false, 0), Ok(()), "its own room");
        assert_eq!(capacity.take(&peer(3), false, 0).map_err(|n| n.hold), Err(Hold::Capacity));
        assert_eq!(capacity.give(&peer(1)), [peer(3)]);
        assert_eq!(capacity.take(&peer(3), false, 0), Ok(()));
        assert!(capacity.give(&peer(9)).is_empty(), "nobody is told of room that is none");
    }

    #[test]
    fn only_some_come_back_at_once() {
        let capacity = Capacity::new(&Limits { live_peers: Some(100), ..Limits::default() });
        let again = |n, now| capacity.take(&peer(n), true, now);
        assert!((1..=3).all(|n| again(n, 1_000).is_ok()));
        assert_eq!(again(4, 5_000), Err(NotNow { hold: Hold::Backoff, retry_ms: 6_000 }));
        assert_eq!(capacity.take(&peer(5), false, 5_000), Ok(()), "mail wakes whoever has not died");
        assert_eq!(again(4, 11_000), Ok(()));
    }
}
