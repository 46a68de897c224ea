//! Dialogs of the program: which are ours to answer, and how the others are held.
//!
//! Each key is pressed on its own frame only, by the proof of the terminal itself.

use super::effect::Effect;
use super::*;
use crate::core::runtime::{DialogHold, DialogPolicy};
use crate::core::screen::{Class, Look};

impl Peer {
    /// Presses the next key of a dialog that is ours to answer; `false` when the screen shows none.
    pub(super) fn answer_dialog(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) -> bool {
        let definition = self.definition.clone();
        let Class::Dialog(name) = &look.class else { return false };
        let Some(dialog) = definition.dialogs.get(name).filter(|d| d.policy == DialogPolicy::Accept) else { return false };
        let Some(up) = self.up_mut() else { return false };
        let frame = match &up.dialog {
            Some((open, pressed)) if open == name => *pressed,
            _ => 0,
        };
        let Some(next) = dialog.frames.get(frame) else {
            // Pressed, but it is still there: begin again, each key only on its own frame.
            up.dialog = None;
            return false;
        };
        up.dialog = Some((name.clone(), frame));
        up.look_due = Some(now + BOOT_LOOK_IDLE_MS);
        let (inc, frame) = (up.inc, next.clone());
        self.act(Doing::Key, Effect::Key { inc, frame }, fx);
        true
    }

    /// A dialog that comes while the session runs and is ours to answer, when nobody is there to do it.
    pub(super) fn answer_running(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) -> bool {
        let ours = matches!(&look.class, Class::Dialog(name) if self.definition.dialogs.get(name).is_some_and(|d| d.running));
        if !ours || look.attached > 0 || self.quiet() || self.doing.is_some() {
            if let Some(up) = self.up_mut() {
                up.dialog = None;
            }
            return false;
        }
        self.answer_dialog(look, now, fx)
    }

    /// A dialog may have a reason of its own: a permission, a login.
    pub(super) fn dialog_hold(&self, look: &Look, hold: Hold) -> Hold {
        match &look.class {
            Class::Dialog(name) => match self.definition.dialogs.get(name).map(|d| d.hold) {
                Some(DialogHold::Approval) => Hold::Approval,
                Some(DialogHold::Login) => Hold::Login,
                _ => hold,
            },
            _ => hold,
        }
    }
}
