//! Markers that changed on disk by another hand than the daemon's: what an operator's `touch` or `rm` does.
//!
//! A pure diff between what the peer holds and what the files say. Nothing here knows when or why the files
//! were read: the same content seen twice does nothing the second time. A marker that speaks of a session
//! that is gone is dropped, never acted on by the next one.

use super::effect::Effect;
use super::event::Event;
use super::*;

/// Who gave an order that came as a file.
const BY: &str = "marker";

/// What happened to a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkerChange {
    Appeared,
    Vanished,
    /// Its content is another one.
    Changed,
    /// It speaks of no session that runs: taken away again.
    Dropped,
}

impl MarkerChange {
    pub fn word(self) -> &'static str {
        match self {
            MarkerChange::Appeared => "appeared",
            MarkerChange::Vanished => "vanished",
            MarkerChange::Changed => "changed",
            MarkerChange::Dropped => "dropped",
        }
    }
}

impl Markers {
    /// The markers that only stand or do not stand, by the names of their files.
    pub fn flags(&self) -> [(&'static str, bool); 5] {
        [("stopped", self.stopped), ("idle-reaped", self.idle_reaped), ("new-eager", self.new_eager), ("fresh-next", self.fresh_next), ("frozen", self.frozen)]
    }

    /// What differs in `seen`, by file.
    fn changes(&self, seen: &Markers) -> Vec<(&'static str, MarkerChange)> {
        let stands = |was: bool, is: bool, same: bool| match (was, is) {
            (false, true) => Some(MarkerChange::Appeared),
            (true, false) => Some(MarkerChange::Vanished),
            _ if same => None,
            _ => Some(MarkerChange::Changed),
        };
        let flags = self.flags().into_iter().zip(seen.flags()).map(|((name, was), (_, is))| (name, stands(was, is, true)));
        let (was, is) = (self.ephemeral_armed, seen.ephemeral_armed);
        let armed = ("ephemeral-armed", stands(was.is_some(), is.is_some(), was == is));
        let topics = ("topics", stands(!self.topics.is_empty(), !seen.topics.is_empty(), self.topics == seen.topics));
        flags.chain([armed, topics]).filter_map(|(name, change)| Some((name, change?))).collect()
    }
}

impl Armed {
    pub fn fits(self, inc: Incarnation) -> bool {
        self.inc.is_none_or(|armed| armed == inc)
    }
}

impl Peer {
    /// The files say this.
    pub(super) fn markers_seen(&mut self, seen: Markers, now: Millis, fx: &mut Vec<Effect>) {
        let changes = self.markers.changes(&seen);
        if self.removed || changes.is_empty() {
            return;
        }
        let held = std::mem::replace(&mut self.markers, seen);
        fx.extend(changes.into_iter().map(|(file, change)| Effect::Marker { inc: self.inc(), file, change }));
        match (held.frozen, self.markers.frozen) {
            (false, true) => self.take(Event::Freeze { by: BY.into() }, now, fx),
            (true, false) => self.take(Event::Unfreeze { by: BY.into() }, now, fx),
            _ => {}
        }
        match (held.stopped, self.markers.stopped) {
            (false, true) => {
                self.take(Event::Stop { by: BY.into() }, now, fx);
                if !self.queue.is_empty() && self.up().is_none() && self.hold.is_none() {
                    self.set_hold(Some(Hold::Stopped), fx);
                }
            }
            // Waiting mail goes again; unlike `start`, this asks for no session and forgives no crash loop.
            (true, false) if self.hold == Some(Hold::Stopped) => {
                let frozen = self.frozen() && !self.queue.is_empty();
                self.set_hold(frozen.then_some(Hold::Frozen), fx);
            }
            _ => {}
        }
        self.settle_armed(fx);
        self.eager(fx);
    }

    /// `ephemeral-armed` belongs to one session that runs. What it says of another one is taken away, and what
    /// it leaves open is filled in, so that it never acts on the next.
    pub(super) fn settle_armed(&mut self, fx: &mut Vec<Effect>) {
        let Some(armed) = self.markers.ephemeral_armed else { return };
        let current = self.up().filter(|up| up.end.is_none()).map(|up| up.inc);
        let settled = current.filter(|inc| armed.fits(*inc)).map(|inc| Armed { inc: Some(inc) });
        if settled == Some(armed) {
            return;
        }
        if settled.is_none() {
            fx.push(Effect::Marker { inc: self.inc(), file: "ephemeral-armed", change: MarkerChange::Dropped });
        }
        self.markers.ephemeral_armed = settled;
        fx.push(Effect::SetMarkers(self.markers.clone()));
    }

    /// However a session ended, what it left counts; two ends bring the next session by themselves.
    pub(super) fn eager_after(&mut self, why: Option<EndWhy>, fx: &mut Vec<Effect>) {
        if why != Some(EndWhy::New) {
            self.eager(fx);
        }
    }

    /// A peer whose session is over and that left `new-eager` comes back at once, fresh; one that is stopped
    /// does when it is started again.
    pub(super) fn eager(&mut self, fx: &mut Vec<Effect>) {
        let over = matches!(self.session, Session::None | Session::Dead { .. });
        if self.markers.new_eager && over && !self.markers.stopped && !self.removed && !self.resting && !self.identity.runtime.is_none() {
            fx.push(Effect::Eager);
        }
    }
}
