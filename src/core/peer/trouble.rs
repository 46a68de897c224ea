//! A turn that came to nothing because the program has no login or no allowance left: what waits is held
//! for that reason instead of being burnt, one message after the other.
//!
//! The definition names the rows that say so. They count once, on the first screen after the turn, and
//! only below the message that began it: an older one may still be in sight.

use super::effect::Effect;
use super::*;
use crate::core::reset;
use crate::core::runtime::LimitKind;
use crate::core::zone::Zone;
use chrono::DateTime;

/// When a message is tried again after a usage limit whose end is not printed.
pub const LIMIT_RETRY_MS: Millis = 900_000;
/// After its printed end, which is cut to the minute.
const AFTER_RESET_MS: Millis = 60_000;
/// Rows that are looked at when the message itself has scrolled away.
const TAIL: usize = 12;

/// Why no turn would come to anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub hold: Hold,
    /// Tried again then, on the boot clock; `None`: when the operator says so.
    pub until: Option<Millis>,
}

impl Peer {
    /// The trouble that is in the way now.
    pub(super) fn trouble(&self, now: Millis) -> Option<Hold> {
        let trouble = self.up()?.trouble?;
        trouble.until.is_none_or(|until| until > now).then_some(trouble.hold)
    }

    pub(super) fn trouble_over(&mut self, fx: &mut Vec<Effect>) {
        let Some(up) = self.up_mut().filter(|up| up.trouble.is_some()) else { return };
        up.trouble = None;
        fx.push(Effect::SaveTrouble { inc: up.inc, trouble: None });
        if matches!(self.hold, Some(Hold::Limit | Hold::Login)) {
            self.set_hold(None, fx);
        }
    }

    /// Its time is over. A task that met it goes to a fresh worker, which meets it anew or does not.
    pub(super) fn mind_trouble_time(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let over = self.up().and_then(|up| up.trouble?.until).is_some_and(|until| until <= now);
        if over && self.task.is_none() {
            self.trouble_over(fx);
        }
    }

    /// A turn is over; its screen is looked at once it has come to rest.
    pub(super) fn expect_trouble(&mut self, now: Millis) {
        let told = self.definition.limits.iter().any(|rule| rule.is.hold().is_some());
        if let Some(up) = self.up_mut().filter(|_| told) {
            up.judge_at = Some(now + QUIET_MS);
        }
    }

    /// The first look after a turn.
    pub(super) fn mind_trouble(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) {
        let Some(up) = self.up_mut().filter(|up| up.judge_at.is_some_and(|at| at <= now)) else { return };
        up.judge_at = None;
        let Some((hold, end)) = said(look, &self.definition) else { return };
        let until = over_at(hold, end, look, now);
        if let Some(up) = self.up_mut() {
            up.trouble = Some(Trouble { hold, until });
            fx.push(Effect::SaveTrouble { inc: up.inc, trouble: up.trouble });
        }
        if let Some(task) = &mut self.task {
            // That turn was none.
            task.turned = false;
        }
        self.tell_trouble(hold, end, fx);
    }

    /// A program that ended because it has no login or no allowance, and says so in its last words, is no crash: it
    /// is not started again before that is over.
    pub(super) fn mind_last_words(&mut self, inc: Incarnation, last: Option<&Look>, now: Millis, fx: &mut Vec<Effect>) {
        // One that was killed had no last words.
        let died = self.deaths.last().is_some_and(|d| d.incarnation == inc && d.cause.starts_with("exit-"));
        let Some((look, (hold, end))) = last.filter(|_| died).and_then(|look| Some((look, said(look, &self.definition)?))) else { return };
        self.deaths.pop();
        fx.push(Effect::SaveDeaths(self.deaths.clone()));
        self.not_before = over_at(hold, end, look, now).unwrap_or(now);
        self.tell_trouble(hold, end, fx);
    }

    fn tell_trouble(&mut self, hold: Hold, end: Option<DateTime<Zone>>, fx: &mut Vec<Effect>) {
        self.set_hold(Some(hold), fx);
        let what = match (hold, end) {
            (Hold::Limit, Some(end)) => format!("its usage limit is reached until {}; what waits is tried then", end.format("%Y-%m-%d %H:%M")),
            (Hold::Limit, None) => format!("its usage limit is reached; what waits is tried again in {} min", LIMIT_RETRY_MS / 60_000),
            _ => "its program asks for a login; what waits is held".into(),
        };
        fx.push(Effect::Notice { text: format!("{0}: {what} (`iapeer attach {0}` shows it, `iapeer start {0}` tries again at once)", self.identity) });
    }
}

/// When a limit is over; a missing login is over when somebody says so.
fn over_at(hold: Hold, end: Option<DateTime<Zone>>, look: &Look, now: Millis) -> Option<Millis> {
    let pause = end.map_or(LIMIT_RETRY_MS, |end| u64::try_from((end - look.wall).num_milliseconds()).unwrap_or(0) + AFTER_RESET_MS);
    (hold == Hold::Limit).then_some(now + pause)
}

/// What the rows of the last turn say, and when that is over if they say so.
fn said(look: &Look, definition: &Definition) -> Option<(Hold, Option<DateTime<Zone>>)> {
    let composer = look.rows.iter().rposition(|r| !look.composer_row.is_empty() && *r == look.composer_row);
    let rows: Vec<&str> = look.rows[..composer.unwrap_or(look.rows.len())].iter().map(|r| r.trim_end()).filter(|r| !r.is_empty()).collect();
    let begins = |row: &&str| definition.turn.shown.as_ref().is_some_and(|p| p.is_match(row)) || row.contains("</iap:");
    let from = rows.iter().rposition(begins).unwrap_or_else(|| rows.len().saturating_sub(TAIL));
    let text = rows[from..].join("\n");
    definition.limits.iter().find_map(|rule| {
        let (found, hold) = (rule.pattern.captures(&text)?, rule.is.hold()?);
        Some((hold, reset::told(&found, look.wall)))
    })
}

impl LimitKind {
    fn hold(self) -> Option<Hold> {
        match self {
            LimitKind::Limit => Some(Hold::Limit),
            LimitKind::Login => Some(Hold::Login),
            LimitKind::Error | LimitKind::Retrying => None,
        }
    }
}
