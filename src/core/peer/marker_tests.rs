//! Every combination of markers, in every state of a session, has one meaning.

use super::*;

/// Where a session may stand when somebody touches a file.
const PHASES: [&str; 6] = ["never live", "asleep", "starting", "live", "ending", "dead"];

fn world(phase: &str) -> World {
    let mut w = World::new();
    match phase {
        "never live" => {}
        "starting" => w.event(Event::Want(WantedBy::Start)),
        _ => w.deliver(1),
    }
    match phase {
        "asleep" => {
            w.event(Event::Stop { by: "test".into() });
            w.run();
            w.event(Event::MarkersSeen(Markers { idle_reaped: true, ..Markers::default() }));
        }
        "ending" => w.event(Event::New { by: "test".into() }),
        "dead" => w.die(DeathCause::Signal(9)),
        _ => {}
    }
    let stands = match &w.peer.session {
        Session::None => ["never live", "asleep"].contains(&phase),
        Session::Launching { .. } => phase == "starting",
        Session::Up(_) => phase == "live",
        Session::Ending { .. } => phase == "ending",
        Session::Dead { .. } => phase == "dead",
    };
    assert!(stands, "{phase}: {:?}", w.peer.session);
    w
}

/// All contents that the files may have together.
fn combinations(current: Incarnation) -> Vec<Markers> {
    let armed = [None, Some(Armed { inc: None }), Some(Armed { inc: Some(current) }), Some(Armed { inc: Some(current + 7) })];
    let mut all = Vec::new();
    for bits in 0..64u32 {
        let set = |n: u32| bits & (1 << n) != 0;
        for ephemeral_armed in armed {
            all.push(Markers {
                stopped: set(0),
                idle_reaped: set(1),
                fresh_next: set(2),
                new_eager: set(3),
                frozen: set(4),
                topics: if set(5) { vec!["t".into()] } else { Vec::new() },
                ephemeral_armed,
            });
        }
    }
    all
}

fn telling(fx: &[Effect]) -> Vec<&Effect> {
    fx.iter()
        .filter(|e| matches!(e, Effect::SetMarkers(_) | Effect::Marker { .. } | Effect::Order { .. } | Effect::Held { .. } | Effect::Released { .. }))
        .collect()
}

#[test]
fn what_is_seen_twice_does_nothing_the_second_time_whatever_was_held_before() {
    for phase in PHASES {
        let w = world(phase);
        let combinations = combinations(w.peer.inc().unwrap_or(0));
        for held in &combinations {
            let mut before = w.peer.clone();
            before.step(Event::MarkersSeen(held.clone()), w.now);
            for seen in &combinations {
                let mut peer = before.clone();
                let fx = peer.step(Event::MarkersSeen(seen.clone()), w.now);
                let case = || format!("{phase}: {held:?}, then {seen:?}");
                // What the files say after that.
                let mut files = seen.clone();
                fx.iter().for_each(|e| {
                    if let Effect::SetMarkers(m) = e {
                        files = m.clone()
                    }
                });
                assert_eq!(files, peer.markers, "{}", case());
                assert_eq!(Markers { ephemeral_armed: seen.ephemeral_armed, ..files.clone() }, *seen, "only what is armed is settled: {}", case());
                let armed = peer.markers.ephemeral_armed;
                assert!(armed.is_none_or(|a| a.inc == peer.up().map(|up| up.inc)), "no other session is armed: {}", case());
                let (session, wanted) = (peer.session.clone(), peer.wanted);
                let again = peer.step(Event::MarkersSeen(files), w.now);
                assert_eq!(telling(&again), Vec::<&Effect>::new(), "{}", case());
                assert_eq!((&peer.session, peer.wanted), (&session, wanted), "{}", case());
                assert!(!(peer.markers.stopped && peer.up().is_some_and(|up| up.end.is_none())), "a stopped session ends: {}", case());
            }
        }
    }
}

#[test]
fn every_combination_leads_to_what_it_says() {
    for phase in PHASES {
        let current = world(phase).peer.inc().unwrap_or(0);
        for seen in combinations(current) {
            let case = format!("{phase}: {seen:?}");
            let mut w = world(phase);
            let live = phase == "live";
            w.event(Event::MarkersSeen(seen.clone()));
            let launches = w.launches;
            w.pass(5_000);
            if seen.stopped {
                // Also when it wants to be back at once.
                assert_eq!((w.peer.session.clone(), w.alive), (Session::None, None), "{case}");
                assert_eq!(w.peer.state_word(), "stopped", "{case}");
                assert!(launches == w.launches || phase == "starting", "{case}");
            } else if seen.new_eager && !seen.frozen && !live {
                assert_eq!(w.peer.state_word(), "live", "{case}");
                assert!(!w.peer.markers.new_eager, "its fresh launch has taken it: {case}");
            } else if ["never live", "asleep"].contains(&phase) {
                assert_eq!(launches, w.launches, "markers alone wake nobody: {case}");
            }
            w.event(Event::Accepted(entry(2)));
            w.pass(5_000);
            let delivered = w.turns.iter().any(|(t, _)| *t == id(2));
            assert_eq!(delivered, !seen.stopped && !seen.frozen, "{case}: {:?}", w.peer);
            if !delivered {
                let hold = if seen.frozen { Hold::Frozen } else { Hold::Stopped };
                assert_eq!(w.peer.hold, Some(hold), "{case}");
                // Lifted by hand: the mail goes, and nothing else was lost.
                w.event(Event::MarkersSeen(Markers { stopped: false, frozen: false, ..w.peer.markers.clone() }));
                w.pass(5_000);
                assert!(w.turns.iter().any(|(t, _)| *t == id(2)), "{case}: {:?}", w.peer);
            }
            w.evidence();
            w.turn_end();
            w.run();
            assert_eq!((w.peer.state_word(), w.finished.get(&id(2))), ("live", Some(&(State::Submitted, Some(Evidence::Hook)))), "{case}");
            if !live || seen.stopped {
                let m = &w.peer.markers;
                assert!(!m.idle_reaped && !m.fresh_next && m.ephemeral_armed.is_none(), "nothing of it survives the launch: {case}: {m:?}");
            }
        }
    }
}

#[test]
fn an_eager_mark_waits_for_the_end_of_the_stop() {
    let mut w = world("asleep");
    w.event(Event::MarkersSeen(Markers { stopped: true, new_eager: true, ..Markers::default() }));
    w.pass(60_000);
    assert_eq!((w.alive, w.peer.state_word()), (None, "stopped"));
    w.event(Event::MarkersSeen(Markers { new_eager: true, ..Markers::default() }));
    w.pass(1_000);
    assert_eq!((w.alive, w.peer.state_word()), (Some(2), "live"), "fresh, without any mail");
}

#[test]
fn lifting_a_stop_by_hand_forgives_no_crash_loop() {
    let mut w = World::new();
    w.launch_fails = true;
    w.event(Event::Accepted(entry(1)));
    w.pass(60_000);
    assert_eq!(w.peer.hold, Some(Hold::CrashLoop));
    w.event(Event::MarkersSeen(Markers { stopped: true, ..Markers::default() }));
    w.event(Event::MarkersSeen(Markers::default()));
    let launches = w.launches;
    w.pass(60_000);
    assert_eq!((w.peer.hold, w.launches), (Some(Hold::CrashLoop), launches));
}

#[test]
fn what_is_armed_goes_with_its_session() {
    let mut w = world("live");
    w.event(Event::MarkersSeen(Markers { ephemeral_armed: Some(Armed { inc: None }), ..Markers::default() }));
    assert_eq!(w.peer.markers.ephemeral_armed, Some(Armed { inc: Some(1) }), "the open number is filled in");
    let files = w.peer.markers.clone();
    let restored = |lost| {
        let mut peer = Peer::new(w.peer.identity.clone(), w.peer.definition.clone(), w.peer.timing);
        let adopted = Adopted { inc: if lost { 2 } else { 1 }, ready: true, reported: true, seed_due: false, since: 0, asked: Vec::new(), trouble: None };
        peer.step(Event::Restored(Box::new(Restored { markers: files.clone(), incarnation: 2, adopted: Some(adopted), ..Restored::default() })), w.now);
        peer.markers.ephemeral_armed
    };
    assert_eq!(restored(false), Some(Armed { inc: Some(1) }), "a daemon that comes back finds it");
    assert_eq!(restored(true), None, "and never takes it for another session's");
}

#[test]
fn a_retired_peer_ends_its_turn_keeps_its_mail_and_comes_back() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    w.pass(5_000);
    w.evidence();
    w.event(Event::Retire(true));
    w.event(Event::Accepted(entry(2)));
    w.pass(60_000);
    assert_eq!((w.alive, w.turns.len()), (Some(1), 1), "the turn runs on, nothing new begins");
    w.turn_end();
    w.pass(60_000);
    assert_eq!((w.alive, w.peer.hold, w.peer.queue.len()), (None, Some(Hold::ProfileInvalid), 1));
    w.event(Event::Retire(false));
    w.pass(5_000);
    assert_eq!(w.turns.len(), 2, "named again: its mail goes");
}

#[test]
fn a_retired_peer_whose_turn_never_ends_is_ended() {
    let mut w = World::new();
    w.event(Event::Accepted(entry(1)));
    w.pass(5_000);
    w.evidence();
    w.event(Event::Retire(true));
    w.pass(crate::core::peer::retire::DRAIN_MS + 1_000);
    assert_eq!((w.alive, w.peer.session.clone()), (None, Session::None));
}

#[test]
fn a_deleted_record_ends_and_its_sender_is_told() {
    let mut w = World::new();
    w.event(Event::MarkersSeen(Markers { stopped: true, ..Markers::default() }));
    w.event(Event::Accepted(entry(1)));
    w.event(Event::Vanished { id: id(1) });
    w.event(Event::Vanished { id: id(1) });
    let told = |w: &World| w.told.iter().filter(|e| matches!(e, Effect::TellSender { state: State::Dead, .. })).count();
    assert_eq!((w.peer.queue.len(), told(&w), w.finished.len()), (0, 1, 0), "told once, and nothing is moved");
}

#[test]
fn an_eager_mark_that_a_session_leaves_counts_however_it_ends() {
    for cause in [DeathCause::Signal(9), DeathCause::Exit(0), DeathCause::TmuxLost] {
        let mut w = world("live");
        w.event(Event::MarkersSeen(Markers { new_eager: true, ..Markers::default() }));
        w.pass(1_000);
        assert_eq!(w.alive, Some(1), "a file alone ends no session");
        w.die(cause.clone());
        w.pass(5_000);
        assert_eq!((w.alive, w.peer.markers.new_eager), (Some(2), false), "{cause}");
    }
}
