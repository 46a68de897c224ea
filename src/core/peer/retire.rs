//! A peer whose profile names its runtime no more, or that has left the registry: drain, then stop.
//!
//! Nothing new is begun; the running turn may end, then the session ends as a sleep. Its mail stays where it
//! is. All of it is taken back when the runtime is named again.

use super::effect::Effect;
use super::*;

/// A turn that goes on for longer is ended with its session.
pub const DRAIN_MS: Millis = 600_000;

impl Peer {
    pub(super) fn retire(&mut self, on: bool, now: Millis, fx: &mut Vec<Effect>) {
        match (on, self.retired) {
            (true, None) if !self.removed => {
                self.retired = Some(now);
                self.wanted = None;
                if !self.queue.is_empty() || self.flight.is_some() {
                    let text =
                        format!("{0} is a peer no more by its profile or the registry; its mail is kept until it is again (`iapeer queue {0}`)", self.identity);
                    fx.push(Effect::Notice { text });
                }
            }
            (false, Some(_)) => {
                self.retired = None;
                self.mended(fx);
            }
            _ => {}
        }
    }

    /// What kept it from being launched may be put right: tried again, without waiting for the next message.
    pub(super) fn mended(&mut self, fx: &mut Vec<Effect>) {
        if matches!(self.hold, Some(Hold::ProfileInvalid | Hold::MissingBinary)) && self.retired.is_none() {
            self.clear_launch_hold(fx);
        }
    }

    /// Ends a retired peer's session as soon as that takes nothing away, or when it has had its time.
    pub(super) fn mind_retired(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let Some(since) = self.retired else { return };
        let done = self.flight.is_none() || now >= since + DRAIN_MS;
        if let Some(up) = self.up_mut() {
            if done && (up.turn == Turn::Idle || now >= since + DRAIN_MS) {
                up.end.get_or_insert(EndWhy::Rest);
            }
        } else if self.session == Session::None && !self.queue.is_empty() && self.hold.is_none() {
            self.set_hold(Some(Hold::ProfileInvalid), fx);
        }
    }

    /// When [`Peer::mind_retired`] has something to do without any event.
    pub(super) fn retired_due(&self) -> Option<Millis> {
        self.retired.filter(|_| self.up().is_some()).map(|since| since + DRAIN_MS)
    }
}
