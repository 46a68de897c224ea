//! The end of a session, ordered or not: what it was, what becomes of the message, when to try again.

use super::effect::Effect;
use super::event::DeathCause;
use super::*;

impl Peer {
    pub(super) fn died(&mut self, inc: Incarnation, cause: DeathCause, now: Millis, fx: &mut Vec<Effect>) {
        match &self.session {
            Session::Up(up) if up.inc == inc => {
                let (since, ending) = (up.since, up.end);
                let claimed = self.flight.as_ref().map(|f| f.id().clone());
                let charge = !cause.by_host() && ending.is_none();
                self.session = Session::Dead { inc };
                self.hold = None;
                match ending {
                    Some(why) => self.came_to_rest(why == EndWhy::New, fx),
                    None => self.note_death(inc, cause, now - since, claimed, now, fx),
                }
                // What was being done to that session will not answer for the next one.
                if matches!(self.doing, Some(Doing::Look | Doing::Key | Doing::Paste | Doing::Probe | Doing::Submit | Doing::End)) {
                    self.doing = None;
                }
                self.flight_after_death(charge, fx);
            }
            Session::Ending { inc: ending, then } if *ending == inc => {
                let new = then.is_some();
                self.doing = None;
                self.session = Session::Dead { inc };
                self.came_to_rest(new, fx);
                self.flight_after_death(false, fx);
            }
            _ => {}
        }
    }

    pub(super) fn ended(&mut self, inc: Incarnation, result: Result<(), String>, now: Millis, fx: &mut Vec<Effect>) {
        self.finished(Doing::End);
        if !matches!(&self.session, Session::Ending { inc: i, .. } if *i == inc) {
            return;
        }
        match result {
            Ok(()) => self.died(inc, DeathCause::Unknown, now, fx),
            Err(text) => {
                // Not proven gone: say so and try again, never launch beside it.
                fx.push(Effect::Notice { text: format!("{}: {text}", self.identity) });
                self.act(Doing::End, Effect::End { inc }, fx);
            }
        }
    }

    /// An ordered end: eligible for resume like a sleep.
    pub(super) fn came_to_rest(&mut self, new: bool, fx: &mut Vec<Effect>) {
        self.markers.idle_reaped = !new;
        if new {
            self.wanted = Some(Wanted { cause: WantedBy::FolderLaunch });
        }
        fx.push(Effect::SetMarkers(self.markers.clone()));
    }

    pub(super) fn note_death(&mut self, inc: Incarnation, cause: DeathCause, age_ms: Millis, claimed: Option<MessageId>, now: Millis, fx: &mut Vec<Effect>) {
        fx.push(Effect::Died { inc, cause: cause.to_string(), age_ms, claimed: claimed.clone() });
        if cause.by_host() {
            self.markers.idle_reaped = true;
            fx.push(Effect::SetMarkers(self.markers.clone()));
            return;
        }
        // A clean exit is no crash: it feeds neither the loop guard nor the back-off.
        if cause == DeathCause::Exit(0) && age_ms >= 20_000 {
            return;
        }
        self.deaths.push(Death { at: now, cause: cause.to_string(), age_ms, incarnation: inc, claimed });
        let excess = self.deaths.len().saturating_sub(16);
        self.deaths.drain(..excess);
        fx.push(Effect::SaveDeaths(self.deaths.clone()));
        let recent = self.recent_deaths(now);
        let back_off = BACKOFF_MS.saturating_mul(1 << recent.saturating_sub(1).min(10)).min(BACKOFF_MAX_MS);
        self.not_before = now + back_off;
        // When the dead process may have had a message, that is cleared up first: the message may turn
        // out to be the cause, and then its deaths leave the ring.
        let open = self.flight.as_ref().is_some_and(Flight::maybe_injected);
        if (open || !self.check_crash_loop(now, fx)) && (!self.queue.is_empty() || self.flight.is_some()) {
            fx.push(Effect::Backoff { until_ms: back_off });
        }
    }

    pub(super) fn recent_deaths(&self, now: Millis) -> u32 {
        self.deaths.iter().filter(|d| now.saturating_sub(d.at) < self.timing.crashloop_window_ms).count() as u32
    }

    pub(super) fn check_crash_loop(&mut self, now: Millis, fx: &mut Vec<Effect>) -> bool {
        let count = self.recent_deaths(now);
        if count < self.timing.crashloop_max || self.hold == Some(Hold::CrashLoop) {
            return count >= self.timing.crashloop_max;
        }
        self.set_hold(Some(Hold::CrashLoop), fx);
        self.wanted = None;
        fx.push(Effect::CrashLoop { count });
        fx.push(Effect::Notice {
            text: format!(
                "{} died {count} times within {} s and is not started again; its mail is kept (`iapeer start {}` clears this)",
                self.identity,
                self.timing.crashloop_window_ms / 1000,
                self.identity
            ),
        });
        true
    }
}
