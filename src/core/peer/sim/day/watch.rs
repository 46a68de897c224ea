//! The ground truth beside one peer, and what its decisions must never do to it.

use super::super::super::*;
use super::super::invariants;
use std::collections::BTreeMap;

/// Longest time in which a waiting message and a free peer may coexist.
const AT_ONCE_MS: Millis = 1_000;

/// A message that has not ended.
pub struct Open {
    pub boot: u32,
    pub since: Millis,
    pub ttl: Option<Millis>,
}

#[derive(Default)]
pub struct Watch {
    pub open: BTreeMap<MessageId, Open>,
    /// A message has come, gone, or been given back.
    pub moved: bool,
    redelivered: HashMap<MessageId, u32>,
    /// Why a session must not be put to sleep, when it was last looked at.
    keeps: Option<&'static str>,
    /// The session that somebody, or a decision that explained itself, has ended.
    pub may_end: bool,
    /// Crashes that nothing has forgiven, and the message that each is charged to.
    crashes: Vec<(Millis, Option<MessageId>)>,
    /// Somebody ordered the next launch.
    pub ordered: bool,
    /// The last activity that the daemon knows of, in time that the host was awake.
    pub active: Millis,
    said_done: bool,
    /// Since when it is free while mail waits, in time that the host was awake.
    free_since: Option<Millis>,
    pub counts: BTreeMap<&'static str, u32>,
}

impl Watch {
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// What is about to be told to the daemon.
    pub fn hears(&mut self, event: &Event, awake: Millis) {
        match event {
            Event::Start { .. } => {
                self.crashes.clear();
                self.ordered = true;
            }
            Event::Stop { .. } | Event::New { .. } | Event::Force { .. } | Event::Retire(true) => (self.may_end, self.ordered) = (true, true),
            Event::Want(cause) if !cause.by_itself() => self.ordered = true,
            Event::SelfDone { .. } => self.said_done = true,
            _ => {}
        }
        if matches!(event, Event::Hook { .. } | Event::Sent { .. } | Event::SelfDone { .. } | Event::Detached | Event::Launched { .. } | Event::Restored(_)) {
            self.active = awake;
        }
    }

    /// One effect of a decision.
    pub fn decided(&mut self, effect: &Effect, world: &World, turn_runs: bool, awake: Millis, boot: u32) {
        let (peer, now) = (&world.peer, world.now);
        match effect {
            Effect::Supervise { action, .. } => {
                self.may_end = true;
                self.count(action);
                match *action {
                    "needs-eager-fresh" => assert!(!turn_runs, "replaced within a turn"),
                    _ => assert_eq!(self.keeps, None, "{action}, but it must be kept"),
                }
                if let (&"reaped-idle", Some(bound), false) = (action, peer.rules.idle_ms, self.said_done) {
                    assert!(awake + 2_000 >= self.active + bound, "put to sleep after {} ms in which the host was awake", awake - self.active);
                }
            }
            Effect::End { .. } => assert!(self.may_end, "a session is ended for no reason"),
            Effect::Finish { entry, state, .. } => {
                self.moved = true;
                let open = self.open.remove(entry.id()).expect("it has ended before");
                self.count(state.word());
                if let (State::Expired, true, Some(ttl)) = (state, open.boot == boot, open.ttl) {
                    assert!(now >= open.since + ttl, "expired {} ms too early", open.since + ttl - now);
                }
                let turned = world.turns.iter().any(|(t, _)| t == entry.id());
                assert!(turned || *state != State::Submitted, "{} never was a turn", entry.id());
                if *state == State::Dead {
                    self.crashes.retain(|(_, claimed)| claimed.as_ref() != Some(entry.id()));
                }
            }
            Effect::Release { entry, how: Giveback::Redeliver { .. } } => {
                self.count("redelivered");
                self.moved = true;
                let turned = world.turns.iter().any(|(t, _)| t == entry.id());
                assert!(!turned || peer.wake_policy == WakePolicy::Ephemeral, "{} was a turn already", entry.id());
                *self.redelivered.entry(entry.id().clone()).or_default() += 1;
            }
            Effect::Died { cause, claimed, age_ms, .. } => {
                let by_host = [DeathCause::TmuxLost, DeathCause::HostReboot].iter().any(|c| c.to_string() == *cause);
                let in_order = *cause == DeathCause::Exit(0).to_string() && *age_ms >= 20_000;
                if !by_host && !in_order {
                    self.crashes.push((now, claimed.clone()));
                    self.count("crash");
                }
            }
            Effect::CrashLoop { .. } => self.count("crash-loop"),
            Effect::Adopted { .. } => self.count("adopted"),
            Effect::Armed { by, .. } => self.count(by),
            _ => {}
        }
    }

    /// An act is carried out; `keeps` is why a session must not sleep now.
    pub fn acts(&mut self, effect: &Effect, world: &World, keeps: Option<&'static str>) {
        match effect {
            Effect::Look { .. } => self.keeps = keeps,
            Effect::Launch { cause, .. } => {
                self.count(cause.word());
                let peer = &world.peer;
                (self.may_end, self.said_done) = (peer.markers.stopped || peer.wanted.is_some() || peer.retired.is_some(), false);
                let window = world.peer.timing.crashloop_window_ms;
                // What the last of a row of deaths is charged to may be cleared up only now.
                let recent = self.crashes.iter().filter(|(at, _)| world.now.saturating_sub(*at) < window).count();
                let most = world.peer.timing.crashloop_max as usize;
                assert!(std::mem::take(&mut self.ordered) || recent < most, "launched after {recent} crashes: {:?}", self.crashes);
            }
            _ => {}
        }
    }

    /// A message has become a turn of the agent.
    pub fn turn(&mut self, world: &World, id: &MessageId) {
        let turns = world.turns.iter().filter(|(t, _)| t == id).count() as u32;
        let copies = self.redelivered.get(id).copied().unwrap_or(0);
        let least = if world.peer.at_most_once { 0 } else { copies };
        assert!(turns <= 1 + least, "{id} has become {turns} turns, redelivered {copies} times");
        for ((inc, id), pastes) in &world.pasted {
            assert!(*pastes <= 1, "{id} was pasted {pastes} times into session {inc}");
        }
    }

    /// Before anything new happens: nothing has changed since.
    pub fn before(&self, world: &World, awake: Millis) {
        if let Some(since) = self.free_since {
            assert!(awake <= since + AT_ONCE_MS, "mail and a free peer coexist for {} ms at {}: {}", awake - since, world.now, invariants::brief(&world.peer));
        }
    }

    /// After a step.
    pub fn after(&mut self, world: &World, awake: Millis, idle_agent: bool) {
        let peer = &world.peer;
        invariants::exit(peer, world.now);
        let open = self.open.len();
        let in_hand = [peer.flight.is_some(), peer.task.is_some(), world.promise.is_some()].into_iter().filter(|is| *is).count();
        assert_eq!(peer.queue.len() + in_hand, open, "{}", invariants::brief(peer));
        assert_eq!(world.disk.waiting.len() + world.disk.claimed.len(), open, "{:?} are on disk", world.disk);
        if std::mem::take(&mut self.moved) {
            let held = peer.queue.iter().map(|e| e.id()).chain(peer.flight.iter().map(|f| f.id())).chain(peer.task.iter().map(|t| t.entry.id()));
            let kept = world.disk.waiting.iter().chain(world.disk.claimed.iter().map(|(_, e)| e)).map(|e| e.id());
            assert!(held.chain(kept).all(|id| self.open.contains_key(id)), "{:?} are open: {}", self.open.keys(), invariants::brief(peer));
        }
        let free = free(world, idle_agent);
        self.free_since = self.free_since.filter(|_| free).or(free.then_some(awake));
    }

    /// Another boot: what died in the one before counts no more.
    pub fn forgive(&mut self) {
        self.crashes.clear();
    }

    /// No daemon runs.
    pub fn down(&mut self) {
        self.free_since = None;
    }
}

/// Whether mail waits that nothing but the peer itself keeps from being acted upon.
fn free(world: &World, idle_agent: bool) -> bool {
    let (peer, now) = (&world.peer, world.now);
    let closed = peer.markers.stopped || peer.frozen() || peer.draining || peer.retired.is_some() || peer.doing.is_some() || peer.flight.is_some();
    if closed {
        return false;
    }
    match &peer.session {
        Session::None => {
            let held = matches!(peer.hold, Some(Hold::CrashLoop | Hold::MissingBinary | Hold::ProfileInvalid | Hold::Login));
            !held && peer.not_before <= now && peer.mail_wakes(now)
        }
        Session::Up(up) if up.ready_at.is_some() && up.end.is_none() => {
            let takes = idle_agent && world.class == Class::Ready && !world.draft && !world.typing && peer.trouble(now).is_none();
            takes && peer.queue.iter().any(|e| e.not_before <= now && peer.fits(e))
        }
        _ => false,
    }
}
