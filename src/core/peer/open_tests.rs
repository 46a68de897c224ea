//! Mail that is claimed while it is accepted.

use super::*;

/// A session that is idle, with a message promised to it.
fn promised() -> (World, Entry) {
    let mut w = World::new();
    w.deliver(1);
    w.ahead = true;
    w.event(Event::Accepted(entry(2)));
    let (inc, promised) = w.promise.clone().unwrap();
    assert_eq!((inc, promised.id()), (1, &id(2)));
    (w, promised)
}

fn claims(w: &World) -> usize {
    w.all.iter().filter(|e| matches!(e, Effect::Claim { .. })).count()
}

#[test]
fn a_message_claimed_as_it_is_accepted_is_pasted_at_once() {
    let (mut w, _) = promised();
    w.all.clear();
    w.keep_promise();
    assert!(matches!(w.pending.as_slice(), [Effect::Paste { inc: 1, attempt: 1, .. }]), "{:?}", w.pending);
    w.pass(5_000);
    w.evidence();
    assert_eq!((w.finished[&id(2)].0, claims(&w)), (State::Submitted, 0));
    // One that comes while its turn runs waits, and is claimed when it ends.
    w.event(Event::Accepted(entry(3)));
    assert_eq!((&w.promise, w.peer.hold), (&None, Some(Hold::Busy)));
    w.turn_end();
    w.pass(5_000);
    w.evidence();
    assert_eq!((w.finished[&id(3)].0, claims(&w)), (State::Submitted, 1));
}

#[test]
fn while_a_claim_is_promised_no_other_begins() {
    let (mut w, _) = promised();
    w.all.clear();
    w.event(Event::Accepted(entry(3)));
    w.event(Event::Tick);
    assert_eq!((w.pending.len(), w.peer.next_due(w.now)), (0, None));
    w.run();
    w.evidence();
    assert_eq!(w.turns.last(), Some(&(id(2), 1)));
    w.turn_end();
    w.run();
    w.evidence();
    assert_eq!((w.turns.last(), claims(&w)), (Some(&(id(3), 1)), 1));
}

#[test]
fn a_promise_that_is_broken_lets_the_others_go() {
    let (mut w, _) = promised();
    w.promise = None;
    w.disk.drop_message(&id(2));
    w.event(Event::Accepted(entry(3)));
    assert!(w.pending.is_empty());
    w.event(Event::PromiseBroken);
    assert!(matches!(w.pending.as_slice(), [Effect::Claim { inc: 1, .. }]), "{:?}", w.pending);
}

#[test]
fn a_claim_for_a_session_that_has_gone_is_given_back_untouched() {
    let (mut w, _) = promised();
    w.die(DeathCause::Signal(9));
    w.run();
    assert_eq!(w.released, [(id(2), Giveback::Untouched)]);
    w.pass(20_000);
    w.evidence();
    assert_eq!((w.turns.last(), w.attempts[&id(2)]), (Some(&(id(2), 2)), 1), "the first copy, to the next session");
}

#[test]
fn urgent_mail_overtakes_a_promise() {
    let (mut w, _) = promised();
    w.event(Event::Accepted(letter(3, 0, w.now)));
    w.keep_promise();
    assert_eq!(w.released, [(id(2), Giveback::Untouched)]);
    w.pass(5_000);
    assert_eq!(w.turns.last(), Some(&(id(3), 1)));
}

#[test]
fn a_session_is_open_only_while_it_would_take_the_next_message() {
    let check = |change: fn(&mut World)| {
        let mut w = World::new();
        w.deliver(1);
        assert_eq!(w.peer.open_for(w.now), Some(1));
        change(&mut w);
        w.peer.open_for(w.now)
    };
    let by = || "operator".to_string();
    assert_eq!(check(|w| w.event(Event::Freeze { by: "operator".into() })), None);
    assert_eq!(check(|w| w.event(Event::Drain)), None);
    assert_eq!(check(|w| w.event(Event::Accepted(entry(2)))), None);
    assert_eq!(check(|w| w.event(Event::Hook { inc: 1, fact: HookFact::PromptSubmitted { ids: vec![] } })), None);
    assert_eq!(check(|w| w.peer.promised = true), None);
    assert_eq!(check(|w| w.peer.wake_policy = WakePolicy::Ephemeral), None);
    assert_eq!(check(|w| w.die(DeathCause::Exit(0))), None);
    let mut w = World::new();
    w.deliver(1);
    w.event(Event::Stop { by: by() });
    assert_eq!(w.peer.open_for(w.now), None);
}

#[test]
fn a_peer_rebuilt_meanwhile_knows_the_message_already() {
    let (mut w, promised) = promised();
    let restored = w.disk.restored(w.alive, DeathCause::Unknown, w.now);
    w.forget();
    w.peer.promised = true;
    w.event(Event::Restored(Box::new(restored)));
    w.event(Event::AcceptedClaimed { inc: 1, entry: promised });
    w.pass(20_000);
    w.evidence();
    assert_eq!((w.pasted[&(1, id(2))], w.released.len()), (1, 0));
    assert_eq!(w.finished[&id(2)].0, State::Submitted);
}
