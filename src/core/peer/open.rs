//! A message whose claim is written together with its record: one sync where there were two.
//!
//! While a session could take a message at once it is *open*, and whoever accepts the next one may claim it for
//! this session in the same write. From then until the peer is told how that went, a claim is *promised*, and
//! no other one is begun: a restart finds at most one claim that was acted on.

use super::effect::{Effect, Giveback};
use super::*;

impl Peer {
    /// The session that would take the next message at once.
    pub fn open_for(&self, now: Millis) -> Option<Incarnation> {
        let nothing_else = self.doing.is_none() && self.queue.is_empty() && self.wake_policy == WakePolicy::Warm;
        self.takes_mail(now).filter(|_| nothing_else && !self.promised)
    }

    /// The session into which mail goes now, if nothing is in its way.
    fn takes_mail(&self, now: Millis) -> Option<Incarnation> {
        let up = self.up().filter(|up| up.ready_at.is_some() && up.end.is_none() && up.turn == Turn::Idle && up.judge_at.is_none())?;
        let free = self.flight.is_none() && self.hold.is_none() && !self.quiet() && self.trouble(now).is_none();
        free.then_some(up.inc)
    }

    /// A message that was claimed for a session while it was kept.
    pub(super) fn accepted_claimed(&mut self, inc: Incarnation, entry: Entry, now: Millis, fx: &mut Vec<Effect>) {
        if self.flight.as_ref().is_some_and(|f| f.id() == entry.id()) {
            // A peer that was rebuilt from disk meanwhile has found the claim there.
            return;
        }
        self.accepted(entry.clone(), now, fx);
        let next = self.deliverable(now).filter(|at| self.queue[*at].id() == entry.id());
        match next.filter(|_| self.takes_mail(now) == Some(inc)) {
            Some(at) => {
                self.queue.remove(at);
                self.flight = Some(Flight::new(entry, 1, 0, Stage::ToPaste { guard: None, leave_mode: false }, now));
            }
            None => fx.push(Effect::Release { entry, how: Giveback::Untouched }),
        }
    }
}
