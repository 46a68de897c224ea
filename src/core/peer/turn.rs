//! What the program itself tells: its hooks, the end of its turns, its output.

use super::effect::Effect;
use super::event::HookFact;
use super::*;
use crate::core::message::Evidence;
use crate::core::runtime::EvidenceSource;

impl Peer {
    pub(super) fn hook(&mut self, fact: HookFact, now: Millis, fx: &mut Vec<Effect>) {
        // A look under way may have seen the screen from before this.
        let acting = self.doing.is_some();
        if let Some(up) = self.up_mut() {
            up.moved |= acting;
        }
        match fact {
            HookFact::SessionStarted => {
                if let Some(up) = self.up_mut() {
                    up.started_hook = true;
                    up.look_due = Some(now);
                }
            }
            HookFact::ToolsListed => {
                if let Some(up) = self.up_mut() {
                    up.tools_listed = true;
                    up.look_due = Some(now);
                }
            }
            HookFact::PromptSubmitted { ids } => {
                if let Some(up) = self.up_mut() {
                    // Whoever said that there is nothing left has been given something.
                    up.done = false;
                    up.judge_at = None;
                }
                self.trouble_over(fx);
                let ours = self.flight.as_ref().is_some_and(|f| ids.contains(f.id()));
                self.on_evidence(&ids, Evidence::Hook, now, fx);
                if let (false, Some(up)) = (ours, self.up_mut()) {
                    if !matches!(up.turn, Turn::Working { .. }) {
                        up.ready_since = None;
                        up.turn = Turn::Working { message: ids.into_iter().next() };
                        up.shown = false;
                        up.interrupt_from = Some(now + URGENT_AFTER_MS);
                    }
                }
                self.active(now);
            }
            HookFact::TurnEnded => self.turn_ended(now, fx),
            HookFact::TurnFailed => self.turn_failed(now, fx),
            HookFact::PermissionAsked => {
                if let Some(up) = self.up_mut() {
                    up.turn = Turn::Waiting;
                    // It may have been answered before this was heard.
                    let soon = now + QUIET_MS;
                    up.look_due = Some(up.look_due.map_or(soon, |due| due.min(soon)));
                }
                self.active(now);
            }
        }
    }

    pub(super) fn turn_ended(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        if let Some(Flight { stage: Stage::Submitted { .. }, turn_ended, .. }) = self.flight.as_mut() {
            *turn_ended = true;
        }
        if self.flight.is_none() && self.hold == Some(Hold::Busy) {
            // The guard of the next paste looks for itself.
            self.set_hold(None, fx);
        }
        if let Some(task) = &mut self.task {
            task.turned = true;
        }
        if let Some(up) = self.up_mut() {
            up.turn = Turn::Idle;
            up.look_due = Some(now);
            up.interrupt = None;
        }
        self.active(now);
        // A program that tells of failed turns has no trouble in the others, whatever their text says.
        if self.definition.turn.turn_failed.is_empty() {
            self.expect_trouble(now);
        }
    }

    pub(super) fn transcript_shows(&mut self, ids: &[MessageId], now: Millis, fx: &mut Vec<Effect>) {
        self.on_evidence(ids, Evidence::Transcript, now, fx);
        if let Some(up) = self.up_mut() {
            up.shown |= matches!(&up.turn, Turn::Working { message: Some(id) } if ids.contains(id));
        }
    }

    /// A transcript tells of the end of a turn, later than a hook did. When it is also where a message shows that it was
    /// taken, the record of the message stands before the end of its turn: until then this was the end of an earlier one.
    pub(super) fn transcript_turn_ended(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let earlier = self.definition.evidence.submitted.contains(&EvidenceSource::Transcript);
        if earlier && self.up().is_some_and(|up| matches!(up.turn, Turn::Working { message: Some(_) }) && !up.shown) {
            return;
        }
        let over = self.flight.as_ref().is_some_and(|f| f.turn_ended);
        self.turn_ended(now, fx);
        if let (true, Some(flight)) = (earlier, self.flight.as_mut()) {
            flight.turn_ended = over;
        }
    }

    /// The model could not be asked: nothing was done for the task that the turn was about.
    fn turn_failed(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let turned = self.task.as_ref().is_some_and(|task| task.turned);
        self.turn_ended(now, fx);
        self.expect_trouble(now);
        if let Some(task) = &mut self.task {
            task.turned = turned;
        }
    }

    pub(super) fn output(&mut self, now: Millis) {
        let waits = self.flight.is_some() || !self.queue.is_empty();
        let acting = self.doing.is_some();
        self.flight_output(now);
        if !self.definition.tells_turns() {
            self.active(now);
        }
        if let Some(up) = self.up_mut() {
            up.moved |= acting;
            if up.ready_at.is_none() {
                let due = now.max(up.last_look + BOOT_LOOK_GAP_MS);
                up.look_due = Some(up.look_due.map_or(due, |d| d.min(due)));
            } else if waits || up.turn == Turn::Waiting {
                // The answer to its question may end the turn without a word.
                // The trailing edge: a screen that keeps moving is looked at when it comes to rest.
                let due = now + QUIET_MS;
                up.look_due = Some(up.look_due.filter(|d| *d <= now).unwrap_or(due));
            }
        }
    }
}
