//! What becomes of the message in flight when its session, its record or its daemon is gone: back to its
//! place, on to the next process as a redelivery, to its end, or on from where the marks show it to be.

use super::effect::{Effect, Giveback};
use super::recover::{self, Findings, Recovery};
use super::*;
use crate::core::message::{Evidence, State};
use crate::core::names::Party;

/// Why a message is put aside whose paste was taken away.
const PASTE_LOST: &str = "paste-lost";

impl Peer {
    /// What becomes of the flight when its session is gone.
    pub(super) fn flight_after_death(&mut self, charge_death: bool, fx: &mut Vec<Effect>) {
        if self.doing == Some(Doing::Claim) {
            // The claim is being written; its outcome gives the message back.
            return;
        }
        let Some(flight) = self.flight.as_mut() else { return };
        if flight.maybe_injected() {
            flight.stage = Stage::Inquiring { after: AfterInquiry::Redeliver { charge_death } };
        } else if !matches!(flight.stage, Stage::Inquiring { .. }) {
            self.give_back(fx);
        }
    }

    pub(super) fn on_inquired(&mut self, id: &MessageId, found: Option<Evidence>, now: Millis, fx: &mut Vec<Effect>) {
        let Some(flight) = self.flight.as_ref().filter(|f| f.id() == id) else { return };
        let Stage::Inquiring { after } = flight.stage else { return };
        match (found, after) {
            (Some(evidence), _) => self.recover(None, Some(evidence), false, now, fx),
            // The pane's marks decide; the look brings them.
            (None, AfterInquiry::Marks) => match self.up().map(|u| u.inc) {
                Some(inc) => self.act(Doing::Look, Effect::Look { inc }, fx),
                None => self.recover(None, None, false, now, fx),
            },
            (None, AfterInquiry::StayUnknown { at, attempt }) => {
                if let Some(flight) = self.flight.as_mut() {
                    flight.stage = Stage::Submitted { at, attempt, unknown: true };
                }
                // It may still stand in the composer, ready to go.
                match self.up().map(|u| u.inc) {
                    Some(inc) => self.act(Doing::Look, Effect::Look { inc }, fx),
                    None => self.recheck(now),
                }
            }
            (None, AfterInquiry::PasteLost) => {
                let inc = self.session_inc();
                fx.push(Effect::Unmark { inc, id: id.clone() });
                self.end_flight(State::Parked, PASTE_LOST, fx);
                self.set_hold(None, fx);
                self.look_at(now);
            }
            (None, AfterInquiry::Redeliver { charge_death }) => self.recover(None, None, charge_death, now, fx),
        }
    }

    /// The recovery table, applied.
    pub(super) fn recover(&mut self, look: Option<&Look>, evidence: Option<Evidence>, charge_death: bool, now: Millis, fx: &mut Vec<Effect>) {
        let inc = self.session_inc();
        let at_most_once = self.at_most_once;
        let provable = self.provable();
        let Some(flight) = self.flight.as_mut() else { return };
        flight.deaths += u32::from(charge_death);
        let findings = Findings {
            id: flight.entry.id(),
            incarnation: inc,
            evidence,
            marks: look.map(|l| (l.mark_pasted.as_str(), l.mark_entered.as_str())),
            attempt: flight.attempt,
            deaths: flight.deaths,
            at_most_once,
            expired: flight.entry.due.is_some_and(|due| due <= now),
        };
        match recover::decide(&findings) {
            Recovery::Done(evidence) => self.finish_flight(State::Submitted, evidence, fx),
            // Nothing else will ever prove it.
            Recovery::AwaitEvidence { .. } if !provable => self.finish_flight(State::Entered, Evidence::None, fx),
            Recovery::AwaitEvidence { attempt } => flight.stage = Stage::Submitted { at: now, attempt: attempt.max(1), unknown: false },
            Recovery::GuardedSubmit => flight.stage = Stage::Pasted { at: now, next: now },
            Recovery::Expire => self.end_flight(State::Expired, "ttl", fx),
            Recovery::GuardedPaste => {
                flight.tries = 0;
                flight.stage = Stage::Waiting;
                if let Some(look) = look {
                    self.after_refusal(look, false, now, fx);
                }
            }
            Recovery::Redeliver { attempt } => {
                let (entry, deaths) = (flight.entry.clone(), flight.deaths);
                self.flight = None;
                fx.push(Effect::Release { entry: entry.clone(), how: Giveback::Redeliver { deaths } });
                fx.push(Effect::Report {
                    inc: None,
                    id: entry.id().clone(),
                    state: State::Accepted,
                    reason: Some("redeliver".into()),
                    evidence: None,
                    attempt,
                });
                self.enqueue(entry);
            }
            Recovery::Park => self.end_flight(State::Parked, "unknown-outcome", fx),
            Recovery::Dead => {
                let dead = flight.entry.id().clone();
                self.deaths.retain(|d| d.claimed.as_ref() != Some(&dead));
                fx.push(Effect::SaveDeaths(self.deaths.clone()));
                self.end_flight(State::Dead, "killed_worker", fx);
            }
        }
    }

    pub(super) fn end_flight(&mut self, state: State, reason: &str, fx: &mut Vec<Effect>) {
        if let Some(Flight { entry, attempt, .. }) = self.flight.take() {
            self.end_claimed(entry, attempt, state, reason, fx);
        }
    }

    /// The end of a message that is not delivered any more.
    pub(super) fn end_claimed(&self, entry: Entry, attempt: u32, state: State, reason: &str, fx: &mut Vec<Effect>) {
        let inc = self.session_inc();
        let id = entry.id().clone();
        if state != State::Parked {
            fx.push(Effect::TellSender { entry: entry.clone(), state, reason: reason.into() });
        }
        let decided = matches!(reason, "by-operator" | "dropped");
        let what = match state {
            State::Parked => Some("waits for a decision"),
            // An operator who sent it is told as its sender.
            State::Dead if entry.from != Party::Operator => Some("was given up"),
            _ => None,
        };
        if let Some(what) = what.filter(|_| !decided) {
            fx.push(Effect::Notice { text: format!("message {id} from {} to {} {what}: {reason}", entry.from, self.identity) });
        }
        fx.push(Effect::Finish { entry, attempt, inc, state, evidence: None, reason: Some(reason.into()) });
        fx.push(Effect::Report { inc: Some(inc), id, state, reason: Some(reason.into()), evidence: None, attempt });
    }

    /// What a claim found at start becomes.
    pub(super) fn restore_flight(&mut self, entry: Entry, attempt: u32, deaths: u32, same_session: bool, charge_death: bool, now: Millis) {
        let after = if same_session { AfterInquiry::Marks } else { AfterInquiry::Redeliver { charge_death } };
        let flight = Flight::new(entry, attempt, deaths, Stage::Inquiring { after }, now);
        self.flight = Some(Flight { recovered: true, ..flight });
    }

    /// The record cannot be read any more: it is put aside, the next one goes.
    pub(super) fn on_unreadable(&mut self, id: &MessageId, reason: String, now: Millis, fx: &mut Vec<Effect>) {
        let Some(flight) = self.flight.take_if(|f| f.id() == id) else { return };
        let inc = self.inc();
        fx.push(Effect::Notice { text: format!("message {id} from {} to {} was damaged on disk and put aside: {reason}", flight.entry.from, self.identity) });
        fx.push(Effect::TellSender { entry: flight.entry.clone(), state: State::Dead, reason: "damaged".into() });
        fx.push(Effect::Report { inc, id: id.clone(), state: State::Dead, reason: Some("damaged".into()), evidence: None, attempt: flight.attempt });
        fx.push(Effect::Quarantine { entry: flight.entry, reason });
        self.look_at(now);
    }
}
