//! The traffic of this host's senders and pairs: kept in memory, a restarted daemon begins anew.

use crate::core::Millis;
use crate::core::limits::Limits;
use crate::core::names::Party;
use crate::core::pace::{Allowance, Bucket, Pacing, Pair};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Full buckets are forgotten when there are more than this.
const KEPT: usize = 4096;

#[derive(Default)]
pub struct Flow {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    senders: HashMap<Party, Bucket>,
    pairs: HashMap<(Party, Party), Pair>,
}

fn key(a: &Party, b: &Party) -> (Party, Party) {
    if a <= b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

impl Flow {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the tokens of `messages`, or says how many milliseconds to wait for them.
    pub fn rate(&self, limits: &Limits, from: &Party, messages: usize, now: Millis) -> Result<(), Millis> {
        let (per_second, burst) = match from {
            Party::System => return Ok(()),
            Party::Operator => (limits.operator_per_second, limits.operator_per_second),
            Party::Peer(_) => (limits.sender_per_second, limits.sender_burst),
        };
        let allowance = Allowance { interval_ms: (1000 / per_second.max(1)).max(1), burst: burst.max(messages as u64) };
        let mut inner = self.lock();
        if inner.senders.len() > KEPT {
            inner.senders.retain(|_, b| !b.is_full(now));
        }
        let bucket = inner.senders.entry(from.clone()).or_default();
        let mut tried = *bucket;
        for _ in 0..messages {
            let at = tried.next(allowance, now);
            if at > now {
                return Err(at - now);
            }
            tried.take(allowance, now);
        }
        *bucket = tried;
        Ok(())
    }

    pub fn pace(&self, limits: &Limits, from: &Party, to: &Party, now: Millis) -> Pacing {
        let allowance = Allowance { interval_ms: limits.pair_interval_secs * 1000, burst: limits.pair_burst };
        let mut inner = self.lock();
        if inner.pairs.len() > KEPT {
            inner.pairs.retain(|_, p| !p.is_idle(now));
        }
        inner.pairs.entry(key(from, to)).or_default().pace(allowance, limits.loop_after_secs * 1000, now)
    }

    /// The operator has looked at the two: they begin anew.
    pub fn release(&self, from: &Party, to: &Party) {
        self.lock().pairs.remove(&key(from, to));
    }
}
