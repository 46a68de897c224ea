//! Which slot of a timetable fires now: the decision, and what a schedule remembers for it.
//!
//! Invariants: a slot fires at most once, whatever the wall clock does; any number of slots that passed
//! without a look make one fire, or none, by the policy; and a clock that was wrong for a while silences
//! a schedule no longer than it must to keep the first.

use super::watched::Seen;
use super::{Missed, Timetable};
use crate::core::message::MessageId;
use crate::core::zone::Zone;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// A slot that is looked at so late still is on time: a restart of the daemon, a slow host.
pub const ON_TIME: TimeDelta = TimeDelta::seconds(60);
/// Passed slots are counted up to this.
const COUNTED: u64 = 1000;
/// Runs of fired slots that are remembered.
const RUNS: usize = 16;

/// What is kept of one schedule, on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Whose memory it is: [`super::Schedule::fingerprint`].
    pub trigger: String,
    /// Slots up to here have been decided.
    pub from: DateTime<Utc>,
    /// Slots that have fired, first and last of each run without a gap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fired: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    /// The slot, or the change, of the last fire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message: Option<MessageId>,
    /// Messages sent.
    #[serde(default)]
    pub fires: u64,
    /// Slots that got no message of their own.
    #[serde(default)]
    pub missed: u64,
    /// What was last told of a watched path.
    #[serde(default, skip_serializing_if = "Seen::is_empty")]
    pub seen: Seen,
}

impl Memory {
    /// Of a schedule that is seen for the first time, or with another trigger: what lies before is not its.
    pub fn begin(trigger: String, now: DateTime<Utc>, seen: Seen) -> Self {
        Memory { trigger, from: now, fired: Vec::new(), last: None, last_message: None, fires: 0, missed: 0, seen }
    }

    fn run_at(&self, slot: DateTime<Utc>) -> Option<&(DateTime<Utc>, DateTime<Utc>)> {
        self.fired.iter().find(|(first, last)| *first <= slot && slot <= *last)
    }

    fn note_fired(&mut self, slot: DateTime<Utc>, missed: u64) {
        let joins = |run: &(DateTime<Utc>, DateTime<Utc>)| run.1 == self.from && missed == 0;
        match self.fired.last().copied().filter(joins) {
            Some((first, _)) => {
                self.fired.pop();
                self.fired.push((first, slot));
            }
            None => self.fired.push((slot, slot)),
        }
        if self.fired.len() > RUNS {
            self.fired.remove(0);
        }
        self.from = slot;
        self.last = Some(slot);
        self.fires += 1;
        self.missed += missed;
    }
}

/// One message to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fire {
    pub slot: DateTime<Utc>,
    /// Slots before it that get no message of their own.
    pub missed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub fire: Option<Fire>,
    /// Slots that are passed over for good, when nothing fires.
    pub skipped: u64,
    /// What to remember: at once when nothing fires, else when the message is kept.
    pub after: Memory,
    /// When to look again.
    pub next: Option<DateTime<Utc>>,
}

/// What fires at `now`, by the wall clock, on a host of this zone.
pub fn due(table: &Timetable, host: Zone, policy: Missed, memory: &Memory, now: DateTime<Utc>) -> Due {
    let mut after = memory.clone();
    if after.from > now {
        // The clock was put back. What has fired is remembered slot by slot; everything else comes again.
        after.from = now;
    }
    let newest = newest(table, host, &after, now);
    let mut decision = Due { fire: None, skipped: 0, next: next(table, host, &after, now), after };
    let Some(slot) = newest else { return decision };
    let missed = count(table, host, &decision.after, slot);
    if policy == Missed::Skip && now - slot > ON_TIME {
        decision.skipped = missed + 1;
        decision.after.from = slot;
        decision.after.missed += decision.skipped;
    } else {
        decision.after.note_fired(slot, missed);
        decision.fire = Some(Fire { slot, missed });
    }
    decision
}

/// The latest slot in `(from, now]` that has not fired.
fn newest(table: &Timetable, host: Zone, memory: &Memory, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut until = now;
    loop {
        let slot = table.last(host, until).filter(|s| *s > memory.from && *s <= until)?;
        match memory.run_at(slot) {
            None => return Some(slot),
            Some((first, _)) => until = *first - TimeDelta::seconds(1),
        }
    }
}

/// The first slot after a moment that has not fired.
fn next(table: &Timetable, host: Zone, memory: &Memory, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut after = after;
    loop {
        let slot = table.next(host, after).filter(|s| *s > after)?;
        match memory.run_at(slot) {
            None => return Some(slot),
            Some((_, last)) => after = *last,
        }
    }
}

/// Slots in `(from, slot)` that have not fired, up to a thousand.
fn count(table: &Timetable, host: Zone, memory: &Memory, slot: DateTime<Utc>) -> u64 {
    let mut at = memory.from;
    let mut counted = 0;
    while counted < COUNTED {
        match next(table, host, memory, at) {
            Some(found) if found < slot => at = found,
            _ => break,
        }
        counted += 1;
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// A schedule over simulated time: every look's fire is kept.
    struct World {
        table: Timetable,
        zone: Zone,
        policy: Missed,
        memory: Memory,
        fired: Vec<String>,
    }

    impl World {
        fn new(pattern: &str, zone: &str, policy: Missed, from: &str) -> World {
            let table = Timetable::read(pattern.into(), None).unwrap();
            World { table, zone: zone.parse().unwrap(), policy, memory: Memory::begin("t".into(), at(from), Seen::default()), fired: Vec::new() }
        }

        fn look(&mut self, now: &str) -> Due {
            self.look_at(at(now))
        }

        fn look_at(&mut self, now: DateTime<Utc>) -> Due {
            let due = due(&self.table, self.zone, self.policy, &self.memory, now);
            self.memory = due.after.clone();
            if let Some(fire) = due.fire {
                self.fired.push(fire.slot.with_timezone(&self.zone).format("%dT%H:%M%z").to_string());
            }
            due
        }

        /// As the daemon lives: it sleeps until the next slot, up to an end.
        fn live(&mut self, from: &str, until: &str) {
            let mut now = at(from);
            while now <= at(until) {
                now = self.look_at(now).next.unwrap();
            }
        }

        #[track_caller]
        fn fired_once(&self) {
            let mut slots = self.fired.clone();
            slots.sort();
            slots.dedup();
            assert_eq!(slots.len(), self.fired.len(), "{:?}", self.fired);
        }
    }

    #[test]
    fn a_slot_fires_once_and_what_lies_before_the_beginning_never() {
        let mut w = World::new("0 9 * * *", "UTC", Missed::Once, "2026-03-01T10:00:00Z");
        let first = w.look("2026-03-01T10:00:00Z");
        assert_eq!((first.fire, first.next), (None, Some(at("2026-03-02T09:00:00Z"))));
        assert_eq!(w.look("2026-03-02T08:59:59.999Z").fire, None);
        assert_eq!(w.look("2026-03-02T09:00:00Z").fire, Some(Fire { slot: at("2026-03-02T09:00:00Z"), missed: 0 }));
        for now in ["2026-03-02T09:00:00Z", "2026-03-02T09:00:00.500Z", "2026-03-02T12:00:00Z"] {
            assert_eq!(w.look(now).fire, None, "{now}");
        }
    }

    #[test]
    fn a_fire_that_was_not_kept_is_due_again() {
        let w = World::new("0 9 * * *", "UTC", Missed::Once, "2026-03-01T10:00:00Z");
        let now = at("2026-03-02T09:00:05Z");
        let once = due(&w.table, w.zone, w.policy, &w.memory, now);
        let again = due(&w.table, w.zone, w.policy, &w.memory, now + TimeDelta::hours(3));
        assert_eq!(once.fire, again.fire, "the same slot, so the same key");
    }

    #[test]
    fn any_number_of_missed_slots_is_one_message_or_none() {
        let mut once = World::new("*/5 * * * *", "UTC", Missed::Once, "2026-03-01T00:00:00Z");
        let mut skip = World::new("*/5 * * * *", "UTC", Missed::Skip, "2026-03-01T00:00:00Z");
        let back = "2026-03-01T03:02:00Z";
        let fire = once.look(back).fire.unwrap();
        assert_eq!((fire.slot, fire.missed), (at("2026-03-01T03:00:00Z"), 35));
        let skipped = skip.look(back);
        assert_eq!((skipped.fire, skipped.skipped), (None, 36));
        for w in [&mut once, &mut skip] {
            assert_eq!(w.look(back).fire, None);
            assert_eq!(w.look("2026-03-01T03:05:00Z").fire.map(|f| f.missed), Some(0), "it goes on");
        }
        assert_eq!((once.memory.missed, once.memory.fires), (35, 2));
        assert_eq!((skip.memory.missed, skip.memory.fires), (36, 1));
    }

    #[test]
    fn a_short_lateness_is_on_time_also_for_skip() {
        let mut w = World::new("0 9 * * *", "UTC", Missed::Skip, "2026-03-01T10:00:00Z");
        assert!(w.look("2026-03-02T09:01:00Z").fire.is_some());
        assert!(w.look("2026-03-03T09:01:01Z").fire.is_none());
    }

    #[test]
    fn a_clock_that_jumps_ten_days_ahead_counts_as_missed_and_the_way_back_repeats_nothing() {
        let mut w = World::new("0 9 * * *", "UTC", Missed::Once, "2026-03-01T10:00:00Z");
        w.live("2026-03-01T10:00:00Z", "2026-03-04T10:00:00Z");
        assert_eq!(w.fired, ["02T09:00+0000", "03T09:00+0000", "04T09:00+0000"]);
        // The clock is wrong for a while.
        assert_eq!(w.look("2026-03-14T10:00:00Z").fire.map(|f| f.missed), Some(9));
        // It is right again: not silent for ten days, and the one slot that fired ahead of its time is done.
        assert_eq!(w.look("2026-03-04T10:00:01Z").fire, None);
        w.live("2026-03-04T10:00:01Z", "2026-03-16T10:00:00Z");
        w.fired_once();
        assert_eq!(w.fired[4..6], ["05T09:00+0000", "06T09:00+0000"]);
        assert_eq!(w.fired.len(), 15, "each day from the 2nd to the 16th: {:?}", w.fired);
    }

    #[test]
    fn a_clock_that_jumps_back_fires_nothing_that_has_fired() {
        let mut w = World::new("0 * * * *", "UTC", Missed::Once, "2026-03-01T00:30:00Z");
        w.live("2026-03-01T00:30:00Z", "2026-03-12T00:30:00Z");
        let before = w.fired.len();
        w.live("2026-03-02T00:30:00Z", "2026-03-12T00:30:00Z");
        assert_eq!(w.fired.len(), before, "ten days back: all of it has been");
        w.live("2026-03-12T00:30:00Z", "2026-03-12T05:30:00Z");
        assert_eq!(w.fired.len(), before + 5);
        w.fired_once();
        // A step of a second, just behind a slot.
        w.look("2026-03-12T06:00:00.100Z");
        assert_eq!(w.look("2026-03-12T05:59:59.500Z").fire, None);
        assert_eq!(w.look("2026-03-12T06:00:00.100Z").fire, None);
        w.fired_once();
    }

    #[test]
    fn a_clock_that_jumps_about_never_repeats_a_slot() {
        let mut w = World::new("*/7 * * * *", "Europe/Berlin", Missed::Once, "2026-03-20T00:00:00Z");
        let mut now = at("2026-03-20T00:00:00Z");
        for n in 0..2_000i64 {
            // Forth and back by up to ten days, without a pattern.
            let jump = (n * 7_919 + n * n * 31) % 1_728_000 - 864_000;
            now = if n % 13 == 0 { now + TimeDelta::seconds(jump) } else { now + TimeDelta::minutes(n % 9) };
            w.look_at(now);
            if w.memory.fired.len() == RUNS {
                // Only so many jumps are remembered.
                break;
            }
        }
        assert!(w.fired.len() > 20);
        w.fired_once();
    }

    #[test]
    fn a_daily_time_in_the_gap_of_summer_time_comes_right_after_it() {
        // 2026-03-29: 02:00 to 03:00 does not exist in Berlin.
        let mut w = World::new("30 2 * * *", "Europe/Berlin", Missed::Once, "2026-03-27T12:00:00Z");
        w.live("2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(w.fired, ["28T02:30+0100", "29T03:00+0200", "30T02:30+0200"]);
        // Found again the same when the daemon was down over it.
        let mut late = World::new("30 2 * * *", "Europe/Berlin", Missed::Once, "2026-03-28T12:00:00Z");
        late.look("2026-03-29T12:00:00Z");
        assert_eq!(late.fired, ["29T03:00+0200"]);
        // What comes several times an hour leaves the hour out that does not exist.
        let mut often = World::new("*/30 * * * *", "Europe/Berlin", Missed::Once, "2026-03-29T00:15:00Z");
        often.live("2026-03-29T00:15:00Z", "2026-03-29T01:35:00Z");
        assert_eq!(often.fired, ["29T01:30+0100", "29T03:00+0200", "29T03:30+0200"]);
    }

    #[test]
    fn a_daily_time_in_the_doubled_hour_of_winter_time_comes_once() {
        // 2026-10-25: 02:00 to 03:00 happens twice in Berlin.
        let mut w = World::new("30 2 * * *", "Europe/Berlin", Missed::Once, "2026-10-24T12:00:00Z");
        w.live("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(w.fired, ["25T02:30+0200", "26T02:30+0100"]);
        let mut late = World::new("30 2 * * *", "Europe/Berlin", Missed::Once, "2026-10-24T12:00:00Z");
        let fire = late.look("2026-10-25T12:00:00Z").fire.unwrap();
        assert_eq!((late.fired, fire.missed), (vec!["25T02:30+0200".to_string()], 0));
        // What comes several times an hour comes in both.
        let mut often = World::new("*/30 * * * *", "Europe/Berlin", Missed::Once, "2026-10-24T23:45:00Z");
        often.live("2026-10-24T23:45:00Z", "2026-10-25T02:05:00Z");
        assert_eq!(often.fired, ["25T02:00+0200", "25T02:30+0200", "25T02:00+0100", "25T02:30+0100", "25T03:00+0100"]);
    }

    #[test]
    fn the_way_back_finds_what_the_way_forth_finds() {
        for pattern in ["30 2 * * *", "*/20 * * * *", "15 1-3 * * *", "0 3 L * *", "0 2 * * sun", "59 23 29 2 *", "30 30 2 * * *"] {
            for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"] {
                let (table, zone): (_, Zone) = (Timetable::read(pattern.into(), None).unwrap(), zone.parse().unwrap());
                let mut slot = table.next(zone, at("2026-01-01T00:00:00Z")).unwrap();
                for _ in 0..400 {
                    let next = table.next(zone, slot).unwrap();
                    assert!(next > slot, "{pattern} {zone}");
                    assert_eq!(table.last(zone, next - TimeDelta::seconds(1)), Some(slot), "{pattern} {zone} before {next}");
                    assert_eq!(table.last(zone, next), Some(next), "{pattern} {zone}");
                    slot = next;
                }
            }
        }
    }

    #[test]
    fn a_long_time_of_seconds_is_counted_to_a_bound() {
        let mut w = World::new("* * * * * *", "UTC", Missed::Once, "2026-03-01T00:00:00Z");
        assert_eq!(w.look("2026-03-11T00:00:00Z").fire, Some(Fire { slot: at("2026-03-11T00:00:00Z"), missed: COUNTED }));
    }
}
