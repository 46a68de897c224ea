//! The end of a running turn from outside: by urgent mail, and by a person.

use super::effect::Effect;
use super::*;
use crate::core::guard::FactSet;
use crate::core::runtime::{Frame, KeyName};

impl Peer {
    /// When urgent mail may interrupt the turn that runs, if the definition knows how.
    pub(super) fn interrupt_due(&self, now: Millis) -> Option<Millis> {
        let up = self.up().filter(|up| matches!(up.turn, Turn::Working { .. }) && up.ready_at.is_some() && up.end.is_none())?;
        let urgent = self.deliverable(now).is_some_and(|at| self.queue[at].key.urgent);
        let able = self.definition.control.urgent.is_some() && matches!(self.hold, None | Some(Hold::Busy));
        up.interrupt_from.filter(|_| urgent && able)
    }

    pub(super) fn may_interrupt(&self, now: Millis) -> bool {
        self.interrupt_due(now).is_some_and(|at| at <= now)
    }

    /// Whether a person's interrupt is to be tried now.
    pub(super) fn interrupt_asked(&self, now: Millis) -> bool {
        self.up().and_then(|up| up.interrupt.as_ref()).is_some_and(|i| i.at <= now)
    }

    /// The key of the definition, on a screen on which it is proven to end a turn.
    pub(super) fn press_interrupt(&mut self, inc: Incarnation, now: Millis, fx: &mut Vec<Effect>) {
        let control = &self.definition.control;
        let plain = |key: &KeyName| Frame { when: FactSet::default(), key: key.clone() };
        match control.urgent.clone().or_else(|| control.interrupt.as_ref().map(plain)) {
            Some(frame) => {
                if let Some(up) = self.up_mut() {
                    up.dialog = None;
                    // Should its answer be lost, it is tried again.
                    up.interrupt.iter_mut().for_each(|asked| asked.at = now + URGENT_GAP_MS);
                }
                self.act(Doing::Key, Effect::Key { inc, frame }, fx);
            }
            None => {
                if let Some(up) = self.up_mut() {
                    up.interrupt = None;
                }
            }
        }
    }

    /// Presses the interrupt key, once in a turn, while the screen shows that the turn runs.
    pub(super) fn interrupt(&mut self, inc: Incarnation, fx: &mut Vec<Effect>) {
        let Some(frame) = self.definition.control.urgent.clone() else { return };
        if let Some(up) = self.up_mut() {
            up.interrupt_from = None;
        }
        self.act(Doing::Key, Effect::Key { inc, frame }, fx);
    }
}
