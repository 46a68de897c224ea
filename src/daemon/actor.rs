//! One task per identity: owns its state, its session and its deliveries.
//!
//! Events go into `Peer::step`, effects come out and are carried out by `acts`. A panic in a decision is
//! caught, and the actor is rebuilt from disk; no other peer notices.

use super::acts::{self, Outcome};
use super::by_hand::{ByHand, Touch};
use super::door::Door;
use super::ending::Told;
use super::handle::{PeerHandle, Snapshot};
use super::host::Host;
use super::live::Live;
use super::logs::Line;
use super::policy;
use super::restore;
use crate::core::Millis;
use crate::core::message::{Claim, Entry, Message, MessageId, State};
use crate::core::names::{Identity, Incarnation, Party};
use crate::core::peer::effect::Effect;
use crate::core::peer::event::{DeathCause, Event, HookFact};
use crate::core::peer::{Peer, Resumable, Session, Turn, WantedBy};
use crate::core::settings::Restore;
use crate::runtime::hooks::{self, Heard};
use crate::store::disk::{OsDisk, remove_if_there};
use crate::store::mailbox::RecordFault;
use crate::store::peer_state::{PeerState, SessionRecord};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Events that may wait for one actor; a sender beyond that waits.
const INBOX: usize = 1024;
/// The two clocks are read one after the other: only more than this is a suspended host.
const SUSPEND_MS: Millis = 1_000;
/// Between tries to read a peer's state.
const RESTORE_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum Inbox {
    /// In a box: every actor keeps room for many of these.
    Event(Box<Event>),
    /// The agent's program told something by a hook.
    Heard { inc: Incarnation, heard: Heard },
    /// The same, as it came.
    Hook { inc: Incarnation, event: String, payload: serde_json::Value },
    /// Another hand may have changed files of this peer.
    Touched(Touch),
    /// The transcript grew.
    Transcript { inc: Incarnation },
    /// A message was kept together with a claim for the session whose door was open.
    Claimed { entry: Entry, message: Box<Message>, claim: Box<Claim> },
    /// Whoever was promised the next claim does not need it.
    PromiseBroken,
    /// Answered once everything that was told before has been taken in.
    Barrier(oneshot::Sender<()>),
}

pub fn spawn(host: Arc<Host>, identity: Identity) -> PeerHandle {
    let (inbox, receiver) = mpsc::channel(INBOX);
    let (publish, view) = watch::channel(Snapshot { state: "starting", ..Snapshot::default() });
    let door = Door::default();
    let handle = PeerHandle { identity: identity.clone(), inbox: inbox.clone(), view, door: door.clone() };
    let tracker = host.tracker.clone();
    tracker.spawn(async move {
        let mut actor = Actor::new(host, identity, inbox.downgrade(), publish, door);
        // Only handles keep the inbox open.
        drop(inbox);
        actor.run(receiver).await;
    });
    handle
}

pub struct Actor {
    pub(super) host: Arc<Host>,
    pub(super) identity: Identity,
    pub(super) peer: Peer,
    pub(super) live: Option<Live>,
    /// The message in flight, whole.
    pub(super) message: Option<Message>,
    /// Ids that hooks told of while no daemon ran.
    pub(super) spooled_ids: HashSet<MessageId>,
    spool_files: Vec<PathBuf>,
    pub(super) claim: Option<Claim>,
    pub(super) tasks: JoinSet<Outcome>,
    pub(super) inbox: mpsc::WeakSender<Inbox>,
    pub(super) by_hand: ByHand,
    publish: watch::Sender<Snapshot>,
    door: Door,
    pub(super) last_failure: Option<String>,
    failures: u64,
    /// How long the host had been suspended since its boot, when last looked at.
    suspended: Millis,
    last_death: Option<Told>,
    /// What hooks told of a session whose launch has not been taken in yet.
    early: Vec<(Incarnation, Heard)>,
    turn_sender: Option<(MessageId, Party)>,
    /// The message of the running turn, or of the last one while nobody has told how it ended.
    pub(super) last_turn: Option<MessageId>,
}

impl Actor {
    fn new(host: Arc<Host>, identity: Identity, inbox: mpsc::WeakSender<Inbox>, publish: watch::Sender<Snapshot>, door: Door) -> Self {
        let peer = policy::fresh_peer(&host, &identity);
        let suspended = host.clock.boot_ms().saturating_sub(host.clock.awake_ms());
        Actor {
            suspended,
            host,
            identity,
            peer,
            live: None,
            message: None,
            spooled_ids: HashSet::new(),
            spool_files: Vec::new(),
            claim: None,
            tasks: JoinSet::new(),
            inbox,
            by_hand: ByHand::default(),
            publish,
            door,
            last_failure: None,
            failures: 0,
            last_death: None,
            early: Vec::new(),
            turn_sender: None,
            last_turn: None,
        }
    }

    async fn run(&mut self, mut receiver: mpsc::Receiver<Inbox>) {
        // In boxes: hundreds of actors do nothing but wait here.
        Box::pin(self.begin()).await;
        loop {
            let now = self.host.clock.boot_ms();
            let due = [self.peer.next_due(now), self.by_hand.queue_due()].into_iter().flatten().min().map(|d| Duration::from_millis(d.saturating_sub(now)));
            let sleep = async {
                match due {
                    Some(d) => tokio::time::sleep(d).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                Some(outcome) = self.tasks.join_next() => match outcome {
                    Ok(outcome) => Next::Outcome(Box::new(outcome)),
                    Err(error) => Next::Broken(error.to_string()),
                },
                got = receiver.recv() => match got {
                    Some(inbox) => Next::Inbox(Box::new(inbox)),
                    None => return,
                },
                () = sleep => Next::Inbox(Box::new(Inbox::Event(Box::new(Event::Tick)))),
            };
            Box::pin(self.attend(next)).await;
        }
    }

    async fn begin(&mut self) {
        let watched = self.watch_files();
        self.rebuild().await;
        if !watched {
            // Its folders were made only now.
            self.touched(Touch::All).await;
        }
        self.mind_suspend().await;
        self.open_door();
    }

    async fn attend(&mut self, next: Next) {
        self.peer.promised |= self.door.close();
        match next {
            Next::Outcome(outcome) => self.outcome(*outcome).await,
            Next::Broken(error) => {
                tracing::error!(identity = %self.identity, %error, "an act broke; the peer is rebuilt from disk");
                self.rebuild().await;
            }
            Next::Inbox(inbox) => self.hear(*inbox).await,
        }
        self.look_at_queue_when_due().await;
        self.mind_suspend().await;
        self.open_door();
    }

    /// Whether the next message may be claimed as it is kept.
    fn open_door(&self) {
        if let (Some(inc), Some(live)) = (self.peer.open_for(self.host.clock.boot_ms()), &self.live) {
            if live.record.incarnation == inc {
                self.door.open(live.record.clone());
            }
        }
    }

    /// Time in which the host was suspended is no idleness.
    async fn mind_suspend(&mut self) {
        let asleep = self.host.clock.boot_ms().saturating_sub(self.host.clock.awake_ms());
        let more = asleep.saturating_sub(self.suspended);
        if more >= SUSPEND_MS {
            self.suspended = asleep;
            self.step(Event::Suspended { ms: more }).await;
        }
    }

    /// From what lies on disk and runs.
    async fn rebuild(&mut self) {
        self.tasks.abort_all();
        self.tasks = JoinSet::new();
        self.live = None;
        self.message = None;
        self.peer = policy::fresh_peer(&self.host, &self.identity);
        self.peer.promised = self.door.close();
        // What is a peer no more is not launched for the mail that it has left.
        self.peer.retired = Some(self.host.clock.boot_ms()).filter(|_| !self.host.belongs(&self.identity));
        let found = loop {
            let found = restore::restore(&self.host, &self.identity).await;
            let Some(failure) = &found.failure else { break found };
            // Without its state a peer must not be launched: it might run already. Its mail waits.
            self.publish.send_modify(|s| {
                s.state = "held";
                s.last_failure = Some(failure.clone());
            });
            tokio::time::sleep(RESTORE_PAUSE).await;
        };
        self.host.set_degraded(&format!("{}: its state cannot be read", self.identity), false);
        self.tell_quarantined(&found.quarantined);
        self.tell_of_markers(&found.markers);
        self.by_hand.on_disk = found.markers.markers;
        self.spooled_ids = found.spooled_ids;
        self.host.hold_hooks(&found.spool_files);
        self.spool_files = found.spool_files;
        self.claim = found.restored.claim.as_ref().map(|(c, _)| c.clone());
        if let Some(record) = found.session {
            self.adopt(record);
        }
        self.last_failure = None;
        let rebooted = matches!(found.restored.lost, Some((_, DeathCause::HostReboot)));
        policy::apply(&mut self.peer, &self.host);
        self.peer.host_frozen = self.host.frozen().is_some();
        let mut restored = found.restored;
        // Mail that waits may wake it in this very step.
        prove(restored.resumable.as_mut(), self.peer.definition.resume.needs_transcript);
        self.step(Event::Restored(Box::new(restored))).await;
        if rebooted && self.host.settings.restore == Restore::Awake {
            self.step(Event::Want(WantedBy::Restore)).await;
        }
        for heard in found.heard {
            if let Some(inc) = self.peer.inc() {
                self.hear(Inbox::Heard { inc, heard }).await;
            }
        }
        self.publish.send_modify(|s| s.restored = true);
    }

    pub(super) fn tell_quarantined(&self, files: &[(String, String)]) {
        for (name, reason) in files {
            self.host.lifecycle(Line::new("registry").with("identity", &self.identity).with("action", "quarantined").with("file", name).with("reason", reason));
        }
    }

    fn adopt(&mut self, record: SessionRecord) {
        self.host.capacity.note(&self.identity);
        if record.boot_id == self.host.boot_id {
            self.host.note_session(&record);
        }
        let definition = self.peer.definition.clone();
        self.live = Some(Live::new(&self.host, record, self.inbox.clone(), &definition));
    }

    async fn outcome(&mut self, outcome: Outcome) {
        if let Some(record) = outcome.session {
            self.adopt(*record);
        }
        if let Some(claim) = outcome.claim {
            self.claim = Some(claim);
        }
        if let Event::Launched { result: Err(fault), .. } = &outcome.event {
            self.last_failure = Some(fault.detail().to_string());
        }
        if let Event::Collected { .. } = &outcome.event {
            self.live = None;
        }
        let launched = matches!(&outcome.event, Event::Launched { .. });
        self.step(outcome.event).await;
        if launched {
            for (inc, heard) in std::mem::take(&mut self.early) {
                Box::pin(self.hear(Inbox::Heard { inc, heard })).await;
            }
        }
    }

    async fn hear(&mut self, inbox: Inbox) {
        match inbox {
            Inbox::Event(event) => {
                if let (Event::Output { .. }, Some(live)) = (&*event, &self.live) {
                    live.output_seen();
                }
                self.step(*event).await;
            }
            Inbox::Heard { inc, heard } if self.peer.inc() == Some(inc) && self.live.is_none() => self.early.push((inc, heard)),
            Inbox::Heard { inc, heard } => {
                self.learn(inc, &heard).await;
                if let Some(fact) = heard.fact {
                    if matches!(fact, HookFact::TurnEnded | HookFact::TurnFailed) {
                        // The last records of the turn may prove what no hook told.
                        self.read_transcript(inc).await;
                        self.answered_by_turn(inc, heard.final_text);
                    }
                    if matches!(&fact, HookFact::PromptSubmitted { .. }) {
                        self.last_turn = None;
                    }
                    self.step(Event::Hook { inc, fact }).await;
                }
            }
            Inbox::Hook { inc, event, payload } => {
                let heard = hooks::interpret(&self.peer.definition, &event, &payload);
                Box::pin(self.hear(Inbox::Heard { inc, heard })).await;
            }
            Inbox::Claimed { entry, message, claim } => {
                self.door.settle();
                let inc = claim.incarnation;
                if self.peer.flight.is_none() {
                    self.message = Some(*message);
                    self.claim = Some(*claim);
                }
                self.step(Event::AcceptedClaimed { inc, entry }).await;
            }
            Inbox::PromiseBroken => {
                self.door.settle();
                self.step(Event::PromiseBroken).await;
            }
            Inbox::Touched(what) => self.touched(what).await,
            Inbox::Transcript { inc } => self.read_transcript(inc).await,
            Inbox::Barrier(done) => drop(done.send(())),
        }
    }

    pub(super) async fn step(&mut self, event: Event) {
        let now = self.host.clock.boot_ms();
        if self.live.is_none() {
            // What a launch would be decided by is read when one may be decided.
            self.take_definition();
            policy::apply(&mut self.peer, &self.host);
            prove(self.peer.resumable.as_mut(), self.peer.definition.resume.needs_transcript);
        }
        let peer = &mut self.peer;
        let Ok(effects) = catch_unwind(AssertUnwindSafe(|| peer.step(event, now))) else {
            tracing::error!(identity = %self.identity, "a decision panicked; the peer is rebuilt from disk");
            // The next event finds a rebuilt peer; this one had its chance.
            Box::pin(self.rebuild()).await;
            return;
        };
        for effect in effects {
            tracing::debug!(identity = %self.identity, ?effect);
            self.perform(effect).await;
        }
        if self.peer.session == Session::None && self.peer.doing.is_none() {
            self.make_room();
        }
        if let Some(live) = &mut self.live {
            live.watch_output(&self.host, self.peer.wants_output(), self.inbox.clone());
        }
        if self.peer.flight.is_none() && !self.spool_files.is_empty() {
            let files = std::mem::take(&mut self.spool_files);
            self.host.store.post("spool", move |_| files.iter().try_for_each(|f| remove_if_there(&OsDisk, f))).await;
        }
        self.show();
    }

    /// Nothing runs here: whoever waits for room hears of it.
    fn make_room(&self) {
        for waiting in self.host.capacity.give(&self.identity) {
            if let Some(handle) = self.host.existing(&waiting) {
                tokio::spawn(async move { handle.event(Event::RoomMade).await });
            }
        }
    }

    pub(super) async fn save_session(&self) {
        let Some(live) = &self.live else { return };
        let (dir, record) = (self.host.root.peer_state(&self.identity), live.record.clone());
        self.host.store.post("session", move |store| PeerState::open(&*store.disk.clone(), dir.clone())?.write_session(&record)).await;
    }

    async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Report { inc, id, state, reason, evidence, attempt } => {
                let at = self.host.now_text();
                self.host.ledger.report(&id, state, reason.clone(), evidence, attempt, &at);
                self.log_delivery(inc, &id, state, reason, evidence.map(|e| e.word()), attempt);
            }
            other => acts::perform(self, other).await,
        }
    }

    fn log_delivery(&self, inc: Option<Incarnation>, id: &MessageId, state: State, reason: Option<String>, evidence: Option<&str>, attempt: u32) {
        let view = self.host.ledger.view(id);
        let ms = self.host.ledger.age_ms(id, self.host.clock.boot_ms());
        let line = Line::new("delivery")
            .with("msg", id)
            .maybe("from", view.as_ref().map(|v| v.from.clone()))
            .with("to", &self.identity)
            .maybe("inc", inc)
            .with("state", state.word())
            .maybe("reason", reason)
            .maybe("evidence", evidence)
            .maybe("woke", view.as_ref().map(|v| v.woke))
            .with("depth", self.peer.queue.len())
            .with("attempt", attempt)
            .maybe("ms", ms)
            .maybe("len", view.as_ref().map(|v| v.len))
            .maybe("topic", view.and_then(|v| v.topic));
        self.host.delivery(line);
    }

    pub(super) fn died(&mut self, inc: Incarnation, cause: &str, claimed: Option<&MessageId>) {
        self.failures += 1;
        self.last_death = Some(Told { inc, cause: cause.into(), claimed: claimed.cloned() });
        self.last_failure = Some(format!("the agent ended ({cause})"));
    }

    /// What was told of the death of a session; `None`: its end was ordered.
    pub(super) fn death_of(&self, inc: Incarnation) -> Option<Told> {
        let counted = || self.peer.deaths.iter().find(|d| d.incarnation == inc);
        let before = || counted().map(|d| Told { inc, cause: d.cause.clone(), claimed: d.claimed.clone() });
        self.last_death.clone().filter(|t| t.inc == inc).or_else(before)
    }

    pub(super) fn failed(&mut self, detail: String) {
        self.failures += 1;
        self.last_failure = Some(detail);
    }

    pub(super) fn flight_message(&mut self, entry: &Entry) -> Result<Message, RecordFault> {
        if let Some(message) = self.message.as_ref().filter(|m| m.id == *entry.id()) {
            return Ok(message.clone());
        }
        let queue = self.host.root.peer_state(&self.identity).join("queue");
        let message = crate::store::mailbox::read_record(&*self.host.disk, &queue, &entry.key, &["cur", "new"])?;
        self.message = Some(message.clone());
        Ok(message)
    }

    fn show(&mut self) {
        let peer = &self.peer;
        if let Some(id) = peer.turn_message().filter(|id| self.last_turn.as_ref() != Some(id)) {
            self.last_turn = Some(id.clone());
        }
        match (peer.turn_message(), &self.turn_sender) {
            (Some(id), known) if known.as_ref().map(|(k, _)| k) != Some(id) => {
                self.turn_sender = self.host.ledger.view(id).map(|v| (id.clone(), v.from));
            }
            (None, Some(_)) => self.turn_sender = None,
            _ => {}
        }
        let snapshot = Snapshot {
            restored: self.publish.borrow().restored,
            state: peer.state_word(),
            turn: peer.up().filter(|u| u.ready_at.is_some()).map(|u| match u.turn {
                Turn::Idle => "idle",
                Turn::Working { .. } => "working",
                Turn::Waiting => "waiting",
            }),
            reason: peer.hold.map(|h| h.word().to_string()),
            incarnation: peer.inc(),
            in_flight: peer.flight.as_ref().map(|f| f.id().clone()),
            stopped: peer.markers.stopped,
            frozen: peer.markers.frozen,
            draining: peer.draining,
            ready: peer.up().is_some_and(|u| u.ready_at.is_some()),
            turn_message: self.turn_sender.clone(),
            session: self.live.as_ref().map(|l| (l.pane.socket.clone(), l.pane.pane.clone())),
            last_failure: self.last_failure.clone(),
            failures: self.failures,
            at_rest: peer.doing.is_none() && !peer.promised,
        };
        self.publish.send_if_modified(|old| {
            let changed = *old != snapshot;
            *old = snapshot;
            changed
        });
    }
}

/// Whether the transcript that a resume would name is there.
fn prove(resumable: Option<&mut Resumable>, needs_transcript: bool) {
    if let Some(resumable) = resumable {
        resumable.proven = !needs_transcript || resumable.transcript.as_ref().is_some_and(|t| std::path::Path::new(t).is_file());
    }
}

enum Next {
    Outcome(Box<Outcome>),
    Broken(String),
    Inbox(Box<Inbox>),
}
