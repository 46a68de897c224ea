//! Sleep: which session is ended because nothing happens in it, and what proves that nothing does.
//!
//! Time alone ends no session. When a bound has passed, the screen is looked at first: a turn that runs,
//! however silent, a person at the terminal, a draft or a question keep it.

use super::effect::Effect;
use super::*;

/// Between two looks at a session that was not at rest when its bound had passed, at most.
const DOZE_MS: Millis = 60_000;

/// When a session of this peer is ended by itself; from profile and host settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestRules {
    /// Without activity for so long. `None`: never.
    pub idle_ms: Option<Millis>,
    /// Since its launch, between turns.
    pub max_age_ms: Option<Millis>,
    /// An ephemeral session whose task is done, or a session that says it is done.
    pub quiet_ms: Millis,
    /// An ephemeral session that never says it is done.
    pub unarmed_ms: Millis,
    /// A session that dies is launched again at once; then it does not sleep either.
    pub keep_alive: bool,
    /// Somebody else's session: never ended, never woken.
    pub external: bool,
}

impl Default for RestRules {
    fn default() -> Self {
        RestRules { idle_ms: None, max_age_ms: None, quiet_ms: 20_000, unarmed_ms: 600_000, keep_alive: false, external: false }
    }
}

impl Peer {
    /// Something happened that a sleeping session would not do.
    pub(super) fn active(&mut self, now: Millis) {
        if let Some(up) = self.up_mut() {
            up.active_at = now;
            up.doze_until = 0;
        }
    }

    /// The host was suspended: that was no idleness, and no time in which a program could start or answer.
    pub(super) fn suspended(&mut self, ms: Millis, now: Millis) {
        // Something may have happened since, before the clocks were compared.
        let later = |at: &mut Millis| *at = (*at + ms).min(now);
        if let Some(up) = self.up_mut() {
            later(&mut up.active_at);
            if up.ready_at.is_none() {
                later(&mut up.since);
            }
        }
        if let Some(Flight { stage: Stage::Pasted { at, .. } | Stage::Settling { at, .. } | Stage::Submitted { at, .. }, .. }) = &mut self.flight {
            later(at);
        }
    }

    /// The agent says that it has nothing left to do.
    pub(super) fn self_done(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        self.active(now);
        match self.wake_policy {
            WakePolicy::Ephemeral => self.arm("self-done", fx),
            WakePolicy::Warm => {
                if let Some(up) = self.up_mut() {
                    up.done = true;
                }
            }
        }
    }

    /// The agent wants a fresh session of itself: marked first, ended with its turn.
    pub(super) fn self_fresh(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        self.markers.new_eager = true;
        fx.push(Effect::SetMarkers(self.markers.clone()));
        fx.push(Effect::Order { verb: "self-fresh", by: "itself".into() });
        if let Some(up) = self.up_mut() {
            up.ends_after_turn(now);
        }
        self.mind_eager(now, fx);
    }

    /// A session that wants to be replaced ends when its turn is over.
    pub(super) fn mind_eager(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        let idle = self.flight.is_none() && !self.quiet();
        let Some(up) = self.up_mut().filter(|up| up.eager && up.end.is_none() && up.turn == Turn::Idle && idle) else { return };
        up.end = Some(EndWhy::Eager);
        let (inc, age_ms) = (up.inc, now - up.since);
        fx.push(Effect::Supervise { inc, action: "needs-eager-fresh", age_ms, reason: "it asked for a fresh session".into(), outcome: "relaunch" });
    }

    /// How long this session may do nothing.
    fn rest_bound(&self, up: &Up) -> Option<Millis> {
        match self.wake_policy {
            WakePolicy::Ephemeral if up.armed => Some(self.rules.quiet_ms),
            WakePolicy::Ephemeral => Some(self.rules.unarmed_ms),
            WakePolicy::Warm if up.done => Some(self.rules.quiet_ms),
            WakePolicy::Warm if self.rules.keep_alive => None,
            WakePolicy::Warm => self.rules.idle_ms,
        }
    }

    /// The session that may be put to sleep.
    fn may_rest(&self) -> Option<&Up> {
        let busy = self.flight.is_some() || self.quiet() || self.rules.external;
        self.up().filter(|up| up.ready_at.is_some() && up.end.is_none() && !busy)
    }

    /// When this session is to be looked at because a bound has passed.
    pub(super) fn rest_due(&self) -> Option<Millis> {
        let up = self.may_rest()?;
        if let Some(trouble) = self.task_trouble() {
            return trouble.until.map(|until| until.max(up.doze_until));
        }
        let mail = !self.queue.is_empty();
        // While no turn would come to anything, not even the next worker's.
        let trouble = up.trouble.filter(|_| mail);
        let waits = mail && (self.wake_policy == WakePolicy::Warm || trouble.is_some_and(|t| t.until.is_none()));
        let over = trouble.and_then(|t| t.until).unwrap_or(0);
        let idle = self.rest_bound(up).filter(|_| !waits).map(|bound| (up.active_at + bound).max(over));
        let due = [idle, self.age_due()].into_iter().flatten().min()?;
        Some(due.max(up.doze_until))
    }

    /// The same for its age alone, which counts even while mail waits that it could take.
    pub(super) fn age_look_due(&self) -> Option<Millis> {
        let up = self.may_rest()?;
        self.age_due().map(|due| due.max(up.doze_until))
    }

    /// Whether its screen is to be looked at now, to end it or to let it go on.
    pub(super) fn looks_for_rest(&self, now: Millis) -> bool {
        let due = if self.deliverable(now).is_some() { self.age_look_due() } else { self.rest_due() };
        due.is_some_and(|due| due <= now)
    }

    fn age_due(&self) -> Option<Millis> {
        let up = self.up()?;
        self.rules.max_age_ms.map(|age| up.since + age)
    }

    fn too_old(&self, now: Millis) -> bool {
        self.age_due().is_some_and(|due| due <= now)
    }

    /// The screen of a session whose bound has passed: it ends, or it goes on.
    pub(super) fn mind_rest(&mut self, look: &Look, now: Millis, fx: &mut Vec<Effect>) {
        let ready = Self::looks_ready(look);
        let bound = self.up().and_then(|up| self.rest_bound(up)).unwrap_or(DOZE_MS);
        let Some(up) = self.up_mut() else { return };
        if !std::mem::take(&mut up.drowsy) {
            return;
        }
        if look.attached > 0 {
            up.active_at = now;
        }
        let at_rest = ready && !look.dead && obstacle(look).is_none() && look.attached == 0 && up.turn == Turn::Idle;
        // A turn that ended without a word shows in a second look.
        up.doze_until = now + if ready && up.turn != Turn::Idle { QUIET_MS } else { (bound / 4).clamp(QUIET_MS, DOZE_MS) };
        if !at_rest {
            return;
        }
        up.doze_until = 0;
        if self.rest_due().is_some_and(|due| due <= now) {
            self.go_to_rest(now, fx);
        }
    }

    fn go_to_rest(&mut self, now: Millis, fx: &mut Vec<Effect>) {
        if self.task_trouble().is_some() {
            return self.try_task_again(now, fx);
        }
        let (old, policy, rules) = (self.too_old(now), self.wake_policy, self.rules);
        let Some(up) = self.up_mut() else { return };
        let (why, action) = match policy {
            _ if old => (EndWhy::Age, "reaped-age"),
            WakePolicy::Warm => (EndWhy::Idle, "reaped-idle"),
            WakePolicy::Ephemeral if up.armed => (EndWhy::Ephemeral, "reaped-ephemeral"),
            WakePolicy::Ephemeral => (EndWhy::Unarmed, "reaped-ephemeral-unarmed"),
        };
        up.end = Some(why);
        let seconds = |ms: Millis| ms / 1000;
        let reason = match why {
            EndWhy::Age => format!("older than {} s", seconds(rules.max_age_ms.unwrap_or_default())),
            EndWhy::Unarmed => format!("no turn and no word that its task is done for {} s", seconds(now - up.active_at)),
            EndWhy::Ephemeral => format!("its task is done, quiet for {} s", seconds(now - up.active_at)),
            _ if up.done => format!("it said that it is done, quiet for {} s", seconds(now - up.active_at)),
            _ => format!("no activity for {} s", seconds(now - up.active_at)),
        };
        let outcome = if policy == WakePolicy::Ephemeral { "ephemeral-done" } else { "resume-eligible" };
        let (inc, age_ms) = (up.inc, now - up.since);
        fx.push(Effect::Supervise { inc, action, age_ms, reason, outcome });
    }

    /// Says of a session that goes on what keeps it. Nothing is decided here.
    pub(super) fn review(&self, now: Millis, fx: &mut Vec<Effect>) {
        let Some(up) = self.up().filter(|up| up.end.is_none()) else { return };
        let action = if self.rules.external { "skipped-external" } else { "alive" };
        let reason = match (up.turn.clone(), self.rest_due()) {
            _ if self.rules.external => "the session of somebody else".into(),
            _ if up.ready_at.is_none() => "it is starting".into(),
            _ if self.quiet() => "nothing is done while it is frozen or drained".into(),
            _ if self.flight.is_some() => "a message is on its way into it".into(),
            (Turn::Working { .. }, _) => "a turn runs".into(),
            (Turn::Waiting, _) => "it waits for a person".into(),
            (Turn::Idle, None) => "no bound is set".into(),
            (Turn::Idle, Some(due)) => format!("quiet for {} s, looked at in {} s", now.saturating_sub(up.active_at) / 1000, due.saturating_sub(now) / 1000),
        };
        fx.push(Effect::Supervise { inc: up.inc, action, age_ms: now - up.since, reason, outcome: "kept" });
    }
}
