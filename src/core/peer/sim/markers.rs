//! Every combination of markers beside every session that a starting daemon may find: each has one meaning.

use super::*;

/// What the daemon finds of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    None,
    Live,
    Dead,
}

#[derive(Debug, Clone)]
struct Case {
    markers: Markers,
    found: Found,
    policy: WakePolicy,
    /// An ephemeral worker has a task.
    task: bool,
    /// A message waits.
    mail: bool,
    /// Three deaths in the ring.
    loops: bool,
}

const INC: Incarnation = 4;

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for bits in 0..32u32 {
        let set = |n: u32| bits & (1 << n) != 0;
        for armed in [None, Some(Armed { inc: None }), Some(Armed { inc: Some(INC) }), Some(Armed { inc: Some(INC - 1) })] {
            let markers = Markers {
                stopped: set(0),
                idle_reaped: set(1),
                fresh_next: set(2),
                new_eager: set(3),
                frozen: set(4),
                ephemeral_armed: armed,
                topics: vec!["t".into()],
            };
            for found in [Found::None, Found::Live, Found::Dead] {
                for (policy, task) in [(WakePolicy::Warm, false), (WakePolicy::Ephemeral, false), (WakePolicy::Ephemeral, true)] {
                    for (mail, loops) in [(false, false), (true, false), (false, true), (true, true)] {
                        if !task || found != Found::None {
                            all.push(Case { markers: markers.clone(), found, policy, task, mail, loops });
                        }
                    }
                }
            }
        }
    }
    all
}

impl Case {
    /// A daemon starts and finds this.
    fn start(&self) -> World {
        let mut w = World::new();
        w.peer.wake_policy = self.policy;
        let disk = &mut w.disk;
        disk.markers = self.markers.clone();
        disk.incarnation = INC;
        disk.begin(INC, &Mode::Fresh, w.now - 60_000);
        if self.found == Found::None {
            disk.session = None;
        }
        disk.session.iter_mut().for_each(|s| (s.ready, s.seed_due) = (true, false));
        if self.task {
            disk.claim(INC, entry(1), 1, 0);
            disk.claimed[0].0.taken = Some(Evidence::Hook);
            w.attempts.insert(id(1), 1);
            w.turns.push((id(1), INC));
        }
        if self.mail {
            disk.accepted(&Entry { topic: Some("t".into()), ..entry(2) });
        }
        if self.loops {
            disk.deaths = (1..INC).map(|n| Death { at: w.now - n, cause: "signal-9".into(), age_ms: 0, incarnation: n, claimed: None }).collect();
        }
        w.alive = (self.found == Found::Live).then_some(INC);
        let restored = w.disk.restored(w.alive, DeathCause::Signal(9), w.now);
        w.event(Event::Restored(Box::new(restored)));
        w
    }

    fn armed(&self) -> bool {
        self.policy == WakePolicy::Ephemeral && self.markers.ephemeral_armed.is_some_and(|a| a.fits(INC))
    }

    /// The combination means this, before anybody gives an order.
    fn check(&self, w: &World) {
        let m = &self.markers;
        let live = self.found == Found::Live;
        // `stopped` with anything: it ends, and starts by nothing but an order.
        if m.stopped {
            assert_eq!((w.alive, w.launches, w.peer.state_word()), (None, 0, "stopped"));
            assert_eq!(w.disk.marked("new-eager"), m.new_eager, "the wish is kept for the start");
        }
        // `frozen` with anything: what runs goes on, nothing begins.
        if m.frozen {
            assert_eq!((w.launches, w.pasted.len()), (0, 0));
            assert!(!live || m.stopped || w.alive == Some(INC));
        }
        // A loop of deaths is got round by no marker.
        if self.loops && !live {
            assert_eq!(w.launches, 0, "three deaths in the ring");
        }
        // Armed is about this session: its task is done, whatever became of the worker.
        if self.task {
            let done = w.finished.get(&id(1)).map(|(state, _)| *state);
            match (self.armed(), live && !m.stopped) {
                (true, _) => assert_eq!(done, Some(State::Submitted)),
                (false, true) if m.new_eager => assert_eq!(done, Some(State::Submitted), "its turn was over"),
                (false, true) => assert_eq!((done, w.released.len()), (None, 0), "it goes on"),
                (false, _) => assert!(done.is_none() && w.released.iter().any(|(n, _)| *n == id(1)), "given back"),
            }
        }
        if let Some(armed) = w.disk.markers.ephemeral_armed {
            assert!(armed.inc.is_some() && armed.inc == w.peer.inc(), "a mark of a session that is gone");
        }
        // Which session it becomes.
        let closed = m.stopped || m.frozen || (self.loops && !live);
        if !closed && (m.new_eager || (self.mail || w.released.len() == 1) && !live) {
            let want = match self.policy {
                _ if m.new_eager => ("fresh", WakeCause::SelfFresh),
                _ if m.fresh_next => ("fresh", WakeCause::SoftReload),
                WakePolicy::Ephemeral => ("fresh", WakeCause::EphemeralPolicy),
                WakePolicy::Warm if !m.idle_reaped => ("fresh", WakeCause::CrashOrSelfClose),
                WakePolicy::Warm => ("resume", WakeCause::IdleReapedResume),
            };
            assert_eq!(w.woken.first().map(|(mode, cause)| (mode.word(), *cause)), Some(want));
            for marker in ["new-eager", "fresh-next", "idle-reaped"] {
                assert!(!w.disk.marked(marker), "{marker} has outlived the launch");
            }
        } else if !closed && !live {
            assert_eq!(w.launches, 0, "nobody wants it");
        }
        if live && !m.stopped && !m.new_eager && self.policy == WakePolicy::Warm {
            assert_eq!((w.alive, w.launches), (Some(INC), 0), "adopted");
            assert!(!w.disk.marked("idle-reaped"), "it is awake");
            assert_eq!(w.disk.marked("fresh-next"), m.fresh_next, "for the next one");
            assert!(!self.mail || m.frozen || w.turns.iter().any(|(n, inc)| *n == id(2) && *inc == INC));
        }
        invariants::exit(&w.peer, w.now);
    }

    /// Whatever it was: once all is lifted, everything comes to its end.
    fn lift(&self, w: &mut World) {
        w.event(Event::Unfreeze { by: "operator".into() });
        w.event(Event::Start { by: "operator".into() });
        for _ in 0..12 {
            w.pass(31_000);
            w.evidence();
            w.turn_end();
        }
        assert!(!self.mail || w.finished.get(&id(2)).is_some_and(|(state, _)| *state == State::Submitted));
        assert!(!self.task || w.finished.get(&id(1)).is_some_and(|(state, _)| *state == State::Submitted));
        assert!(!w.peer.markers.stopped && !w.peer.markers.frozen && !w.peer.markers.new_eager);
    }
}

#[test]
fn every_combination_of_markers_at_a_start_has_its_meaning() {
    let all = cases();
    assert!(all.len() > 3000);
    for case in all {
        let tried = std::panic::catch_unwind(|| {
            let mut w = case.start();
            w.pass(10_000);
            case.check(&w);
            case.lift(&mut w);
        });
        if let Err(why) = tried {
            panic!("{case:?}: {}", said(why.as_ref()));
        }
    }
}
