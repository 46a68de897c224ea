//! Events, sessions and holds: what happened is written into the state, then [`Peer::advance`] looks at
//! the state that is and decides the one next act.

use super::effect::Effect;
use super::event::Event;
use super::*;
use crate::core::message::State;

impl Peer {
    pub fn new(identity: Identity, definition: Arc<Definition>, timing: Timing) -> Self {
        Peer {
            identity,
            definition,
            timing,
            wake_policy: WakePolicy::default(),
            resume_policy: ResumePolicy::default(),
            at_most_once: false,
            person_facing: false,
            rules: RestRules::default(),
            session: Session::None,
            queue: Vec::new(),
            flight: None,
            task: None,
            markers: Markers::default(),
            resumable: None,
            deaths: Vec::new(),
            incarnation: 0,
            wanted: None,
            hold: None,
            not_before: 0,
            doing: None,
            promised: false,
            came_back: false,
            draining: false,
            host_frozen: false,
            removed: false,
            retired: None,
            resting: false,
        }
    }

    pub fn step(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let mut fx = Vec::new();
        self.take(event, now, &mut fx);
        self.expire(now, &mut fx);
        self.mind_trouble_time(now, &mut fx);
        self.mind_task(&mut fx);
        self.mind_eager(now, &mut fx);
        self.mind_retired(now, &mut fx);
        self.mind_ready_gate(now, &mut fx);
        self.advance(now, &mut fx);
        fx
    }

    /// When [`Event::Tick`] is due, if nothing happens before. `None`: sleep until an event.
    pub fn next_due(&self, now: Millis) -> Option<Millis> {
        let quiet = self.quiet();
        let flight_due = || self.flight_due().filter(|_| !quiet || self.flight.as_ref().is_some_and(Flight::stands));
        if self.draining {
            return flight_due().filter(|_| self.doing.is_none() && self.up().is_some()).map(|d| d.max(now));
        }
        let mail = [self.mail_due(now), self.retired_due()].into_iter().flatten().min();
        if self.doing.is_some() {
            return mail.map(|d| d.max(now + 1));
        }
        let asked = self.up().filter(|up| up.ready_at.is_some() && up.end.is_none());
        let asked = asked.into_iter().flat_map(|up| {
            let judge = up.judge_at.filter(|_| self.flight.is_none());
            [
                up.interrupt.as_ref().map(|i| i.at),
                up.look_due.filter(|_| up.looked_at(now)),
                judge,
                up.trouble.and_then(|t| t.until).filter(|_| !self.queue.is_empty() && self.task.is_none() && self.flight.is_none()),
            ]
        });
        let asked = asked.flatten().filter(|at| *at > now || !quiet).min();
        let due = match &self.session {
            Session::None if self.wants_session(now) => Some(self.not_before),
            Session::Up(_) if self.flight.is_some() => flight_due(),
            Session::Up(up) if up.ready_at.is_none() => up.look_due,
            Session::Up(up) if self.deliverable(now).is_some() && !quiet && !self.promised => {
                let look = up.look_due.unwrap_or(now);
                [Some(look), self.interrupt_due(now), self.age_look_due()].into_iter().flatten().min()
            }
            Session::Up(_) => self.rest_due(),
            _ => None,
        };
        [due, mail, asked].into_iter().flatten().min().map(|d| d.max(now))
    }

    fn wants_session(&self, now: Millis) -> bool {
        (self.mail_wakes(now) || self.wanted.is_some() || self.flight.is_some())
            && !self.identity.runtime.is_none()
            && !self.markers.stopped
            && self.retired.is_none()
            && !self.resting
            && !self.frozen()
            && !matches!(self.hold, Some(Hold::CrashLoop | Hold::ProfileInvalid | Hold::MissingBinary | Hold::Login))
    }

    pub(super) fn take(&mut self, event: Event, now: Millis, fx: &mut Vec<Effect>) {
        match event {
            Event::Restored(restored) => self.restored(*restored, now, fx),
            Event::Accepted(entry) => self.accepted(entry, now, fx),
            Event::AcceptedClaimed { inc, entry } => {
                self.promised = false;
                self.accepted_claimed(inc, entry, now, fx);
            }
            Event::PromiseBroken => self.promised = false,
            Event::Withdraw { id, state, reason } => self.withdraw(&id, state, reason, fx),
            Event::Freeze { by } => {
                self.markers.frozen = true;
                self.freeze(fx);
                fx.push(Effect::SetMarkers(self.markers.clone()));
                fx.push(Effect::Order { verb: "freeze", by });
            }
            Event::Unfreeze { by } => {
                self.markers.frozen = false;
                self.unfreeze(fx);
                fx.push(Effect::SetMarkers(self.markers.clone()));
                fx.push(Effect::Order { verb: "unfreeze", by });
            }
            Event::HostFrozen(on) => {
                self.host_frozen = on;
                if on { self.freeze(fx) } else { self.unfreeze(fx) }
            }
            Event::MarkersSeen(seen) => self.markers_seen(seen, now, fx),
            Event::Vanished { id } => self.vanished(&id, fx),
            Event::Retire(on) => self.retire(on, now, fx),
            Event::Mended => self.mended(fx),
            Event::Remove { by } => {
                self.removed(fx);
                fx.push(Effect::SetMarkers(self.markers.clone()));
                fx.push(Effect::Order { verb: "remove", by });
            }
            Event::Want(cause) => {
                let refused = cause.by_itself() && (self.markers.stopped || self.rules.external);
                if !self.stays() && !refused {
                    self.wanted = Some(Wanted { cause });
                    // What nobody ordered gets round no hold.
                    if !self.markers.stopped && !cause.by_itself() {
                        self.clear_launch_hold(fx);
                    }
                }
            }
            Event::Stop { by } => {
                self.markers.stopped = true;
                self.wanted = None;
                fx.push(Effect::SetMarkers(self.markers.clone()));
                fx.push(Effect::Order { verb: "stop", by });
                match &mut self.session {
                    Session::Up(up) => up.end = Some(EndWhy::Stop),
                    Session::Ending { why, .. } => *why = EndWhy::Stop,
                    _ => {}
                }
            }
            Event::Start { by } => {
                self.markers.stopped = false;
                fx.push(Effect::SetMarkers(self.markers.clone()));
                fx.push(Effect::Order { verb: "start", by });
                self.deaths.clear();
                fx.push(Effect::SaveDeaths(Vec::new()));
                self.clear_launch_hold(fx);
                self.try_task_again(now, fx);
                self.trouble_over(fx);
                if !self.stays() {
                    self.wanted = Some(Wanted { cause: WantedBy::Start });
                }
            }
            Event::New { by } => {
                self.markers.stopped = false;
                // Also if the daemon dies between the end and the launch.
                self.markers.fresh_next = true;
                self.markers.new_eager = false;
                fx.push(Effect::SetMarkers(self.markers.clone()));
                fx.push(Effect::Order { verb: "new", by });
                self.clear_launch_hold(fx);
                match &mut self.session {
                    Session::Up(up) => up.end = Some(EndWhy::New),
                    Session::Ending { why, .. } => *why = EndWhy::New,
                    _ => self.wanted = Some(Wanted { cause: WantedBy::FolderLaunch }),
                }
            }
            Event::Rest => {
                self.wanted = None;
                self.resting = true;
                if let Some(up) = self.up_mut() {
                    up.end.get_or_insert(EndWhy::Rest);
                    fx.push(Effect::Order { verb: "stop", by: "daemon-stop".into() });
                }
            }
            Event::Refresh { by } => {
                self.markers.fresh_next = true;
                fx.push(Effect::SetMarkers(self.markers.clone()));
                fx.push(Effect::Order { verb: "refresh", by });
            }
            Event::Sent { inc, id, to, in_reply_to } if self.is_current(inc) => {
                self.sent(id, &to, in_reply_to.as_ref(), fx);
                self.active(now);
            }
            Event::SelfDone { inc } if self.is_current(inc) => self.self_done(now, fx),
            Event::SelfFresh { inc } if self.is_current(inc) => self.self_fresh(now, fx),
            Event::Detached => {
                self.active(now);
                self.look_at(now + QUIET_MS);
            }
            Event::RoomMade => {
                if self.hold == Some(Hold::Capacity) {
                    self.not_before = now;
                }
            }
            Event::EagerDone => {
                self.markers.new_eager = false;
                fx.push(Effect::SetMarkers(self.markers.clone()));
            }
            Event::Suspended { ms } => self.suspended(ms, now),
            Event::Interrupt { by } => {
                if let Some(up) = self.up_mut().filter(|up| up.ready_at.is_some()) {
                    up.interrupt = Some(Interrupt { by, at: now, until: now + INTERRUPT_MS });
                }
            }
            Event::Force { by } => {
                fx.push(Effect::Order { verb: "interrupt", by: format!("{by} --force") });
                if let Some(up) = self.up_mut() {
                    up.end.get_or_insert(EndWhy::Force);
                }
            }
            Event::Drain => self.draining = true,
            Event::Tick => {}
            Event::Review => self.review(now, fx),
            Event::Hook { inc, fact } if self.is_current(inc) => self.hook(fact, now, fx),
            Event::TranscriptShows { inc, ids } if self.is_current(inc) => self.transcript_shows(&ids, now, fx),
            Event::TranscriptTurnEnd { inc } if self.is_current(inc) => self.transcript_turn_ended(now, fx),
            Event::Output { inc } if self.is_current(inc) => self.output(now),
            Event::Died { inc, cause } => self.died(inc, cause, now, fx),
            Event::Launched { inc, result } => self.launched(inc, result, now, fx),
            Event::Looked { inc, result } => {
                if self.is_current(inc) {
                    self.finished(Doing::Look);
                    match result {
                        Ok(look) => self.looked(&look, now, fx),
                        Err(_) => {
                            self.look_at(now + RETRY_MS);
                            self.give_up_waiting(now, fx);
                        }
                    }
                    self.judge_again(now);
                }
            }
            Event::Keyed { inc, pressed } => {
                if self.is_current(inc) {
                    self.finished(Doing::Key);
                    self.keyed(pressed, now, fx);
                }
            }
            Event::Claimed { id, result } => {
                self.finished(Doing::Claim);
                self.on_claimed(&id, result, now, fx);
            }
            Event::Pasted { inc, id, result } => {
                if self.is_current(inc) {
                    self.finished(Doing::Paste);
                    self.on_pasted(&id, result, now, fx);
                    self.judge_again(now);
                }
            }
            Event::Unreadable { id, reason } => {
                self.finished(Doing::Paste);
                self.on_unreadable(&id, reason, now, fx);
            }
            Event::Probed { inc, id, result } => {
                if self.is_current(inc) {
                    self.finished(Doing::Probe);
                    self.on_probed(&id, result, now, fx);
                    self.submit_again_soon(now);
                }
            }
            Event::Submitted { inc, id, attempt, result } => {
                if self.is_current(inc) {
                    self.finished(Doing::Submit);
                    self.on_submitted(&id, attempt, result, now, fx);
                    self.submit_again_soon(now);
                }
            }
            Event::Inquired { id, found } => {
                self.finished(Doing::Inquire);
                self.on_inquired(&id, found, now, fx);
                self.check_crash_loop(now, fx);
            }
            Event::Ended { inc, result } => self.ended(inc, result, now, fx),
            Event::Collected { inc, last } => {
                if self.session == (Session::Dead { inc }) {
                    self.finished(Doing::Collect);
                    self.session = Session::None;
                    self.mind_last_words(inc, last.as_deref(), now, fx);
                }
            }
            // An event of an incarnation that is gone.
            Event::Sent { .. } | Event::SelfDone { .. } | Event::SelfFresh { .. } => {}
            Event::Hook { .. } | Event::TranscriptShows { .. } | Event::TranscriptTurnEnd { .. } | Event::Output { .. } => {}
        }
    }

    pub(super) fn finished(&mut self, what: Doing) {
        if self.doing == Some(what) {
            self.doing = None;
        }
    }

    /// It runs or starts, and nothing is about to end it.
    fn stays(&self) -> bool {
        matches!(self.session, Session::Launching { .. }) || self.up().is_some_and(|up| up.end.is_none())
    }

    fn is_current(&self, inc: Incarnation) -> bool {
        self.up().is_some_and(|u| u.inc == inc)
    }

    /// The next look happens then, or earlier if one is due earlier.
    pub(super) fn look_at(&mut self, due: Millis) {
        if let Some(up) = self.up_mut() {
            up.look_due = Some(due);
        }
    }

    /// A held message is looked at again, even if nothing happens before.
    pub(super) fn recheck(&mut self, now: Millis) {
        let wait = if self.hold == Some(Hold::AttachedTyping) { TYPING_MS } else { HOLD_RECHECK_MS };
        if let Some(up) = self.up_mut() {
            let due = now + wait;
            up.look_due = Some(up.look_due.map_or(due, |d| d.min(due)));
        }
    }

    /// A draft that holds mail for long is told to the operator, once; mail is never forced into it.
    pub(super) fn mind_draft(&mut self, hold: Option<Hold>, now: Millis, fx: &mut Vec<Effect>) {
        let patience = self.timing.draft_notice_ms;
        let Some(up) = self.up_mut() else { return };
        if hold != Some(Hold::Draft) {
            up.draft_since = None;
            up.draft_told = false;
            return;
        }
        let since = *up.draft_since.get_or_insert(now);
        if now - since >= patience && !up.draft_told {
            up.draft_told = true;
            let text = format!("{0}: a half-typed text in its composer holds mail since {1} s (`iapeer attach {0}`)", self.identity, (now - since) / 1000);
            fx.push(Effect::Notice { text });
        }
    }

    pub(super) fn seen(&mut self, look: &Look, now: Millis) {
        if let Some(up) = self.up_mut() {
            up.attached = look.attached;
            up.last_look = now;
            up.look_due = None;
        }
    }

    /// What an act saw is judged; if the screen moved meanwhile, the judgement is looked at again soon.
    fn judge_again(&mut self, now: Millis) {
        if let Some(up) = self.up_mut().filter(|u| u.moved) {
            up.moved = false;
            let soon = now + if up.ready_at.is_none() { BOOT_LOOK_GAP_MS } else { QUIET_MS };
            up.look_due = Some(up.look_due.map_or(soon, |due| due.min(soon)));
        }
    }

    pub(super) fn clear_launch_hold(&mut self, fx: &mut Vec<Effect>) {
        self.not_before = 0;
        self.set_hold(None, fx);
    }

    fn looked(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) {
        self.seen(look, now);
        self.mind_trouble(look, now, fx);
        self.mind_look(look, now, fx);
        self.mind_rest(look, now, fx);
        if let Some(up) = self.up_mut().filter(|up| up.watched(now) && up.look_due.is_none()) {
            up.look_due = Some(now + RETRY_MS);
        }
    }

    fn mind_look(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) {
        if look.dead {
            // The keeper's end brings the death; a dead pane alone is only a reason not to type.
            self.look_at(now + RETRY_MS);
            return;
        }
        let ready = Self::looks_ready(look);
        let Some(up) = self.up_mut() else { return };
        up.ready_looks = if ready { up.ready_looks.saturating_add(1) } else { 0 };
        if ready {
            up.first_ready_look.get_or_insert(now);
        }
        if up.ready_at.is_none() {
            self.boot_look(look, now, fx);
            return;
        }
        if self.answer_running(look, now, fx) {
            return;
        }
        let Some(up) = self.up_mut() else { return };
        if let Turn::Working { .. } | Turn::Waiting = up.turn {
            // Programs end some turns without a word: a screen that is ready, and still ready a while
            // later, is an end as well. One look could have come before the turn showed.
            match (ready, up.ready_since) {
                (false, _) => up.ready_since = None,
                (true, Some(since)) if now >= since + QUIET_MS => self.turn_ended(now, fx),
                (true, since) => {
                    up.ready_since = since.or(Some(now));
                    self.look_at(now + QUIET_MS);
                }
            }
        }
        match self.flight.as_ref().map(|f| &f.stage) {
            Some(Stage::Waiting) => self.after_refusal(look, false, now, fx),
            Some(Stage::Submitted { .. }) => self.resubmit(look, now, fx),
            Some(Stage::Pasted { .. }) => self.raw_look(look, now, fx),
            Some(Stage::Inquiring { after: AfterInquiry::Marks }) => self.recover(Some(look), None, false, now, fx),
            Some(_) => {}
            None => {
                let hold = match obstacle(look).map(|h| self.dialog_hold(look, h)) {
                    _ if self.frozen() => Some(Hold::Frozen),
                    _ if self.trouble(now).is_some() => self.trouble(now),
                    hold => hold,
                };
                if !self.queue.is_empty() {
                    self.set_hold(hold, fx);
                    self.mind_draft(hold, now, fx);
                }
                if hold.is_some() {
                    self.recheck(now);
                }
            }
        }
    }

    /// The one next act, by the state that is.
    fn advance(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        if self.doing.is_some() {
            return;
        }
        match &self.session {
            Session::Launching { .. } | Session::Ending { .. } => {}
            Session::Dead { inc } => {
                let inc = *inc;
                // The last word on the message comes first: the remains may still prove it.
                match self.flight.as_ref().map(|f| (&f.stage, f.entry.clone())) {
                    Some((Stage::Inquiring { .. }, entry)) => self.act(Doing::Inquire, Effect::Inquire { entry }, fx),
                    _ => self.act(Doing::Collect, Effect::Collect { inc }, fx),
                }
            }
            Session::None => {
                if let Some(Flight { stage: Stage::Inquiring { .. }, entry, .. }) = &self.flight {
                    let entry = entry.clone();
                    self.act(Doing::Inquire, Effect::Inquire { entry }, fx);
                } else if self.wants_session(now) && !self.draining && self.not_before <= now {
                    self.launch(now, fx);
                }
            }
            Session::Up(up) => {
                let (inc, ready, due) = (up.inc, up.ready_at.is_some(), up.look_due);
                let looks_due = due.is_some_and(|d| d <= now);
                if let Some(why) = up.end {
                    self.session = Session::Ending { inc, why };
                    self.hold = None;
                    self.act(Doing::End, Effect::End { inc }, fx);
                } else if !ready {
                    if looks_due {
                        self.act(Doing::Look, Effect::Look { inc }, fx);
                    }
                } else if self.interrupt_asked(now) {
                    self.press_interrupt(inc, now, fx);
                } else if looks_due && self.up().is_some_and(|up| up.looked_at(now)) {
                    self.act(Doing::Look, Effect::Look { inc }, fx);
                } else if self.quiet() {
                    // Finish what is already pasted, and find out about it; begin nothing.
                    if self.flight.as_ref().is_some_and(Flight::stands) {
                        self.drive_flight(now, fx);
                    }
                } else if self.flight.is_some() {
                    self.drive_flight(now, fx);
                } else if self.up().and_then(|up| up.judge_at).is_some_and(|at| at <= now) {
                    self.act(Doing::Look, Effect::Look { inc }, fx);
                } else if self.looks_for_rest(now) {
                    if let Some(up) = self.up_mut() {
                        up.drowsy = true;
                    }
                    self.act(Doing::Look, Effect::Look { inc }, fx);
                } else if self.deliverable(now).is_some() && !self.promised {
                    if self.hold.is_none() || self.may_interrupt(now) {
                        self.start_flight(now, fx);
                    }
                    if self.doing.is_none() && self.flight.is_none() {
                        if looks_due {
                            self.act(Doing::Look, Effect::Look { inc }, fx);
                        } else if due.is_none() {
                            self.look_at(now + HOLD_RECHECK_MS);
                        }
                    }
                }
            }
        }
    }

    fn launch(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let wanted = self.wanted.take().map(|w| w.cause);
        let head = self.flight.as_ref().map(|f| &f.entry).or(self.deliverable(now).map(|at| &self.queue[at]));
        let (mode, cause) = wake::decide(self, wanted, head.and_then(|e| e.topic.as_deref()));
        let for_message = head.map(|e| e.id().clone());
        let again = wanted == Some(WantedBy::Restore) || self.came_back || self.deaths.last().is_some_and(|d| d.incarnation == self.incarnation);
        self.incarnation += 1;
        let inc = self.incarnation;
        self.session = Session::Launching { inc, fresh: mode == wake::Mode::Fresh, wanted };
        if !matches!(self.hold, Some(Hold::Capacity | Hold::Backoff)) {
            self.set_hold(None, fx);
        }
        if let Some(id) = &for_message {
            fx.push(Effect::Report {
                inc: Some(inc),
                id: id.clone(),
                state: State::Held,
                reason: Some(Hold::Starting.word().into()),
                evidence: None,
                attempt: 0,
            });
        }
        self.act(Doing::Launch, Effect::Launch { inc, mode, cause, for_message, again }, fx);
    }
}
