//! The simulator: a script of what happens, in words, against the decisions and the simulated world.
//!
//! One script a file in `sim/`, one step a line, `#` begins a comment:
//!
//! | line | does |
//! |---|---|
//! | `send N` | message N is accepted |
//! | `pass 5s` (`250ms`, `2m`, `3h`) | time passes, everything due happens |
//! | `settle N` | the N oldest acts under way come to their end; the rest is still on its way |
//! | `evidence` | the program's hook reports the last turn |
//! | `turn-end` | the program's hook reports the end of its turn |
//! | `swallow N` | the program swallows the next N submit keys |
//! | `lose-answer` | the next paste happens and its answer is lost |
//! | `screen ready`, `busy`, `unknown`, `dialog` | what the program shows |
//! | `lose agent` | it dies while no daemon looks |
//! | `die exit-N`, `signal-N`, `tmux-lost`, `host-reboot` | the agent's end |
//! | `crash daemon`, `start daemon [CAUSE]` | the daemon is killed; the next one finds what is on disk, and that the agent died of CAUSE |
//! | `at-most-once` | the profile says so |
//! | `stop`, `start`, `new` | orders |
//! | `expect turns N` | so many turns in all |
//! | `expect N submitted`, `dead`, `parked`, `waiting`, … | where message N stands |
//! | `expect pastes N INC COUNT` | how often message N was pasted into session INC |
//! | `expect attempt N COUNT` | how many copies message N has had |
//! | `expect state WORD`, `expect hold WORD` | of the peer |

use super::*;

/// What survives the daemon.
#[derive(Default)]
struct OnDisk {
    accepted: Vec<Entry>,
    claimed: Option<Entry>,
    markers: Markers,
    deaths: Vec<Death>,
}

struct Sim {
    world: World,
    disk: OnDisk,
    /// The session that `session.json` names, and whether it was ready.
    recorded: Option<(u64, bool)>,
    told: usize,
    /// No daemon runs.
    down: bool,
}

impl Sim {
    fn new() -> Sim {
        Sim { world: World::new(), disk: OnDisk::default(), recorded: None, told: 0, down: false }
    }

    /// Takes over what the effects of the last step have put on disk.
    fn persist(&mut self) {
        let told = &self.world.told[self.told..];
        for effect in told {
            match effect {
                Effect::SetMarkers(markers) => self.disk.markers = markers.clone(),
                Effect::SaveDeaths(deaths) => self.disk.deaths = deaths.clone(),
                _ => {}
            }
        }
        self.told = self.world.told.len();
        let world = &self.world;
        self.disk.accepted.retain(|e| !world.finished.contains_key(e.id()));
        // A claim stands from the moment it is written until the message has ended or was given back.
        let flight = world.peer.flight.as_ref().filter(|f| f.stage != Stage::Claiming);
        self.disk.claimed = flight.map(|f| f.entry.clone());
        self.recorded = world.peer.up().map(|up| (up.inc, up.ready_at.is_some()));
    }

    fn crash(&mut self) {
        self.down = true;
        self.world.pending.clear();
        let timing = self.world.peer.timing;
        let (identity, definition, incarnation) = (self.world.peer.identity.clone(), self.world.peer.definition.clone(), self.world.peer.incarnation);
        let at_most_once = self.world.peer.at_most_once;
        self.world.peer = Peer::new(identity, definition, timing);
        self.world.peer.at_most_once = at_most_once;
        self.world.peer.incarnation = incarnation;
    }

    fn restart(&mut self, cause: Option<DeathCause>) {
        let incarnation = self.world.peer.incarnation;
        let process = ProcessRef { pid: 1, start: 1 };
        let claim = self.disk.claimed.clone().map(|entry| {
            let claim = Claim {
                v: 1,
                id: entry.id().clone(),
                attempt: self.world.attempts.get(entry.id()).copied().unwrap_or(1),
                deaths: self.world.deaths.get(entry.id()).copied().unwrap_or(0),
                identity: "echo-a".parse().unwrap(),
                incarnation: self.recorded.map_or(incarnation, |(inc, _)| inc),
                boot_id: String::new(),
                server: process.clone(),
                keeper: process.clone(),
                pane: "%0".into(),
                transcript: None,
                taken: None,
                released: false,
            };
            (claim, entry)
        });
        let claimed = claim.as_ref().map(|(_, e)| e.id().clone());
        let alive = self.world.alive;
        let restored = Restored {
            queue: self.disk.accepted.iter().filter(|e| Some(e.id()) != claimed.as_ref()).cloned().collect(),
            claim,
            task: None,
            markers: self.disk.markers.clone(),
            resumable: None,
            deaths: self.disk.deaths.clone(),
            incarnation,
            adopted: alive.map(|inc| Adopted {
                inc,
                ready: self.recorded.is_some_and(|(i, ready)| i == inc && ready),
                seed_due: false,
                since: 0,
                asked: Vec::new(),
            }),
            lost: self.recorded.filter(|_| alive.is_none()).map(|(inc, _)| (inc, cause.unwrap_or(DeathCause::Signal(9)))),
            ..Restored::default()
        };
        self.down = false;
        self.world.event(Event::Restored(Box::new(restored)));
    }

    /// Carries out one line.
    fn line(&mut self, words: &[&str]) {
        let number = |w: &str| w.parse::<u64>().unwrap_or_else(|_| panic!("{w} is no number"));
        let by = || "operator".to_string();
        match words {
            ["send", n] => {
                self.disk.accepted.push(entry(number(n)));
                self.world.event(Event::Accepted(entry(number(n))));
            }
            ["pass", time] => self.world.pass(duration(time)),
            ["settle", n] => (0..number(n)).for_each(|_| {
                self.world.settle_one();
            }),
            ["evidence"] => self.world.evidence(),
            ["turn-end"] => self.world.turn_end(),
            ["swallow", n] => self.world.swallow = number(n) as u32,
            ["lose-answer"] => self.world.lose_answers = 1,
            ["screen", class] => {
                self.world.class = match *class {
                    "ready" => Class::Ready,
                    "busy" => Class::Busy,
                    "dialog" => Class::Dialog("question".into()),
                    _ => Class::Unknown,
                }
            }
            ["die", cause] => self.world.die(death(cause)),
            ["crash", "daemon"] => self.crash(),
            ["start", "daemon"] => self.restart(None),
            ["start", "daemon", cause] => self.restart(Some(death(cause))),
            // It died while no daemon looked.
            ["lose", "agent"] => self.world.alive = None,
            ["at-most-once"] => self.world.peer.at_most_once = true,
            ["stop"] => self.world.event(Event::Stop { by: by() }),
            ["start"] => self.world.event(Event::Start { by: by() }),
            ["new"] => self.world.event(Event::New { by: by() }),
            ["expect", "turns", n] => assert_eq!(self.world.turns.len() as u64, number(n)),
            ["expect", "state", word] => assert_eq!(self.world.peer.state_word(), *word),
            ["expect", "hold", word] => assert_eq!(self.world.peer.hold.map_or("none", |h| h.word()), *word),
            ["expect", "pastes", n, inc, count] => {
                assert_eq!(self.world.pasted.get(&(number(inc), id(number(n)))).copied().unwrap_or(0) as u64, number(count));
            }
            ["expect", "attempt", n, count] => assert_eq!(u64::from(self.world.attempts.get(&id(number(n))).copied().unwrap_or(0)), number(count)),
            ["expect", n, word] => {
                let state = self.world.finished.get(&id(number(n))).map_or("waiting", |(state, _)| state.word());
                assert_eq!(state, *word, "message {n}");
            }
            other => panic!("no such step: {}", other.join(" ")),
        }
        // A daemon that is down writes nothing.
        if !self.down {
            self.persist();
        }
    }
}

fn duration(text: &str) -> Millis {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => panic!("{other} is no unit"),
    };
    digits.parse::<Millis>().unwrap() * unit
}

fn death(cause: &str) -> DeathCause {
    let number = |text: &str| text.parse().unwrap();
    match cause.split_once('-') {
        Some(("exit", n)) => DeathCause::Exit(number(n)),
        Some(("signal", n)) => DeathCause::Signal(number(n)),
        Some(("tmux", _)) => DeathCause::TmuxLost,
        Some(("host", _)) => DeathCause::HostReboot,
        _ => panic!("{cause} is no cause of death"),
    }
}

#[test]
fn every_script_ends_as_it_says() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/peer/sim");
    let mut scripts: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 9, "the scripts were not found");
    for script in scripts {
        let text = std::fs::read_to_string(&script).unwrap();
        let mut sim = Sim::new();
        for (at, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let step = std::panic::AssertUnwindSafe(|| sim.line(&words));
            if let Err(panic) = std::panic::catch_unwind(step) {
                let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                panic!("{}:{}: {line}: {why}\n{:?}", script.display(), at + 1, sim.world.peer);
            }
        }
    }
}
