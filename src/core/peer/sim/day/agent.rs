//! The agents and the people of the day: what they do at their terminals, and how a peer's acts meet it.

use super::super::super::*;
use super::{Day, Dice, HOUR, Happens, MINUTE, PEERS, Visit};

/// The truth about the program in one session.
pub struct Agent {
    pub inc: Incarnation,
    /// The turn that runs.
    pub turn: Option<u32>,
    turns: u32,
    /// Whose message it works on, and which.
    task: Option<(MessageId, Party, bool)>,
}

#[derive(Clone)]
pub enum Deed {
    /// It has drawn its first screen.
    Comes,
    Draws,
    /// A hook, or the transcript, tells of the turn that has begun.
    Reports(Vec<MessageId>),
    Answers(u32),
    Asks(u32),
    SaysDone(u32),
    WantsFresh(u32),
    Permission(u32),
    TurnEnds(u32),
    Dies(DeathCause),
}

pub fn duration_of(effect: &Effect, dice: &mut Dice) -> Millis {
    match effect {
        Effect::Launch { .. } => dice.between(200, 3_000),
        Effect::End { .. } => dice.between(50, 7_000),
        _ => dice.between(1, 6),
    }
}

impl Day {
    /// The oldest act of a peer.
    pub fn act(&mut self, p: usize) {
        let member = &mut self.members[p];
        member.dated -= 1;
        let effect = member.world.pending.remove(0);
        let daemon = self.daemon;
        let answer = self.dice.between(0, 3);
        let event = self.carry_out(p, effect);
        self.after(answer, Happens::Hears(p, Some(daemon), Box::new(event)));
    }

    pub fn carry_out(&mut self, p: usize, effect: Effect) -> Event {
        let now = self.now();
        let missing = self.members[p].world.no_launch.clone();
        if let Effect::Launch { again, .. } = &effect {
            self.members[p].world.no_launch = self.find_room(p, *again).or(missing.clone());
        }
        let (swallows, loses, unproven) = (self.dice.chance(20), self.dice.chance(5), self.dice.chance(10));
        let member = &mut self.members[p];
        let keeps = keeps(&member.world, member.agent.as_ref());
        let world = &mut member.world;
        world.now = now;
        (world.swallow, world.lose_answers, world.unended) = (u32::from(swallows), u32::from(loses), u32::from(unproven));
        world.never_ready = true;
        let (turns, class, alive) = (world.turns.len(), world.class.clone(), world.alive);
        let no_room = matches!(world.no_launch, Some(LaunchFault::NotNow { .. }));
        if !no_room {
            member.watch.acts(&effect, world, keeps);
        }
        let event = world.carry_out(effect.clone());
        world.no_launch = missing;
        let (begun, ended) = (world.turns.len() > turns, alive.is_some() && world.alive.is_none());
        let interrupted = matches!(effect, Effect::Key { .. }) && class == Class::Busy && world.class == Class::Ready;
        if world.alive != alive && world.alive.is_some() {
            self.comes_up(p);
        }
        if ended {
            self.members[p].agent = None;
        }
        if begun {
            let entry = self.members[p].world.turns.last().map(|(id, _)| id.clone());
            self.turn_begins(p, entry);
        }
        if interrupted {
            self.members[p].agent.iter_mut().for_each(|a| a.turn = None);
            self.deed_later(p, 50, Deed::Draws);
        }
        if matches!(effect, Effect::Collect { .. }) {
            self.make_room();
        }
        event
    }

    fn comes_up(&mut self, p: usize) {
        let member = &mut self.members[p];
        let Some(inc) = member.world.alive else { return };
        member.agent = Some(Agent { inc, turn: None, turns: 0, task: None });
        (member.world.attached, member.world.typing) = (0, false);
        let crashy = member.crashy;
        let comes = self.dice.between(300, 6_000);
        self.deed_later(p, comes, Deed::Comes);
        if self.dice.chance(if crashy { 300 } else { 5 }) {
            let dies = self.dice.between(100, 20_000);
            self.deed_later(p, dies, Deed::Dies(DeathCause::Signal(9)));
        }
    }

    fn deed_later(&mut self, p: usize, ms: Millis, deed: Deed) {
        if let Some(inc) = self.members[p].world.alive {
            self.after(ms, Happens::Deed(p, inc, deed));
        }
    }

    fn turn_begins(&mut self, p: usize, message: Option<MessageId>) {
        let member = &mut self.members[p];
        let Some(agent) = member.agent.as_mut() else { return };
        agent.turns += 1;
        let turn = agent.turns;
        agent.turn = Some(turn);
        let entry = message.as_ref().and_then(|id| member.world.disk.claimed.iter().find(|(c, _)| c.id == *id)).map(|(_, e)| e.clone());
        agent.task = entry.map(|e| (e.id().clone(), e.from.clone(), e.in_reply_to.is_some()));
        member.world.class = Class::Busy;
        member.world.rows = vec!["❯ <iap>".into()];
        if let Some(id) = &message {
            member.watch.turn(&member.world, id);
        }
        let ephemeral = member.world.peer.wake_policy == WakePolicy::Ephemeral;
        let deadly = member.crashy && self.dice.chance(150) || message.as_ref().is_some_and(|id| self.poison.contains(id)) || !self.calm && self.dice.chance(4);
        let reports = self.dice.between(5, 300);
        self.deed_later(p, reports, Deed::Reports(message.into_iter().collect()));
        let length = match self.dice.between(0, if self.calm { 59 } else { 99 }) {
            0..60 => self.dice.between(1_000, 40_000),
            60..90 => self.dice.between(MINUTE, 10 * MINUTE),
            90..99 => self.dice.between(10 * MINUTE, 30 * MINUTE),
            _ => self.dice.between(2 * HOUR, 4 * HOUR),
        };
        self.deed_later(p, length, Deed::TurnEnds(turn));
        self.deed_later(p, 20, Deed::Draws);
        let within = self.dice.between(400, length - 100);
        let says = if ephemeral { 700 } else { 200 };
        let deed = match self.dice.between(0, 999) {
            n if n < says => Some(Deed::Answers(turn)),
            n if n < says + 100 => Some(Deed::Asks(turn)),
            n if n < says + 140 => Some(Deed::SaysDone(turn)),
            n if n < says + 160 => Some(Deed::WantsFresh(turn)),
            n if n < says + 180 => Some(Deed::Permission(turn)),
            _ => None,
        };
        if let Some(deed) = deed {
            self.deed_later(p, within, deed);
        }
        if deadly {
            let dies = self.dice.between(5, length);
            let cause = match self.dice.between(0, 9) {
                0 => DeathCause::TmuxLost,
                1..5 => DeathCause::Exit(1),
                _ => DeathCause::Signal(11),
            };
            self.deed_later(p, dies, Deed::Dies(cause));
        }
    }

    pub fn deed(&mut self, p: usize, inc: Incarnation, deed: Deed) {
        if self.members[p].world.alive != Some(inc) {
            return;
        }
        let running = self.members[p].agent.as_ref().and_then(|a| a.turn);
        match deed {
            Deed::Comes => {
                let asks = self.dice.chance(20);
                self.members[p].world.class = if asks { Class::Dialog("question".into()) } else { Class::Ready };
                if asks {
                    let answered = self.dice.between(MINUTE, 20 * MINUTE);
                    self.after(answered, Happens::Visit(p, inc, Visit::Answers));
                }
                self.tell(p, Event::Hook { inc, fact: HookFact::SessionStarted });
                if self.dice.chance(900) {
                    self.tell(p, Event::Hook { inc, fact: HookFact::ToolsListed });
                }
                self.draws(p, inc);
            }
            Deed::Draws => self.draws(p, inc),
            Deed::Reports(ids) if self.dice.chance(30) && !ids.is_empty() => self.tell(p, Event::TranscriptShows { inc, ids }),
            Deed::Reports(ids) => self.tell(p, Event::Hook { inc, fact: HookFact::PromptSubmitted { ids } }),
            Deed::Answers(turn) if running == Some(turn) => self.answers(p, inc),
            Deed::Asks(turn) if running == Some(turn) => {
                let whom = self.dice.between(0, PEERS as u64 - 1) as usize;
                if whom != p {
                    self.sends(p, inc, whom, None);
                }
            }
            Deed::SaysDone(turn) if running == Some(turn) => self.tell(p, Event::SelfDone { inc }),
            Deed::WantsFresh(turn) if running == Some(turn) => self.tell(p, Event::SelfFresh { inc }),
            Deed::Permission(turn) if running == Some(turn) => {
                self.members[p].world.class = Class::Dialog("question".into());
                self.tell(p, Event::Hook { inc, fact: HookFact::PermissionAsked });
                let answered = self.dice.between(MINUTE, 60 * MINUTE);
                self.after(answered, Happens::Visit(p, inc, Visit::Answers));
            }
            Deed::TurnEnds(turn) if running == Some(turn) => self.turn_ends(p, inc),
            Deed::Dies(cause) => self.gone(p, cause),
            _ => {}
        }
    }

    fn draws(&mut self, p: usize, inc: Incarnation) {
        let peer = &self.members[p].world.peer;
        if peer.wants_output() || self.down {
            self.tell(p, Event::Output { inc });
        }
    }

    /// A message of its own: to the sender of what it works on.
    fn answers(&mut self, p: usize, inc: Incarnation) {
        let Some(agent) = &self.members[p].agent else { return };
        match agent.task.clone() {
            // An answer is not answered.
            Some((id, Party::Peer(to), false)) => {
                let whom = self.members.iter().position(|m| m.world.peer.identity == to);
                if let Some(whom) = whom {
                    self.sends(p, inc, whom, Some(id));
                }
            }
            Some((id, to, _)) => {
                self.letters += 1;
                let sent = super::id(self.letters);
                self.tell(p, Event::Sent { inc, id: sent, to, in_reply_to: Some(id) });
            }
            None => {}
        }
    }

    fn sends(&mut self, p: usize, inc: Incarnation, whom: usize, in_reply_to: Option<MessageId>) {
        if self.down || self.calm && in_reply_to.is_none() {
            return;
        }
        let me = Party::Peer(self.members[p].world.peer.identity.clone());
        let letter = self.letter(me, in_reply_to.clone());
        let to = Party::Peer(self.members[whom].world.peer.identity.clone());
        self.tell(p, Event::Sent { inc, id: letter.id().clone(), to, in_reply_to });
        self.after(1, Happens::Hears(whom, None, Box::new(Event::Accepted(letter))));
    }

    fn turn_ends(&mut self, p: usize, inc: Incarnation) {
        let limit = !self.calm && self.dice.chance(15);
        let login = !self.calm && self.dice.chance(5);
        let told = self.dice.chance(970);
        let member = &mut self.members[p];
        member.agent.iter_mut().for_each(|a| a.turn = None);
        member.world.class = Class::Ready;
        if limit {
            member.world.rows.push("● API Error: Request rejected (429)".into());
        } else if login {
            member.world.rows.push("● Please run /login".into());
        }
        let fact = if limit || login { HookFact::TurnFailed } else { HookFact::TurnEnded };
        if told && member.world.peer.definition.tells_turns() {
            self.tell(p, Event::Hook { inc, fact });
        }
        self.draws(p, inc);
        if self.dice.chance(10) {
            self.deed_later(p, 100, Deed::Dies(DeathCause::Exit(0)));
        }
        if login {
            let cured = self.dice.between(10 * MINUTE, 2 * HOUR);
            self.after(cured, Happens::Order(p, 1));
        }
    }

    /// The agent ends, or is ended.
    pub fn gone(&mut self, p: usize, cause: DeathCause) {
        let member = &mut self.members[p];
        let Some(inc) = member.world.alive.take() else { return };
        member.agent = None;
        (member.world.attached, member.world.draft, member.world.typing) = (0, false, false);
        member.cause = cause.clone();
        let (seen, daemon) = (self.dice.between(1, 50), self.daemon);
        self.after(seen, Happens::Hears(p, Some(daemon), Box::new(Event::Died { inc, cause })));
    }

    pub fn visit(&mut self, p: usize, inc: Incarnation, visit: Visit) {
        if let Visit::Comes = visit {
            self.comes(p);
            return;
        }
        let world = &mut self.members[p].world;
        if world.alive != Some(inc) {
            return;
        }
        match visit {
            Visit::Comes => {}
            Visit::StopsTyping => {
                world.typing = false;
                if world.draft && self.dice.chance(150) {
                    // Left half-typed.
                    let cleared = self.dice.between(10 * MINUTE, 90 * MINUTE);
                    self.after(cleared, Happens::Visit(p, inc, Visit::Clears));
                } else if world.draft {
                    world.draft = false;
                    if world.class == Class::Ready && self.dice.chance(500) {
                        self.turn_begins(p, None);
                    }
                }
                self.draws(p, inc);
            }
            Visit::Clears => {
                world.draft = false;
                self.draws(p, inc);
            }
            Visit::Leaves if world.attached > 0 => {
                (world.attached, world.typing) = (0, false);
                self.tell(p, Event::Detached);
                self.draws(p, inc);
            }
            Visit::Leaves => {}
            Visit::Answers => {
                let runs = self.members[p].agent.as_ref().is_some_and(|a| a.turn.is_some());
                self.members[p].world.class = if runs { Class::Busy } else { Class::Ready };
                self.draws(p, inc);
            }
        }
    }

    fn comes(&mut self, p: usize) {
        if self.calm {
            return;
        }
        let next = self.dice.between(HOUR, 6 * HOUR);
        self.after(next, Happens::Visit(p, 0, Visit::Comes));
        if self.members[p].world.alive.is_none() && !self.down && self.dice.chance(200) {
            self.tell(p, Event::Want(WantedBy::Attach));
        }
        let Some(inc) = self.members[p].world.alive else { return };
        self.members[p].world.attached = 1;
        let (stays, types) = (self.dice.between(10_000, 20 * MINUTE), self.dice.chance(600));
        let world = &mut self.members[p].world;
        let empty = matches!(world.look().composer, Composer::Empty { .. });
        if types && world.class == Class::Ready && empty {
            (world.draft, world.typing) = (true, true);
            let stops = self.dice.between(3_000, stays);
            self.after(stops, Happens::Visit(p, inc, Visit::StopsTyping));
        }
        self.draws(p, inc);
        self.after(stays + 1, Happens::Visit(p, inc, Visit::Leaves));
    }
}

/// Why a session must not be put to sleep now.
fn keeps(world: &World, agent: Option<&Agent>) -> Option<&'static str> {
    if agent.is_some_and(|a| a.turn.is_some() && Some(a.inc) == world.alive) {
        Some("a turn runs")
    } else if world.attached > 0 {
        Some("somebody is attached")
    } else if world.draft {
        Some("a draft stands")
    } else if matches!(world.class, Class::Dialog(_)) {
        Some("a question stands")
    } else {
        None
    }
}
