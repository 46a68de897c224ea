//! What survives the daemon: the peer's mailbox and state, as its effects have written them.

use super::super::*;

/// The session that `session.json` names.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub inc: Incarnation,
    pub ready: bool,
    pub reported: bool,
    pub seed_due: bool,
    pub woke: Millis,
    pub asked: Vec<MessageId>,
    pub trouble: Option<Trouble>,
    /// Its keeper was told to end it.
    pub ordered: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub waiting: Vec<Entry>,
    /// The message in flight and the task, each with its claim.
    pub claimed: Vec<(Claim, Entry)>,
    pub markers: Markers,
    pub deaths: Vec<Death>,
    pub incarnation: Incarnation,
    pub session: Option<Recorded>,
    pub resumable: Option<Resumable>,
    pub transcript_gone: bool,
}

impl Disk {
    pub fn accepted(&mut self, entry: &Entry) {
        if !self.holds(entry.id()) {
            self.waiting.push(entry.clone());
        }
    }

    pub fn holds(&self, id: &MessageId) -> bool {
        self.waiting.iter().chain(self.claimed.iter().map(|(_, e)| e)).any(|e| e.id() == id)
    }

    pub fn claim(&mut self, inc: Incarnation, entry: Entry, attempt: u32, deaths: u32) {
        let others = self.claimed.iter().filter(|(c, _)| c.taken.is_none() && c.id != *entry.id()).count();
        assert_eq!(others, 0, "a second claim beside one that nobody has finished or released");
        self.drop_message(entry.id());
        let process = ProcessRef { pid: 1, start: 1 };
        let claim = Claim {
            v: 1,
            id: entry.id().clone(),
            attempt,
            deaths,
            identity: "echo-a".parse().unwrap(),
            incarnation: inc,
            boot_id: String::new(),
            server: process.clone(),
            keeper: process,
            pane: "%0".into(),
            transcript: None,
            taken: None,
            released: false,
        };
        self.claimed.push((claim, entry));
    }

    /// A session has begun; gives the conversation that a resume would name from now on.
    pub fn begin(&mut self, inc: Incarnation, mode: &Mode, now: Millis) -> Option<Resumable> {
        let session_id = match mode {
            Mode::Fresh => format!("s{inc}"),
            Mode::Resume { session_id } => session_id.clone(),
        };
        self.session =
            Some(Recorded { inc, ready: false, reported: false, seed_due: *mode == Mode::Fresh, woke: now, asked: Vec::new(), trouble: None, ordered: false });
        self.resumable = Some(Resumable { session_id, transcript: None, proven: false });
        self.resumable.clone()
    }

    /// What one effect leaves behind.
    pub fn write(&mut self, effect: &Effect) {
        match effect {
            Effect::SetMarkers(markers) => self.markers = markers.clone(),
            Effect::SaveDeaths(deaths) => self.deaths = deaths.clone(),
            Effect::Finish { entry, .. } | Effect::Quarantine { entry, .. } => self.drop_message(entry.id()),
            Effect::Release { entry, .. } => {
                self.drop_message(entry.id());
                self.waiting.push(entry.clone());
            }
            Effect::Taken { entry, evidence, .. } => {
                for (claim, _) in self.claimed.iter_mut().filter(|(_, e)| e.id() == entry.id()) {
                    claim.taken = Some(*evidence);
                }
            }
            Effect::MarkReady { inc, seed_due } => {
                if let Some(session) = self.session.as_mut().filter(|s| s.inc == *inc) {
                    (session.ready, session.seed_due) = (true, *seed_due);
                }
            }
            Effect::Ready { inc, .. } => {
                if let Some(session) = self.session.as_mut().filter(|s| s.inc == *inc) {
                    session.reported = true;
                }
            }
            Effect::SaveTrouble { inc, trouble } => {
                if let Some(session) = self.session.as_mut().filter(|s| s.inc == *inc) {
                    session.trouble = *trouble;
                }
            }
            Effect::SaveAsked { inc, asked } => {
                if let Some(session) = self.session.as_mut().filter(|s| s.inc == *inc) {
                    session.asked = asked.clone();
                }
            }
            _ => {}
        }
    }

    /// An operator's `touch` and `rm`.
    pub fn mark(&mut self, name: &str, on: bool) {
        let markers = &mut self.markers;
        match name {
            "stopped" => markers.stopped = on,
            "idle-reaped" => markers.idle_reaped = on,
            "fresh-next" => markers.fresh_next = on,
            "new-eager" => markers.new_eager = on,
            "ephemeral-armed" => markers.ephemeral_armed = on.then_some(Armed { inc: None }),
            "frozen" => markers.frozen = on,
            other => panic!("no such marker: {other}"),
        }
    }

    pub fn marked(&self, name: &str) -> bool {
        let markers = &self.markers;
        match name {
            "stopped" => markers.stopped,
            "idle-reaped" => markers.idle_reaped,
            "fresh-next" => markers.fresh_next,
            "new-eager" => markers.new_eager,
            "ephemeral-armed" => markers.ephemeral_armed.is_some(),
            "frozen" => markers.frozen,
            other => panic!("no such marker: {other}"),
        }
    }

    pub fn drop_message(&mut self, id: &MessageId) {
        self.waiting.retain(|e| e.id() != id);
        self.claimed.retain(|(_, e)| e.id() != id);
    }

    /// What the next daemon finds, with `alive` still running; `cause` ended what does not.
    pub fn restored(&self, alive: Option<Incarnation>, cause: DeathCause, now: Millis) -> Restored {
        let mut waiting = self.waiting.clone();
        waiting.sort_by_key(|e| e.key.rank());
        let found = |taken: bool| self.claimed.iter().find(|(c, _)| c.taken.is_some() == taken).cloned();
        let session = self.session.as_ref();
        Restored {
            queue: waiting,
            claim: found(false),
            task: found(true).and_then(|(claim, entry)| claim.taken.map(|evidence| (claim, entry, evidence))),
            markers: self.markers.clone(),
            resumable: self.resumable.clone().map(|r| Resumable { proven: !self.transcript_gone, ..r }),
            deaths: self.deaths.clone(),
            incarnation: self.incarnation,
            adopted: session.filter(|s| alive == Some(s.inc)).map(|s| Adopted {
                inc: s.inc,
                ready: s.ready,
                reported: s.reported,
                seed_due: s.seed_due,
                since: s.woke,
                asked: s.asked.clone(),
                trouble: s.trouble,
            }),
            lost: session.filter(|s| alive != Some(s.inc)).map(|s| (s.inc, cause)),
            lost_age_ms: session.map_or(0, |s| now - s.woke),
            lost_to_order: session.is_some_and(|s| s.ordered),
        }
    }
}
