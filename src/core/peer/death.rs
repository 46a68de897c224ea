//! The end of a session, ordered or not: what it was, what becomes of the message, when to try again.

use super::effect::Effect;
use super::event::DeathCause;
use super::*;
use crate::core::message::State;

impl Peer {
    pub(super) fn died(&mut self, inc: Incarnation, cause: DeathCause, now: Millis, fx: &mut Vec<Effect>) {
        match &self.session {
            Session::Up(up) if up.inc == inc => {
                let (since, ending, armed) = (up.since, up.end, up.armed);
                // A worker that has done its task may go.
                let ending = ending.or((armed && cause == DeathCause::Exit(0)).then_some(EndWhy::Ephemeral));
                let claimed = self.task.as_ref().map(|t| &t.entry).or(self.flight.as_ref().map(|f| &f.entry)).map(|e| e.id().clone());
                let charge = !cause.by_host() && ending.is_none();
                self.session = Session::Dead { inc };
                self.hold = None;
                self.came_back = ending.is_none() && self.has_work();
                match ending {
                    Some(why) => self.came_to_rest(why, fx),
                    None => self.note_death(inc, cause, now - since, claimed, now, fx),
                }
                self.eager_after(ending, fx);
                // What was being done to that session will not answer for the next one.
                if matches!(self.doing, Some(Doing::Look | Doing::Key | Doing::Paste | Doing::Probe | Doing::Submit | Doing::End)) {
                    self.doing = None;
                }
                let worked = self.task.is_some();
                self.task_after_end(ending, charge, fx);
                self.flight_after_death(charge, fx);
                if worked && !self.flight.as_ref().is_some_and(Flight::maybe_injected) {
                    self.check_crash_loop(now, fx);
                }
            }
            Session::Ending { inc: ending, why } if *ending == inc => {
                let why = *why;
                self.doing = None;
                self.session = Session::Dead { inc };
                self.came_to_rest(why, fx);
                self.eager_after(Some(why), fx);
                self.task_after_end(Some(why), false, fx);
                self.flight_after_death(false, fx);
            }
            _ => return,
        }
        // What the mark said of this session has been heard.
        if self.markers.ephemeral_armed.take().is_some() {
            fx.push(Effect::SetMarkers(self.markers.clone()));
        }
    }

    pub(super) fn ended(&mut self, inc: Incarnation, result: Result<(), String>, now: Millis, fx: &mut Vec<Effect>) {
        if !matches!(&self.session, Session::Ending { inc: i, .. } if *i == inc) {
            return;
        }
        self.finished(Doing::End);
        match result {
            Ok(()) => self.died(inc, DeathCause::Unknown, now, fx),
            Err(text) => {
                // Not proven gone: say so and try again, never launch beside it.
                fx.push(Effect::Notice { text: format!("{}: {text}", self.identity) });
                self.act(Doing::End, Effect::End { inc }, fx);
            }
        }
    }

    /// An ordered end: eligible for resume like a sleep, unless the next session is to be a fresh one.
    pub(super) fn came_to_rest(&mut self, why: EndWhy, fx: &mut Vec<Effect>) {
        match why {
            EndWhy::New => {
                self.markers.idle_reaped = false;
                self.wanted = Some(Wanted { cause: WantedBy::FolderLaunch });
            }
            EndWhy::Eager => self.markers.idle_reaped = false,
            _ => self.markers.idle_reaped = self.wake_policy == WakePolicy::Warm,
        }
        fx.push(Effect::SetMarkers(self.markers.clone()));
    }

    pub(super) fn note_death(&mut self, inc: Incarnation, cause: DeathCause, age_ms: Millis, claimed: Option<MessageId>, now: Millis, fx: &mut Vec<Effect>) {
        fx.push(Effect::Died { inc, cause: cause.to_string(), age_ms, claimed: claimed.clone() });
        self.count_death(inc, cause, age_ms, claimed, now, fx);
    }

    /// What a death means for the next launch. One that failed counts too, although nothing has died.
    pub(super) fn count_death(&mut self, inc: Incarnation, cause: DeathCause, age_ms: Millis, claimed: Option<MessageId>, now: Millis, fx: &mut Vec<Effect>) {
        if self.rules.keep_alive && !self.rules.external && !self.markers.stopped {
            self.wanted.get_or_insert(Wanted { cause: WantedBy::KeepAlive });
        }
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
        let back_off = self.back_off();
        self.not_before = now + back_off;
        // When the dead process may have had a message, that is cleared up first: the message may turn
        // out to be the cause, and then its deaths leave the ring.
        let open = self.flight.as_ref().is_some_and(Flight::maybe_injected) || self.task.is_some();
        if (open || !self.check_crash_loop(now, fx)) && (!self.queue.is_empty() || self.flight.is_some()) {
            fx.push(Effect::Backoff { until_ms: back_off, count: self.row() });
        }
    }

    /// Deaths in a row, the last one included.
    fn row(&self) -> u32 {
        let last = self.deaths.last().map_or(0, |d| d.incarnation);
        let in_row = |(n, d): &(usize, &Death)| d.age_ms < STABLE_MS && d.incarnation + *n as u64 == last;
        self.deaths.iter().rev().enumerate().take_while(in_row).count() as u32
    }

    /// Doubles with each death in a row, which a session ends that lived long, or that ended in order; then a
    /// share of that, by lot, so that peers that died together do not come back together.
    fn back_off(&self) -> Millis {
        let (last, row) = (self.deaths.last().map_or(0, |d| d.incarnation), self.row());
        let most = BACKOFF_MS.saturating_mul(1 << row.saturating_sub(1).min(10)).min(BACKOFF_MAX_MS);
        let lot = last.wrapping_add(self.identity.to_string().bytes().fold(0, |h: u64, b| h.wrapping_mul(31).wrapping_add(b.into())));
        lot.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (most + 1)
    }

    pub(super) fn recent_deaths(&self, now: Millis) -> u32 {
        self.deaths.iter().filter(|d| now.saturating_sub(d.at) < self.timing.crashloop_window_ms).count() as u32
    }

    /// Whether something waits for its next session already: that one is a re-wake, not a wake by new mail.
    pub(super) fn has_work(&self) -> bool {
        self.flight.is_some() || self.task.is_some() || self.rules.keep_alive || self.queue.iter().any(Entry::wakes)
    }

    /// Whether it was given up on: however long ago that was, only `start` or a session since then lifts it.
    pub(super) fn gave_up(&self) -> bool {
        let max = self.timing.crashloop_max as usize;
        let Some(row) = self.deaths.len().checked_sub(max).map(|from| &self.deaths[from..]) else { return false };
        let (Some(first), Some(last)) = (row.first(), row.last()) else { return false };
        last.at.saturating_sub(first.at) < self.timing.crashloop_window_ms && last.incarnation == self.incarnation
    }

    /// The pause after the last death, as far as it is not over.
    pub(super) fn pause_again(&mut self, now: Millis) {
        let Some(last) = self.deaths.last().filter(|d| d.incarnation == self.incarnation) else { return };
        let until = last.at.saturating_add(self.back_off());
        // A boot clock does not go back; should it have, nobody waits for it.
        self.not_before = if until <= now + BACKOFF_MAX_MS { until } else { now };
    }

    pub(super) fn check_crash_loop(&mut self, now: Millis, fx: &mut Vec<Effect>) -> bool {
        let count = self.recent_deaths(now);
        if count < self.timing.crashloop_max || self.hold == Some(Hold::CrashLoop) {
            return count >= self.timing.crashloop_max;
        }
        self.set_hold(Some(Hold::CrashLoop), fx);
        self.wanted = None;
        fx.push(Effect::CrashLoop { count });
        for entry in self.queue.iter().filter(|e| e.wakes()) {
            fx.push(Effect::TellSender { entry: entry.clone(), state: State::Held, reason: Hold::CrashLoop.word().into() });
        }
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
