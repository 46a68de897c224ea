//! How fast mail may flow: a rate for each sender, and a pace for each pair of agents that write to each
//! other. Refused first, slowed down second, parked last; nothing is ever dropped.

use super::Millis;

/// A bucket of `burst` tokens that gets one more every `interval_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    pub interval_ms: Millis,
    pub burst: u64,
}

/// The state of a bucket: when it will be full again. 0 is a full one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Millis,
}

impl Bucket {
    /// When the next token is there.
    pub fn next(&self, allowance: Allowance, now: Millis) -> Millis {
        let tolerance = allowance.interval_ms * allowance.burst.saturating_sub(1);
        now.max(self.full_at.saturating_sub(tolerance))
    }

    /// Takes one token, that of the moment [`Bucket::next`] names.
    pub fn take(&mut self, allowance: Allowance, now: Millis) {
        self.full_at = self.full_at.max(now) + allowance.interval_ms;
    }

    pub fn is_full(&self, now: Millis) -> bool {
        self.full_at <= now
    }
}

/// What the pace of a pair says about its next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    Go,
    /// Held until then.
    Until(Millis),
    /// The two have been paced for too long: a person decides. `first`: it was found just now.
    Loop {
        first: bool,
    },
}

/// The traffic of one pair of agents, both ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pair {
    bucket: Bucket,
    paced_since: Option<Millis>,
    parked: bool,
}

impl Pair {
    pub fn pace(&mut self, allowance: Allowance, loop_after_ms: Millis, now: Millis) -> Pacing {
        if self.parked {
            return Pacing::Loop { first: false };
        }
        let at = self.bucket.next(allowance, now);
        if at <= now {
            self.paced_since = None;
            self.bucket.take(allowance, now);
            return Pacing::Go;
        }
        let since = *self.paced_since.get_or_insert(now);
        if now - since >= loop_after_ms {
            self.parked = true;
            return Pacing::Loop { first: true };
        }
        self.bucket.take(allowance, now);
        Pacing::Until(at)
    }

    pub fn is_idle(&self, now: Millis) -> bool {
        !self.parked && self.bucket.is_full(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Allowance = Allowance { interval_ms: 20_000, burst: 30 };
    const HALF_HOUR: Millis = 1_800_000;

    #[test]
    fn a_burst_goes_and_what_follows_is_paced_one_by_one() {
        let mut pair = Pair::default();
        for _ in 0..30 {
            assert_eq!(pair.pace(PAIR, HALF_HOUR, 1000), Pacing::Go);
        }
        assert_eq!(pair.pace(PAIR, HALF_HOUR, 1000), Pacing::Until(21_000));
        assert_eq!(pair.pace(PAIR, HALF_HOUR, 1000), Pacing::Until(41_000), "in order, each with its own time");
    }

    #[test]
    fn a_loop_is_parked_after_half_an_hour_of_pacing_and_found_once() {
        let (mut pair, mut now, mut paced) = (Pair::default(), 0, 0);
        let first = loop {
            match pair.pace(PAIR, HALF_HOUR, now) {
                // Two that answer each other: the next comes when the last is delivered.
                Pacing::Go => now += 1_000,
                Pacing::Until(at) => {
                    paced += 1;
                    now = at;
                }
                Pacing::Loop { first } => break first,
            }
        };
        assert!(first && paced > 80, "{paced}");
        assert!((HALF_HOUR..HALF_HOUR + 120_000).contains(&now), "{now}");
        assert_eq!(pair.pace(PAIR, HALF_HOUR, now + 10 * HALF_HOUR), Pacing::Loop { first: false }, "until it is released");
    }

    #[test]
    fn a_pair_that_works_is_never_parked() {
        let mut pair = Pair::default();
        // Bursts of forty every fifteen minutes.
        for round in 0..200u64 {
            for n in 0..40u64 {
                let verdict = pair.pace(PAIR, HALF_HOUR, round * 900_000 + n * 500);
                assert!(!matches!(verdict, Pacing::Loop { .. }), "round {round}");
            }
        }
        assert!(pair.is_idle(400 * 900_000));
    }

    #[test]
    fn a_rate_lets_a_burst_through_and_says_when_to_come_again() {
        let (rate, mut bucket) = (Allowance { interval_ms: 100, burst: 60 }, Bucket::default());
        for _ in 0..60 {
            assert_eq!(bucket.next(rate, 5_000), 5_000);
            bucket.take(rate, 5_000);
        }
        assert_eq!(bucket.next(rate, 5_000), 5_100);
        assert_eq!(bucket.next(rate, 5_100), 5_100);
    }
}
