//! A day of fifty peers on one host: mail, turns, deaths, people at terminals, operators, daemons that are
//! killed, a host that is suspended and whose wall clock jumps. Everything follows from a seed; after every
//! step, what must never happen is looked for ([`watch`]).
//!
//! Two clocks: `awake` orders what happens and stands still while the host is suspended; the decisions see
//! the boot clock, which does not.

mod agent;
mod dice;
mod host;
mod watch;

use super::*;
use agent::{Agent, Deed};
use dice::Dice;
use host::{Capacity, Host};
use std::collections::{BTreeMap, VecDeque};
use watch::{Open, Watch};

const PEERS: usize = 50;
/// Events that are told of when something is wrong.
const LAST: usize = 12;
const MINUTE: Millis = 60_000;
const HOUR: Millis = 60 * MINUTE;

enum Happens {
    /// The oldest act of a peer is carried out, for this daemon.
    Act(usize, u32),
    /// A peer hears of what was claimed for it, by this daemon.
    Promised(usize, u32),
    /// A peer is told something; what only one daemon waits for dies with it.
    Hears(usize, Option<u32>, Box<Event>),
    Tick(usize, u64),
    Deed(usize, Incarnation, Deed),
    /// A person comes to the terminal, or goes on with what they do there.
    Visit(usize, Incarnation, Visit),
    Mail(usize),
    Order(usize, u64),
    Host(Host),
}

#[derive(Clone, Copy)]
enum Visit {
    Comes,
    StopsTyping,
    Clears,
    Leaves,
    Answers,
}

struct Member {
    world: World,
    agent: Option<Agent>,
    watch: Watch,
    /// Only the newest tick counts; when it is due.
    ticket: u64,
    due: Option<Millis>,
    /// Acts that have a time.
    dated: usize,
    /// The host slept, and this peer's actor has not compared the clocks yet.
    unseen: Millis,
    /// Hooks and mail that came while no daemon ran.
    spool: Vec<Event>,
    /// The last events, to be told when something is wrong.
    last: VecDeque<(Millis, Event)>,
    /// How its last session ended.
    cause: DeathCause,
    /// Its agent is no good.
    crashy: bool,
}

struct Day {
    dice: Dice,
    awake: Millis,
    asleep: Millis,
    /// The wall clock, beside the boot clock.
    wall_off: i64,
    boot: u32,
    daemon: u32,
    down: bool,
    agenda: BTreeMap<(Millis, u64), Happens>,
    dated: u64,
    letters: u64,
    /// Messages that kill whoever reads them.
    poison: Vec<MessageId>,
    room: Capacity,
    /// Evening: nothing new comes any more.
    calm: bool,
    members: Vec<Member>,
}

impl Day {
    fn new(seed: u64) -> Day {
        let members = (0..PEERS).map(Member::new).collect();
        let mut day = Day {
            dice: Dice::new(seed),
            awake: 1_000_000,
            asleep: 0,
            wall_off: 1_700_000_000,
            boot: 0,
            daemon: 0,
            down: false,
            agenda: BTreeMap::new(),
            dated: 0,
            letters: 0,
            poison: Vec::new(),
            room: Capacity::default(),
            calm: false,
            members,
        };
        for p in 0..PEERS {
            let (mail, visit, order) = (day.dice.between(0, 20 * MINUTE), day.dice.between(0, 3 * HOUR), day.dice.between(HOUR, 8 * HOUR));
            day.after(mail, Happens::Mail(p));
            day.after(visit, Happens::Visit(p, 0, Visit::Comes));
            day.after(order, Happens::Order(p, 0));
            if day.members[p].world.peer.rules.external {
                day.after(1, Happens::Hears(p, None, Box::new(Event::Want(WantedBy::FolderLaunch))));
            }
        }
        day.plan_host();
        day
    }

    fn now(&self) -> Millis {
        self.awake + self.asleep
    }

    fn after(&mut self, ms: Millis, what: Happens) {
        self.dated += 1;
        self.agenda.insert((self.awake + ms, self.dated), what);
    }

    fn run(&mut self, hours: u64) {
        let end = self.awake + hours * HOUR;
        while let Some(next) = self.agenda.first_entry().filter(|e| e.key().0 <= end) {
            let ((at, _), what) = next.remove_entry();
            self.awake = at;
            let p = self.whose(&what);
            let step = std::panic::AssertUnwindSafe(|| self.happens(what));
            if let Err(why) = std::panic::catch_unwind(step) {
                let member = p.map(|p| &self.members[p]);
                let last: String = member.iter().flat_map(|m| &m.last).map(|(at, event)| format!("{at} {event:.300?}\n")).collect();
                panic!("{}\nat {}: {}\n{last}", said(why.as_ref()), self.now(), member.map_or(String::new(), |m| invariants::brief(&m.world.peer)));
            }
        }
        self.awake = end;
        for member in &self.members {
            member.watch.before(&member.world, end);
        }
    }

    fn whose(&self, what: &Happens) -> Option<usize> {
        match what {
            Happens::Act(p, _)
            | Happens::Promised(p, _)
            | Happens::Hears(p, ..)
            | Happens::Tick(p, _)
            | Happens::Deed(p, ..)
            | Happens::Visit(p, ..)
            | Happens::Order(p, _) => Some(*p),
            Happens::Mail(p) => Some(*p),
            Happens::Host(_) => None,
        }
    }

    fn happens(&mut self, what: Happens) {
        let p = self.whose(&what);
        if let Some(p) = p {
            let now = self.now();
            let member = &mut self.members[p];
            member.watch.before(&member.world, self.awake);
            member.world.now = now;
        }
        match what {
            Happens::Act(p, daemon) if daemon == self.daemon && !self.down => self.act(p),
            Happens::Act(..) => {}
            Happens::Promised(p, daemon) if daemon == self.daemon && !self.down => self.keep_promise(p),
            Happens::Promised(..) => {}
            Happens::Hears(p, daemon, event) if daemon.is_none_or(|d| d == self.daemon) => self.tell(p, *event),
            Happens::Hears(..) => {}
            Happens::Tick(p, ticket) if ticket == self.members[p].ticket && !self.down => {
                self.members[p].due = None;
                self.tell(p, Event::Tick);
            }
            Happens::Tick(..) => {}
            Happens::Deed(p, inc, deed) => self.deed(p, inc, deed),
            Happens::Visit(p, inc, visit) => self.visit(p, inc, visit),
            Happens::Mail(p) => self.mail(p),
            Happens::Order(p, order) => self.order(p, order),
            Happens::Host(deed) => self.host(deed),
        }
        if let Some(p) = p {
            self.look_after(p);
        }
    }

    /// A peer's actor takes something in.
    fn tell(&mut self, p: usize, event: Event) {
        let (now, awake, boot) = (self.now(), self.awake, self.boot);
        let member = &mut self.members[p];
        if self.down {
            if matches!(event, Event::Hook { .. } | Event::TranscriptShows { .. } | Event::Accepted(_)) {
                member.spool.push(event);
            }
            return;
        }
        member.world.now = now;
        let (mut events, mut promised) = (vec![event], false);
        if member.unseen > 0 {
            // The clocks are compared after whatever woke the actor.
            events.push(Event::Suspended { ms: std::mem::take(&mut member.unseen) });
        }
        for event in events {
            if let Event::Accepted(entry) = &event {
                let ttl = entry.expires.zip(entry.stamp.as_ref()).map(|(e, s)| (e - s.unix) as Millis * 1000);
                member.watch.moved = true;
                member.watch.open.insert(entry.id().clone(), Open { boot, since: entry.stamp.as_ref().map_or(now, |s| s.boot_ms), ttl });
            }
            member.watch.hears(&event, awake);
            member.last.push_back((now, event.clone()));
            if member.last.len() > LAST {
                member.last.pop_front();
            }
            let mail = matches!(event, Event::Accepted(_));
            member.world.event(event);
            promised |= mail && member.world.promise.is_some();
            member.world.told.clear();
            // Whatever it led to, also by way of the daemon.
            let turn_runs = member.agent.as_ref().is_some_and(|a| a.turn.is_some());
            for effect in std::mem::take(&mut member.world.all) {
                member.watch.decided(&effect, &member.world, turn_runs, awake, boot);
            }
        }
        if promised {
            let (takes, daemon) = (self.dice.between(1, 400), self.daemon);
            self.after(takes, Happens::Promised(p, daemon));
        }
        self.look_after(p);
    }

    fn keep_promise(&mut self, p: usize) {
        if let Some((inc, entry)) = self.members[p].world.promise.take() {
            self.tell(p, Event::AcceptedClaimed { inc, entry });
        }
    }

    /// Dates what has to be done next, and looks for what must not be.
    fn look_after(&mut self, p: usize) {
        if self.down {
            return;
        }
        let now = self.now();
        while self.members[p].dated < self.members[p].world.pending.len() {
            let takes = agent::duration_of(&self.members[p].world.pending[self.members[p].dated], &mut self.dice);
            self.members[p].dated += 1;
            let daemon = self.daemon;
            self.after(takes, Happens::Act(p, daemon));
        }
        let member = &mut self.members[p];
        member.world.now = now;
        let idle_agent = member.agent.as_ref().is_none_or(|a| a.turn.is_none());
        member.watch.after(&member.world, self.awake, idle_agent);
        let due = member.world.peer.next_due(now);
        if member.due != due {
            member.due = due;
            member.ticket += 1;
            let ticket = member.ticket;
            if let Some(due) = due {
                self.after(due.saturating_sub(now).max(1), Happens::Tick(p, ticket));
            }
        }
    }

    fn letter(&mut self, from: Party, in_reply_to: Option<MessageId>) -> Entry {
        self.letters += 1;
        let n = self.letters;
        let topic = self.dice.chance(600).then(|| format!("t{}", self.dice.between(0, 3)));
        let stamp = self.stamp();
        let expires = self.dice.chance(200).then(|| stamp.unix + self.dice.between(600, 7200) as i64);
        let urgent = self.dice.chance(50);
        let not_before = if self.dice.chance(50) { self.now() + 15_000 } else { 0 };
        let notice = from == Party::System;
        if self.dice.chance(4) {
            self.poison.push(id(n));
        }
        let key = Key { id: id(n), seq: n, urgent };
        let mut entry = Entry { key, from, topic, in_reply_to, notice, expires, stamp: Some(stamp.clone()), not_before, ..entry(n) };
        entry.due = entry.deadline(&stamp);
        entry
    }

    fn mail(&mut self, p: usize) {
        if self.calm {
            return;
        }
        let sender = self.dice.between(0, PEERS as u64 + 9) as usize;
        let from = match sender {
            s if s == p || s > PEERS + 3 => Party::Operator,
            s if s < PEERS => Party::Peer(self.members[s].world.peer.identity.clone()),
            _ => Party::System,
        };
        let letter = self.letter(from, None);
        self.tell(p, Event::Accepted(letter));
        let next = self.dice.between(2 * MINUTE, 30 * MINUTE);
        self.after(next, Happens::Mail(p));
    }

    fn order(&mut self, p: usize, order: u64) {
        let by = || "operator".to_string();
        // What takes an order back waits for a daemon.
        if self.down && order > 0 {
            self.after(MINUTE, Happens::Order(p, order));
            return;
        }
        let takes_back = |day: &mut Day, order| {
            let later = day.dice.between(MINUTE, 60 * MINUTE);
            day.after(later, Happens::Order(p, order));
        };
        if order == 0 {
            if self.calm {
                return;
            }
            let next = self.dice.between(2 * HOUR, 10 * HOUR);
            self.after(next, Happens::Order(p, 0));
        }
        let kind = if order == 0 { self.dice.between(10, 19) } else { order };
        let live = self.members[p].agent.is_some();
        let world = &mut self.members[p].world;
        match kind {
            1 => self.tell(p, Event::Start { by: by() }),
            2 => self.tell(p, Event::Unfreeze { by: by() }),
            3 => self.tell(p, Event::Retire(false)),
            4 => {
                world.no_launch = None;
                self.tell(p, Event::Mended);
            }
            10 => {
                self.tell(p, Event::Stop { by: by() });
                takes_back(self, 1);
            }
            11 => self.tell(p, Event::New { by: by() }),
            12 => self.tell(p, Event::Refresh { by: by() }),
            13 => {
                self.tell(p, Event::Freeze { by: by() });
                takes_back(self, 2);
            }
            14 if live => self.tell(p, Event::Interrupt { by: by() }),
            15 if live => self.tell(p, Event::Force { by: by() }),
            16 => {
                if let Some(waits) = world.peer.queue.first().map(|e| e.id().clone()) {
                    self.tell(p, Event::Withdraw { id: waits, state: State::Parked, reason: "by-operator" });
                }
            }
            17 => {
                world.disk.mark("ephemeral-armed", true);
                let seen = world.disk.markers.clone();
                self.tell(p, Event::MarkersSeen(seen));
            }
            18 => {
                self.tell(p, Event::Retire(true));
                takes_back(self, 3);
            }
            19 => {
                world.no_launch = Some(LaunchFault::MissingBinary("gone".into()));
                takes_back(self, 4);
            }
            _ => {}
        }
    }

    /// From now on nothing new comes, and all that stood in the way is taken away.
    fn evening(&mut self) {
        self.calm = true;
        if self.down {
            self.host(Host::Up);
        }
        self.host(Host::Freeze(false));
        for p in 0..PEERS {
            self.members[p].crashy = false;
            for order in 1..=4 {
                self.order(p, order);
            }
            let inc = self.members[p].world.alive.unwrap_or(0);
            self.visit(p, inc, Visit::Clears);
            self.visit(p, inc, Visit::Leaves);
        }
        self.poison.clear();
    }
}

impl Member {
    fn new(p: usize) -> Member {
        let mut world = World::new();
        world.ahead = true;
        world.now = 1_000_000;
        let peer = &mut world.peer;
        peer.identity = format!("echo-p{p}").parse().unwrap();
        peer.rules.idle_ms = Some((20 + p as Millis * 2) * MINUTE);
        match p % 10 {
            3 | 6 | 9 => {
                peer.wake_policy = WakePolicy::Ephemeral;
                peer.rules.max_age_ms = Some(4 * HOUR);
            }
            4 => peer.definition = definition_of("claude"),
            7 if p < 20 => peer.definition = definition_of("mute"),
            0 => peer.rules.max_age_ms = Some(4 * HOUR),
            _ => {}
        }
        if [16, 26, 29, 36, 46, 49].contains(&p) {
            peer.definition = definition_of("claude");
        }
        peer.rules.external = p == 2;
        peer.rules.keep_alive = p == 1 || p == 21;
        peer.at_most_once = p == 8 || p == 13;
        peer.person_facing = p == 12;
        peer.resume_policy = [ResumePolicy::Topic, ResumePolicy::Always, ResumePolicy::Never][[22, 32].iter().position(|n| *n == p).map_or(0, |n| n + 1)];
        Member {
            world,
            agent: None,
            watch: Watch::default(),
            ticket: 0,
            due: None,
            dated: 0,
            unseen: 0,
            spool: Vec::new(),
            last: VecDeque::new(),
            cause: DeathCause::Unknown,
            crashy: [5, 23, 41].contains(&p),
        }
    }
}

/// A whole day, and an evening in which everything comes to its end.
fn day(seed: u64) -> BTreeMap<&'static str, u32> {
    let mut day = Day::new(seed);
    day.run(24);
    day.evening();
    day.run(2);
    // Whoever ended in a crash loop on the way is started once more.
    day.evening();
    day.run(4);
    let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
    for member in &day.members {
        let peer = &member.world.peer;
        let left: Vec<&Entry> = peer.queue.iter().filter(|e| e.wakes() && !peer.rules.external).collect();
        assert!(left.is_empty() && peer.flight.is_none() && peer.task.is_none(), "was never done: {}", invariants::brief(peer));
        for (what, n) in &member.watch.counts {
            *counts.entry(what).or_default() += n;
        }
        *counts.entry("turns").or_default() += member.world.turns.len() as u32;
    }
    counts
}

#[test]
fn a_day_of_fifty_peers() {
    // More of them: IAPEER_SIM_DAYS=100.
    let days = std::env::var("IAPEER_SIM_DAYS").map_or(2, |n| n.parse().expect("IAPEER_SIM_DAYS is a number of days"));
    let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
    for seed in 1..=days {
        let lived = std::panic::catch_unwind(|| day(seed));
        for (what, n) in lived.unwrap_or_else(|why| panic!("the day of seed {seed}: {}", said(why.as_ref()))) {
            *counts.entry(what).or_default() += n;
        }
    }
    // What the days are for did happen.
    for (what, least) in [
        ("turns", 6000),
        ("submitted", 6000),
        ("redelivered", 40),
        ("adopted", 200),
        ("crash", 100),
        ("crash-loop", 1),
        ("dead", 1),
        ("parked", 4),
        ("expired", 2),
        ("reaped-idle", 100),
        ("reaped-age", 6),
        ("reaped-ephemeral", 200),
        ("reaped-ephemeral-unarmed", 6),
        ("needs-eager-fresh", 10),
        ("task-again", 1),
        ("idle-reaped-resume", 20),
    ] {
        let n = counts.get(what).copied().unwrap_or(0);
        assert!(n >= least, "{what} happened {n} times only: {counts:?}");
    }
}
