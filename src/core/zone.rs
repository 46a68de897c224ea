//! Time zones of the IANA database, for `chrono`.
//!
//! The database lies in the program as plain bytes. One made of tables with pointers (`chrono-tz`) would cost every
//! process of ours, each keeper and each hook, 1.4 MB of its own and a millisecond at its start.

use chrono::{FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone};
use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, TimeZoneDatabase};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

/// A zone by its IANA name. Each is kept for as long as the program runs, once.
#[derive(Clone, Copy)]
pub struct Zone(&'static Entry);

struct Entry {
    name: String,
    rules: jiff::tz::TimeZone,
}

static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);
static USED: Mutex<BTreeMap<String, Zone>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no zone of the IANA database has this name")]
pub struct UnknownZone;

impl Zone {
    pub fn utc() -> Self {
        static UTC: LazyLock<Zone> = LazyLock::new(|| Zone::kept("UTC", jiff::tz::TimeZone::UTC));
        *UTC
    }

    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// The names of all zones.
    pub fn names() -> Vec<String> {
        DATABASE.available().map(|name| name.to_string()).collect()
    }

    fn kept(name: &str, rules: jiff::tz::TimeZone) -> Zone {
        Zone(Box::leak(Box::new(Entry { name: name.to_string(), rules })))
    }

    fn east(self, seconds: i32) -> ZoneOffset {
        // No zone is a day away from UTC.
        let east = FixedOffset::east_opt(seconds).unwrap_or_else(|| chrono::Utc.fix());
        ZoneOffset { zone: self, east }
    }
}

impl FromStr for Zone {
    type Err = UnknownZone;
    fn from_str(name: &str) -> Result<Self, UnknownZone> {
        if name == "UTC" {
            return Ok(Self::utc());
        }
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = used.get(name) {
            return Ok(*zone);
        }
        let rules = DATABASE.get(name).ok().filter(|rules| rules.iana_name() == Some(name)).ok_or(UnknownZone)?;
        let zone = Self::kept(name, rules);
        used.insert(name.to_string(), zone);
        Ok(zone)
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}
impl Eq for Zone {}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the clocks of a zone are ahead of UTC at some time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ZoneOffset {
    zone: Zone,
    east: FixedOffset,
}

impl Offset for ZoneOffset {
    fn fix(&self) -> FixedOffset {
        self.east
    }
}
impl fmt::Display for ZoneOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.east.fmt(f)
    }
}
impl fmt::Debug for ZoneOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.east.fmt(f)
    }
}

impl TimeZone for Zone {
    type Offset = ZoneOffset;

    fn from_offset(offset: &ZoneOffset) -> Self {
        offset.zone
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> MappedLocalTime<ZoneOffset> {
        self.offset_from_local_datetime(&local.and_time(NaiveTime::MIN))
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<ZoneOffset> {
        // As if it were UTC, only to say the same date and time in the other library.
        let Ok(same) = Timestamp::from_second(local.and_utc().timestamp()) else { return MappedLocalTime::None };
        match self.0.rules.to_ambiguous_timestamp(jiff::tz::TimeZone::UTC.to_datetime(same)).offset() {
            AmbiguousOffset::Unambiguous { offset } => MappedLocalTime::Single(self.east(offset.seconds())),
            // The clocks are put forward over it.
            AmbiguousOffset::Gap { .. } => MappedLocalTime::None,
            AmbiguousOffset::Fold { before, after } => MappedLocalTime::Ambiguous(self.east(before.seconds()), self.east(after.seconds())),
        }
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> ZoneOffset {
        self.offset_from_utc_datetime(&utc.and_time(NaiveTime::MIN))
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> ZoneOffset {
        let at = Timestamp::from_second(utc.and_utc().timestamp());
        self.east(at.map_or(0, |at| self.0.rules.to_offset(at).seconds()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, TimeDelta, Utc};

    fn zone(name: &str) -> Zone {
        name.parse().unwrap()
    }

    #[test]
    fn the_clocks_of_a_zone_are_told_for_utc_and_for_local_times() {
        let berlin = zone("Europe/Berlin");
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap().with_timezone(&berlin).to_rfc3339();
        assert_eq!(at("2026-03-29T00:59:59Z"), "2026-03-29T01:59:59+01:00");
        assert_eq!(at("2026-03-29T01:00:00Z"), "2026-03-29T03:00:00+02:00");
        // By the rule for the years that the table does not name.
        assert_eq!(at("2060-07-01T10:00:00Z"), "2060-07-01T12:00:00+02:00");
        let local = |text: &str| berlin.from_local_datetime(&text.parse::<NaiveDateTime>().unwrap());
        assert_eq!(local("2026-03-29T02:30:00"), MappedLocalTime::None);
        let twice = local("2026-10-25T02:30:00");
        let (first, second) = (twice.earliest().unwrap(), twice.latest().unwrap());
        assert_eq!((first.to_rfc3339().as_str(), second - first), ("2026-10-25T02:30:00+02:00", TimeDelta::hours(1)));
        assert_eq!(local("2026-10-25T04:00:00").unwrap().to_rfc3339(), "2026-10-25T04:00:00+01:00");
    }

    #[test]
    fn zones_are_known_by_their_exact_names() {
        assert_eq!(zone("America/New_York").to_string(), "America/New_York");
        assert!(zone("UTC") == Zone::utc() && zone("UTC") != zone("Europe/Berlin"));
        for wrong in ["", "europe/berlin", "Europe/Berln", "../UTC", "CEST+2"] {
            assert_eq!(wrong.parse::<Zone>(), Err(UnknownZone), "{wrong}");
        }
        let names = Zone::names();
        assert!(names.len() > 400 && names.iter().all(|name| name.parse::<Zone>().is_ok_and(|z| z.name() == name)), "{}", names.len());
    }

    #[test]
    fn times_beyond_all_calendars_do_no_harm() {
        let far = NaiveDateTime::MAX;
        assert_eq!(zone("Europe/Berlin").offset_from_utc_datetime(&far).fix(), FixedOffset::east_opt(0).unwrap());
        assert_eq!(zone("Europe/Berlin").offset_from_local_datetime(&far), MappedLocalTime::None);
    }
}
