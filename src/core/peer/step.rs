//! Events, sessions and holds: what happened is written into the state, then [`Peer::advance`] looks at
//! the state that is and decides the one next act.

use super::effect::Effect;
use super::event::{Event, Restored};
use super::*;
use crate::core::message::{Evidence, State};

impl Peer {
    pub fn new(identity: Identity, definition: Arc<Definition>, timing: Timing) -> Self {
        Peer {
            identity,
            definition,
            timing,
            wake_policy: WakePolicy::default(),
            resume_policy: ResumePolicy::default(),
            at_most_once: false,
            session: Session::None,
            queue: Vec::new(),
            flight: None,
            markers: Markers::default(),
            resumable: None,
            deaths: Vec::new(),
            incarnation: 0,
            wanted: None,
            hold: None,
            not_before: 0,
            doing: None,
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
        self.mind_retired(now, &mut fx);
        self.advance(now, &mut fx);
        fx
    }

    /// When [`Event::Tick`] is due, if nothing happens before. `None`: sleep until an event.
    pub fn next_due(&self, now: Millis) -> Option<Millis> {
        if self.draining {
            return None;
        }
        let mail = [self.mail_due(now), self.retired_due()].into_iter().flatten().min();
        if self.doing.is_some() {
            return mail.map(|d| d.max(now + 1));
        }
        let due = match &self.session {
            Session::None if self.wants_session(now) => Some(self.not_before),
            Session::Up(_) if self.flight.is_some() => self.flight_due(),
            Session::Up(up) if up.ready_at.is_none() => up.look_due,
            Session::Up(up) if self.deliverable(now).is_some() => {
                let look = up.look_due.unwrap_or(now);
                Some(self.interrupt_due(now).map_or(look, |at| at.min(look)))
            }
            _ => None,
        };
        [due.map(|d| d.max(now)), mail.map(|d| d.max(now))].into_iter().flatten().min()
    }

    fn wants_session(&self, now: Millis) -> bool {
        (self.mail_wakes(now) || self.wanted.is_some() || self.flight.is_some())
            && !self.identity.runtime.is_none()
            && !self.markers.stopped
            && self.retired.is_none()
            && !self.frozen()
            && !matches!(self.hold, Some(Hold::CrashLoop | Hold::ProfileInvalid | Hold::MissingBinary))
    }

    pub(super) fn take(&mut self, event: Event, now: Millis, fx: &mut Vec<Effect>) {
        match event {
            Event::Restored(restored) => self.restored(*restored, now, fx),
            Event::Accepted(entry) => self.accepted(entry, now, fx),
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
                if !matches!(self.session, Session::Up(_) | Session::Launching { .. }) {
                    self.wanted = Some(Wanted { cause });
                    if !self.markers.stopped {
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
                    Session::Ending { then, .. } => *then = None,
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
                if !matches!(self.session, Session::Up(_) | Session::Launching { .. }) {
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
                    Session::Ending { then, .. } => *then = Some(WantedBy::FolderLaunch),
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
            Event::Drain => self.draining = true,
            Event::Tick => {}
            Event::Hook { inc, fact } if self.is_current(inc) => self.hook(fact, now, fx),
            Event::TranscriptShows { inc, ids } if self.is_current(inc) => self.on_evidence(&ids, Evidence::Transcript, now, fx),
            Event::TranscriptTurnEnd { inc } if self.is_current(inc) => self.turn_ended(now, fx),
            Event::Output { inc } if self.is_current(inc) => self.output(now),
            Event::Died { inc, cause } => self.died(inc, cause, now, fx),
            Event::Launched { inc, result } => self.launched(inc, result, now, fx),
            Event::Looked { inc, result } => {
                self.finished(Doing::Look);
                if self.is_current(inc) {
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
                self.finished(Doing::Key);
                if self.is_current(inc) {
                    self.keyed(pressed, now, fx);
                }
            }
            Event::Claimed { id, result } => {
                self.finished(Doing::Claim);
                self.on_claimed(&id, result, now, fx);
            }
            Event::Pasted { inc, id, result } => {
                self.finished(Doing::Paste);
                if self.is_current(inc) {
                    self.on_pasted(&id, result, now, fx);
                    self.judge_again(now);
                }
            }
            Event::Unreadable { id, reason } => {
                self.finished(Doing::Paste);
                self.on_unreadable(&id, reason, now, fx);
            }
            Event::Probed { inc, id, result } => {
                self.finished(Doing::Probe);
                if self.is_current(inc) {
                    self.on_probed(&id, result, now, fx);
                    self.submit_again_soon(now);
                }
            }
            Event::Submitted { inc, id, attempt, result } => {
                self.finished(Doing::Submit);
                if self.is_current(inc) {
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
            Event::Collected { inc } => {
                self.finished(Doing::Collect);
                if self.session == (Session::Dead { inc }) {
                    self.session = Session::None;
                }
            }
            // An event of an incarnation that is gone.
            Event::Hook { .. } | Event::TranscriptShows { .. } | Event::TranscriptTurnEnd { .. } | Event::Output { .. } => {}
        }
    }

    pub(super) fn finished(&mut self, what: Doing) {
        if self.doing == Some(what) {
            self.doing = None;
        }
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

    fn restored(&mut self, restored: Restored, now: Millis, fx: &mut Vec<Effect>) {
        self.markers = restored.markers;
        self.resumable = restored.resumable;
        self.deaths = restored.deaths;
        self.incarnation = restored.incarnation;
        for entry in restored.queue {
            self.enqueue(entry);
        }
        let adopted_inc = restored.adopted.as_ref().map(|a| a.inc);
        if let Some(adopted) = restored.adopted {
            let mut up = Up::new(adopted.inc, now);
            up.ready_at = adopted.ready.then_some(now);
            up.reported = adopted.ready;
            up.seed_due = adopted.seed_due;
            up.started_hook = true;
            up.tools_listed = true;
            up.look_due = Some(now);
            // A stop whose daemon died before the end is carried on.
            up.end = self.markers.stopped.then_some(EndWhy::Stop);
            self.session = Session::Up(Box::new(up));
            fx.push(Effect::Adopted { inc: adopted.inc });
        }
        self.settle_armed(fx);
        let charge_death = restored.lost.as_ref().is_some_and(|(_, cause)| !cause.by_host());
        let claimed = restored.claim.as_ref().filter(|(c, _)| !c.released).map(|(c, e)| (c.incarnation, e.id().clone()));
        // The flight comes first: a death that its message caused is no crash loop.
        if let Some((claim, entry)) = restored.claim {
            self.queue.retain(|e| e.id() != entry.id());
            let same = adopted_inc == Some(claim.incarnation);
            self.restore_flight(entry, claim.attempt, claim.deaths, same, charge_death, now);
        }
        if let Some((inc, cause)) = restored.lost {
            self.session = Session::Dead { inc };
            // A daemon killed while it collected a dead session has counted this death already.
            if !self.deaths.iter().any(|d| d.incarnation == inc) {
                let claimed = claimed.filter(|(i, _)| *i == inc).map(|(_, id)| id);
                self.note_death(inc, cause, 0, claimed, now, fx);
            }
        }
        if self.frozen() && !self.queue.is_empty() {
            self.set_hold(Some(Hold::Frozen), fx);
        } else if self.markers.stopped && !self.queue.is_empty() {
            self.set_hold(Some(Hold::Stopped), fx);
        }
        if !self.flight.as_ref().is_some_and(Flight::maybe_injected) {
            self.check_crash_loop(now, fx);
        }
    }

    fn looked(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) {
        self.seen(look, now);
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
                    self.session = Session::Ending { inc, then: (why == EndWhy::New).then_some(WantedBy::FolderLaunch) };
                    self.hold = None;
                    self.act(Doing::End, Effect::End { inc }, fx);
                } else if !ready {
                    if looks_due {
                        self.act(Doing::Look, Effect::Look { inc }, fx);
                    }
                } else if self.draining || self.frozen() || self.retired.is_some() {
                    // Finish the submit of what is already pasted; begin nothing.
                    if matches!(self.flight.as_ref().map(|f| &f.stage), Some(Stage::Pasted { .. } | Stage::Settling { .. })) {
                        self.drive_flight(now, fx);
                    }
                } else if self.flight.is_some() {
                    self.drive_flight(now, fx);
                } else if self.deliverable(now).is_some() {
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
        self.incarnation += 1;
        let inc = self.incarnation;
        self.session = Session::Launching { inc, fresh: mode == wake::Mode::Fresh };
        self.set_hold(None, fx);
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
        self.act(Doing::Launch, Effect::Launch { inc, mode, cause, for_message }, fx);
    }
}

impl Up {
    pub fn new(inc: Incarnation, now: Millis) -> Self {
        Up {
            inc,
            since: now,
            ready_at: None,
            reported: false,
            seed_due: true,
            started_hook: false,
            tools_listed: false,
            ready_looks: 0,
            first_ready_look: None,
            turn: Turn::Idle,
            ready_since: None,
            attached: 0,
            look_due: None,
            last_look: 0,
            moved: false,
            dialog: None,
            asking_since: None,
            end: None,
            draft_since: None,
            draft_told: false,
            interrupt_from: None,
        }
    }
}
