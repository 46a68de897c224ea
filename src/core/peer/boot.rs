//! From a launch to READY: what the launch came to, start dialogs, the ready gate.

use super::effect::Effect;
use super::event::{DeathCause, LaunchFault};
use super::*;
use crate::core::runtime::DialogPolicy;
use crate::core::screen::Class;

impl Peer {
    pub(super) fn launched(&mut self, inc: Incarnation, result: Result<(), LaunchFault>, now: Millis, fx: &mut Vec<Effect>) {
        let (fresh, wanted) = match self.session {
            Session::Launching { inc: expected, fresh, wanted } if expected == inc => (fresh, wanted),
            _ => return,
        };
        self.finished(Doing::Launch);
        match result {
            Ok(()) => {
                let mut up = Up::new(inc, now);
                up.seed_due = fresh;
                up.look_due = Some(now + BOOT_LOOK_GAP_MS);
                // `new` came while it started: a fresh one is what it wants.
                let replaced = self.wanted.take().is_some() && !fresh;
                if self.markers.stopped {
                    up.end = Some(EndWhy::Stop);
                } else if self.resting {
                    up.end = Some(EndWhy::Rest);
                } else if replaced {
                    up.end = Some(EndWhy::New);
                }
                self.session = Session::Up(Box::new(up));
                self.came_back = false;
                self.markers.idle_reaped = false;
                self.markers.fresh_next = replaced;
                self.markers.ephemeral_armed = None;
                self.markers.new_eager = false;
                self.set_hold(None, fx);
                if fresh {
                    // A conversation that begins knows no topic, and is the one that an eager peer wanted.
                    self.markers.topics.clear();
                }
                fx.push(Effect::SetMarkers(self.markers.clone()));
            }
            Err(LaunchFault::NotNow { hold, retry_ms }) => {
                self.session = Session::None;
                self.incarnation -= 1;
                // An order that came meanwhile goes before the one that found no room.
                self.wanted = self.wanted.or(wanted.map(|cause| Wanted { cause }));
                self.not_before = now + retry_ms;
                self.set_hold(Some(hold), fx);
            }
            Err(fault) => {
                self.session = Session::None;
                fx.push(Effect::WakeFailed { inc, reason: fault.reason().into(), detail: fault.detail().into() });
                match &fault {
                    LaunchFault::MissingBinary(_) => self.set_hold(Some(Hold::MissingBinary), fx),
                    LaunchFault::ProfileInvalid(_) | LaunchFault::FolderGone(_) => self.set_hold(Some(Hold::ProfileInvalid), fx),
                    LaunchFault::Other(_) | LaunchFault::NotNow { .. } => {
                        self.count_death(inc, DeathCause::Unknown, 0, None, now, fx);
                        if self.hold == Some(Hold::CrashLoop) {
                            fx.push(Effect::Notice { text: format!("{} could not be started: {}", self.identity, fault.detail()) });
                        }
                    }
                }
            }
        }
    }

    /// A look while the session starts.
    pub(super) fn boot_look(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) {
        let definition = self.definition.clone();
        let deadline = self.timing.boot_deadline_ms;
        if self.answer_dialog(look, now, fx) {
            self.set_hold(None, fx);
            return;
        }
        let asked = matches!(&look.class, Class::Dialog(name) if definition.dialogs.get(name).is_some_and(|d| d.policy == DialogPolicy::Ask));
        let since = self.up_mut().filter(|_| asked).map(|up| *up.asking_since.get_or_insert(now));
        if since.is_some_and(|since| now - since >= BOOT_DIALOG_MS) {
            let hold = self.dialog_hold(look, Hold::Dialog);
            self.set_hold(Some(hold), fx);
        }
        let Some(up) = self.up_mut() else { return };
        let inc = up.inc;
        if !matches!(look.class, Class::Dialog(_)) {
            up.asking_since = None;
        }
        let gate = up.started_hook || up.ready_looks >= 2;
        let tools = up.tools_listed || !definition.launch.await_tools || up.first_ready_look.is_some_and(|first| now >= first + TOOLS_WAIT_MS);
        if up.ready_looks > 0 && gate && tools {
            up.ready_at = Some(now);
            up.active_at = now;
            up.look_due = None;
            up.dialog = None;
            let seed_due = up.seed_due;
            fx.push(Effect::MarkReady { inc, seed_due });
            self.set_hold(None, fx);
            if self.queue.is_empty() && self.flight.is_none() {
                self.report_ready(fx);
            }
            return;
        }
        let next = if up.ready_looks > 0 { BOOT_LOOK_GAP_MS } else { BOOT_LOOK_IDLE_MS };
        let late = now.saturating_sub(up.since) >= deadline;
        up.look_due = Some(now + if late && up.ready_looks == 0 { HOLD_RECHECK_MS } else { next });
        if late && !up.reported {
            up.reported = true;
            let hold = obstacle(look).map_or(Hold::UnknownScreen, |h| self.dialog_hold(look, h));
            fx.push(Effect::WakeFailed { inc, reason: "boot-deadline".into(), detail: format!("not ready after {} s; the session is kept", deadline / 1000) });
            self.set_hold(Some(hold), fx);
        }
    }

    /// A session whose first message finds no evidence has not come up as it should; it is kept all the same.
    pub(super) fn mind_ready_gate(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let Some(Flight { stage: Stage::Submitted { at, unknown: true, .. }, .. }) = &self.flight else { return };
        let (at, gate) = (*at, self.timing.ready_gate_ms);
        let Some(up) = self.up_mut().filter(|up| !up.reported && now >= at + gate) else { return };
        up.reported = true;
        let detail = format!("nothing proves within {} s that it took its first message; the session is kept", gate / 1000);
        fx.push(Effect::WakeFailed { inc: up.inc, reason: "first-message-unproven".into(), detail });
    }

    pub(super) fn report_ready(&mut self, fx: &mut Vec<Effect>) {
        if let Some(up) = self.up_mut() {
            if let (false, Some(ready)) = (up.reported, up.ready_at) {
                up.reported = true;
                fx.push(Effect::Ready { inc: up.inc, ms: ready - up.since });
            }
        }
    }

    pub(super) fn keyed(&mut self, pressed: bool, now: Millis, fx: &mut Vec<Effect>) {
        if let Some(up) = self.up_mut() {
            if up.ready_at.is_some() && up.dialog.is_none() {
                // The interrupt of a turn, for a person or for urgent mail.
                up.look_due = Some(now + QUIET_MS);
                match (pressed, up.interrupt.take()) {
                    (true, Some(asked)) => {
                        up.watch_until = now + INTERRUPT_MS;
                        fx.push(Effect::Order { verb: "interrupt", by: asked.by });
                    }
                    (true, None) => fx.push(Effect::Order { verb: "interrupt", by: "urgent-mail".into() }),
                    // Not on a screen on which it would end a turn: until one shows, or the turn is over.
                    (false, Some(asked)) => up.interrupt = Some(Interrupt { at: now + URGENT_GAP_MS, ..asked }).filter(|i| i.at < i.until),
                    (false, None) => up.interrupt_from = Some(now + URGENT_GAP_MS),
                }
                return;
            }
            // Refused, or swallowed by a program that was still drawing: the next frame is tried, and after the
            // last the first again. Each key is pressed on its own frame only.
            if let Some((_, frame)) = up.dialog.as_mut() {
                *frame += 1;
            }
            // The dialog redraws: look when it does, or shortly.
            up.look_due = Some(now + BOOT_LOOK_GAP_MS);
        }
    }
}
