//! Schedules: what a peer's profile says is to be sent to it, and when.
//!
//! One entry has one trigger: a cron expression, or a path in the peer's folder. A bad entry takes only
//! itself out: it never fires, is never read as something near it, and says what is wrong with it. When
//! something fires is decided in [`due`] (the clock) and [`watched`] (a path).

pub mod due;
pub mod watched;

use super::limits::Limits;
use super::names::near;
use super::sanitize;
use crate::core::zone::Zone;
use chrono::{DateTime, TimeZone, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use serde::{Deserialize, Serialize};

/// Schedules of one peer.
pub const MOST: usize = 64;
/// Characters of a name.
const NAME_CHARS: usize = 64;

/// An entry as the profile has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    /// The message.
    pub text: String,
    #[serde(default)]
    pub topic: Option<String>,
    #[serde(default)]
    pub cron: Option<String>,
    #[serde(default)]
    pub time_zone: Option<String>,
    #[serde(default)]
    pub watch: Option<String>,
    #[serde(default)]
    pub missed: Missed,
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// What becomes of fires that could not happen in time: the daemon was down, the host asleep, the peer
/// stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// One message for all of them.
    #[default]
    Once,
    /// None.
    Skip,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub name: String,
    pub text: String,
    pub topic: Option<String>,
    pub trigger: Trigger,
    pub missed: Missed,
    pub enabled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    Cron(Box<Timetable>),
    /// As it is written in the profile.
    Watch(String),
}

/// A cron expression and the zone it speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    pub pattern: String,
    /// None: the zone of the host.
    pub zone: Option<Zone>,
    cron: Cron,
}

/// What is wrong with an entry, and which of its keys says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub key: &'static str,
    pub message: String,
}

fn wrong<T>(key: &'static str, message: String) -> Result<T, Wrong> {
    Err(Wrong { key, message })
}

impl Entry {
    /// The schedule it means. Whether a watched path lies in the peer's folder is for the disk to say.
    pub fn read(self, limits: &Limits) -> Result<Schedule, Wrong> {
        let shown = sanitize::line(&self.name.chars().take(NAME_CHARS).collect::<String>());
        let fits = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.chars().count() > NAME_CHARS || !self.name.chars().all(fits) {
            return wrong("name", format!("`name: {shown}` is no name: 1 to {NAME_CHARS} letters, digits, `-`, `_` and `.`"));
        }
        if self.text.trim().is_empty() {
            return wrong("text", "`text` is empty; it is the message that is sent".into());
        }
        if self.text.len() > limits.body_bytes {
            return wrong("text", format!("`text` has {} bytes, the limit is {}; put it into a file and name that", self.text.len(), limits.body_bytes));
        }
        if let Some(topic) = &self.topic {
            if topic.is_empty() || topic.chars().count() > limits.topic_chars || topic.chars().any(sanitize::is_control) {
                return wrong("topic", format!("`topic` is one line of 1 to {} characters", limits.topic_chars));
            }
        }
        let trigger = match (self.cron, self.watch) {
            (Some(pattern), None) => Trigger::Cron(Box::new(Timetable::read(pattern, self.time_zone.as_deref())?)),
            (None, Some(_)) if self.time_zone.is_some() => return wrong("time_zone", "`time_zone` belongs to `cron`; a `watch` has none".into()),
            (None, Some(path)) if path.is_empty() => return wrong("watch", "`watch` is empty; name a path in the peer's folder, `.` is the folder".into()),
            (None, Some(path)) => Trigger::Watch(path),
            (Some(_), Some(_)) => return wrong("watch", "both `cron` and `watch`; keep one and make another entry of the other".into()),
            (None, None) => return wrong("name", "neither `cron` nor `watch`; add the one that is to trigger it".into()),
        };
        Ok(Schedule { name: self.name, text: self.text, topic: self.topic, trigger, missed: self.missed, enabled: self.enabled })
    }
}

impl Timetable {
    pub fn read(pattern: String, zone: Option<&str>) -> Result<Self, Wrong> {
        let shown = sanitize::line(&pattern.chars().take(80).collect::<String>());
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(&pattern).or_else(|error| {
            wrong("cron", format!("`cron: {shown}` is not understood ({error}); five fields: minute hour day-of-month month day-of-week, as in `30 9 * * 1-5`"))
        })?;
        let zone = zone.map(read_zone).transpose()?;
        let table = Timetable { pattern, zone, cron };
        // A pattern whose day never comes has none after this one either.
        let some_day = Utc.timestamp_opt(1_700_000_000, 0).single().unwrap_or_default();
        if table.next(Zone::utc(), some_day).is_none() {
            return wrong("cron", format!("`cron: {shown}` never comes; correct the day or the month"));
        }
        Ok(table)
    }

    /// The zone it is read in, on a host of this zone.
    pub fn zone_on(&self, host: Zone) -> Zone {
        self.zone.unwrap_or(host)
    }

    /// The first slot after a moment.
    pub fn next(&self, host: Zone, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.cron.find_next_occurrence(&after.with_timezone(&self.zone_on(host)), false).ok().map(|t| t.with_timezone(&Utc))
    }

    /// The last slot at or before a moment.
    pub fn last(&self, host: Zone, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.cron.find_previous_occurrence(&until.with_timezone(&self.zone_on(host)), true).ok().map(|t| t.with_timezone(&Utc))
    }
}

fn read_zone(name: &str) -> Result<Zone, Wrong> {
    name.parse().or_else(|_| {
        let known = Zone::names();
        let hint = near(name, known.iter().map(String::as_str)).first().map(|z| format!("; did you mean `{z}`?")).unwrap_or_default();
        let shown = sanitize::line(&name.chars().take(80).collect::<String>());
        wrong("time_zone", format!("`time_zone: {shown}` is no zone of the IANA database, as `Europe/Berlin` is{hint}"))
    })
}

impl Schedule {
    /// What its memory is about: with another trigger, or switched on again, it begins anew.
    pub fn fingerprint(&self, host: Zone) -> String {
        match &self.trigger {
            _ if !self.enabled => "off".into(),
            Trigger::Cron(table) => format!("cron {} {}", table.pattern, table.zone_on(host)),
            Trigger::Watch(path) => format!("watch {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Result<Schedule, Wrong> {
        let entry: Entry = serde_json::from_str(&format!(r#"{{"name":"n","text":"t",{fields}}}"#)).unwrap();
        entry.read(&Limits::default())
    }

    #[track_caller]
    fn refused(fields: &str, key: &str, says: &str) {
        let error = read(fields).unwrap_err();
        assert!(error.key == key && error.message.contains(says), "{error:?}");
    }

    #[test]
    fn an_entry_has_exactly_one_trigger_and_says_what_is_wrong() {
        assert!(read(r#""cron":"30 9 * * 1-5","time_zone":"Europe/Berlin""#).is_ok());
        assert!(read(r#""cron":"*/2 * * * * *""#).is_ok(), "with seconds");
        assert!(read(r#""cron":"@daily""#).is_ok());
        assert!(read(r#""watch":"inbox""#).is_ok());
        refused(r#""enabled":true"#, "name", "neither `cron` nor `watch`");
        refused(r#""cron":"* * * * *","watch":"x""#, "watch", "both");
        refused(r#""watch":"x","time_zone":"UTC""#, "time_zone", "belongs to `cron`");
        refused(r#""cron":"61 * * * *""#, "cron", "five fields");
        refused(r#""cron":"often""#, "cron", "`cron: often` is not understood");
        refused(r#""cron":"0 0 0 1 1 * 2030""#, "cron", "not understood");
        refused(r#""cron":"0 0 30 2 *""#, "cron", "never comes");
        refused(r#""cron":"* * * * *","time_zone":"Europe/Berln""#, "time_zone", "did you mean `Europe/Berlin`?");
        refused(r#""cron":"* * * * *","topic":"two\nlines""#, "topic", "one line");
    }

    #[test]
    fn an_unknown_key_or_policy_is_no_schedule() {
        for text in [r#"{"name":"n","text":"t","corn":"* * * * *"}"#, r#"{"name":"n","text":"t","cron":"* * * * *","missed":"all"}"#] {
            assert!(serde_json::from_str::<Entry>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_it_remembers_belongs_to_its_trigger() {
        let one = read(r#""cron":"0 9 * * *""#).unwrap();
        let berlin = read(r#""cron":"0 9 * * *","time_zone":"Europe/Berlin""#).unwrap();
        assert_eq!(one.fingerprint("Europe/Berlin".parse::<Zone>().unwrap()), berlin.fingerprint(Zone::utc()));
        assert_ne!(one.fingerprint(Zone::utc()), berlin.fingerprint(Zone::utc()));
        assert_eq!(Schedule { enabled: false, ..one }.fingerprint(Zone::utc()), "off");
    }
}
