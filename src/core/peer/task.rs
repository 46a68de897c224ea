//! The one task of an ephemeral session: taken, done (*armed*), acknowledged; or given back, when the
//! session ends before.
//!
//! Its record stays claimed until it is armed: by an answer to it or to its sender, by `self-done`, by an
//! operator's marker, or by the end of a turn that leaves no question of its own open. So a worker that
//! dies in the middle gives its task to the next one, and what it did until then may be done twice.

use super::effect::{Effect, Giveback};
use super::*;
use crate::core::message::{Claim, Evidence, State};
use crate::core::names::Party;

/// A task that is in the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub entry: Entry,
    pub attempt: u32,
    pub deaths: u32,
    pub state: State,
    pub evidence: Evidence,
    /// A turn has ended since.
    pub turned: bool,
}

impl Peer {
    fn ephemeral(&self) -> bool {
        self.wake_policy == WakePolicy::Ephemeral
    }

    /// Whether a waiting message may go into the session that runs: an ephemeral one takes a single task,
    /// the answers to its own questions, and notices beside.
    pub(super) fn fits(&self, entry: &Entry) -> bool {
        let Some(up) = self.up().filter(|_| self.ephemeral()) else { return true };
        if !entry.wakes() {
            return self.task.is_some();
        }
        match self.task.is_some() || up.armed {
            true => entry.in_reply_to.as_ref().is_some_and(|id| up.asked.contains(id)),
            false => true,
        }
    }

    /// Whether the message in flight is the session's task.
    pub(super) fn is_task(&self, entry: &Entry) -> bool {
        self.ephemeral()
            && self.task.is_none()
            && entry.wakes()
            && self.up().is_some_and(|up| !up.armed && !entry.in_reply_to.as_ref().is_some_and(|id| up.asked.contains(id)))
    }

    /// The agent has the task; its record stays where it is.
    pub(super) fn take_task(&mut self, flight: Flight, state: State, evidence: Evidence, fx: &mut Vec<Effect>) {
        let Flight { entry, attempt, deaths, answered, turn_ended, .. } = flight;
        let inc = self.session_inc();
        fx.push(Effect::Taken { entry: entry.clone(), evidence, state });
        fx.push(Effect::Drain { inc, seq: entry.key.seq, depth: self.queue.len() });
        self.task = Some(Task { entry, attempt, deaths, state, evidence, turned: turn_ended });
        if answered {
            self.arm("reply", fx);
        }
    }

    /// The agent sent a message itself: an answer that ends its task, or a question that keeps it open.
    pub(super) fn sent(&mut self, id: MessageId, to: &Party, in_reply_to: Option<&MessageId>, fx: &mut Vec<Effect>) {
        if !self.ephemeral() {
            return;
        }
        let answers = |entry: &Entry| in_reply_to == Some(entry.id()) || *to == entry.from;
        if self.task.as_ref().is_some_and(|task| answers(&task.entry)) {
            self.arm("reply", fx);
        } else if let Some(flight) = self.flight.as_mut().filter(|f| self.task.is_none() && answers(&f.entry)) {
            // Quicker than the evidence of its question.
            flight.answered = true;
        } else if let Some(up) = self.up_mut() {
            up.asked.push(id);
            let (inc, asked) = (up.inc, up.asked.clone());
            fx.push(Effect::SaveAsked { inc, asked });
        }
    }

    /// An answer to one of its own questions has reached the session.
    pub(super) fn heard_answer(&mut self, entry: &Entry, fx: &mut Vec<Effect>) {
        let Some(up) = self.up_mut() else { return };
        let before = up.asked.len();
        up.asked.retain(|id| entry.in_reply_to.as_ref() != Some(id));
        if up.asked.len() < before {
            let (inc, asked) = (up.inc, up.asked.clone());
            fx.push(Effect::SaveAsked { inc, asked });
        }
    }

    /// The task is done: acknowledged, and the session may end.
    pub(super) fn arm(&mut self, by: &'static str, fx: &mut Vec<Effect>) {
        let Some(up) = self.up_mut().filter(|up| !up.armed) else { return };
        up.armed = true;
        let inc = up.inc;
        // The mark first: should the daemon die between the two, it says that the task is done.
        self.markers.ephemeral_armed = Some(Armed { inc: Some(inc) });
        fx.push(Effect::SetMarkers(self.markers.clone()));
        fx.push(Effect::Armed { inc, by });
        self.acknowledge_task(None, fx);
    }

    fn acknowledge_task(&mut self, reason: Option<&str>, fx: &mut Vec<Effect>) {
        let Some(task) = self.task.take() else { return };
        let inc = self.session_inc();
        fx.push(Effect::Finish {
            entry: task.entry,
            attempt: task.attempt,
            inc,
            state: task.state,
            evidence: Some(task.evidence),
            reason: reason.map(String::from),
        });
    }

    /// Whether the task is done by now.
    pub(super) fn mind_task(&mut self, fx: &mut Vec<Effect>) {
        let Some(up) = self.up().filter(|up| self.ephemeral() && !up.armed) else { return };
        let marked = self.marked_done(up.inc);
        // What the screen says of the turn comes first.
        let over =
            up.turn == Turn::Idle && up.judge_at.is_none() && up.asked.is_empty() && self.flight.is_none() && self.task.as_ref().is_some_and(|t| t.turned);
        if marked {
            self.arm("operator", fx);
        } else if over {
            self.arm("turn-end", fx);
        }
    }

    /// What keeps the task from being worked at.
    pub(super) fn task_trouble(&self) -> Option<Trouble> {
        self.task.as_ref().and(self.up()?.trouble)
    }

    /// What kept the task from being worked at is over, or is said to be: a fresh worker gets it.
    pub(super) fn try_task_again(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let Some(trouble) = self.task_trouble() else { return };
        let Some(up) = self.up_mut().filter(|up| up.end.is_none()) else { return };
        up.end = Some(EndWhy::Again);
        let (inc, age_ms) = (up.inc, now - up.since);
        let reason = format!("its task was held ({}) and is tried again", trouble.hold.word());
        fx.push(Effect::Supervise { inc, action: "task-again", age_ms, reason, outcome: "relaunch" });
    }

    /// Whether the marker says that the task of this session is done.
    pub(super) fn marked_done(&self, inc: Incarnation) -> bool {
        self.markers.ephemeral_armed.is_some_and(|armed| armed.fits(inc))
    }

    /// A task found at start.
    pub(super) fn restore_task(&mut self, claim: &Claim, entry: Entry, evidence: Evidence) {
        let state = if evidence == Evidence::None { State::Entered } else { State::Submitted };
        self.queue.retain(|e| e.id() != entry.id());
        self.task = Some(Task { entry, attempt: claim.attempt, deaths: claim.deaths, state, evidence, turned: false });
    }

    /// Its session goes on with it, or it has ended.
    pub(super) fn settle_restored_task(&mut self, inc: Incarnation, charge: bool, fx: &mut Vec<Effect>) {
        let Some(Task { entry, attempt, state, evidence, .. }) = &self.task else { return };
        if self.marked_done(inc) {
            self.acknowledge_task(None, fx);
        } else if self.up().is_some_and(|up| up.inc == inc) {
            let (id, evidence) = (entry.id().clone(), Some(*evidence));
            fx.push(Effect::Report { inc: Some(inc), id, state: *state, reason: None, evidence, attempt: *attempt });
        } else {
            self.task_after_end(None, charge, fx);
        }
    }

    /// The session has ended with its task not done.
    pub(super) fn task_after_end(&mut self, why: Option<EndWhy>, charge: bool, fx: &mut Vec<Effect>) {
        let Some(task) = self.task.as_ref() else { return };
        let id = task.entry.id().clone();
        if matches!(why, Some(EndWhy::Unarmed | EndWhy::Age)) {
            // It was read, and nothing came of it that we know: the next worker would do no better.
            fx.push(Effect::TellSender { entry: task.entry.clone(), state: task.state, reason: "unanswered".into() });
            return self.acknowledge_task(Some("unanswered"), fx);
        }
        let Some(mut task) = self.task.take() else { return };
        task.deaths += u32::from(charge);
        if task.deaths >= DEATHS_PER_MESSAGE {
            self.deaths.retain(|d| d.claimed.as_ref() != Some(&id));
            fx.push(Effect::SaveDeaths(self.deaths.clone()));
            self.end_claimed(task.entry, task.attempt, State::Dead, "killed_worker", fx);
        } else if self.at_most_once {
            self.end_claimed(task.entry, task.attempt, State::Parked, "unknown-outcome", fx);
        } else {
            fx.push(Effect::Release { entry: task.entry.clone(), how: Giveback::Redeliver { deaths: task.deaths } });
            let (attempt, reason) = (task.attempt + 1, Some("redeliver".into()));
            fx.push(Effect::Report { inc: None, id, state: State::Accepted, reason, evidence: None, attempt });
            self.enqueue(task.entry);
        }
    }
}
