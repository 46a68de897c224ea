//! Mail on its way into the queue and out of it without a delivery: acceptance, pacing, the end of its
//! time to live, an operator's decision, the removal of the peer.

use super::effect::{Effect, Giveback};
use super::*;
use crate::core::message::{Evidence, State};

impl Peer {
    pub(super) fn accepted(&mut self, entry: Entry, now: Millis, fx: &mut Vec<Effect>) {
        self.enqueue(entry);
        if let Some(up) = self.up_mut().filter(|u| u.ready_at.is_some() && u.turn != Turn::Idle) {
            // The turn may have ended without a word while nobody waited for it.
            up.look_due = Some(up.look_due.map_or(now, |due| due.min(now)));
        }
        match self.hold {
            _ if self.frozen() => self.set_hold(Some(Hold::Frozen), fx),
            _ if self.markers.stopped && self.up().is_none() => self.set_hold(Some(Hold::Stopped), fx),
            _ if self.trouble(now).is_some() => self.set_hold(self.trouble(now), fx),
            // Whatever was missing may be there now.
            Some(Hold::MissingBinary | Hold::ProfileInvalid) => self.clear_launch_hold(fx),
            _ => {}
        }
    }

    /// The next message that may go now: the first in order that no pacing holds back.
    pub(super) fn deliverable(&self, now: Millis) -> Option<usize> {
        if self.trouble(now).is_some() || self.up().is_some_and(|up| up.judge_at.is_some()) {
            return None;
        }
        self.queue.iter().position(|e| e.not_before <= now && self.fits(e))
    }

    /// Whether mail waits for which a session may be started now.
    pub(super) fn mail_wakes(&self, now: Millis) -> bool {
        // Somebody else starts what is not ours to manage; mail is delivered while it runs.
        !self.rules.external && self.queue.iter().any(|e| e.wakes() && e.not_before <= now)
    }

    /// When the queue changes by itself: the end of a pause, the end of a time to live.
    pub(super) fn mail_due(&self, now: Millis) -> Option<Millis> {
        let paced = self.queue.iter().map(|e| e.not_before).filter(|at| *at > now).min();
        let expiring = self.queue.iter().filter_map(|e| e.due).min();
        let in_flight = self.flight.as_ref().filter(|f| f.stage == Stage::Waiting && !f.doubt).and_then(|f| f.entry.due);
        [paced, expiring, in_flight].into_iter().flatten().min()
    }

    /// Ends what has waited too long, and all mail of a removed peer. What may be in the agent is past expiring.
    pub(super) fn expire(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        if self.removed {
            // Also what comes back from a session that has just ended.
            for entry in std::mem::take(&mut self.queue) {
                self.end_waiting(entry, State::Dead, "peer_removed", fx);
            }
        }
        let over = |e: &Entry| e.due.is_some_and(|due| due <= now);
        for entry in self.queue.extract_if(.., |e| over(e)).collect::<Vec<_>>() {
            self.end_waiting(entry, State::Expired, "ttl", fx);
        }
        if self.flight.as_ref().is_some_and(|f| f.stage == Stage::Waiting && !f.doubt && over(&f.entry)) && self.doing.is_none() {
            self.end_flight(State::Expired, "ttl", fx);
        }
        if self.queue.is_empty() && self.flight.is_none() && self.session == Session::None {
            self.forget_mail_hold(fx);
        }
    }

    /// An operator takes one message out of the queue. Nothing happens to one that may be in the agent.
    pub(super) fn withdraw(&mut self, id: &MessageId, state: State, reason: &str, fx: &mut Vec<Effect>) {
        if let Some(at) = self.queue.iter().position(|e| e.id() == id) {
            let entry = self.queue.remove(at);
            self.end_waiting(entry, state, reason, fx);
        } else if self.doing.is_none() && self.flight.as_ref().is_some_and(|f| f.id() == id && f.stage == Stage::Waiting && !f.doubt) {
            self.end_flight(state, reason, fx);
            self.set_hold(None, fx);
        }
        if self.queue.is_empty() && self.flight.is_none() && self.session == Session::None {
            self.forget_mail_hold(fx);
        }
    }

    /// The record of a waiting message was deleted by somebody else: it cannot be delivered any more.
    pub(super) fn vanished(&mut self, id: &MessageId, fx: &mut Vec<Effect>) {
        let Some(at) = self.queue.iter().position(|e| e.id() == id) else { return };
        let (entry, state, reason) = (self.queue.remove(at), State::Dead, "deleted");
        fx.push(Effect::TellSender { entry, state, reason: reason.into() });
        fx.push(Effect::Report { inc: self.inc(), id: id.clone(), state, reason: Some(reason.into()), evidence: None, attempt: 0 });
    }

    /// The peer is no more: its session ends, its mail is given up and the senders are told.
    pub(super) fn removed(&mut self, fx: &mut Vec<Effect>) {
        self.removed = true;
        self.markers.stopped = true;
        self.wanted = None;
        if let Some(up) = self.up_mut() {
            up.end = Some(EndWhy::Stop);
        }
        if self.flight.as_ref().is_some_and(|f| matches!(f.stage, Stage::Waiting) && !f.doubt) {
            self.end_flight(State::Dead, "peer_removed", fx);
        }
    }

    /// Nothing new begins; what is not in the agent yet goes back to its place.
    pub(super) fn freeze(&mut self, fx: &mut Vec<Effect>) {
        if self.flight.as_ref().is_some_and(|f| f.stage == Stage::Waiting && !f.doubt) && self.doing.is_none() {
            self.give_back(fx);
        }
        if !self.queue.is_empty() {
            self.set_hold(Some(Hold::Frozen), fx);
        }
    }

    pub(super) fn unfreeze(&mut self, fx: &mut Vec<Effect>) {
        if self.hold == Some(Hold::Frozen) && !self.frozen() {
            let stopped = self.markers.stopped && !self.queue.is_empty() && self.up().is_none();
            self.set_hold(stopped.then_some(Hold::Stopped), fx);
        }
    }

    fn end_waiting(&mut self, entry: Entry, state: State, reason: &str, fx: &mut Vec<Effect>) {
        let id = entry.id().clone();
        let inc = self.session_inc();
        if matches!(state, State::Dead | State::Expired) {
            fx.push(Effect::TellSender { entry: entry.clone(), state, reason: reason.into() });
        }
        let reason = Some(reason.to_string()).filter(|r| !r.is_empty());
        let evidence = (state == State::Acknowledged).then_some(Evidence::Acknowledged);
        fx.push(Effect::Finish { entry, attempt: 0, inc, state, evidence, reason: reason.clone() });
        fx.push(Effect::Report { inc: self.inc(), id, state, reason, evidence, attempt: 0 });
    }

    /// A reason that only waiting mail gave is gone with the mail.
    fn forget_mail_hold(&mut self, fx: &mut Vec<Effect>) {
        let waits_for_room = matches!(self.hold, Some(Hold::Capacity | Hold::Backoff)) && self.wanted.is_none();
        if waits_for_room || matches!(self.hold, Some(Hold::Stopped | Hold::Frozen)) {
            self.set_hold(None, fx);
        }
    }

    /// Nothing reached the process: back to its place, as if never claimed.
    pub(super) fn give_back(&mut self, fx: &mut Vec<Effect>) {
        let Some(flight) = self.flight.take() else { return };
        fx.push(Effect::Release { entry: flight.entry.clone(), how: Giveback::Untouched });
        self.enqueue(flight.entry);
    }
}
