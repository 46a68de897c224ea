//! What a starting daemon finds: the session that goes on, the one that is lost, what it was doing.

use super::effect::Effect;
use super::event::{DeathCause, Restored};
use super::*;

impl Peer {
    pub(super) fn restored(&mut self, restored: Restored, now: Millis, fx: &mut Vec<Effect>) {
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
            up.since = adopted.since.min(now);
            up.asked = adopted.asked;
            up.trouble = adopted.trouble;
            up.armed = self.marked_done(adopted.inc);
            if self.markers.new_eager {
                up.ends_after_turn(now);
            }
            up.ready_at = adopted.ready.then_some(now);
            up.reported = adopted.reported;
            up.seed_due = adopted.seed_due;
            up.started_hook = true;
            up.tools_listed = true;
            up.look_due = Some(now);
            // A stop whose daemon died before the end is carried on.
            up.end = self.markers.stopped.then_some(EndWhy::Stop);
            self.session = Session::Up(Box::new(up));
            fx.push(Effect::Adopted { inc: adopted.inc });
            if std::mem::take(&mut self.markers.idle_reaped) {
                // Neither did it fall asleep after all, nor is it its predecessor that did.
                fx.push(Effect::SetMarkers(self.markers.clone()));
            }
        }
        // A worker that was done may have gone, also by our hand.
        let done = |inc| self.wake_policy == WakePolicy::Ephemeral && self.marked_done(inc);
        let rested = match &restored.lost {
            Some((_, cause)) if cause.by_host() => None,
            Some(_) if restored.lost_to_order || self.markers.stopped => Some(EndWhy::Stop),
            Some((inc, _)) if done(*inc) => Some(EndWhy::Ephemeral),
            _ => None,
        };
        let charge_death = rested.is_none() && restored.lost.as_ref().is_some_and(|(_, cause)| !cause.by_host());
        let lost_alone = restored.lost.as_ref().is_some_and(|(_, cause)| *cause != DeathCause::HostReboot) && rested.is_none();
        let held = restored.claim.as_ref().filter(|(c, _)| !c.released).map(|(c, e)| (c.incarnation, e.id().clone()));
        let task = restored.task.as_ref().map(|(c, e, _)| (c.incarnation, e.id().clone()));
        let claimed = task.or(held);
        // The flight comes first: a death that its message caused is no crash loop.
        if let Some((claim, entry)) = restored.claim {
            self.queue.retain(|e| e.id() != entry.id());
            let same = adopted_inc == Some(claim.incarnation);
            self.restore_flight(entry, claim.attempt, claim.deaths, same, charge_death, now);
        }
        let task_inc = restored.task.as_ref().map(|(claim, _, _)| claim.incarnation);
        if let Some((claim, entry, evidence)) = restored.task {
            self.restore_task(&claim, entry, evidence);
        }
        if let Some((inc, cause)) = restored.lost {
            self.session = Session::Dead { inc };
            if let Some(why) = rested {
                self.came_to_rest(why, fx);
            // A daemon killed while it collected a dead session has counted this death already.
            } else if !self.deaths.iter().any(|d| d.incarnation == inc) {
                let claimed = claimed.filter(|(i, _)| *i == inc).map(|(_, id)| id);
                self.note_death(inc, cause, restored.lost_age_ms, claimed, now, fx);
            }
        }
        if let Some(inc) = task_inc {
            self.settle_restored_task(inc, charge_death, fx);
        }
        // What a mark of a session that is gone says of its task has been heard.
        self.settle_armed(fx);
        self.came_back = lost_alone && self.has_work();
        if self.frozen() && !self.queue.is_empty() {
            self.set_hold(Some(Hold::Frozen), fx);
        } else if self.trouble(now).is_some() && !self.queue.is_empty() {
            self.set_hold(self.trouble(now), fx);
        } else if self.markers.stopped && !self.queue.is_empty() {
            self.set_hold(Some(Hold::Stopped), fx);
        }
        if self.up().is_none() && self.not_before <= now {
            self.pause_again(now);
        }
        let loops = self.gave_up() || self.recent_deaths(now) >= self.timing.crashloop_max;
        if self.up().is_none() && loops && !self.flight.as_ref().is_some_and(Flight::maybe_injected) {
            // Told when it happened.
            self.wanted = None;
            self.set_hold(Some(Hold::CrashLoop), fx);
        }
        // It may have ended as it wished, and the daemon with it.
        self.eager(fx);
    }
}

impl Up {
    /// A fresh one is to replace it after its turn. The turn may be running without our knowing: the screen
    /// tells of its end, or the program's hook.
    pub(super) fn ends_after_turn(&mut self, now: Millis) {
        self.eager = true;
        if self.turn == Turn::Idle {
            self.turn = Turn::Working { message: None };
            self.ready_since = None;
            self.watch_until = now + INTERRUPT_MS;
        }
    }

    /// Its turn was interrupted, and is watched for its end.
    pub(super) fn watched(&self, now: Millis) -> bool {
        self.turn != Turn::Idle && self.watch_until > now
    }

    /// A look at it is due on its own account, without mail.
    pub(super) fn looked_at(&self, now: Millis) -> bool {
        self.turn == Turn::Waiting || self.watched(now)
    }

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
            shown: false,
            active_at: now,
            doze_until: 0,
            drowsy: false,
            done: false,
            eager: false,
            armed: false,
            asked: Vec::new(),
            judge_at: None,
            trouble: None,
            interrupt: None,
            watch_until: 0,
        }
    }
}
