//! One peer's schedules at work: look at the clock and at the watched paths, send what is due, remember it.
//!
//! First the message is kept, under a key made of the schedule's name and the slot, then the slot is
//! remembered as fired. A daemon that dies between the two finds the slot due again, and the key makes
//! the second message the first one. What cannot be sent now (its peer is stopped or frozen, the mailbox
//! full) stays due: when it can be, it counts as missed.

use super::accept;
use super::handle::PeerHandle;
use super::host::Host;
use super::logs::Line;
use super::router;
use crate::api::shapes::{Recipients, SendRequest, Via};
use crate::core::fault::{Code, Fault};
use crate::core::message::MessageId;
use crate::core::names::{Identity, Party, Personality};
use crate::core::record::hex;
use crate::core::schedule::due::{Memory, due};
use crate::core::schedule::watched::{Seen, Settling};
use crate::core::schedule::{Missed, Schedule, Timetable, Trigger};
use crate::core::zone::Zone;
use crate::store::profile_file::{self, Loaded};
use crate::store::registry::Place;
use crate::store::schedule_file::{Listed, watched_path};
use crate::store::schedule_state::{self, Memories};
use crate::store::shelf;
use crate::sys::alarm::Alarm;
use crate::sys::clock;
use crate::tmux::watch::Watching;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// After a hint, so that a file that is just being written is looked at once.
const GATHER: Duration = Duration::from_millis(100);
/// Between two looks at watched paths that nothing told of; where nothing tells, more often.
const LOOK: Duration = if cfg!(target_os = "linux") { Duration::from_secs(60) } else { Duration::from_secs(2) };
/// Between two tries of a fire that could not be sent.
const AGAIN: Duration = Duration::from_secs(1);
/// The wall clock is looked at so often at least.
const LONGEST: TimeDelta = TimeDelta::hours(1);
/// How long a peer that is just being restored is waited for.
const RESTORE: Duration = Duration::from_secs(10);

pub struct Desk {
    host: Arc<Host>,
    name: Personality,
    /// Its default one, when the profile was read last.
    identity: Option<Identity>,
    /// Something may have changed: the profile, a watched path.
    hint: Arc<Notify>,
    listed: Arc<Listed>,
    /// None until it has been read.
    memories: Option<Memories>,
    settling: BTreeMap<String, Settling>,
    /// What is due and cannot be sent, with the reason that was told.
    waiting: BTreeMap<String, Code>,
    fired: Vec<Line>,
    /// By path and inode: a directory that comes again is another.
    watching: BTreeMap<(PathBuf, u64), Watching>,
}

/// Until when nothing needs to be done.
#[derive(Default)]
struct Rest {
    at: Option<DateTime<Utc>>,
    within: Option<Duration>,
    /// A stopped peer that something waits for.
    until_started: Option<PeerHandle>,
}

impl Rest {
    fn no_later(&mut self, at: Option<DateTime<Utc>>) {
        self.at = self.at.into_iter().chain(at).min();
    }
    fn no_longer(&mut self, within: Duration) {
        self.within = self.within.into_iter().chain([within]).min();
    }
}

/// What became of a try to send.
enum Sent {
    Kept(Option<MessageId>),
    Waits(Code),
}

impl Desk {
    pub fn new(host: Arc<Host>, name: Personality, hint: Arc<Notify>) -> Self {
        Desk {
            host,
            name,
            identity: None,
            hint,
            listed: Arc::default(),
            memories: None,
            settling: BTreeMap::new(),
            waiting: BTreeMap::new(),
            fired: Vec::new(),
            watching: BTreeMap::new(),
        }
    }

    pub async fn keep(mut self, end: CancellationToken) {
        let mut alarm: Option<Alarm> = None;
        loop {
            let rest = self.look().await;
            if rest.at.is_some() && alarm.is_none() {
                alarm = Alarm::new().inspect_err(|error| tracing::error!(%error, "no timer for schedules")).ok();
            }
            let hint = self.hint.clone();
            tokio::select! {
                () = end.cancelled() => return,
                () = hint.notified() => tokio::time::sleep(GATHER).await,
                () = ring(&mut alarm, rest.at) => {}
                () = pause(rest.within) => {}
                () = started(rest.until_started) => {}
            }
        }
    }

    async fn look(&mut self) -> Rest {
        let mut rest = Rest::default();
        let host = self.host.clone();
        let (place, loaded) = match host.profile(&self.name) {
            Ok(found) => found,
            // Its schedules wait for a profile that can be read; what tells of that is watched.
            Err(_) => {
                if let Some(place) = host.place(&self.name) {
                    self.watch(&[profile_dir(&place.folder)]);
                }
                rest.no_longer(LOOK);
                return rest;
            }
        };
        self.identity = Some(loaded.profile.identity(&loaded.profile.default_runtime));
        if self.memories.is_none() && !self.read(&loaded).await {
            rest.no_longer(LOOK);
            return rest;
        }
        self.listed(&loaded);
        let wanted = self.wanted(&place, &loaded);
        let armed = self.watch(&wanted);
        let before = self.memories.clone();
        let zone = clock::zone();
        let now = host.clock.utc();
        let mut memories = self.memories.take().unwrap_or_default();
        let known = |name: &String| loaded.schedules.good.iter().map(|s| &s.name).chain(loaded.schedules.faults.iter().map(|f| &f.name)).any(|n| n == name);
        memories.retain(|name, _| {
            if !known(name) {
                host.lifecycle(self.line(name).with("action", "dropped"));
            }
            known(name)
        });
        for schedule in &loaded.schedules.good {
            self.look_at(schedule, &place, &mut memories, zone, now, &mut rest).await;
        }
        let changed = before.as_ref() != Some(&memories);
        self.memories = Some(memories);
        if changed {
            self.remember(&loaded).await;
        }
        // Told when it is remembered, so that it is told once.
        self.fired.drain(..).for_each(|line| host.lifecycle(line));
        if loaded.schedules.good.iter().any(|s| matches!(s.trigger, Trigger::Watch(_))) {
            rest.no_longer(if armed { LOOK } else { AGAIN * 5 });
            if self.wanted(&place, &loaded) != wanted {
                self.hint.notify_one();
            }
        }
        rest
    }

    fn line(&self, schedule: &str) -> Line {
        Line::new("schedule").maybe("identity", self.identity.as_ref()).with("name", schedule)
    }

    /// Reads what is remembered; false when that cannot be done now.
    async fn read(&mut self, loaded: &Loaded) -> bool {
        let identities = loaded.profile.identities();
        let states: Vec<PathBuf> = identities.iter().map(|i| self.host.root.peer_state(i)).collect();
        let (memories, broken) = schedule_state::read(&*self.host.disk, &states);
        for path in broken {
            let aside = path.with_extension("json.corrupt");
            let (from, to) = (path.clone(), aside.clone());
            let moved = self.host.store.run(move |store| store.disk.rename(&from, &to)).await;
            if let Err(error) = moved {
                tracing::error!(%error, path = %path.display(), "the memory of schedules can neither be read nor put aside");
                return false;
            }
            let name = aside.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let line = Line::new("registry").with("identity", loaded.profile.identity(&loaded.profile.default_runtime)).with("action", "quarantined");
            self.host.lifecycle(line.with("file", name).with("reason", "the memory of its schedules could not be read; they begin anew"));
        }
        self.memories = Some(memories);
        true
    }

    /// Tells what a changed profile has brought that cannot be read.
    fn listed(&mut self, loaded: &Loaded) {
        for fault in &loaded.schedules.faults {
            if !self.listed.faults.contains(fault) {
                self.host.lifecycle(self.line(&fault.name).with("action", "invalid").with("reason", &fault.message));
            }
        }
        if self.listed != loaded.schedules {
            self.listed = loaded.schedules.clone();
            let names: Vec<&String> = loaded.schedules.good.iter().filter(|s| s.enabled).map(|s| &s.name).collect();
            self.settling.retain(|name, _| names.contains(&name));
            self.waiting.retain(|name, _| names.contains(&name));
        }
    }

    async fn look_at(&mut self, schedule: &Schedule, place: &Place, memories: &mut Memories, zone: Zone, now: DateTime<Utc>, rest: &mut Rest) {
        let fingerprint = schedule.fingerprint(zone);
        let seen = match &schedule.trigger {
            Trigger::Watch(path) if schedule.enabled => self.seen(&place.folder, path, schedule),
            _ => Some(Seen::default()),
        };
        // A path that cannot be looked at now is looked at later.
        let Some(seen) = seen else { return rest.no_longer(LOOK) };
        if memories.get(&schedule.name).is_none_or(|m| m.trigger != fingerprint) {
            self.settling.remove(&schedule.name);
            memories.insert(schedule.name.clone(), Memory::begin(fingerprint, now, seen.clone()));
            if schedule.enabled {
                let next = match &schedule.trigger {
                    Trigger::Cron(table) => table.next(zone, now),
                    Trigger::Watch(_) => None,
                };
                self.host.lifecycle(self.line(&schedule.name).with("action", "armed").maybe("next", next.map(moment)));
            }
        }
        let Some(memory) = memories.get_mut(&schedule.name).filter(|_| schedule.enabled) else { return };
        match &schedule.trigger {
            Trigger::Cron(table) => self.look_at_clock(schedule, table, memory, zone, now, rest).await,
            Trigger::Watch(_) => self.look_at_path(schedule, memory, seen, now, rest).await,
        }
    }

    async fn look_at_clock(&mut self, schedule: &Schedule, table: &Timetable, memory: &mut Memory, zone: Zone, now: DateTime<Utc>, rest: &mut Rest) {
        let decision = due(table, zone, schedule.missed, memory, now);
        rest.no_later(decision.next.map(|next| next.min(now + LONGEST)));
        let Some(fire) = decision.fire else {
            if decision.skipped > 0 {
                self.host.lifecycle(self.line(&schedule.name).with("action", "skipped").with("missed", decision.skipped));
                self.waiting.remove(&schedule.name);
            }
            *memory = decision.after;
            return;
        };
        let key = format!("schedule {} {}", schedule.name, moment(fire.slot));
        match self.send(schedule, key).await {
            Sent::Kept(id) => {
                *memory = decision.after;
                self.fired(schedule, memory, id, fire.slot, fire.missed);
            }
            Sent::Waits(code) => self.waits(schedule, code, rest),
        }
    }

    async fn look_at_path(&mut self, schedule: &Schedule, memory: &mut Memory, seen: Seen, now: DateTime<Utc>, rest: &mut Rest) {
        let boot = self.host.clock.boot_ms();
        // What changed before this daemon looked for the first time, it has missed.
        let first = !self.settling.contains_key(&schedule.name);
        if first && schedule.missed == Missed::Skip && seen.is_news_to(&memory.seen) {
            return self.skip(schedule, memory, seen);
        }
        let settling = self.settling.entry(schedule.name.clone()).or_default();
        if !settling.look(&memory.seen, &seen, boot) {
            match settling.due() {
                Some(due) => rest.no_longer(Duration::from_millis(due.saturating_sub(boot).max(1))),
                None => memory.seen = seen,
            }
            return;
        }
        let content = hex(&Sha256::digest(serde_json::to_vec(&seen).unwrap_or_default())[..16]);
        let key = format!("schedule {} {} {content}", schedule.name, memory.fires + 1);
        match self.send(schedule, key).await {
            Sent::Kept(id) => {
                self.settling.entry(schedule.name.clone()).or_default().told();
                memory.seen = seen;
                memory.last = Some(now);
                memory.fires += 1;
                self.fired(schedule, memory, id, now, 0);
            }
            Sent::Waits(_) if schedule.missed == Missed::Skip => self.skip(schedule, memory, seen),
            Sent::Waits(code) => self.waits(schedule, code, rest),
        }
    }

    /// A change that nobody is told of.
    fn skip(&mut self, schedule: &Schedule, memory: &mut Memory, seen: Seen) {
        self.settling.entry(schedule.name.clone()).or_default().told();
        memory.seen = seen;
        memory.missed += 1;
        self.host.lifecycle(self.line(&schedule.name).with("action", "skipped").with("missed", 1));
    }

    fn fired(&mut self, schedule: &Schedule, memory: &mut Memory, id: Option<MessageId>, slot: DateTime<Utc>, missed: u64) {
        self.waiting.remove(&schedule.name);
        let line = self.line(&schedule.name).with("action", "fired").with("slot", moment(slot)).with("missed", missed);
        self.fired.push(line.maybe("msg", id.as_ref()));
        memory.last_message = id.or(memory.last_message.take());
    }

    fn waits(&mut self, schedule: &Schedule, code: Code, rest: &mut Rest) {
        if self.waiting.insert(schedule.name.clone(), code) != Some(code) {
            self.host.lifecycle(self.line(&schedule.name).with("action", "waits").with("reason", code.word()));
        }
        let stopped = router::resolve(&self.host, self.name.as_str()).ok().filter(|_| code == Code::PeerStopped);
        // A stopped peer tells when it is started; whatever else is in the way may go without a word.
        rest.no_longer(if stopped.is_some() { LOOK } else { AGAIN });
        rest.until_started = stopped;
    }

    async fn send(&self, schedule: &Schedule, key: String) -> Sent {
        let handle = match self.recipient(&key) {
            Ok(handle) => handle,
            Err(fault) => return Sent::Waits(fault.code),
        };
        // What is in its mailbox must be known, so that nothing gets in twice.
        if handle.wait_until(RESTORE, |s| s.restored).await.is_none() {
            return Sent::Waits(Code::StoreDegraded);
        }
        let snapshot = handle.snapshot();
        if snapshot.stopped {
            return Sent::Waits(Code::PeerStopped);
        }
        if snapshot.frozen || self.host.frozen().is_some() {
            return Sent::Waits(Code::Frozen);
        }
        let to = Recipients::One(handle.identity.to_string());
        let request = SendRequest { topic: schedule.topic.clone(), idempotency_key: Some(key), ..SendRequest::new(to, schedule.text.clone(), Via::Schedule) };
        match accept::scheduled(&self.host, request).await {
            Ok(views) => Sent::Kept(views.into_iter().next().map(|v| v.id)),
            // Kept by a daemon that died before it could remember, and the text was changed since.
            Err(Fault { code: Code::KeyConflict, .. }) => Sent::Kept(None),
            Err(fault) => {
                tracing::debug!(peer = %self.name, schedule = %schedule.name, %fault, "a schedule could not fire");
                Sent::Waits(fault.code)
            }
        }
    }

    /// The presence that the peer's address means, unless this fire was begun with another.
    fn recipient(&self, key: &str) -> Result<PeerHandle, Fault> {
        let (_, loaded) = self.host.profile(&self.name).map_err(|e| Fault::new(Code::PeerUnknown, e))?;
        let tied = |i: &Identity| shelf::is_tied(&*self.host.disk, &self.host.root.peer_state(i).join("queue"), &Party::System, key);
        match loaded.profile.identities().iter().find(|i| tied(i)) {
            Some(begun) => Ok(self.host.handle(begun)),
            None => router::resolve(&self.host, self.name.as_str()),
        }
    }

    async fn remember(&self, loaded: &Loaded) {
        let state = self.host.root.peer_state(&loaded.profile.identity(&loaded.profile.default_runtime));
        let memories = self.memories.clone().unwrap_or_default();
        // Its state is made when its actor starts.
        let handle = self.host.handle(&loaded.profile.identity(&loaded.profile.default_runtime));
        handle.wait_until(RESTORE, |s| s.restored).await;
        if let Err(error) = self.host.store.run(move |store| schedule_state::write(&*store.disk, &state, &memories)).await {
            tracing::error!(%error, peer = %self.name, "the memory of schedules could not be written; keys keep a fire from coming twice");
        }
    }

    fn seen(&self, folder: &Path, path: &str, schedule: &Schedule) -> Option<Seen> {
        let found = watched_path(folder, path).and_then(|path| schedule_state::look(&path));
        found.inspect_err(|why| tracing::warn!(peer = %self.name, schedule = %schedule.name, %why, "a watched path cannot be looked at")).ok()
    }

    /// The directories whose changes concern this peer: that of the profile, the watched ones, and for
    /// what is not there yet the nearest that is.
    fn wanted(&self, place: &Place, loaded: &Loaded) -> Vec<PathBuf> {
        let mut wanted = vec![profile_dir(&place.folder)];
        for schedule in loaded.schedules.good.iter().filter(|s| s.enabled) {
            let Trigger::Watch(path) = &schedule.trigger else { continue };
            let Ok(path) = watched_path(&place.folder, path) else { continue };
            if path.is_dir() {
                wanted.push(path.clone());
            }
            let above = path.ancestors().skip(1).find(|p| p.is_dir()).filter(|p| p.starts_with(&place.folder));
            wanted.extend(above.map(Path::to_path_buf));
        }
        wanted.sort();
        wanted.dedup();
        wanted
    }

    /// Watches these directories and no others; false when one of them could not be.
    fn watch(&mut self, wanted: &[PathBuf]) -> bool {
        let mut armed = BTreeMap::new();
        let mut all = true;
        for dir in wanted {
            let Ok(inode) = std::fs::metadata(dir).map(|m| m.ino()) else { continue };
            let key = (dir.clone(), inode);
            if let Some(watching) = self.watching.remove(&key) {
                armed.insert(key, watching);
                continue;
            }
            let hint = self.hint.clone();
            match self.host.watch.contents(dir, Box::new(move || hint.notify_one())) {
                Ok(watching) => drop(armed.insert(key, watching)),
                Err(error) => {
                    all = false;
                    tracing::warn!(%error, dir = %dir.display(), "a directory cannot be watched; it is looked at now and then");
                }
            }
        }
        self.watching = armed;
        all
    }
}

fn profile_dir(folder: &Path) -> PathBuf {
    profile_file::path_in(folder).parent().map(Path::to_path_buf).unwrap_or_default()
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn ring(alarm: &mut Option<Alarm>, at: Option<DateTime<Utc>>) {
    match (alarm, at) {
        (Some(alarm), Some(at)) => alarm.until(at).await,
        (None, Some(_)) => tokio::time::sleep(AGAIN).await,
        (_, None) => std::future::pending().await,
    }
}

async fn pause(within: Option<Duration>) {
    match within {
        Some(within) => tokio::time::sleep(within).await,
        None => std::future::pending().await,
    }
}

async fn started(handle: Option<PeerHandle>) {
    match handle {
        Some(handle) => {
            if handle.view.clone().wait_for(|s| !s.stopped).await.is_err() {
                // Its actor has ended; the look after this one finds out why.
                tokio::time::sleep(AGAIN).await;
            }
        }
        None => std::future::pending().await,
    }
}
