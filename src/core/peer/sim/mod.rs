//! The simulator: a script of what happens, in words, against the decisions and the simulated world.
//!
//! One script a file in a folder of `scripts/`, one step a line, `#` begins a comment:
//!
//! | line | does |
//! |---|---|
//! | **profile and program** | |
//! | `profile ephemeral`, `at-most-once`, `person`, `keep-alive`, `external` | the profile says so |
//! | `profile resume always`, `never`; `profile idle 1h`, `max-age 4h`; `profile crash-loop never` | the same |
//! | `program claude`, `codex`, `mute` | its definition; `mute` tells nothing of its turns |
//! | **mail** | |
//! | `send N [topic T] [from P] [reply-to M] [urgent] [due 20s] [paced 20s] [notice]` | message N is accepted |
//! | `deliver N …` | the same, and its turn comes and ends |
//! | `withdraw N` | the operator gives it up |
//! | **the agent** | |
//! | `says N to P [reply-to M]` | it sends message N itself |
//! | `self-done`, `self-fresh` | it says so |
//! | `evidence`, `turn-end`, `turn-fails`, `permission` | the program's hook tells of the last turn, its end, that the model could not be asked, a question |
//! | `typed` | a person's own turn begins |
//! | `output` | the program draws |
//! | `swallow N` | it swallows the next N submit keys |
//! | `screen ready`, `busy`, `unknown`, `picker`, `dialog`, `NAME` | what it shows: NAME is a dialog |
//! | `row TEXT` | one more row of its conversation |
//! | `die exit-N`, `signal-N`, `tmux-lost`, `host-reboot` | its end |
//! | `loses` | it comes up and never shows a screen that is known; `works` takes this back |
//! | **the terminal** | |
//! | `draft on`, `off`; `typing on`, `off`; `attach`, `detach` | a person is there |
//! | `lose-answer` | the next paste happens and its answer is lost |
//! | `keys refused`, `ignored`, `work` | keys find no proof; end no turn |
//! | **the host** | |
//! | `pass 5s` (`250ms`, `2m`, `3h`) | time passes, everything due happens |
//! | `settle N` | the N oldest acts under way come to their end; the rest is still on its way |
//! | `late 3h` | so much time passes; what is due is begun, nothing ends |
//! | `act` | the oldest act under way is done, and the daemon never learns of it |
//! | `suspend 3h [unseen]`, `suspended 3h` | the host sleeps for so long; the daemon notices, at once or later |
//! | `launches fail`, `find no program`, `find no room`, `wait 20s`, `work` | what a launch comes to |
//! | `room` | a session has ended somewhere |
//! | `ends unproven N` | the next N ends of a session are not proven |
//! | `transcript gone` | nothing is left of its conversation |
//! | `lose agent` | it dies while no daemon looks |
//! | `crash daemon`, `start daemon [CAUSE]` | the daemon is killed; the next one finds what is on disk, and that the agent died of CAUSE |
//! | `touch MARKER`, `rm MARKER`, `vanish N` | an operator's hand on the files; the daemon, if one runs, sees it |
//! | `retire on`, `off`; `mended` | the profile names its runtime no more; profile or definition were edited |
//! | `drain` | the daemon is about to end |
//! | **orders** | |
//! | `stop`, `start`, `new`, `rest`, `refresh`, `freeze`, `unfreeze`, `interrupt`, `force`, `remove` | |
//! | `host freeze`, `host unfreeze` | |
//! | `want attach`, `folder`, `restore` | a launch without mail |
//! | **expectations** | |
//! | `expect turns N`, `expect launches N`, `expect keys N`, `expect deaths N`, `expect notices N`, `expect ready N` | so many in all; deaths: in the ring |
//! | `expect N submitted`, `dead`, `parked`, `waiting`, … | where message N stands |
//! | `expect N told REASON` | its sender was told |
//! | `expect pastes N INC COUNT` | how often message N was pasted into session INC |
//! | `expect attempt N COUNT` | how many copies message N has had |
//! | `expect state WORD`, `expect hold WORD`, `expect turn idle`, `working`, `waiting` | of the peer |
//! | `expect woke MODE CAUSE` | the last launch |
//! | `expect conversation sN` | the one that began in session N is the current one |
//! | `expect supervise ACTION`, `expect armed BY`, `expect order VERB BY` | the last of its kind, or `none` |
//! | `expect marker NAME on`, `off` | on disk |
//! | `expect back-off within 1s` | the last one |

mod day;
pub mod disk;
pub mod invariants;
mod markers;

use super::*;

struct Sim {
    world: World,
    /// No daemon runs.
    down: bool,
}

impl Sim {
    fn new() -> Sim {
        Sim { world: World::new(), down: false }
    }

    fn crash(&mut self) {
        self.down = true;
        self.world.pending.clear();
        self.world.forget();
    }

    fn restart(&mut self, cause: DeathCause) {
        self.down = false;
        let restored = self.world.disk.restored(self.world.alive, cause, self.world.now);
        self.world.event(Event::Restored(Box::new(restored)));
    }

    /// Carries out one line.
    fn line(&mut self, words: &[&str]) {
        match words {
            ["expect", rest @ ..] => self.expect(rest),
            ["profile", rest @ ..] => self.profile(rest),
            [verb @ ("stop" | "start" | "new" | "rest" | "refresh" | "freeze" | "unfreeze" | "interrupt" | "force" | "remove")] => self.order(verb),
            _ => self.happens(words),
        }
    }

    fn profile(&mut self, words: &[&str]) {
        let peer = &mut self.world.peer;
        match words {
            ["ephemeral"] => peer.wake_policy = WakePolicy::Ephemeral,
            ["at-most-once"] => peer.at_most_once = true,
            ["person"] => peer.person_facing = true,
            ["keep-alive"] => peer.rules.keep_alive = true,
            ["external"] => peer.rules.external = true,
            ["resume", "always"] => peer.resume_policy = ResumePolicy::Always,
            ["resume", "never"] => peer.resume_policy = ResumePolicy::Never,
            ["crash-loop", "never"] => peer.timing.crashloop_max = u32::MAX,
            ["idle", time] => peer.rules.idle_ms = Some(duration(time)),
            ["max-age", time] => peer.rules.max_age_ms = Some(duration(time)),
            other => panic!("no such profile: {}", other.join(" ")),
        }
    }

    fn order(&mut self, verb: &str) {
        let by = || "operator".to_string();
        self.world.event(match verb {
            "stop" => Event::Stop { by: by() },
            "start" => Event::Start { by: by() },
            "new" => Event::New { by: by() },
            "rest" => Event::Rest,
            "refresh" => Event::Refresh { by: by() },
            "freeze" => Event::Freeze { by: by() },
            "unfreeze" => Event::Unfreeze { by: by() },
            "interrupt" => Event::Interrupt { by: by() },
            "force" => Event::Force { by: by() },
            _ => Event::Remove { by: by() },
        });
    }

    fn happens(&mut self, words: &[&str]) {
        let now = self.world.now;
        let inc = self.world.alive.unwrap_or(0);
        let w = &mut self.world;
        match words {
            ["program", name] => w.peer.definition = definition_of(name),
            ["send", n, rest @ ..] => w.event(Event::Accepted(letter_of(number(n), rest, now))),
            ["deliver", n, rest @ ..] => {
                w.event(Event::Accepted(letter_of(number(n), rest, now)));
                w.pass(5_000);
                w.evidence();
                w.turn_end();
                w.run();
            }
            ["withdraw", n] => w.event(Event::Withdraw { id: id(number(n)), state: State::Dead, reason: "dropped" }),
            ["says", n, "to", to, rest @ ..] => {
                let in_reply_to = if let ["reply-to", m] = rest { Some(id(number(m))) } else { None };
                w.event(Event::Sent { inc, id: id(number(n)), to: to.parse().unwrap(), in_reply_to });
            }
            ["self-done"] => w.event(Event::SelfDone { inc }),
            ["self-fresh"] => w.event(Event::SelfFresh { inc }),
            ["evidence"] => w.evidence(),
            ["turn-end"] => w.turn_end(),
            ["turn-fails"] => w.event(Event::Hook { inc, fact: HookFact::TurnFailed }),
            ["permission"] => w.event(Event::Hook { inc, fact: HookFact::PermissionAsked }),
            ["typed"] => w.event(Event::Hook { inc, fact: HookFact::PromptSubmitted { ids: Vec::new() } }),
            ["output"] => w.event(Event::Output { inc }),
            ["swallow", n] => w.swallow = number(n) as u32,
            ["screen", class] => {
                w.class = match *class {
                    "ready" => Class::Ready,
                    "busy" => Class::Busy,
                    "picker" => Class::Picker,
                    "unknown" => Class::Unknown,
                    "dialog" => Class::Dialog("question".into()),
                    name => Class::Dialog(name.into()),
                }
            }
            ["row", text] => w.rows.push((*text).into()),
            ["die", cause] => w.die(death(cause)),
            ["loses"] => w.never_ready = true,
            ["works"] => w.never_ready = false,
            ["draft", on] => w.draft = *on == "on",
            ["typing", on] => w.typing = *on == "on",
            ["attach"] => w.attached = 1,
            ["detach"] => {
                w.attached = 0;
                w.event(Event::Detached);
            }
            ["lose-answer"] => w.lose_answers = 1,
            ["keys", how] => (w.keys_refused, w.stubborn) = (*how == "refused", *how == "ignored"),
            ["pass", time] if self.down => w.now += duration(time),
            ["pass", time] => w.pass(duration(time)),
            ["settle", n] => (0..number(n)).for_each(|_| {
                w.settle_one();
            }),
            ["act"] => {
                let effect = w.pending.remove(0);
                w.carry_out(effect);
            }
            ["late", time] => {
                w.now += duration(time);
                w.event(Event::Tick);
            }
            ["suspend", time, rest @ ..] => {
                w.now += duration(time);
                if rest.is_empty() {
                    w.event(Event::Suspended { ms: duration(time) });
                }
            }
            ["suspended", time] => w.event(Event::Suspended { ms: duration(time) }),
            ["launches", what @ ..] => {
                w.no_launch = match what {
                    ["fail"] => Some(LaunchFault::Other("no".into())),
                    ["find", "no", "program"] => Some(LaunchFault::MissingBinary("echo".into())),
                    ["find", "no", "room"] => Some(LaunchFault::NotNow { hold: Hold::Capacity, retry_ms: 30_000 }),
                    ["wait", time] => Some(LaunchFault::NotNow { hold: Hold::Backoff, retry_ms: duration(time) }),
                    _ => None,
                }
            }
            ["room"] => w.event(Event::RoomMade),
            ["ends", "unproven", n] => w.unended = number(n) as u32,
            ["transcript", "gone"] => w.disk.transcript_gone = true,
            ["lose", "agent"] => w.alive = None,
            ["crash", "daemon"] => self.crash(),
            ["start", "daemon"] => self.restart(DeathCause::Signal(9)),
            ["start", "daemon", cause] => self.restart(death(cause)),
            [hand @ ("touch" | "rm"), name] => {
                w.disk.mark(name, *hand == "touch");
                if !self.down {
                    w.event(Event::MarkersSeen(w.disk.markers.clone()));
                }
            }
            ["vanish", n] => {
                w.disk.drop_message(&id(number(n)));
                w.event(Event::Vanished { id: id(number(n)) });
            }
            ["retire", on] => w.event(Event::Retire(*on == "on")),
            ["mended"] => w.event(Event::Mended),
            ["drain"] => w.event(Event::Drain),
            ["host", "freeze"] => w.event(Event::HostFrozen(true)),
            ["host", "unfreeze"] => w.event(Event::HostFrozen(false)),
            ["want", who] => w.event(Event::Want(match *who {
                "attach" => WantedBy::Attach,
                "restore" => WantedBy::Restore,
                _ => WantedBy::FolderLaunch,
            })),
            other => panic!("no such step: {}", other.join(" ")),
        }
    }

    fn expect(&mut self, words: &[&str]) {
        let w = &self.world;
        let told = |n: &str, reason: &str| {
            w.told.iter().any(|e| matches!(e, Effect::TellSender { entry, reason: r, .. } if *entry.id() == id(number(n)) && r == reason))
        };
        match words {
            ["turns", n] => assert_eq!(w.turns.len() as u64, number(n)),
            ["launches", n] => assert_eq!(u64::from(w.launches), number(n)),
            ["keys", n] => assert_eq!(u64::from(w.keys_in_dialog), number(n)),
            ["deaths", n] => assert_eq!(w.disk.deaths.len() as u64, number(n)),
            ["ready", n] => assert_eq!(w.told.iter().filter(|e| matches!(e, Effect::Ready { .. })).count() as u64, number(n)),
            ["notices", n] => assert_eq!(w.told.iter().filter(|e| matches!(e, Effect::Notice { .. })).count() as u64, number(n)),
            ["state", word] => assert_eq!(w.peer.state_word(), *word),
            ["hold", word] => assert_eq!(w.peer.hold.map_or("none", |h| h.word()), *word),
            ["turn", word] => {
                let turn = w.peer.up().map_or("none", |up| match up.turn {
                    Turn::Idle => "idle",
                    Turn::Working { .. } => "working",
                    Turn::Waiting => "waiting",
                });
                assert_eq!(turn, *word);
            }
            ["woke", mode, cause] => {
                let (was, by) = w.woken.last().expect("nothing was launched");
                assert_eq!((was.word(), by.word()), (*mode, *cause));
            }
            ["conversation", name] => assert_eq!(w.disk.resumable.as_ref().map(|r| r.session_id.as_str()), Some(*name)),
            ["supervise", action] => assert_eq!(last(w, |e| if let Effect::Supervise { action, .. } = e { Some(action.to_string()) } else { None }), *action),
            ["armed", by] => assert_eq!(last(w, |e| if let Effect::Armed { by, .. } = e { Some(by.to_string()) } else { None }), *by),
            ["order", rest @ ..] => {
                assert_eq!(last(w, |e| if let Effect::Order { verb, by } = e { Some(format!("{verb} {by}")) } else { None }), rest.join(" "))
            }
            ["marker", name, on] => assert_eq!(w.disk.marked(name), *on == "on", "the marker {name}"),
            ["back-off", "within", time] => {
                let wait =
                    w.told.iter().rev().find_map(|e| if let Effect::Backoff { until_ms, .. } = e { Some(*until_ms) } else { None }).expect("no back-off");
                assert!(wait <= duration(time), "it waits for {wait} ms");
            }
            ["pastes", n, inc, count] => {
                assert_eq!(u64::from(w.pasted.get(&(number(inc), id(number(n)))).copied().unwrap_or(0)), number(count));
            }
            ["attempt", n, count] => assert_eq!(u64::from(w.attempts.get(&id(number(n))).copied().unwrap_or(0)), number(count)),
            [n, "told", reason] => assert!(told(n, reason), "its sender was not told"),
            [n, word] => {
                let state = w.finished.get(&id(number(n))).map_or("waiting", |(state, _)| state.word());
                assert_eq!(state, *word, "message {n}");
            }
            other => panic!("no such expectation: {}", other.join(" ")),
        }
    }
}

/// The last that was told of something, or `none`.
fn last(w: &World, what: impl Fn(&Effect) -> Option<String>) -> String {
    w.told.iter().rev().find_map(what).unwrap_or("none".into())
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn letter_of(n: u64, words: &[&str], now: Millis) -> Entry {
    let mut entry = entry(n);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || *words.next().unwrap_or_else(|| panic!("{word} of what?"));
        match *word {
            "topic" => entry.topic = Some(value().into()),
            "from" => entry.from = value().parse().unwrap(),
            "reply-to" => entry.in_reply_to = Some(id(number(value()))),
            "urgent" => entry.key.urgent = true,
            "paced" => entry.not_before = now + duration(value()),
            "due" => entry.due = Some(now + duration(value())),
            "notice" => (entry.from, entry.notice) = (Party::System, true),
            other => panic!("no such mail: {other}"),
        }
    }
    entry
}

fn definition_of(name: &str) -> Arc<Definition> {
    let parse = |text: &str| serde_yaml::from_str::<Definition>(text).unwrap();
    Arc::new(match name {
        "claude" => parse(include_str!("../../../../peers/runtimes/claude.yaml")),
        "codex" => parse(include_str!("../../../../peers/runtimes/codex.yaml")),
        "mute" => {
            let mut mute = parse(include_str!("../../../../peers/runtimes/echo.yaml"));
            mute.turn.turn_end.clear();
            mute.transcript = None;
            mute
        }
        _ => definition().as_ref().clone(),
    })
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
    match cause.split_once('-') {
        Some(("exit", n)) => DeathCause::Exit(n.parse().unwrap()),
        Some(("signal", n)) => DeathCause::Signal(n.parse().unwrap()),
        Some(("tmux", _)) => DeathCause::TmuxLost,
        Some(("host", _)) => DeathCause::HostReboot,
        _ => panic!("{cause} is no cause of death"),
    }
}

/// What a panic said.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}

fn scripts(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found.into_iter().flat_map(|path| if path.is_dir() { scripts(&path) } else { vec![path] }).collect()
}

/// How one script fails, if it does.
fn failure(script: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(script).unwrap();
    let mut sim = Sim::new();
    for (at, line) in text.lines().enumerate() {
        let words: Vec<&str> = match line.strip_prefix("row ") {
            Some(row) => vec!["row", row],
            None => line.split(" #").next().unwrap().split_whitespace().collect(),
        };
        if words.is_empty() || words[0].starts_with('#') {
            continue;
        }
        let step = std::panic::AssertUnwindSafe(|| sim.line(&words));
        if let Err(panic) = std::panic::catch_unwind(step) {
            return Some(format!("{}:{}: {line}: {}\n{}", script.display(), at + 1, said(panic.as_ref()), invariants::brief(&sim.world.peer)));
        }
    }
    None
}

#[test]
fn every_script_ends_as_it_says() {
    let all = scripts(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/peer/sim/scripts")));
    assert!(all.len() >= 100, "the scripts were not found");
    let failures: Vec<String> = all.iter().filter_map(|script| failure(script)).collect();
    assert!(failures.is_empty(), "{} of {} scripts fail:\n{}", failures.len(), all.len(), failures.join("\n"));
}
