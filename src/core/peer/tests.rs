//! A day of a peer in microseconds: a fake world answers effects, `proptest` orders the events.
//!
//! The world keeps the ground truth that a decision must never violate: what was pasted into which
//! incarnation, what became a turn, what was told to the sender.

use super::effect::{Effect, Giveback};
use super::event::{ActResult, Adopted, DeathCause, Event, HookFact, LaunchFault, Restored};
use super::wake::{Mode, WakeCause, decide};
use super::*;
use crate::core::guard::Fact;
use crate::core::message::{Claim, Evidence, Key, ProcessRef, State};
use crate::core::names::Party;
use crate::core::screen::{Class, Composer};
use crate::core::zone::Zone;
use chrono::{TimeDelta, TimeZone};
use proptest::prelude::*;
use std::collections::HashMap;

#[path = "sim/mod.rs"]
mod sim;

#[path = "marker_tests.rs"]
mod marker;

#[path = "open_tests.rs"]
mod open;

use sim::disk::Disk;

fn definition() -> Arc<Definition> {
    static ECHO: std::sync::LazyLock<Arc<Definition>> =
        std::sync::LazyLock::new(|| Arc::new(serde_yaml::from_str(include_str!("../../../peers/runtimes/echo.yaml")).unwrap()));
    ECHO.clone()
}

fn id(n: u64) -> MessageId {
    format!("0199a0b0-0000-7000-8000-{n:012x}").parse().unwrap()
}

fn entry(n: u64) -> Entry {
    Entry {
        key: Key { id: id(n), seq: n, urgent: false },
        from: Party::Operator,
        topic: None,
        in_reply_to: None,
        hops: 0,
        fence: "k3v9q2".into(),
        raw: false,
        notice: false,
        expires: None,
        stamp: None,
        due: None,
        not_before: 0,
    }
}

/// The world behind the effects.
struct World {
    peer: Peer,
    now: Millis,
    /// Effects whose outcome has not come yet.
    pending: Vec<Effect>,
    /// Pasted into (incarnation, message): must never exceed one.
    pasted: HashMap<(u64, MessageId), u32>,
    turns: Vec<(MessageId, u64)>,
    finished: HashMap<MessageId, (State, Option<Evidence>)>,
    released: Vec<(MessageId, Giveback)>,
    alive: Option<u64>,
    marks: (String, String),
    class: Class,
    draft: bool,
    /// A person at the terminal is pressing keys.
    typing: bool,
    /// A submit is swallowed that many times.
    swallow: u32,
    launches: u32,
    submits: u32,
    keys_in_dialog: u32,
    told: Vec<Effect>,
    /// What the claims carry on: attempts and charged deaths.
    attempts: HashMap<MessageId, u32>,
    deaths: HashMap<MessageId, u32>,
    launch_fails: bool,
    /// The answers of that many pastes are lost.
    lose_answers: u32,
    /// The program never draws a screen that is known.
    never_ready: bool,
    raw: Vec<MessageId>,
    /// A paste never shows: something took it away.
    eaten: bool,
    /// Clients at the terminal.
    attached: u32,
    /// The conversation on the screen.
    rows: Vec<String>,
    /// What every launch comes to, instead of a session.
    no_launch: Option<LaunchFault>,
    /// That many ends of a session are not proven.
    unended: u32,
    /// No key is proven to do what it should.
    keys_refused: bool,
    /// An interrupt ends no turn.
    stubborn: bool,
    /// What every launch was: its cause, and whether it went on with an older conversation.
    woken: Vec<(Mode, WakeCause)>,
    disk: Disk,
    /// Mail for an open session is claimed as it is accepted; here is what the peer has not been told of yet.
    ahead: bool,
    promise: Option<(Incarnation, Entry)>,
    /// Every effect; emptied by whoever reads it.
    all: Vec<Effect>,
}

impl World {
    fn new() -> World {
        let timing = Timing { boot_deadline_ms: 240_000, ready_gate_ms: 120_000, crashloop_max: 3, crashloop_window_ms: 300_000, draft_notice_ms: 120_000 };
        let mut peer = Peer::new("echo-a".parse().unwrap(), definition(), timing);
        let now = 1_000_000;
        peer.step(Event::Restored(Box::default()), now);
        World {
            peer,
            now,
            pending: Vec::new(),
            pasted: HashMap::new(),
            turns: Vec::new(),
            finished: HashMap::new(),
            released: Vec::new(),
            alive: None,
            marks: Default::default(),
            class: Class::Ready,
            draft: false,
            typing: false,
            swallow: 0,
            launches: 0,
            submits: 0,
            keys_in_dialog: 0,
            told: Vec::new(),
            attempts: HashMap::new(),
            deaths: HashMap::new(),
            launch_fails: false,
            never_ready: false,
            eaten: false,
            raw: Vec::new(),
            lose_answers: 0,
            attached: 0,
            rows: Vec::new(),
            no_launch: None,
            unended: 0,
            keys_refused: false,
            stubborn: false,
            woken: Vec::new(),
            disk: Disk::default(),
            ahead: false,
            promise: None,
            all: Vec::new(),
        }
    }

    fn event(&mut self, event: Event) {
        if let Event::Accepted(entry) = &event {
            self.raw.extend(entry.raw.then(|| entry.id().clone()));
            self.disk.accepted(entry);
            if let Some(inc) = self.peer.open_for(self.now).filter(|_| self.ahead && !entry.raw && entry.not_before <= self.now) {
                self.disk.claim(inc, entry.clone(), 1, 0);
                self.attempts.insert(entry.id().clone(), 1);
                self.peer.promised = true;
                self.promise = Some((inc, entry.clone()));
                return;
            }
        }
        if let Some(resumable) = self.peer.resumable.as_mut().filter(|_| self.disk.session.is_none()) {
            resumable.proven = !self.disk.transcript_gone;
        }
        let tick = matches!(event, Event::Tick);
        let effects = self.peer.step(event, self.now);
        let idle = effects.is_empty() && self.peer.doing.is_none() && self.peer.next_due(self.now).is_some_and(|due| due <= self.now);
        assert!(!(tick && idle), "at {} it would be ticked for ever and do nothing: {}", self.now, sim::invariants::brief(&self.peer));
        // The daemon sends it back, to the runtime that is the default by then.
        let eager = effects.contains(&Effect::Eager);
        for effect in effects {
            self.disk.write(&effect);
            self.all.push(effect.clone());
            match effect {
                Effect::Finish { entry, state, evidence, .. } => {
                    let before = self.finished.insert(entry.id().clone(), (state, evidence));
                    assert!(before.is_none(), "{} ended twice", entry.id());
                }
                Effect::Release { entry, how } => {
                    match how {
                        Giveback::Untouched => *self.attempts.entry(entry.id().clone()).or_insert(1) -= 1,
                        Giveback::Redeliver { deaths } => drop(self.deaths.insert(entry.id().clone(), deaths)),
                    }
                    self.released.push((entry.id().clone(), how));
                }
                Effect::Launch { .. }
                | Effect::Look { .. }
                | Effect::Key { .. }
                | Effect::Claim { .. }
                | Effect::Paste { .. }
                | Effect::Probe { .. }
                | Effect::Submit { .. }
                | Effect::Inquire { .. }
                | Effect::End { .. }
                | Effect::Collect { .. } => {
                    self.pending.push(effect);
                }
                told => self.told.push(told),
            }
        }
        if eager {
            self.event(Event::Want(WantedBy::Eager));
        }
    }

    /// The daemon is gone, and what it knew; the profile stays.
    fn forget(&mut self) {
        let old = &self.peer;
        let mut peer = Peer::new(old.identity.clone(), old.definition.clone(), old.timing);
        (peer.wake_policy, peer.resume_policy, peer.rules) = (old.wake_policy, old.resume_policy, old.rules);
        (peer.at_most_once, peer.person_facing, peer.host_frozen) = (old.at_most_once, old.person_facing, old.host_frozen);
        self.peer = peer;
        self.promise = None;
    }

    /// Tells of what was claimed as it was accepted.
    fn keep_promise(&mut self) -> bool {
        let promise = self.promise.take();
        promise.map(|(inc, entry)| self.event(Event::AcceptedClaimed { inc, entry })).is_some()
    }

    /// Whether nothing stands in the composer that was pasted.
    fn taken(&self) -> bool {
        let Some((pasted, inc)) = self.marks.0.split_once('@') else { return true };
        self.turns.iter().rev().any(|(t, i)| t.as_str() == pasted && inc.parse() == Ok(*i))
    }

    fn look(&self) -> Look {
        Look {
            class: self.class.clone(),
            absent: Vec::new(),
            composer: if self.draft {
                Composer::Text("draft".into())
            } else if self.eaten || self.taken() {
                Composer::Empty { row: 1 }
            } else {
                Composer::Text(format!("<iap id=\"{}\" …", &self.marks.0[..36]))
            },
            composer_row: "›".into(),
            cursor: (2, 1),
            cursor_shown: true,
            dead: false,
            in_mode: false,
            input_off: false,
            attached: self.attached,
            typing: self.typing,
            rows: self.rows.clone(),
            title: String::new(),
            mark_pasted: self.marks.0.clone(),
            mark_entered: self.marks.1.clone(),
            wall: Zone::utc().with_ymd_and_hms(2026, 11, 22, 12, 0, 0).unwrap() + TimeDelta::milliseconds(self.now as i64),
        }
    }

    fn typable(&self) -> bool {
        self.class == Class::Ready && !self.draft
    }

    /// Carries out the oldest pending effect.
    fn settle_one(&mut self) -> bool {
        if self.keep_promise() {
            return true;
        }
        if self.pending.is_empty() {
            return false;
        }
        let effect = self.pending.remove(0);
        let event = self.carry_out(effect);
        self.event(event);
        true
    }

    /// Does it, and says what it came to.
    fn carry_out(&mut self, effect: Effect) -> Event {
        match effect {
            Effect::Launch { inc, mode, cause, .. } => self.launch(inc, mode, cause),
            Effect::Look { inc } if self.alive == Some(inc) => Event::Looked { inc, result: Ok(self.look()) },
            Effect::Look { inc } => Event::Looked { inc, result: Err("gone".into()) },
            Effect::Key { inc, .. } if self.keys_refused => Event::Keyed { inc, pressed: false },
            Effect::Key { inc, .. } => {
                self.keys_in_dialog += 1;
                if self.class != Class::Ready && !self.stubborn {
                    // The interrupt key: the turn ends, without a word. Or the key of a start dialog.
                    self.class = Class::Ready;
                }
                Event::Keyed { inc, pressed: true }
            }
            Effect::Claim { inc, entry } => {
                let attempt = self.attempts.entry(entry.id().clone()).or_default();
                *attempt += 1;
                let deaths = self.deaths.get(entry.id()).copied().unwrap_or(0);
                let event = Event::Claimed { id: entry.id().clone(), result: Ok((*attempt, deaths)) };
                self.disk.claim(inc, entry, *attempt, deaths);
                event
            }
            Effect::Paste { inc, entry, guard, .. } => self.paste(inc, entry.id().clone(), guard.facts.contains(&Fact::Unattached)),
            Effect::Probe { inc, id } => Event::Probed { inc, id, result: ActResult::Done { submitted_too: false } },
            Effect::Submit { inc, id, attempt, .. } => self.submit(inc, id, attempt),
            Effect::Inquire { entry } => {
                let found = self.turns.iter().any(|(t, _)| t == entry.id()).then_some(Evidence::Transcript);
                Event::Inquired { id: entry.id().clone(), found }
            }
            Effect::End { inc } if self.unended > 0 => {
                self.unended -= 1;
                Event::Ended { inc, result: Err("it still runs".into()) }
            }
            Effect::End { inc } => {
                if self.alive == Some(inc) {
                    self.alive = None;
                    self.disk.session.iter_mut().for_each(|s| s.ordered = true);
                }
                Event::Ended { inc, result: Ok(()) }
            }
            Effect::Collect { inc } => {
                self.disk.session = None;
                let last = (!self.rows.is_empty()).then(|| Box::new(self.look()));
                Event::Collected { inc, last }
            }
            other => panic!("{other:?}"),
        }
    }

    fn launch(&mut self, inc: u64, mode: Mode, cause: WakeCause) -> Event {
        if let Some(fault @ LaunchFault::NotNow { .. }) = &self.no_launch {
            // Nothing was even tried.
            return Event::Launched { inc, result: Err(fault.clone()) };
        }
        self.launches += 1;
        let fault = self.no_launch.clone().or(self.launch_fails.then(|| LaunchFault::Other("no".into())));
        self.disk.incarnation = inc;
        if let Some(fault) = fault {
            return Event::Launched { inc, result: Err(fault) };
        }
        assert_eq!(self.alive, None, "two agents for one peer");
        self.alive = Some(inc);
        self.marks = Default::default();
        self.class = if self.never_ready { Class::Unknown } else { Class::Ready };
        self.draft = false;
        self.rows.clear();
        self.peer.resumable = self.disk.begin(inc, &mode, self.now);
        self.woken.push((mode, cause));
        Event::Launched { inc, result: Ok(()) }
    }

    fn paste(&mut self, inc: u64, id: MessageId, unattached: bool) -> Event {
        let mark = format!("{id}@{inc}");
        let result = if self.alive != Some(inc) {
            ActResult::Failed("gone".into())
        } else if self.marks.0 == mark || !self.typable() || (unattached && self.attached > 0) {
            ActResult::Refused(Box::new(self.look()))
        } else {
            *self.pasted.entry((inc, id.clone())).or_default() += 1;
            self.marks.0 = mark;
            if self.lose_answers > 0 {
                self.lose_answers -= 1;
                ActResult::Failed("no answer".into())
            } else {
                ActResult::Done { submitted_too: false }
            }
        };
        Event::Pasted { inc, id, result }
    }

    fn submit(&mut self, inc: u64, id: MessageId, attempt: u32) -> Event {
        self.submits += 1;
        let ours = self.marks.0 == format!("{id}@{inc}");
        let taken = self.turns.iter().any(|(t, i)| *t == id && *i == inc);
        let result = if self.alive != Some(inc) {
            ActResult::Failed("gone".into())
        } else if !ours || taken || self.eaten || self.draft || !matches!(self.class, Class::Ready) {
            ActResult::Refused(Box::new(self.look()))
        } else {
            self.marks.1 = format!("{id}@{inc}#{attempt}");
            // What a swallowed Enter leaves of a raw text is a draft that only a person can judge.
            if self.swallow > 0 && !self.raw.contains(&id) {
                self.swallow -= 1;
            } else {
                self.turns.push((id.clone(), inc));
            }
            ActResult::Done { submitted_too: false }
        };
        Event::Submitted { inc, id, attempt, result }
    }

    fn run(&mut self) {
        assert!((0..10_000).any(|_| !self.settle_one()), "acts without end: {}", sim::invariants::brief(&self.peer));
    }

    /// Lets time pass, with all that falls due, at most `limit`.
    fn pass(&mut self, limit: Millis) {
        let end = self.now + limit;
        loop {
            self.run();
            match self.peer.next_due(self.now) {
                Some(due) if due <= end => {
                    self.now = due.max(self.now + 1);
                    self.event(Event::Tick);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn evidence(&mut self) {
        if let Some((id, inc)) = self.turns.last().cloned() {
            self.event(Event::Hook { inc, fact: HookFact::PromptSubmitted { ids: vec![id] } });
        }
    }

    fn turn_end(&mut self) {
        if let Some(inc) = self.alive {
            self.event(Event::Hook { inc, fact: HookFact::TurnEnded });
        }
    }

    fn die(&mut self, cause: DeathCause) {
        if let Some(inc) = self.alive.take() {
            self.event(Event::Died { inc, cause });
        }
    }

    fn deliver(&mut self, n: u64) {
        self.event(Event::Accepted(entry(n)));
        self.pass(5_000);
        self.evidence();
        self.turn_end();
        self.run();
    }
}

#[test]
fn a_sleeper_is_woken_and_takes_its_message() {
    let mut w = World::new();
    w.deliver(1);
    assert_eq!(w.finished[&id(1)], (State::Submitted, Some(Evidence::Hook)));
    assert_eq!((w.launches, w.peer.state_word()), (1, "live"));
    w.deliver(2);
    assert_eq!(w.launches, 1, "a live peer is not launched again");
    assert!(w.told.iter().any(|e| matches!(e, Effect::Ready { .. })));
}

#[test]
fn success_is_not_claimed_without_evidence() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    // The submit is made, but the agent swallows it every time.
    w.swallow = 100;
    w.pass(60_000);
    assert!(w.finished.is_empty());
    let submits = w.told.iter().filter(|e| matches!(e, Effect::Report { state: State::Unknown, .. })).count();
    assert_eq!(submits, 1, "told once that the outcome is unknown");
    assert_eq!(w.pasted[&(1, id(1))], 1, "never pasted again into the same process");
    assert!(w.told.iter().any(|e| matches!(e, Effect::Notice { .. })));
    let failed = |w: &World| w.told.iter().filter(|e| matches!(e, Effect::WakeFailed { reason, .. } if reason == "first-message-unproven")).count();
    assert_eq!(failed(&w), 0, "its gate is open");
    w.pass(100_000);
    assert_eq!(failed(&w), 1);
    // Late evidence still ends it.
    w.turns.push((id(1), 1));
    w.evidence();
    assert_eq!(w.finished[&id(1)].0, State::Submitted);
}

#[test]
fn the_late_end_of_the_turn_before_is_not_the_end_of_the_next_one() {
    let mut w = World::new();
    w.deliver(1);
    w.event(Event::Accepted(entry(2)));
    w.pass(100);
    assert!(matches!(w.peer.flight.as_ref().map(|f| &f.stage), Some(Stage::Submitted { .. })), "{:?}", w.peer.flight);
    w.event(Event::TranscriptTurnEnd { inc: 1 });
    w.evidence();
    assert_eq!(w.peer.turn_message(), Some(&id(2)));
    // Later still, when a hook has told of the next one already.
    w.event(Event::TranscriptTurnEnd { inc: 1 });
    assert_eq!(w.peer.turn_message(), Some(&id(2)));
    w.event(Event::TranscriptShows { inc: 1, ids: vec![id(2)] });
    w.event(Event::TranscriptTurnEnd { inc: 1 });
    assert_eq!(w.peer.turn_message(), None);
}

#[test]
fn a_swallowed_enter_is_pressed_again_and_nothing_is_doubled() {
    let mut w = World::new();
    w.swallow = 2;
    w.event(Event::Accepted(entry(1)));
    w.pass(8_000);
    w.evidence();
    assert_eq!(w.turns.len(), 1);
    assert_eq!(w.finished[&id(1)].0, State::Submitted);
}

#[test]
fn a_message_left_in_the_composer_goes_when_the_screen_is_ready_again() {
    let mut w = World::new();
    w.swallow = 1;
    w.event(Event::Accepted(entry(1)));
    w.pass(100);
    w.class = Class::Busy;
    w.pass(60_000);
    assert!(w.told.iter().any(|e| matches!(e, Effect::Report { state: State::Unknown, .. })));
    w.class = Class::Ready;
    w.event(Event::Output { inc: 1 });
    w.pass(1_000);
    w.evidence();
    assert_eq!((w.turns.len(), w.pasted[&(1, id(1))]), (1, 1));
    assert_eq!(w.finished[&id(1)].0, State::Submitted);
}

#[test]
fn a_paste_that_something_took_away_is_never_repeated_by_itself_and_holds_up_nobody() {
    let mut w = World::new();
    w.eaten = true;
    w.event(Event::Accepted(entry(1)));
    w.pass(60_000);
    let notices = |w: &World| w.told.iter().filter(|e| matches!(e, Effect::Notice { text } if text.contains(id(1).as_str()))).count();
    assert_eq!((notices(&w), w.pasted[&(1, id(1))], w.turns.len()), (1, 1, 0));
    assert_eq!(w.finished[&id(1)].0, State::Parked);
    assert!(w.told.iter().any(|e| matches!(e, Effect::Unmark { .. })), "so that a person can send it again");
    w.eaten = false;
    w.event(Event::Accepted(entry(2)));
    w.pass(3_000);
    assert_eq!(w.turns, [(id(2), 1)]);
}

#[test]
fn a_submit_is_never_repeated_into_another_text() {
    let mut w = World::new();
    w.swallow = 1;
    w.event(Event::Accepted(entry(1)));
    w.pass(100);
    // The text was taken after all, without a word, and a person has begun to write.
    w.draft = true;
    let submits = w.submits;
    w.pass(60_000);
    assert_eq!(w.submits, submits, "no key into a person's draft");
}

#[test]
fn nothing_is_typed_into_a_dialog_a_draft_or_an_unknown_screen() {
    for (class, draft, want) in [
        (Class::Dialog("question".into()), false, Hold::Approval),
        (Class::Picker, false, Hold::Picker),
        (Class::Unknown, false, Hold::UnknownScreen),
        (Class::Busy, false, Hold::Busy),
        (Class::Ready, true, Hold::Draft),
    ] {
        let mut w = World::new();
        w.deliver(1);
        (w.class, w.draft) = (class.clone(), draft);
        w.event(Event::Accepted(entry(2)));
        w.pass(120_000);
        assert_eq!(w.peer.hold, Some(want), "{class:?}");
        assert_eq!(w.pasted.len(), 1, "{class:?}");
        (w.class, w.draft) = (Class::Ready, false);
        w.event(Event::Output { inc: 1 });
        w.pass(1_000);
        w.evidence();
        assert_eq!(w.finished[&id(2)].0, State::Submitted, "{class:?}: released within a second of the screen's change");
    }
}

#[test]
fn mail_waits_for_the_turns_end_and_goes_at_once_then() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    w.pass(2_000);
    w.evidence();
    w.class = Class::Busy;
    w.event(Event::Accepted(entry(2)));
    w.pass(10_000);
    assert_eq!((w.turns.len(), w.peer.hold), (1, Some(Hold::Busy)));
    w.class = Class::Ready;
    w.turn_end();
    w.run();
    assert_eq!(w.turns.len(), 2, "no time passes between the end of the turn and the next message");
}

#[test]
fn a_screen_that_changes_while_it_is_looked_at_is_looked_at_again() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    w.pass(2_000);
    w.evidence();
    w.class = Class::Busy;
    w.event(Event::Accepted(entry(2)));
    w.turn_end();
    w.run();
    assert_eq!(w.peer.hold, Some(Hold::Busy));
    // A look is under way and has seen the old screen; the last output comes before its answer.
    w.event(Event::Output { inc: 1 });
    w.now += QUIET_MS;
    w.event(Event::Tick);
    assert!(matches!(w.pending.as_slice(), [Effect::Look { .. }]), "{:?}", w.pending);
    w.pending.clear();
    let old = w.look();
    w.class = Class::Ready;
    w.event(Event::Output { inc: 1 });
    w.event(Event::Looked { inc: 1, result: Ok(old) });
    w.pass(1_000);
    assert_eq!(w.turns.len(), 2, "a waiting message and a free peer do not coexist for more than a second");
}

#[test]
fn a_turn_that_ends_without_a_word_is_noticed_on_the_screen() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    w.pass(2_000);
    w.evidence();
    w.event(Event::Accepted(entry(2)));
    w.run();
    assert_eq!(w.peer.hold, Some(Hold::Busy));
    w.event(Event::Output { inc: 1 });
    w.pass(1_000);
    assert_eq!(w.turns.len(), 2, "two ready looks end it, within a second");
}

#[test]
fn an_agent_that_dies_before_the_evidence_gives_its_message_back_redelivered() {
    let mut w = World::new();
    w.swallow = 100;
    w.event(Event::Accepted(entry(1)));
    w.pass(200);
    w.swallow = 0;
    w.die(DeathCause::Signal(9));
    w.pass(10_000);
    w.evidence();
    assert_eq!(w.released, [(id(1), Giveback::Redeliver { deaths: 1 })]);
    assert_eq!(w.turns, [(id(1), 2)]);
    assert_eq!(w.finished[&id(1)].0, State::Submitted);
}

#[test]
fn a_paste_whose_answer_was_lost_is_found_again_and_never_repeated() {
    let mut w = World::new();
    w.lose_answers = 1;
    w.deliver(1);
    assert_eq!((w.turns.len(), w.pasted[&(1, id(1))]), (1, 1));
    // The same, and the agent dies before the mark is seen: the next copy says so.
    w.lose_answers = 1;
    w.event(Event::Accepted(entry(2)));
    w.run();
    w.die(DeathCause::Signal(9));
    w.pass(10_000);
    assert_eq!(w.released, [(id(2), Giveback::Redeliver { deaths: 1 })]);
}

#[test]
fn an_agent_that_dies_after_the_turn_began_is_not_asked_twice() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    w.pass(200);
    assert_eq!(w.turns.len(), 1);
    // The hook never came; the transcript has it.
    w.die(DeathCause::Exit(7));
    w.pass(10_000);
    assert_eq!(w.finished[&id(1)], (State::Submitted, Some(Evidence::Transcript)));
    assert_eq!(w.turns.len(), 1);
}

#[test]
fn the_third_death_under_one_message_gives_it_up_and_serves_the_next() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    w.event(Event::Accepted(entry(2)));
    w.swallow = u32::MAX;
    for _ in 0..3 {
        w.pass(3_000);
        w.die(DeathCause::Signal(11));
    }
    w.run();
    assert_eq!(w.finished[&id(1)].0, State::Dead);
    assert!(w.peer.deaths.is_empty(), "the message was the cause, not the agent");
    w.swallow = 0;
    w.pass(60_000);
    w.evidence();
    assert_eq!(w.finished[&id(2)].0, State::Submitted);
}

#[test]
fn stop_ends_the_session_and_keeps_the_mail() {
    let mut w = World::new();
    w.deliver(1);
    w.event(Event::Stop { by: "operator".into() });
    w.event(Event::Accepted(entry(2)));
    w.pass(600_000);
    assert_eq!((w.alive, w.peer.state_word(), w.launches), (None, "stopped", 1));
    assert!(w.peer.markers.idle_reaped, "eligible for resume");
    w.event(Event::Start { by: "operator".into() });
    w.pass(5_000);
    w.evidence();
    assert_eq!(w.finished[&id(2)].0, State::Submitted);
}

#[test]
fn stop_during_a_launch_is_not_lost() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    assert_eq!(w.peer.state_word(), "starting");
    w.event(Event::Stop { by: "operator".into() });
    w.pass(60_000);
    assert_eq!((w.alive, w.peer.state_word()), (None, "stopped"));
    assert!(w.finished.is_empty());
}

#[test]
fn new_replaces_the_session_only_after_proof_of_its_end() {
    let mut w = World::new();
    w.deliver(1);
    w.event(Event::New { by: "operator".into() });
    // The world panics if a second agent is launched beside the first.
    w.pass(10_000);
    assert_eq!((w.alive, w.launches, w.peer.markers.idle_reaped), (Some(2), 2, false));
}

#[test]
fn a_program_that_dies_at_once_is_not_started_for_ever() {
    let mut w = World::new();
    w.never_ready = true;
    w.event(Event::Accepted(entry(1)));
    for _ in 0..20 {
        w.pass(5_000);
        w.die(DeathCause::Exit(1));
    }
    w.pass(250_000);
    assert_eq!((w.launches, w.peer.hold), (3, Some(Hold::CrashLoop)));
    assert_eq!(w.peer.queue.len() + usize::from(w.peer.flight.is_some()), 1, "the mail is kept");
    w.event(Event::Start { by: "operator".into() });
    w.pass(5_000);
    assert_eq!(w.launches, 4);
}

#[test]
fn failed_launches_feed_the_loop_guard_too() {
    let mut w = World::new();
    w.launch_fails = true;
    w.event(Event::Accepted(entry(1)));
    w.pass(3_600_000);
    assert_eq!((w.launches, w.peer.hold), (3, Some(Hold::CrashLoop)));
    assert!(w.peer.deaths.iter().all(|d| d.age_ms == 0) && !w.told.iter().any(|e| matches!(e, Effect::Died { .. })), "nothing has lived: {:?}", w.peer.deaths);
    let why = |e: &Effect| matches!(e, Effect::Notice { text } if text == "echo-a could not be started: no");
    assert_eq!(w.told.iter().filter(|e| why(e)).count(), 1, "{:?}", w.told);
    // Where the guard does not end it, the pauses grow.
    let mut w = World::new();
    (w.launch_fails, w.peer.timing.crashloop_max) = (true, u32::MAX);
    w.event(Event::Accepted(entry(1)));
    w.pass(3_600_000);
    assert!((10..60).contains(&w.launches), "{} launches within an hour", w.launches);
}

#[test]
fn what_keeps_a_session_is_said_when_asked_and_changes_nothing() {
    let mut w = World::new();
    let said = |w: &mut World| {
        let before = format!("{:?}", w.peer);
        w.told.clear();
        w.event(Event::Review);
        assert_eq!(format!("{:?}", w.peer), before);
        w.told.iter().find_map(|e| if let Effect::Supervise { action, reason, .. } = e { Some((*action, reason.clone())) } else { None })
    };
    assert_eq!(said(&mut w), None, "there is no session");
    w.deliver(1);
    w.event(Event::Hook { inc: 1, fact: HookFact::TurnEnded });
    assert_eq!(said(&mut w), Some(("alive", "no bound is set".into())));
    w.peer.rules.idle_ms = Some(60_000);
    w.pass(10_000);
    assert_eq!(said(&mut w), Some(("alive", "quiet for 10 s, looked at in 50 s".into())));
    w.peer.rules.external = true;
    assert_eq!(said(&mut w), Some(("skipped-external", "the session of somebody else".into())));
    w.peer.rules.external = false;
    w.event(Event::Hook { inc: 1, fact: HookFact::PromptSubmitted { ids: Vec::new() } });
    assert_eq!(said(&mut w), Some(("alive", "a turn runs".into())));
}

#[test]
fn an_outcome_of_an_older_incarnation_changes_nothing() {
    let mut w = World::new();
    w.deliver(1);
    w.event(Event::New { by: "operator".into() });
    w.pass(10_000);
    let before = format!("{:?}", w.peer);
    w.event(Event::Hook { inc: 1, fact: HookFact::PromptSubmitted { ids: vec![id(9)] } });
    w.event(Event::Died { inc: 1, cause: DeathCause::Signal(9) });
    w.event(Event::Output { inc: 1 });
    assert_eq!(format!("{:?}", w.peer), before);
}

#[test]
fn an_adopted_session_with_a_claim_is_continued_by_its_marks() {
    for (pasted, entered, submits) in [(true, true, 0), (true, false, 1), (false, false, 1)] {
        let mut w = World::new();
        w.alive = Some(4);
        if pasted {
            w.pasted.insert((4, id(1)), 1);
            w.marks.0 = format!("{}@4", id(1));
        }
        if entered {
            w.marks.1 = format!("{}@4#1", id(1));
        }
        let process = ProcessRef { pid: 1, start: 1 };
        let claim = Claim {
            v: 1,
            id: id(1),
            attempt: 1,
            deaths: 0,
            identity: "echo-a".parse().unwrap(),
            incarnation: 4,
            boot_id: String::new(),
            server: process.clone(),
            keeper: process,
            pane: "%0".into(),
            transcript: None,
            taken: None,
            released: false,
        };
        let restored = Restored {
            claim: Some((claim, entry(1))),
            incarnation: 4,
            adopted: Some(Adopted { inc: 4, ready: true, reported: true, seed_due: false, since: 0, asked: Vec::new(), trouble: None }),
            ..Restored::default()
        };
        w.event(Event::Restored(Box::new(restored)));
        w.pass(100);
        assert_eq!(w.pasted[&(4, id(1))], 1, "one copy");
        assert_eq!(w.turns.len(), submits, "pasted {pasted}, entered {entered}");
        assert_eq!(w.launches, 0);
    }
}

#[test]
fn a_session_that_dies_while_its_claim_is_written_gives_the_message_back_in_order() {
    let mut w = World::new();
    w.deliver(1);
    w.event(Event::Accepted(entry(2)));
    assert!(matches!(w.pending.as_slice(), [Effect::Claim { .. }]));
    w.die(DeathCause::Signal(9));
    assert!(w.released.is_empty(), "not before the claim stands: the release would be overtaken");
    w.pass(10_000);
    w.evidence();
    assert_eq!(w.released, [(id(2), Giveback::Untouched)]);
    assert_eq!(w.finished[&id(2)].0, State::Submitted);
}

#[test]
fn a_stop_whose_daemon_died_is_carried_on() {
    let mut w = World::new();
    w.alive = Some(4);
    let markers = Markers { stopped: true, ..Markers::default() };
    let adopted = Some(Adopted { inc: 4, ready: true, reported: true, seed_due: false, since: 0, asked: Vec::new(), trouble: None });
    w.event(Event::Restored(Box::new(Restored { markers, incarnation: 4, adopted, queue: vec![entry(1)], ..Restored::default() })));
    w.pass(60_000);
    assert_eq!((w.alive, w.peer.state_word(), w.turns.len()), (None, "stopped", 0));
}

#[test]
fn a_third_death_while_no_daemon_ran_is_the_messages_and_no_crash_loop() {
    let mut w = World::new();
    let death = |incarnation| Death { at: w.now, cause: "signal-9".into(), age_ms: 0, incarnation, claimed: Some(id(1)) };
    let process = ProcessRef { pid: 1, start: 1 };
    let claim = Claim {
        v: 1,
        id: id(1),
        attempt: 3,
        deaths: 2,
        identity: "echo-a".parse().unwrap(),
        incarnation: 3,
        boot_id: String::new(),
        server: process.clone(),
        keeper: process,
        pane: "%0".into(),
        transcript: None,
        taken: None,
        released: false,
    };
    let restored = Restored {
        claim: Some((claim, entry(1))),
        queue: vec![entry(2)],
        deaths: vec![death(1), death(2)],
        incarnation: 3,
        lost: Some((3, DeathCause::Signal(9))),
        ..Restored::default()
    };
    w.event(Event::Restored(Box::new(restored)));
    w.pass(10_000);
    w.evidence();
    assert_eq!(w.finished[&id(1)].0, State::Dead);
    assert_eq!(w.finished[&id(2)].0, State::Submitted, "{:?}", w.peer);
}

#[test]
fn an_end_that_was_ordered_is_no_death_although_no_daemon_saw_it() {
    let lost = |markers: Markers, lost_to_order| {
        let mut w = World::new();
        let restored = Restored { markers, incarnation: 3, lost: Some((3, DeathCause::Signal(15))), lost_to_order, ..Restored::default() };
        w.event(Event::Restored(Box::new(restored)));
        w.peer
    };
    let stopped = lost(Markers { stopped: true, ..Markers::default() }, false);
    assert!(stopped.deaths.is_empty() && stopped.markers.stopped, "{stopped:?}");
    let asleep = lost(Markers::default(), true);
    assert!(asleep.deaths.is_empty() && asleep.markers.idle_reaped, "{asleep:?}");
    assert_eq!(lost(Markers::default(), false).deaths.len(), 1);
}

#[test]
fn a_clean_exit_after_a_long_life_is_no_crash_although_no_daemon_saw_it() {
    let exited = |lost_age_ms| {
        let mut w = World::new();
        w.event(Event::Restored(Box::new(Restored { incarnation: 3, lost: Some((3, DeathCause::Exit(0))), lost_age_ms, ..Restored::default() })));
        w.peer.deaths.len()
    };
    assert_eq!((exited(3_600_000), exited(2_000)), (0, 1));
}

#[test]
fn a_turn_that_ended_unseen_does_not_hold_the_next_message() {
    let mut w = World::new();
    w.event(Event::Want(WantedBy::FolderLaunch));
    w.pass(5_000);
    // A person's turn, interrupted: the program says nothing, nobody watches the screen.
    w.event(Event::Hook { inc: 1, fact: HookFact::PromptSubmitted { ids: Vec::new() } });
    w.pass(60_000);
    w.event(Event::Accepted(entry(1)));
    w.pass(1_000);
    assert_eq!(w.turns.len(), 1, "not after 30 s");
}

fn states(w: &World, n: u64) -> Option<State> {
    w.finished.get(&id(n)).map(|(state, _)| *state)
}

#[test]
fn mail_whose_time_is_over_expires_unless_it_may_be_in_the_agent() {
    let mut w = World::new();
    w.event(Event::Stop { by: "operator".into() });
    w.event(Event::Accepted(letter(1, 2, w.now)));
    w.pass(19_000);
    assert_eq!(states(&w, 1), None);
    w.pass(2_000);
    assert_eq!(states(&w, 1), Some(State::Expired));
    assert!(w.told.iter().any(|e| matches!(e, Effect::TellSender { state: State::Expired, .. })));
    assert_eq!(w.peer.hold, None, "what only the mail gave is gone with it");
    // Typed and submitted: past expiring, whatever time it takes to prove it.
    w.event(Event::Start { by: "operator".into() });
    w.pass(5_000);
    w.swallow = 100;
    w.event(Event::Accepted(letter(2, 2, w.now)));
    w.pass(60_000);
    assert_eq!(states(&w, 2), None);
    w.turns.push((id(2), 1));
    w.evidence();
    assert_eq!(states(&w, 2), Some(State::Submitted));
}

#[test]
fn mail_held_on_the_screen_expires_too() {
    let mut w = World::new();
    w.deliver(1);
    w.draft = true;
    w.event(Event::Accepted(letter(2, 2, w.now)));
    w.pass(25_000);
    assert_eq!(states(&w, 2), Some(State::Expired));
    assert_eq!(w.turns.len(), 1, "nothing was typed into the draft");
}

#[test]
fn a_draft_that_holds_mail_for_long_is_told_of_once() {
    let mut w = World::new();
    w.deliver(1);
    w.draft = true;
    w.event(Event::Accepted(entry(2)));
    w.pass(100_000);
    let told = |w: &World| w.told.iter().filter(|e| matches!(e, Effect::Notice { text } if text.contains("half-typed"))).count();
    assert_eq!(told(&w), 0);
    w.pass(600_000);
    assert_eq!(told(&w), 1);
    w.draft = false;
    w.pass(31_000);
    assert_eq!(w.turns.len(), 2);
}

#[test]
fn paced_mail_waits_for_its_time_and_others_go_before_it() {
    let mut w = World::new();
    w.deliver(1);
    w.event(Event::Accepted(letter(2, 1, w.now)));
    w.event(Event::Accepted(Entry { from: "echo-z".parse().unwrap(), ..entry(3) }));
    w.pass(5_000);
    w.evidence();
    w.turn_end();
    assert_eq!((states(&w, 2), states(&w, 3)), (None, Some(State::Submitted)));
    w.pass(15_000);
    w.evidence();
    assert_eq!(states(&w, 2), Some(State::Submitted));
}

#[test]
fn paced_mail_wakes_nobody_before_its_time_and_notices_never_do() {
    let mut w = World::new();
    w.event(Event::Accepted(letter(1, 4, w.now)));
    w.event(Event::Accepted(letter(2, 1, w.now)));
    w.pass(14_000);
    assert_eq!(w.launches, 0);
    w.pass(6_000);
    assert_eq!(w.launches, 1);
    for _ in 0..2 {
        w.evidence();
        w.turn_end();
        w.pass(5_000);
    }
    assert_eq!((states(&w, 1), states(&w, 2)), (Some(State::Submitted), Some(State::Submitted)));
}

#[test]
fn urgent_mail_interrupts_a_running_turn_once_and_never_a_dialog() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    w.pass(5_000);
    w.class = Class::Busy;
    w.evidence();
    w.event(Event::Accepted(entry(2)));
    w.pass(10_000);
    assert_eq!((w.turns.len(), w.keys_in_dialog), (1, 0), "normal mail waits");
    w.event(Event::Accepted(letter(3, 0, w.now)));
    w.pass(5_000);
    assert_eq!(w.keys_in_dialog, 1, "once the turn has run for a while");
    assert_eq!(w.turns.last().unwrap().0, id(3), "the urgent one goes first");
    w.evidence();
    w.class = Class::Dialog("question".into());
    w.event(Event::Hook { inc: 1, fact: HookFact::PermissionAsked });
    w.event(Event::Accepted(letter(4, 0, w.now)));
    w.pass(100_000);
    assert_eq!(w.keys_in_dialog, 1, "a permission is a person's");
}

#[test]
fn a_raw_text_is_submitted_when_the_composer_shows_it_and_ends_as_entered() {
    let mut w = World::new();
    w.deliver(1);
    w.event(Event::Accepted(letter(2, 3, w.now)));
    w.pass(3_000);
    assert_eq!(w.finished[&id(2)], (State::Entered, Some(Evidence::None)));
    assert_eq!((w.pasted[&(1, id(2))], w.turns.len()), (1, 2));
}

#[test]
fn a_frozen_peer_neither_starts_nor_types_and_goes_on_when_it_is_thawed() {
    let mut w = World::new();
    w.event(Event::HostFrozen(true));
    w.event(Event::Accepted(entry(1)));
    w.pass(100_000);
    assert_eq!((w.launches, w.peer.hold), (0, Some(Hold::Frozen)));
    w.event(Event::HostFrozen(false));
    w.pass(5_000);
    w.evidence();
    w.turn_end();
    assert_eq!(states(&w, 1), Some(State::Submitted));
    w.event(Event::Freeze { by: "operator".into() });
    w.event(Event::Accepted(entry(2)));
    w.pass(100_000);
    assert_eq!((w.turns.len(), w.peer.hold), (1, Some(Hold::Frozen)));
    // Both freezes must be lifted.
    w.event(Event::HostFrozen(true));
    w.event(Event::Unfreeze { by: "operator".into() });
    w.pass(100_000);
    assert_eq!(w.turns.len(), 1);
    w.event(Event::HostFrozen(false));
    w.pass(35_000);
    assert_eq!(w.turns.len(), 2);
}

#[test]
fn a_removed_peer_ends_and_its_senders_are_told() {
    let mut w = World::new();
    w.deliver(1);
    w.class = Class::Busy;
    for n in 2..5 {
        w.event(Event::Accepted(entry(n)));
    }
    w.event(Event::Remove { by: "operator".into() });
    w.pass(60_000);
    assert_eq!((w.alive, w.launches), (None, 1));
    for n in 2..5 {
        assert_eq!(states(&w, n), Some(State::Dead), "message {n}");
    }
    let told = w.told.iter().filter(|e| matches!(e, Effect::TellSender { reason, .. } if reason == "peer_removed")).count();
    assert_eq!(told, 3);
}

#[test]
fn resume_or_fresh_follows_the_table() {
    let mut peer = World::new().peer;
    let resumable = |proven| Some(Resumable { session_id: "s".into(), transcript: None, proven });
    let resume = Mode::Resume { session_id: "s".into() };
    let check = |peer: &mut Peer, wanted, topic, want: (Mode, WakeCause)| assert_eq!(decide(peer, wanted, topic), want);
    check(&mut peer, None, None, (Mode::Fresh, WakeCause::FirstWake));
    peer.incarnation = 3;
    peer.resumable = resumable(true);
    check(&mut peer, Some(WantedBy::FolderLaunch), None, (Mode::Fresh, WakeCause::FolderLaunch));
    check(&mut peer, Some(WantedBy::Attach), None, (resume.clone(), WakeCause::Attach));
    check(&mut peer, None, Some("t"), (Mode::Fresh, WakeCause::CrashOrSelfClose));
    peer.resume_policy = ResumePolicy::Always;
    check(&mut peer, None, None, (resume.clone(), WakeCause::CrashResume));
    peer.markers.idle_reaped = true;
    check(&mut peer, None, None, (resume.clone(), WakeCause::IdleReapedHuman));
    peer.resume_policy = ResumePolicy::Topic;
    check(&mut peer, None, None, (Mode::Fresh, WakeCause::IdleReapedNoTopic));
    check(&mut peer, None, Some("t"), (Mode::Fresh, WakeCause::IdleReapedNewTopic));
    peer.markers.topics = vec!["t".into()];
    check(&mut peer, None, Some("t"), (resume, WakeCause::IdleReapedResume));
    peer.resumable = resumable(false);
    check(&mut peer, None, Some("t"), (Mode::Fresh, WakeCause::IdleReapedNoResume));
    peer.resume_policy = ResumePolicy::Never;
    check(&mut peer, None, Some("t"), (Mode::Fresh, WakeCause::IdleReapedNoTopic));
    peer.wake_policy = WakePolicy::Ephemeral;
    check(&mut peer, None, Some("t"), (Mode::Fresh, WakeCause::EphemeralPolicy));
    peer.markers.fresh_next = true;
    check(&mut peer, None, Some("t"), (Mode::Fresh, WakeCause::SoftReload));
}

/// What may happen to a peer, in any order.
#[derive(Debug, Clone)]
enum Happens {
    Mail,
    SettleOne,
    Pass(u64),
    Evidence,
    TurnEnd,
    Die,
    TmuxLost,
    Output,
    Class(u8),
    Draft(bool),
    Swallow,
    LoseAnswer,
    Stop,
    Start,
    New,
    Letter(u8),
    Freeze(bool),
    HostFrozen(bool),
    Withdraw(u64, bool),
    Typing(bool),
}

/// Mail with something special about it.
fn letter(n: u64, kind: u8, now: Millis) -> Entry {
    let plain = entry(n);
    match kind {
        0 => Entry { key: Key { urgent: true, ..plain.key.clone() }, ..plain },
        1 => Entry { not_before: now + 15_000, ..plain },
        2 => Entry { due: Some(now + 20_000), ..plain },
        3 => Entry { raw: true, ..plain },
        _ => Entry { from: Party::System, notice: true, ..plain },
    }
}

fn happening() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => Just(Happens::Mail),
        8 => Just(Happens::SettleOne),
        4 => (1u64..20_000).prop_map(Happens::Pass),
        4 => Just(Happens::Evidence),
        4 => Just(Happens::TurnEnd),
        1 => Just(Happens::Die),
        1 => Just(Happens::TmuxLost),
        3 => Just(Happens::Output),
        2 => (0u8..5).prop_map(Happens::Class),
        1 => any::<bool>().prop_map(Happens::Draft),
        1 => Just(Happens::Swallow),
        1 => Just(Happens::LoseAnswer),
        1 => Just(Happens::Stop),
        1 => Just(Happens::Start),
        1 => Just(Happens::New),
        3 => (0u8..5).prop_map(Happens::Letter),
        1 => any::<bool>().prop_map(Happens::Freeze),
        1 => any::<bool>().prop_map(Happens::HostFrozen),
        1 => (1u64..20, any::<bool>()).prop_map(|(n, park)| Happens::Withdraw(n, park)),
        1 => any::<bool>().prop_map(Happens::Typing),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_doubled_or_stuck(events in proptest::collection::vec(happening(), 1..120), ahead in any::<bool>()) {
        let mut w = World::new();
        w.ahead = ahead;
        w.peer.timing.crashloop_max = u32::MAX;
        let mut mail = 0;
        for event in events {
            match event {
                Happens::Mail => {
                    mail += 1;
                    w.event(Event::Accepted(entry(mail)));
                }
                Happens::SettleOne => drop(w.settle_one()),
                Happens::Pass(ms) => w.pass(ms),
                Happens::Evidence => w.evidence(),
                Happens::TurnEnd => w.turn_end(),
                Happens::Die => w.die(DeathCause::Signal(9)),
                Happens::TmuxLost => w.die(DeathCause::TmuxLost),
                Happens::Output => if let Some(inc) = w.alive { w.event(Event::Output { inc }) },
                Happens::Class(n) => w.class = [Class::Ready, Class::Busy, Class::Picker, Class::Unknown, Class::Dialog("question".into())][n as usize].clone(),
                Happens::Draft(on) => w.draft = on,
                Happens::Swallow => w.swallow = 1,
                Happens::LoseAnswer => w.lose_answers = 1,
                Happens::Stop => w.event(Event::Stop { by: "operator".into() }),
                Happens::Start => w.event(Event::Start { by: "operator".into() }),
                Happens::New => w.event(Event::New { by: "operator".into() }),
                Happens::Letter(kind) => {
                    mail += 1;
                    w.event(Event::Accepted(letter(mail, kind, w.now)));
                }
                Happens::Freeze(true) => w.event(Event::Freeze { by: "operator".into() }),
                Happens::Freeze(false) => w.event(Event::Unfreeze { by: "operator".into() }),
                Happens::HostFrozen(on) => w.event(Event::HostFrozen(on)),
                Happens::Withdraw(n, park) => {
                    let (state, reason) = if park { (State::Parked, "by-operator") } else { (State::Dead, "dropped") };
                    w.event(Event::Withdraw { id: id(n), state, reason });
                }
                Happens::Typing(on) => w.typing = on,
            }
            for ((inc, id), copies) in &w.pasted {
                prop_assert!(*copies <= 1, "{} was pasted {} times into incarnation {}", id, copies, inc);
            }
            for (id, (state, evidence)) in &w.finished {
                if *state == State::Submitted {
                    prop_assert!(w.turns.iter().any(|(t, _)| t == id), "{} is called submitted, but never became a turn", id);
                    prop_assert!(evidence.is_some());
                }
            }
        }
        // From any state: when the world behaves again, all mail arrives, in order for what was not given back.
        (w.class, w.draft, w.swallow, w.typing) = (Class::Ready, false, 0, false);
        w.event(Event::HostFrozen(false));
        w.event(Event::Unfreeze { by: "operator".into() });
        w.event(Event::Start { by: "operator".into() });
        for _ in 0..(mail * 4 + 40) {
            w.class = Class::Ready;
            w.draft = false;
            w.pass(40_000);
            if let Some(inc) = w.alive { w.event(Event::Output { inc }) }
            w.evidence();
            w.turn_end();
        }
        w.pass(700_000);
        for n in 1..=mail {
            prop_assert!(w.finished.contains_key(&id(n)), "message {} of {} never ended: {:?}", n, mail, w.peer);
        }
        prop_assert!(w.peer.queue.is_empty() && w.peer.flight.is_none());
    }
}
