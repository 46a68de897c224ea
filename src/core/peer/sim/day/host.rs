//! The host of the day: its daemon is killed, it is suspended and rebooted, its wall clock jumps, and it has
//! room for so many sessions.

use super::super::super::*;
use super::{Day, HOUR, Happens, MINUTE, PEERS};
use crate::core::message::Stamp;
use std::collections::{BTreeSet, VecDeque};

/// Sessions at once, and launches after a death in a while.
const ROOM: usize = 36;
const REWAKES: usize = 3;
const REWAKE_MS: Millis = 10_000;

#[derive(Clone, Copy)]
pub enum Host {
    Crash,
    Reboot,
    Up,
    Suspend,
    Jump,
    Freeze(bool),
}

#[derive(Default)]
pub struct Capacity {
    waiting: BTreeSet<usize>,
    rewakes: VecDeque<Millis>,
}

impl Day {
    pub fn plan_host(&mut self) {
        for (what, times) in [(Host::Crash, 10), (Host::Reboot, 2), (Host::Suspend, 4), (Host::Jump, 4), (Host::Freeze(true), 2)] {
            for _ in 0..times {
                let at = self.dice.between(HOUR, 23 * HOUR);
                self.after(at, Happens::Host(what));
            }
        }
    }

    pub fn stamp(&self) -> Stamp {
        let now = self.now();
        Stamp { boot_id: self.boot.to_string(), boot_ms: now, unix: self.wall_off + (now / 1000) as i64 }
    }

    pub fn host(&mut self, deed: Host) {
        match deed {
            Host::Crash | Host::Reboot if self.down => {}
            Host::Crash => self.crash(false),
            Host::Reboot => self.crash(true),
            Host::Up if !self.down => {}
            Host::Up => self.start(),
            Host::Suspend => {
                let ms = self.dice.between(5 * MINUTE, 2 * HOUR);
                self.asleep += ms;
                for p in 0..PEERS {
                    self.members[p].unseen += ms;
                    // Whoever has mail waiting is looked at once a second.
                    let soon = self.dice.between(1, 900);
                    self.after(soon, Happens::Hears(p, None, Box::new(Event::Tick)));
                }
            }
            Host::Jump => {
                let ten_days = 10 * 86_400;
                self.wall_off += if self.dice.chance(500) { ten_days } else { -ten_days };
            }
            Host::Freeze(on) => {
                for p in 0..PEERS {
                    self.members[p].world.peer.host_frozen = on && self.down;
                    self.tell(p, Event::HostFrozen(on));
                }
                if on {
                    let thaw = self.dice.between(MINUTE, 20 * MINUTE);
                    self.after(thaw, Happens::Host(Host::Freeze(false)));
                }
            }
        }
    }

    /// The daemon is killed, or the whole host goes down.
    fn crash(&mut self, reboot: bool) {
        self.down = true;
        for p in 0..PEERS {
            for _ in 0..self.members[p].world.pending.len() {
                let effect = self.members[p].world.pending.remove(0);
                // What was under way happens or not; nobody hears of it.
                if !reboot && self.dice.chance(500) {
                    self.carry_out(p, effect);
                }
            }
            let member = &mut self.members[p];
            (member.dated, member.unseen, member.due) = (0, 0, None);
            member.world.forget();
            member.watch.down();
            if reboot && member.world.alive.is_some() {
                self.gone(p, DeathCause::HostReboot);
            }
            let member = &mut self.members[p];
            if reboot {
                member.cause = DeathCause::HostReboot;
                member.world.disk.deaths.clear();
                member.watch.forgive();
            }
        }
        self.boot += u32::from(reboot);
        let back = self.dice.between(100, 2 * MINUTE);
        self.after(back, Happens::Host(Host::Up));
    }

    fn start(&mut self) {
        self.down = false;
        self.daemon += 1;
        self.room = Capacity::default();
        let (now, stamp) = (self.now(), self.stamp());
        for p in 0..PEERS {
            let member = &mut self.members[p];
            member.world.now = now;
            let disk = &mut member.world.disk;
            for entry in disk.waiting.iter_mut().chain(disk.claimed.iter_mut().map(|(_, e)| e)) {
                entry.due = entry.deadline(&stamp);
            }
            let restored = disk.restored(member.world.alive, member.cause.clone(), now);
            member.watch.may_end = restored.markers.stopped;
            let rebooted = matches!(restored.lost, Some((_, DeathCause::HostReboot)));
            let spool = std::mem::take(&mut member.spool);
            self.tell(p, Event::Restored(Box::new(restored)));
            if rebooted && self.dice.chance(300) {
                self.tell(p, Event::Want(WantedBy::Restore));
            }
            for event in spool {
                self.tell(p, event);
            }
        }
    }

    /// Whether a launch finds room.
    pub fn find_room(&mut self, p: usize, again: bool) -> Option<LaunchFault> {
        let now = self.now();
        let live = self.members.iter().enumerate().filter(|(q, m)| *q != p && m.world.disk.session.is_some()).count();
        if live >= ROOM {
            self.room.waiting.insert(p);
            return Some(LaunchFault::NotNow { hold: Hold::Capacity, retry_ms: 30_000 });
        }
        if again {
            self.room.rewakes.retain(|at| at + REWAKE_MS > now);
            if self.room.rewakes.len() >= REWAKES {
                return Some(LaunchFault::NotNow { hold: Hold::Backoff, retry_ms: self.room.rewakes[0] + REWAKE_MS - now });
            }
            self.room.rewakes.push_back(now);
        }
        self.room.waiting.remove(&p);
        None
    }

    /// A session is over: who waits for its room hears of it.
    pub fn make_room(&mut self) {
        for q in std::mem::take(&mut self.room.waiting) {
            self.after(1, Happens::Hears(q, None, Box::new(Event::RoomMade)));
        }
    }
}
