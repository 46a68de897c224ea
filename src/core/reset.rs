//! When a usage limit ends, as a program prints it: `2 hours 5 minutes`, `3pm`, `Dec 3rd, 2026 4:05 PM`.
//!
//! The definition's pattern names the parts of the row: `in` for a span of time, `at` for a time of day with or
//! without a day, `zone` for the IANA zone beside it. What cannot be read is no time, never a guess.

use crate::core::zone::Zone;
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, Weekday};
use regex::{Captures, Regex};
use std::sync::LazyLock;

/// A limit that ends later was read wrongly.
const LONGEST: TimeDelta = TimeDelta::days(32);
/// A time of day that has passed by less is the one that is meant: what is printed is cut to the minute or the
/// hour, and the row was printed a moment ago.
const JUST_NOW: TimeDelta = TimeDelta::minutes(10);

#[allow(clippy::unwrap_used, reason = "constant patterns; the tests below compile them")]
static SPAN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?i)(\d{1,5})\s*(days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\b").unwrap());
#[allow(clippy::unwrap_used, reason = "constant patterns; the tests below compile them")]
static MOMENT: LazyLock<Regex> = LazyLock::new(|| {
    let date = r"(?<month>[a-z]{3})[a-z]*\.?\s+(?<day>\d{1,2})(?:st|nd|rd|th)?,?\s+(?:(?<year>\d{4}),?\s+)?";
    let time = r"(?<hour>\d{1,2})(?::(?<minute>\d{2}))?(?::\d{2})?\s*(?<half>[ap]\.?m\.?)?";
    Regex::new(&format!(r"(?i)^\s*(?:{date}|(?<weekday>[a-z]{{3}})[a-z]*,?\s+)?(?:at\s+)?{time}\s*$")).unwrap()
});

/// The end of the limit that these captures of a definition's pattern tell of; `None` when they tell of none.
pub fn told(captures: &Captures, now: DateTime<Zone>) -> Option<DateTime<Zone>> {
    let span = captures.name("in").and_then(|m| span(m.as_str())).and_then(|span| now.checked_add_signed(span));
    let at = || {
        let zone = captures.name("zone").map_or(Some(now.timezone()), |z| z.as_str().parse().ok())?;
        Some(moment(captures.name("at")?.as_str(), now.with_timezone(&zone))?.with_timezone(&now.timezone()))
    };
    span.or_else(at).filter(|end| *end - now <= LONGEST)
}

/// `3 days 4 hours 9 minutes`, `2h 5m`: the sum of its parts.
fn span(text: &str) -> Option<TimeDelta> {
    let part = |c: Captures| {
        let n: i64 = c[1].parse().ok()?;
        Some(match c[2].to_ascii_lowercase().as_bytes() {
            [b'd', ..] => TimeDelta::days(n),
            [b'h', ..] => TimeDelta::hours(n),
            [b'm', ..] => TimeDelta::minutes(n),
            _ => TimeDelta::seconds(n),
        })
    };
    let between = SPAN.replace_all(text, " ");
    let whole = between.split([' ', ',', '.']).all(|word| word.is_empty() || word == "and");
    let parts: Option<Vec<TimeDelta>> = SPAN.captures_iter(text).map(part).collect();
    parts.filter(|_| whole)?.into_iter().reduce(|a, b| a + b)
}

/// A time of day, today or tomorrow, or on the day that stands before it.
fn moment(text: &str, now: DateTime<Zone>) -> Option<DateTime<Zone>> {
    let found = MOMENT.captures(text)?;
    let number = |name: &str| found.name(name).map(|m| m.as_str().parse::<u32>().ok());
    let time = time_of(number("hour")??, number("minute").flatten(), found.name("half").map(|m| m.as_str()))?;
    let on = |day: NaiveDate| day.and_time(time).and_local_timezone(now.timezone()).earliest();
    let passed = |at: &DateTime<Zone>| *at + JUST_NOW < now;
    let today = now.date_naive();
    if let Some(month) = found.name("month") {
        let month: chrono::Month = month.as_str().parse().ok()?;
        let year = found.name("year").and_then(|y| y.as_str().parse().ok());
        let day = NaiveDate::from_ymd_opt(year.unwrap_or(now.year()), month.number_from_month(), number("day")??)?;
        // Without its year, what has passed is meant of the next one.
        return match on(day).filter(passed) {
            Some(_) if year.is_none() => on(day.checked_add_months(Months::new(12))?),
            Some(_) => None,
            None => on(day),
        };
    }
    let weekday: Option<Weekday> = match found.name("weekday") {
        Some(name) => Some(name.as_str().parse().ok()?),
        None => None,
    };
    let days = (0..=7).filter_map(|n| today.checked_add_days(Days::new(n))).filter(|day| weekday.is_none_or(|w| day.weekday() == w));
    days.filter_map(on).find(|at| !passed(at))
}

/// `3pm`, `3:05 PM`, `15:05`; a bare number is no time.
fn time_of(hour: u32, minute: Option<u32>, half: Option<&str>) -> Option<NaiveTime> {
    let hour = match half.map(|h| h.to_ascii_lowercase().starts_with('p')) {
        Some(_) if !(1..=12).contains(&hour) => return None,
        Some(afternoon) => hour % 12 + if afternoon { 12 } else { 0 },
        None => hour,
    };
    let minute = if half.is_some() { minute.unwrap_or(0) } else { minute? };
    NaiveTime::from_hms_opt(hour, minute, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;

    fn now() -> DateTime<Zone> {
        // A Sunday.
        "Europe/Berlin".parse::<Zone>().unwrap().with_ymd_and_hms(2026, 11, 22, 14, 30, 0).unwrap()
    }

    fn read(row: &str) -> Option<String> {
        let pattern = Regex::new(r"(?m)resets (?<at>[^(\n]*?)(?: \((?<zone>[^)]+)\))?$|again in (?<in>[^\n]+)").unwrap();
        told(&pattern.captures(row)?, now()).map(|at| at.format("%F %H:%M").to_string())
    }

    #[test]
    fn what_programs_print_is_read() {
        for (row, end) in [
            ("again in 2 hours 5 minutes.", "2026-11-22 16:35"),
            ("again in 3 days 4 hours 9 minutes", "2026-11-25 18:39"),
            ("again in 90s", "2026-11-22 14:31"),
            ("again in 1 hour and 1 minute", "2026-11-22 15:31"),
            ("again in 1 day", "2026-11-23 14:30"),
            ("resets 3pm", "2026-11-22 15:00"),
            ("resets 3:05 PM", "2026-11-22 15:05"),
            ("resets 15:05", "2026-11-22 15:05"),
            ("resets at 9:00 a.m.", "2026-11-23 09:00"),
            ("resets 12am", "2026-11-23 00:00"),
            ("resets 12:10 PM", "2026-11-23 12:10"),
            // Cut to the minute, and printed a moment ago.
            ("resets 2:25pm", "2026-11-22 14:25"),
            ("resets 3pm (America/New_York)", "2026-11-22 21:00"),
            ("resets Mon 9am", "2026-11-23 09:00"),
            ("resets Sunday, 2pm", "2026-11-29 14:00"),
            ("resets Dec 3rd, 2026 4:05 PM", "2026-12-03 16:05"),
            ("resets Nov 27 at 1pm (UTC)", "2026-11-27 14:00"),
            ("resets Nov 27, 1pm", "2026-11-27 13:00"),
        ] {
            assert_eq!(read(row).as_deref(), Some(end), "{row}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_time() {
        for row in [
            "resets 3",
            "resets soon",
            "resets 25:00",
            "resets 13pm",
            "resets Foo 3pm",
            "resets Feb 30, 3pm",
            "resets 3pm (Middle/Earth)",
            "again in a while",
            "again in 60 days",
            "again in 2 months",
            "again in 2 weeks and 3 days",
            "resets Mar 3, 2027 1pm",
            "resets Nov 1, 2026 1pm",
            "resets Jan 31, 1pm",
            "again in 99999 days",
        ] {
            assert_eq!(read(row), None, "{row}");
        }
    }

    #[test]
    fn a_year_that_turns_and_an_hour_that_is_missing() {
        let at = |text: &str, y, mo, d, h| {
            let now = "Europe/Berlin".parse::<Zone>().unwrap().with_ymd_and_hms(y, mo, d, h, 0, 0).unwrap();
            moment(text, now).map(|at| at.format("%F %H:%M").to_string())
        };
        assert_eq!(at("Jan 2, 9am", 2026, 12, 30, 12).as_deref(), Some("2027-01-02 09:00"));
        // The clocks go forward at 2 o'clock: the day after has such a time.
        assert_eq!(at("2:30am", 2026, 3, 28, 12).as_deref(), Some("2026-03-30 02:30"));
    }
}
