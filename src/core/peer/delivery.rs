//! The injection of one message, stage by stage: claim, guarded paste, *taken*, guarded submit,
//! evidence. At most one paste reaches one incarnation; nothing is claimed without evidence.

use super::effect::Effect;
use super::event::ActResult;
use super::*;
use crate::core::guard::Fact;
use crate::core::message::{Evidence, State};
use crate::core::runtime::{CR, EvidenceSource};
use crate::core::screen::{Class, Composer};

impl Flight {
    pub(super) fn new(entry: Entry, attempt: u32, deaths: u32, stage: Stage, now: Millis) -> Self {
        Flight {
            entry,
            attempt,
            deaths,
            stage,
            tries: 0,
            doubt: false,
            recovered: false,
            busy_at_submit: false,
            turn_ended: false,
            answered: false,
            started: now,
        }
    }
    pub fn id(&self) -> &MessageId {
        self.entry.id()
    }
    /// Whether it is pasted, or has to be cleared up: this goes on whatever else must not begin.
    pub(super) fn stands(&self) -> bool {
        matches!(self.stage, Stage::Pasted { .. } | Stage::Settling { .. } | Stage::Submitted { .. } | Stage::Inquiring { .. })
    }
    /// Whether the text may be in the agent process.
    pub(super) fn maybe_injected(&self) -> bool {
        match &self.stage {
            Stage::Claiming | Stage::Waiting | Stage::ToPaste { .. } => self.doubt,
            _ => true,
        }
    }
}

impl Peer {
    /// Takes the next waiting message, when the session can take one.
    pub(super) fn start_flight(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let Some(up) = self.up() else { return };
        let inc = up.inc;
        if matches!(up.turn, Turn::Working { .. }) {
            if self.may_interrupt(now) {
                self.interrupt(inc, fx);
            }
            self.set_hold(Some(Hold::Busy), fx);
            return;
        }
        let Some(next) = self.deliverable(now) else { return };
        let entry = self.queue.remove(next);
        self.flight = Some(Flight::new(entry.clone(), 0, 0, Stage::Claiming, now));
        self.act(Doing::Claim, Effect::Claim { inc, entry }, fx);
    }

    /// Whether anything could prove that the agent took the message in flight.
    pub(super) fn provable(&self) -> bool {
        self.definition.has_evidence() && !self.flight.as_ref().is_some_and(|f| f.entry.raw)
    }

    /// A raw text bears nothing of ours: it is taken when the composer, or the picker it opened, shows it.
    pub(super) fn raw_look(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) {
        let Some(inc) = self.up().map(|u| u.inc) else { return };
        let input = &self.definition.input;
        let key = input.submit_raw.as_ref().unwrap_or(&input.submit).clone();
        let Some(Flight { stage: Stage::Pasted { at, .. }, entry, .. }) = self.flight.as_ref().filter(|f| f.entry.raw) else { return };
        let (at, id) = (*at, entry.id().clone());
        let shown = matches!((&look.class, &look.composer), (Class::Ready, Composer::Text(_)) | (Class::Picker, _));
        let ours = look.mark_pasted == format!("{id}@{inc}") && look.attached == 0 && !look.in_mode;
        if shown && ours && now >= at + RAW_SETTLE_MS {
            self.act(Doing::Submit, Effect::Submit { inc, id, attempt: 1, key, bound: Some(look.guard()) }, fx);
        } else {
            self.not_taken_yet(ActResult::Refused(Box::new(look.clone())), at, now, fx);
        }
    }

    pub(super) fn on_claimed(&mut self, id: &MessageId, result: Result<(u32, u32), String>, now: Millis, fx: &mut Vec<Effect>) {
        let Some(flight) = self.flight.as_mut().filter(|f| f.id() == id && f.stage == Stage::Claiming) else { return };
        match result {
            Ok((attempt, deaths)) => {
                flight.attempt = attempt;
                flight.deaths = deaths;
                flight.stage = Stage::ToPaste { guard: None, leave_mode: false };
            }
            Err(error) => {
                // Nothing was typed and nothing will be until a claim stands.
                let entry = flight.entry.clone();
                self.flight = None;
                self.enqueue(entry.clone());
                self.look_at(now + RETRY_MS);
                self.set_hold(Some(Hold::UnknownScreen), fx);
                fx.push(Effect::Report {
                    inc: self.inc(),
                    id: entry.id().clone(),
                    state: State::Held,
                    reason: Some(format!("store: {error}")),
                    evidence: None,
                    attempt: 0,
                });
            }
        }
        if self.up().is_none() {
            // Its session died while the claim was written.
            self.give_back(fx);
        }
    }

    /// The next act of the flight, if one is due.
    pub(super) fn drive_flight(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let Some(up) = self.up() else { return };
        let (inc, seed, look_due) = (up.inc, up.seed_due, up.look_due);
        let Some(flight) = self.flight.as_mut() else { return };
        let (id, entry, attempt) = (flight.id().clone(), flight.entry.clone(), flight.attempt);
        let input = &self.definition.input;
        let key = input.submit.clone();
        match &mut flight.stage {
            Stage::Claiming => {}
            Stage::ToPaste { guard, leave_mode } => {
                // While somebody is attached, a look comes first: they may be typing.
                let unseen = || input.guard.facts(id.as_str(), "").into_iter().chain([Fact::Unattached]).collect();
                let facts = guard.clone().unwrap_or_else(|| Guard { facts: unseen() });
                let leave_mode = *leave_mode;
                let at_once = !entry.raw && input.taken.is_empty() && input.settle_ms == 0 && key.0 == CR;
                flight.tries += 1;
                flight.doubt = true;
                let submit = at_once.then_some(key);
                self.act(Doing::Paste, Effect::Paste { inc, entry, attempt, guard: facts, seed, leave_mode, submit }, fx);
            }
            Stage::Waiting => {
                if look_due.is_none_or(|due| due <= now) {
                    self.act(Doing::Look, Effect::Look { inc }, fx);
                }
            }
            Stage::Pasted { next, .. } => {
                if *next <= now {
                    if entry.raw {
                        self.act(Doing::Look, Effect::Look { inc }, fx);
                    } else if input.settle_ms > 0 {
                        self.act(Doing::Probe, Effect::Probe { inc, id }, fx);
                    } else {
                        self.act(Doing::Submit, Effect::Submit { inc, id, attempt: 1, key, bound: None }, fx);
                    }
                }
            }
            Stage::Settling { until, .. } => {
                if *until <= now {
                    self.act(Doing::Submit, Effect::Submit { inc, id, attempt: 1, key, bound: None }, fx);
                }
            }
            Stage::Submitted { at, attempt: done, unknown } => {
                let (at, done, unknown) = (*at, *done, *unknown);
                let retry = RESUBMIT_AT_MS.get(done as usize - 1).map(|ms| at + ms);
                match retry {
                    // Looked at first: by now the composer may hold somebody else's text.
                    Some(due) if due <= now => self.act(Doing::Look, Effect::Look { inc }, fx),
                    None if !unknown && at + RESUBMIT_AT_MS[2] + EVIDENCE_WAIT_MS <= now => self.call_unknown(now, fx),
                    None if unknown && look_due.is_some_and(|due| due <= now) => {
                        // Evidence may have been missed: look for it again, never type again.
                        if let Some(flight) = self.flight.as_mut() {
                            flight.stage = Stage::Inquiring { after: AfterInquiry::StayUnknown { at, attempt: done } };
                        }
                        self.act(Doing::Inquire, Effect::Inquire { entry }, fx);
                    }
                    _ => {}
                }
            }
            Stage::Inquiring { .. } => self.act(Doing::Inquire, Effect::Inquire { entry }, fx),
        }
    }

    /// A submit that brought no evidence: pressed again only into a composer that provably holds the
    /// message; a composer without it is what a taken submit looks like.
    pub(super) fn resubmit(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) {
        let Some(inc) = self.up().map(|u| u.inc) else { return };
        let definition = self.definition.clone();
        let Some(flight) = self.flight.as_mut() else { return };
        let Stage::Submitted { at, attempt, unknown } = flight.stage else { return };
        let due = unknown || RESUBMIT_AT_MS.get(attempt as usize - 1).is_some_and(|ms| at + ms <= now);
        if !due {
            return;
        }
        let id = flight.id().clone();
        // Nothing shows a paste in these programs, so nothing could show that it is still there.
        let ours = !definition.input.taken.is_empty() && look.composer_holds(&definition, id.as_str(), &flight.entry.fence);
        if ours && matches!(look.class, Class::Ready) && !look.in_mode && attempt < SUBMITS_MAX {
            let key = definition.input.submit.clone();
            self.act(Doing::Submit, Effect::Submit { inc, id, attempt: attempt + 1, key, bound: Some(look.guard()) }, fx);
        } else if unknown {
            self.recheck(now);
        } else {
            flight.stage = Stage::Submitted { at, attempt: attempt + 1, unknown: false };
        }
    }

    /// A terminal that cannot be looked at any more must not keep a message waiting for evidence for ever.
    pub(super) fn give_up_waiting(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let late = RESUBMIT_AT_MS[2] + EVIDENCE_WAIT_MS;
        if matches!(self.flight.as_ref().map(|f| &f.stage), Some(Stage::Submitted { at, unknown: false, .. }) if at + late <= now) {
            self.call_unknown(now, fx);
        }
    }

    fn call_unknown(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let inc = self.inc();
        self.look_at(now + HOLD_RECHECK_MS);
        let Some(flight) = self.flight.as_mut() else { return };
        if let Stage::Submitted { unknown, .. } = &mut flight.stage {
            *unknown = true;
        }
        let (id, attempt) = (flight.id().clone(), flight.attempt);
        fx.push(Effect::Report { inc, id: id.clone(), state: State::Unknown, reason: Some("no-evidence".into()), evidence: None, attempt });
        fx.push(Effect::Notice { text: format!("{}: message {id} was typed and submitted, but nothing proves that the agent took it; it is not typed again (`iapeer screen {}` shows the screen)", self.identity, self.identity) });
    }

    /// When the flight wants to be looked at again.
    pub(super) fn flight_due(&self) -> Option<Millis> {
        let flight = self.flight.as_ref()?;
        let look_due = self.up().and_then(|u| u.look_due);
        match &flight.stage {
            Stage::Claiming => None,
            Stage::ToPaste { .. } | Stage::Inquiring { .. } => Some(0),
            Stage::Waiting => look_due.or(Some(0)),
            Stage::Pasted { next, .. } => Some(*next),
            Stage::Settling { until, .. } => Some(*until),
            Stage::Submitted { unknown: true, .. } => look_due,
            Stage::Submitted { at, attempt, .. } => {
                Some(at + RESUBMIT_AT_MS.get(*attempt as usize - 1).copied().unwrap_or(RESUBMIT_AT_MS[2] + EVIDENCE_WAIT_MS))
            }
        }
    }

    pub(super) fn on_pasted(&mut self, id: &MessageId, result: ActResult, now: Millis, fx: &mut Vec<Effect>) {
        let inc = self.inc();
        let Some(flight) = self.flight.as_mut().filter(|f| f.id() == id && matches!(f.stage, Stage::ToPaste { .. })) else { return };
        let attempt = flight.attempt;
        match result {
            ActResult::Done { submitted_too } => {
                flight.tries = 0;
                flight.stage = Stage::Pasted { at: now, next: now };
                let id = id.clone();
                fx.push(Effect::Report { inc, id: id.clone(), state: State::Injected, reason: None, evidence: None, attempt });
                self.set_hold(None, fx);
                if let Some(up) = self.up_mut() {
                    if up.seed_due {
                        up.seed_due = false;
                        fx.push(Effect::MarkReady { inc: up.inc, seed_due: false });
                    }
                }
                if submitted_too {
                    self.entered(&id, 1, now, fx);
                }
            }
            ActResult::Refused(look) => {
                // The guard refused before the paste, so nothing is in the process.
                let bound = matches!(flight.stage, Stage::ToPaste { guard: Some(_), .. });
                let tries = flight.tries;
                flight.tries = 0;
                flight.doubt = false;
                flight.stage = Stage::Waiting;
                self.seen(&look, now);
                self.after_refusal(&look, bound && tries > 0, now, fx);
            }
            ActResult::Failed(_) => {
                // It may have happened: the same guarded paste again finds its own mark.
                flight.stage = Stage::Waiting;
                self.look_at(now + RETRY_MS);
            }
            ActResult::NotTried(why) => {
                // It can be withdrawn and expire like any message that waits.
                flight.tries = 0;
                flight.doubt = false;
                flight.stage = Stage::Waiting;
                self.look_at(now + HOLD_RECHECK_MS);
                if self.hold != Some(Hold::UnknownScreen) {
                    self.set_hold(Some(Hold::UnknownScreen), fx);
                    fx.push(Effect::Report { inc, id: id.clone(), state: State::Held, reason: Some(why), evidence: None, attempt });
                }
            }
        }
    }

    /// A look while the message waits unpasted: paste bound to this look, or hold with its reason.
    pub(super) fn after_refusal(&mut self, look: &Look, already_bound: bool, now: Millis, fx: &mut Vec<Effect>) {
        if self.answer_running(look, now, fx) {
            return;
        }
        let reason = obstacle(look);
        self.mind_draft(reason, now, fx);
        let working = matches!(self.up().map(|u| &u.turn), Some(Turn::Working { .. }));
        let inc = self.session_inc();
        let Some(flight) = self.flight.as_mut() else { return };
        if look.mark_pasted == format!("{}@{inc}", flight.id()) {
            flight.stage = Stage::Pasted { at: now, next: now };
            return;
        }
        match reason {
            None if working => {
                self.set_hold(Some(Hold::Busy), fx);
                self.recheck(now);
            }
            // The screen moved under a bound guard: wait for it to come to rest, do not spin.
            None if already_bound => self.look_at(now + QUIET_MS),
            None => {
                flight.stage = Stage::ToPaste { guard: Some(look.guard()), leave_mode: look.in_mode };
            }
            Some(hold) => {
                let hold = self.dialog_hold(look, hold);
                self.report_held(hold, fx);
                self.set_hold(Some(hold), fx);
                self.recheck(now);
            }
        }
    }

    pub(super) fn session_inc(&self) -> u64 {
        self.inc().unwrap_or(0)
    }

    fn report_held(&mut self, hold: Hold, fx: &mut Vec<Effect>) {
        if self.hold == Some(hold) {
            return;
        }
        if let Some(flight) = &self.flight {
            fx.push(Effect::Report {
                inc: self.inc(),
                id: flight.id().clone(),
                state: State::Held,
                reason: Some(hold.word().into()),
                evidence: None,
                attempt: flight.attempt,
            });
        }
    }

    pub(super) fn on_probed(&mut self, id: &MessageId, result: ActResult, now: Millis, fx: &mut Vec<Effect>) {
        let settle = self.definition.input.settle_ms;
        let Some(flight) = self.flight.as_mut().filter(|f| f.id() == id) else { return };
        let Stage::Pasted { at, .. } = flight.stage else { return };
        match result {
            ActResult::Done { .. } => flight.stage = Stage::Settling { at, until: now + settle },
            other => self.not_taken_yet(other, at, now, fx),
        }
    }

    pub(super) fn on_submitted(&mut self, id: &MessageId, attempt: u32, result: ActResult, now: Millis, fx: &mut Vec<Effect>) {
        let definition = self.definition.clone();
        let Some(flight) = self.flight.as_mut().filter(|f| f.id() == id) else { return };
        match (&flight.stage, result) {
            (Stage::Pasted { .. } | Stage::Settling { .. } | Stage::Submitted { .. }, ActResult::Done { .. }) => {
                let id = id.clone();
                self.entered(&id, attempt, now, fx);
            }
            (Stage::Pasted { at, .. } | Stage::Settling { at, .. }, other) => {
                let at = *at;
                self.not_taken_yet(other, at, now, fx);
            }
            // The screen moved under it and still holds our text: nothing was pressed, it is tried again.
            (Stage::Submitted { .. }, ActResult::Refused(look))
                if flight.tries < SUBMITS_MAX && look.composer_holds(&definition, id.as_str(), &flight.entry.fence) =>
            {
                flight.tries += 1;
            }
            // A re-Enter that the guard refuses: the composer is no longer provably ours, which is what
            // a taken submit looks like. Count the attempt and go on waiting for evidence.
            (Stage::Submitted { at, unknown, .. }, _) => flight.stage = Stage::Submitted { at: *at, attempt, unknown: *unknown },
            _ => {}
        }
    }

    /// The submit guard did not find the paste on the screen.
    fn not_taken_yet(&mut self, result: ActResult, at: Millis, now: Millis, fx: &mut Vec<Effect>) {
        if let ActResult::Refused(look) = &result {
            // A submit that an earlier, interrupted try already made.
            let inc = self.session_inc();
            let entered = self.flight.as_ref().and_then(|f| {
                let mark = format!("{}@{inc}#", f.id());
                look.mark_entered.strip_prefix(&mark).and_then(|n| n.parse().ok()).map(|n: u32| (f.id().clone(), n))
            });
            if let Some((id, n)) = entered {
                self.entered(&id, n, now, fx);
                return;
            }
            if now.saturating_sub(at) >= TAKEN_CEILING_MS {
                let ours = look.mark_pasted == format!("{}@{}", self.flight.as_ref().map_or("", |f| f.id().as_str()), self.session_inc());
                if let (true, true, Some(flight)) = (Self::looks_ready(look), ours, self.flight.as_mut()) {
                    // Gone from a screen that is ready: a dialog that opened in that moment ate the paste, or
                    // a person cleared it. Unless the transcript knows better, a person decides.
                    flight.stage = Stage::Inquiring { after: AfterInquiry::PasteLost };
                    return;
                }
                // One of the program's own that is ours to answer stands over it: then the composer is seen again.
                if self.answer_running(look, now, fx) {
                    if let Some(flight) = self.flight.as_mut() {
                        flight.stage = Stage::Pasted { at, next: now + QUIET_MS };
                    }
                    return;
                }
                let hold = obstacle(look).unwrap_or(Hold::UnknownScreen);
                let hold = self.dialog_hold(look, hold);
                self.report_held(hold, fx);
                self.set_hold(Some(hold), fx);
            }
        }
        let waited = now.saturating_sub(at);
        let gap = match result {
            ActResult::Failed(_) => RETRY_MS,
            // Output ends the pause early; these are only the fallbacks.
            _ if waited < 200 => 2 * TAKEN_GAP_MS,
            _ if waited < TAKEN_CEILING_MS => 250,
            _ => HOLD_RECHECK_MS,
        };
        if let Some(flight) = self.flight.as_mut() {
            flight.stage = Stage::Pasted { at, next: now + gap };
        }
    }

    fn entered(&mut self, id: &MessageId, attempt: u32, now: Millis, fx: &mut Vec<Effect>) {
        let inc = self.inc();
        let busy = matches!(self.up().map(|u| &u.turn), Some(Turn::Working { .. }));
        let evidence = self.provable();
        let Some(flight) = self.flight.as_mut() else { return };
        let (first, unknown) = match flight.stage {
            Stage::Submitted { at, unknown, .. } => (at, unknown),
            _ => {
                fx.push(Effect::Report { inc, id: id.clone(), state: State::Entered, reason: None, evidence: None, attempt: flight.attempt });
                flight.busy_at_submit = busy;
                (now, false)
            }
        };
        flight.stage = Stage::Submitted { at: first, attempt, unknown };
        self.recheck(now);
        self.set_hold(None, fx);
        if !evidence {
            self.finish_flight(State::Entered, Evidence::None, fx);
        }
    }

    /// Evidence for the message in flight ends it, whatever stage we believed it to be in.
    pub(super) fn on_evidence(&mut self, ids: &[MessageId], by: Evidence, now: Millis, fx: &mut Vec<Effect>) {
        let Some(flight) = &self.flight else { return };
        if !ids.contains(flight.id()) {
            return;
        }
        let sources = &self.definition.evidence.submitted;
        let source = match by {
            Evidence::Hook => EvidenceSource::Hook,
            _ => EvidenceSource::Transcript,
        };
        let transcript_decides = flight.busy_at_submit && sources.contains(&EvidenceSource::Transcript);
        if !sources.contains(&source) || (by == Evidence::Hook && transcript_decides) {
            return;
        }
        let (id, over) = (flight.id().clone(), flight.turn_ended);
        self.finish_flight(State::Submitted, by, fx);
        if let (false, Some(up)) = (over, self.up_mut()) {
            up.ready_since = None;
            up.turn = Turn::Working { message: Some(id) };
            up.shown = by == Evidence::Transcript;
            up.interrupt_from = Some(now + URGENT_AFTER_MS);
        }
        self.active(now);
    }

    pub(super) fn finish_flight(&mut self, state: State, evidence: Evidence, fx: &mut Vec<Effect>) {
        let Some(flight) = self.flight.take() else { return };
        let inc = self.session_inc();
        let id = flight.id().clone();
        if let Some(up) = self.up_mut().filter(|u| u.seed_due) {
            up.seed_due = false;
            fx.push(Effect::MarkReady { inc: up.inc, seed_due: false });
        }
        if let Some(topic) = flight.entry.topic.clone() {
            let topics = &mut self.markers.topics;
            topics.retain(|t| *t != topic);
            topics.push(topic);
            let excess = topics.len().saturating_sub(16);
            topics.drain(..excess);
            fx.push(Effect::SetMarkers(self.markers.clone()));
        }
        let attempt = flight.attempt;
        if self.is_task(&flight.entry) {
            self.take_task(flight, state, evidence, fx);
        } else {
            self.heard_answer(&flight.entry, fx);
            fx.push(Effect::Finish { entry: flight.entry, attempt, inc, state, evidence: Some(evidence), reason: None });
        }
        fx.push(Effect::Report { inc: Some(inc), id, state, reason: None, evidence: Some(evidence), attempt });
        self.set_hold(None, fx);
        self.report_ready(fx);
    }

    /// Output on the terminal brings the next try of a waiting submit forward.
    pub(super) fn flight_output(&mut self, now: Millis) {
        if let Some(Flight { stage: Stage::Pasted { next, .. }, .. }) = self.flight.as_mut() {
            *next = (*next).min(now + TAKEN_GAP_MS / 3);
        }
    }

    /// Output came while a submit was tried: the paste may be on the screen by now.
    pub(super) fn submit_again_soon(&mut self, now: Millis) {
        if self.up_mut().is_some_and(|up| std::mem::take(&mut up.moved)) {
            self.flight_output(now);
        }
    }

    /// A composer that a look found empty may still be under a turn that nobody reported as over.
    pub(super) fn looks_ready(look: &Look) -> bool {
        look.class == Class::Ready && matches!(look.composer, Composer::Empty { .. }) && !look.in_mode && !look.dead
    }
}
