//! A mailbox's life in one script, what each answer of it promises, and the check that the promises hold.
//!
//! Every operation widens what may be true while it runs and narrows it when it has answered. Two sets are
//! kept for each message: where it may be when all that was written survives, and where it may be after a
//! power cut. They differ only for the lazy acknowledgement: an end of a delivery that is not synced.

use crate::sim::{Crash, SimDisk};
use iapeer::core::message::{Claim, Ending, Key, Message, MessageId, ProcessRef, State};
use iapeer::core::names::Party;
use iapeer::core::peer::effect::Giveback;
use iapeer::ports::disk::Disk;
use iapeer::store::journal::JournalDisk;
use iapeer::store::mailbox::{Mailbox, Scan, keys_in, read_ending};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Nowhere,
    Waiting,
    Claimed,
    Done,
    Dead,
    Held,
    Aside,
}
use Place::{Aside, Claimed, Dead, Done, Held, Nowhere, Waiting};

pub fn queue() -> PathBuf {
    PathBuf::from("/state/peers/echo-a/queue")
}

pub fn message(n: usize, seq: u64, urgent: bool) -> Message {
    Message {
        id: format!("0199a0b0-0000-7000-8000-{n:012}").parse().unwrap(),
        seq,
        from: Party::Operator,
        intelligence: Default::default(),
        via: "cli".into(),
        to: "echo-a".parse().unwrap(),
        topic: None,
        in_reply_to: None,
        hops: 0,
        urgent,
        sent: "2026-11-21T10:02:03+01:00".into(),
        expires: None,
        fence: "k3v9q2".into(),
        stamp: None,
        idempotency_key: None,
        raw: false,
        attachments: Vec::new(),
        body: format!("message {n}").into_bytes(),
    }
}

pub fn claim_of(id: &MessageId) -> Claim {
    let nobody = ProcessRef { pid: i32::MAX, start: 1 };
    Claim {
        v: 1,
        id: id.clone(),
        attempt: 0,
        deaths: 0,
        identity: "echo-a".parse().unwrap(),
        incarnation: 1,
        boot_id: "a-boot".into(),
        transcript: None,
        server: nobody.clone(),
        keeper: nobody,
        pane: "%0".into(),
        taken: None,
        released: false,
    }
}

pub fn ending(state: State) -> Ending {
    Ending { state, evidence: None, reason: Some("scripted".into()), at: "2026-11-21T10:03:00+01:00".into(), attempt: 1, incarnation: 1 }
}

/// How files are kept: each for itself, or by way of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Plain,
    Journal,
}

pub const WAYS: [Way; 2] = [Way::Plain, Way::Journal];

/// So small that the script fills each log of the journal more than once.
const LOG_BYTES: usize = 6 * 4096;
/// The boot in which the script runs.
const FIRST_BOOT: &str = "first";

impl Way {
    fn open(self, disk: &Arc<SimDisk>, boot: &str) -> io::Result<Arc<dyn Disk>> {
        match self {
            Way::Plain => Ok(disk.clone()),
            Way::Journal => Ok(Arc::new(JournalDisk::inline(disk.clone(), Path::new("/"), boot, LOG_BYTES)?)),
        }
    }
}

struct Known {
    key: Key,
    after_kill: BTreeSet<Place>,
    after_cut: BTreeSet<Place>,
    /// Copies that an agent may have seen: the next one must not pretend to be the first.
    attempt: u32,
}

/// The disk has stopped under the script.
pub struct Stopped;
type Told = Result<(), Stopped>;

pub struct Story {
    way: Way,
    sim: Arc<SimDisk>,
    disk: Arc<dyn Disk>,
    mailbox: Option<Mailbox>,
    known: BTreeMap<usize, Known>,
    seqs: Vec<u64>,
    /// What operations answered that failed while the disk went on.
    pub errors: Vec<io::Error>,
    /// Whether a refused message is sent again under its id.
    resend: bool,
}

impl Story {
    /// Runs the script until its end, or until the disk stops.
    pub fn tell(way: Way, sim: SimDisk, resend: bool) -> Story {
        let sim = Arc::new(sim);
        let mut story = Story { way, disk: sim.clone(), sim, mailbox: None, known: BTreeMap::new(), seqs: Vec::new(), errors: Vec::new(), resend };
        // An early end is what most runs are for.
        let _ = story.script();
        story
    }

    pub fn disk(&self) -> &SimDisk {
        &self.sim
    }

    fn script(&mut self) -> Told {
        self.open()?;
        for n in 1..=3 {
            self.send(n, false)?;
        }
        self.claim(1)?;
        self.finish(1, State::Submitted)?;
        self.send(4, false)?;
        self.send(5, true)?;
        self.claim(5)?;
        self.release(5, Giveback::Untouched)?;
        self.claim(5)?;
        self.release(5, Giveback::Redeliver { deaths: 1 })?;
        self.claim(5)?;
        self.finish(5, State::Dead)?;
        self.claim(2)?;
        self.finish(2, State::Parked)?;
        self.claim(3)?;
        self.aside(3)?;
        self.send(6, false)?;
        self.finish(4, State::Expired)?;
        self.open()?;
        self.claim(6)?;
        self.send(7, false)?;
        self.send(8, false)?;
        self.finish(6, State::Submitted)?;
        self.send_claimed(9)?;
        self.finish(9, State::Submitted)?;
        self.send_claimed(10)?;
        self.release(10, Giveback::Untouched)?;
        self.finish(8, State::Submitted)?;
        self.claim(7)
    }

    fn mailbox(&mut self) -> &mut Mailbox {
        self.mailbox.as_mut().expect("opened first")
    }

    /// An operation's answer: its value, or an error that is noted when the disk goes on.
    fn heard<T>(&mut self, answer: io::Result<T>) -> Result<Option<T>, Stopped> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(_) if self.sim.is_stopped() => Err(Stopped),
            Err(error) => {
                self.errors.push(error);
                Ok(None)
            }
        }
    }

    fn begin(&mut self, n: usize, to: Place) {
        let known = self.known.get_mut(&n).unwrap();
        known.after_kill.insert(to);
        known.after_cut.insert(to);
    }

    fn settle(&mut self, n: usize, at: Place, synced: bool) {
        let known = self.known.get_mut(&n).unwrap();
        known.after_kill = [at].into();
        if synced {
            known.after_cut = [at].into();
        }
    }

    /// Opens and looks, as a start does; a fault that passes fails one start only.
    fn open(&mut self) -> Told {
        for _ in 0..2 {
            let opened = self.way.open(&self.sim, FIRST_BOOT).and_then(|disk| {
                let mailbox = Mailbox::open(&*disk, queue())?;
                mailbox.scan(&*disk)?;
                Ok((disk, mailbox))
            });
            if let Some((disk, mailbox)) = self.heard(opened)? {
                self.disk = disk;
                self.mailbox = Some(mailbox);
                return Ok(());
            }
        }
        panic!("a mailbox stays closed after the fault is over: {:?}", self.errors);
    }

    fn send(&mut self, n: usize, urgent: bool) -> Told {
        self.send_to(n, Waiting, |mailbox, disk, seq| {
            let message = message(n, seq, urgent);
            (message.key(), mailbox.enqueue(disk, &message))
        })
    }

    /// The message and its first claim in one.
    fn send_claimed(&mut self, n: usize) -> Told {
        self.send_to(n, Claimed, |mailbox, disk, seq| {
            let message = message(n, seq, false);
            let placed = mailbox.place_claimed(&message, &Claim { attempt: 1, ..claim_of(&message.id) });
            (message.key(), placed.and_then(|placed| disk.keep(&placed)))
        })
    }

    fn send_to(&mut self, n: usize, to: Place, keep: impl Fn(&Mailbox, &dyn Disk, u64) -> (Key, io::Result<()>)) -> Told {
        for _ in 0..2 {
            let disk = self.disk.clone();
            let taken = self.mailbox().take_seq(&*disk);
            let Some(seq) = self.heard(taken)? else { continue };
            assert!(self.seqs.last().is_none_or(|last| *last < seq), "the sequence number {seq} was given out before: {:?}", self.seqs);
            self.seqs.push(seq);
            let in_doubt: BTreeSet<Place> = [Nowhere, Waiting, to].into();
            let (key, kept) = keep(self.mailbox(), &*disk, seq);
            self.known.insert(n, Known { key, after_kill: in_doubt.clone(), after_cut: in_doubt, attempt: 0 });
            if self.heard(kept)?.is_some() {
                self.settle(n, to, true);
                self.known.get_mut(&n).unwrap().attempt = u32::from(to == Claimed);
                return Ok(());
            }
            // Refused is refused, now and after every start.
            self.settle(n, Nowhere, true);
            if !self.resend {
                return Ok(());
            }
        }
        Ok(())
    }

    fn exists(&self, n: usize) -> bool {
        self.known.get(&n).is_some_and(|k| !k.after_kill.contains(&Nowhere))
    }

    fn claim(&mut self, n: usize) -> Told {
        if !self.exists(n) {
            return Ok(());
        }
        self.begin(n, Claimed);
        let (disk, key) = (self.disk.clone(), self.known[&n].key.clone());
        for _ in 0..2 {
            let claimed = self.mailbox().claim(&*disk, &key, claim_of(&key.id));
            if let Some(claim) = self.heard(claimed)? {
                let known = self.known.get_mut(&n).unwrap();
                assert!(claim.attempt > known.attempt, "{n}: attempt {} after {}", claim.attempt, known.attempt);
                known.attempt = claim.attempt;
                self.settle(n, Claimed, true);
                return Ok(());
            }
        }
        panic!("{n} cannot be claimed after the fault is over: {:?}", self.errors);
    }

    fn release(&mut self, n: usize, how: Giveback) -> Told {
        if !self.exists(n) {
            return Ok(());
        }
        self.begin(n, Waiting);
        let (disk, key) = (self.disk.clone(), self.known[&n].key.clone());
        // Not counted as a copy from the moment on at which this may be written.
        if how == Giveback::Untouched {
            self.known.get_mut(&n).unwrap().attempt -= 1;
        }
        let released = self.mailbox().release(&*disk, &key, how);
        if self.heard(released)?.is_some() {
            self.settle(n, Waiting, true);
        }
        // One that failed is not repeated: the next claim finds the record where it is.
        Ok(())
    }

    fn finish(&mut self, n: usize, state: State) -> Told {
        if !self.exists(n) {
            return Ok(());
        }
        let (place, synced) = match state {
            State::Dead | State::Expired => (Dead, true),
            State::Parked => (Held, true),
            _ => (Done, false),
        };
        self.begin(n, place);
        let (disk, key) = (self.disk.clone(), self.known[&n].key.clone());
        for _ in 0..2 {
            let finished = self.mailbox().finish(&*disk, &key, &ending(state));
            if self.heard(finished)?.is_some() {
                self.settle(n, place, synced);
                return Ok(());
            }
        }
        panic!("{n} cannot be finished after the fault is over: {:?}", self.errors);
    }

    fn aside(&mut self, n: usize) -> Told {
        if !self.exists(n) {
            return Ok(());
        }
        self.begin(n, Aside);
        let (disk, key) = (self.disk.clone(), self.known[&n].key.clone());
        for _ in 0..2 {
            let put = self.mailbox().put_aside(&*disk, &key);
            if self.heard(put)?.is_some() {
                self.settle(n, Aside, false);
                return Ok(());
            }
        }
        panic!("{n} cannot be put aside after the fault is over: {:?}", self.errors);
    }

    /// Starts on what a crash has left and compares it with what was promised; then starts again, loses
    /// power in the middle of starting, and goes on working.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn keeps(&self, how: Crash) -> Result<(), String> {
        if matches!(how, Crash::Everything) {
            self.keeps_at(how, FIRST_BOOT).map_err(|e| format!("the same boot: {e}"))?;
        }
        self.keeps_at(how, "second")
    }

    fn keeps_at(&self, how: Crash, boot: &str) -> Result<(), String> {
        let left = Arc::new(self.sim.crash(how));
        let shaken = Arc::new(left.crash(Crash::Everything));
        let fault = |e: io::Error| format!("recovery failed: {e}");
        let look = |sim: &Arc<SimDisk>, boot: &str| {
            let disk = self.way.open(sim, boot)?;
            let scan = Mailbox::open(&*disk, queue())?.scan(&*disk)?;
            Ok((scan, disk))
        };
        let (scan, disk) = look(&left, boot).map_err(fault)?;
        let steps = left.writes();
        self.compare(&*disk, &scan, how)?;
        let picture = left.picture();
        let (again, disk) = look(&left, boot).map_err(fault)?;
        if left.picture() != picture || again.waiting != scan.waiting || again.claim != scan.claim {
            return Err("a second start finds something else".into());
        }
        // The start itself is cut short at one of its operations.
        if steps > 0 {
            shaken.arm([(1 + self.seqs.len() % steps, crate::sim::Fault::Stop)]);
            let _ = look(&shaken, boot);
            for second in [Crash::Nothing, Crash::Everything] {
                let rest = Arc::new(shaken.crash(second));
                let (scan, disk) = look(&rest, "third").map_err(fault)?;
                self.compare(&*disk, &scan, how).map_err(|e| format!("start cut short, {second:?}: {e}"))?;
            }
        }
        self.goes_on(&*disk, &scan)
    }

    fn compare(&self, disk: &dyn Disk, scan: &Scan, how: Crash) -> Result<(), String> {
        let listed = |folder: &str| keys_in(disk, &queue().join(folder));
        let mut found: Vec<(Key, Place)> = scan.waiting.iter().map(|e| (e.key.clone(), Waiting)).collect();
        found.extend(scan.claim.iter().map(|(_, e)| (e.key.clone(), Claimed)));
        for (folder, place) in [("done", Done), ("dead", Dead), ("held", Held), ("corrupt", Aside)] {
            found.extend(listed(folder).into_iter().map(|k| (k, place)));
        }
        // What the scan tells is what lies there, and nothing else does.
        let lying = ["new", "cur", "done", "dead", "held", "corrupt"].iter().map(|f| listed(f).len()).sum::<usize>();
        if lying != found.len() {
            return Err(format!("{lying} records lie in the folders, {} are told of: {found:?}", found.len()));
        }
        for (n, known) in &self.known {
            let places: Vec<Place> = found.iter().filter(|(k, _)| k.id == known.key.id).map(|(_, p)| *p).collect();
            let place = match places.as_slice() {
                [] => Nowhere,
                [one] => *one,
                more => return Err(format!("message {n} is doubled: {more:?}")),
            };
            let may = if matches!(how, Crash::Everything) { &known.after_kill } else { &known.after_cut };
            // Without an order of operations the claim of a lazily ended message may go before its record
            // moves: it is still there, but nobody knows any more that it was claimed.
            let forgotten = !how.keeps_order() && place == Waiting && may.contains(&Claimed);
            if place == Nowhere && !may.contains(&Nowhere) {
                return Err(format!("message {n} is lost; it was {may:?}"));
            }
            if !may.contains(&place) && !forgotten {
                return Err(format!("message {n} is {place:?}; it was {may:?}"));
            }
            if !forgotten {
                self.counts(disk, known, scan, place, how).map_err(|e| format!("message {n}: {e}"))?;
            }
        }
        if !scan.quarantined.is_empty() {
            return Err(format!("own files are taken for foreign ones: {:?}", scan.quarantined));
        }
        let strangers: Vec<&Key> = found.iter().map(|(k, _)| k).filter(|k| self.known.values().all(|known| known.key != **k)).collect();
        if !strangers.is_empty() {
            return Err(format!("nobody sent {strangers:?}"));
        }
        let order: Vec<(bool, u64)> = scan.waiting.iter().map(|e| e.key.rank()).collect();
        if !order.is_sorted() {
            return Err(format!("the order is lost: {order:?}"));
        }
        Ok(())
    }

    /// The copies that were counted are still counted, and a note tells of where its record lies.
    fn counts(&self, disk: &dyn Disk, known: &Known, scan: &Scan, place: Place, how: Crash) -> Result<(), String> {
        let told = match place {
            Claimed => scan.claim.as_ref().map_or(0, |(c, _)| c.attempt),
            Waiting if known.attempt > 0 => Mailbox::open(disk, queue()).ok().and_then(|m| m.read_claim(disk, &known.key)).map_or(0, |c| c.attempt),
            _ => return self.note(disk, known, place, how),
        };
        if told < known.attempt { Err(format!("{} copies may have been seen, {told} are remembered", known.attempt)) } else { Ok(()) }
    }

    fn note(&self, disk: &dyn Disk, known: &Known, place: Place, how: Crash) -> Result<(), String> {
        let told = read_ending(disk, &queue(), &known.key).map(|e| e.state);
        // Without an order of operations its note may come later than the record.
        let unsettled = told.is_none() && !how.keeps_order() && known.after_cut.len() > 1;
        let fits = match place {
            Dead | Held if unsettled => true,
            Dead => matches!(told, Some(State::Dead | State::Expired)),
            Held => told == Some(State::Parked),
            // Its note may be lost with the power, as it is not synced.
            Done => matches!(told, Some(State::Submitted | State::Expired)) || (told.is_none() && !matches!(how, Crash::Everything)),
            _ => true,
        };
        if fits { Ok(()) } else { Err(format!("{place:?}, but its note says {told:?}")) }
    }

    /// A recovered mailbox takes new mail and delivers what waits, in order, each once.
    fn goes_on(&self, disk: &dyn Disk, scan: &Scan) -> Result<(), String> {
        let run = || -> io::Result<(u64, Vec<Key>)> {
            let mut mailbox = Mailbox::open(disk, queue())?;
            let seq = mailbox.take_seq(disk)?;
            mailbox.enqueue(disk, &message(99, seq, false))?;
            let mut delivered = Vec::new();
            if let Some((_, entry)) = &scan.claim {
                mailbox.finish(disk, &entry.key, &ending(State::Submitted))?;
            }
            loop {
                let next = mailbox.scan(disk)?.waiting.into_iter().next();
                let Some(entry) = next else { break };
                mailbox.claim(disk, &entry.key, claim_of(entry.id()))?;
                mailbox.finish(disk, &entry.key, &ending(State::Submitted))?;
                delivered.push(entry.key);
            }
            Ok((seq, delivered))
        };
        let (seq, delivered) = run().map_err(|e| format!("it does not go on: {e}"))?;
        if self.seqs.iter().any(|taken| *taken >= seq) {
            return Err(format!("the sequence number {seq} is used again: {:?}", self.seqs));
        }
        let want: Vec<Key> = scan.waiting.iter().map(|e| e.key.clone()).chain([message(99, seq, false).entry().key]).collect();
        if delivered == want { Ok(()) } else { Err(format!("delivered {delivered:?}, waiting were {want:?}")) }
    }
}

/// How many durable operations the undisturbed script has, and what they are.
pub fn script_log(way: Way) -> Vec<String> {
    Story::tell(way, SimDisk::new(Default::default()), true).disk().log()
}

#[test]
fn the_script_covers_every_folder_and_kind_of_operation() {
    let log = script_log(Way::Plain).join("\n");
    for word in
        ["create_synced", "create ", "append", "rename", "remove", "sync_dir", "create_dir", "/held/", "/dead/", "/done/", "/corrupt/", ".claim", "/seq"]
    {
        assert!(log.contains(word), "{word} is missing:\n{log}");
    }
    assert!(script_log(Way::Plain).len() > 80, "{log}");
    let journal = script_log(Way::Journal).join("\n");
    for word in ["overwrite_synced /state/journal/0.log", "overwrite_synced /state/journal/1.log", "sync_all"] {
        assert!(journal.matches(word).count() > 1, "{word} is missing:\n{journal}");
    }
}
