//! The schedules of all peers: one task for each peer, and what is known of them for those who ask.
//!
//! A task sleeps until its peer's next fire, until a watched path or the profile changes, and costs
//! nothing while there is no schedule. The work is in [`super::schedule_desk`].

use super::host::Host;
use super::schedule_desk::Desk;
use crate::api::shapes::ScheduleView;
use crate::core::names::{Identity, Personality};
use crate::core::schedule::due::{Memory, due};
use crate::core::schedule::watched::Seen;
use crate::core::schedule::{Schedule, Trigger};
use crate::core::zone::Zone;
use crate::ports::disk::Disk;
use crate::store::layout::Root;
use crate::store::profile_file;
use crate::store::registry::Place;
use crate::store::schedule_state::{self, Memories};
use chrono::{DateTime, SecondsFormat, Utc};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Between two looks at the registry that nothing told of.
const LOOK: Duration = Duration::from_secs(60);
/// After a fault in one task, before it begins again.
const PAUSE: Duration = Duration::from_secs(2);

struct Task {
    place: Place,
    hint: Arc<Notify>,
    end: CancellationToken,
}

pub async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    let changed = Arc::new(Notify::new());
    let told = changed.clone();
    // The registry is replaced in this directory.
    let _watch = host.watch.entries(host.root.base(), Box::new(move || told.notify_one())).ok();
    let mut tasks: BTreeMap<Personality, Task> = BTreeMap::new();
    let tracker = TaskTracker::new();
    loop {
        let registry = host.registry();
        tasks.retain(|name, task| {
            let stays = registry.peers.contains_key(name);
            if !stays {
                task.end.cancel();
            }
            stays
        });
        for (name, place) in registry.peers.clone() {
            match tasks.get_mut(&name) {
                Some(task) if task.place != place => {
                    task.place = place;
                    task.hint.notify_one();
                }
                Some(_) => {}
                None => {
                    let task = Task { place, hint: Arc::default(), end: shutdown.child_token() };
                    tracker.spawn(watch_over(host.clone(), name.clone(), task.hint.clone(), task.end.clone()));
                    tasks.insert(name, task);
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    tracker.close();
    tracker.wait().await;
}

/// A fault in one peer's schedules is its own, and is begun again from disk.
async fn watch_over(host: Arc<Host>, name: Personality, hint: Arc<Notify>, end: CancellationToken) {
    loop {
        let desk = Desk::new(host.clone(), name.clone(), hint.clone());
        match tokio::spawn(desk.keep(end.clone())).await {
            Ok(()) => return,
            Err(error) => tracing::error!(peer = %name, %error, "the schedules of a peer broke; they are read again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a look at the files tells, also without a daemon.
pub struct Looker<'a> {
    pub disk: &'a dyn Disk,
    pub root: &'a Root,
    pub now: DateTime<Utc>,
    /// Of the host.
    pub zone: Zone,
}

impl Looker<'_> {
    /// The schedules of a peer, in the order of its profile, then those that cannot be read.
    pub fn views(&self, peer: &Personality, place: &Place) -> Vec<ScheduleView> {
        let loaded = match profile_file::load(&place.folder) {
            Ok(loaded) => loaded,
            Err(error) => {
                let view = self.blank(peer, "*");
                return vec![ScheduleView { state: "invalid".into(), reason: Some("profile-invalid".into()), error: Some(error.to_string()), ..view }];
            }
        };
        let identities = loaded.profile.identities();
        let (memories, _) = schedule_state::read(self.disk, &self.states(&identities));
        let reason = self.obstacle(&loaded.profile.identity(&loaded.profile.default_runtime));
        let good = loaded.schedules.good.iter().map(|s| self.view(peer, s, &memories, reason));
        let bad = loaded.schedules.faults.iter();
        let bad = bad.map(|f| ScheduleView { state: "invalid".into(), error: Some(f.message.clone()), ..self.blank(peer, &f.name) });
        good.chain(bad).collect()
    }

    fn states(&self, identities: &[Identity]) -> Vec<PathBuf> {
        identities.iter().map(|i| self.root.peer_state(i)).collect()
    }

    fn obstacle(&self, identity: &Identity) -> Option<&'static str> {
        let marked = |name: &str| self.root.peer_state(identity).join(name).symlink_metadata().is_ok();
        if self.root.frozen().symlink_metadata().is_ok() || marked("frozen") {
            Some("frozen")
        } else if marked("stopped") {
            Some("stopped")
        } else {
            None
        }
    }

    fn blank(&self, peer: &Personality, name: &str) -> ScheduleView {
        ScheduleView {
            peer: peer.clone(),
            name: name.into(),
            state: String::new(),
            reason: None,
            cron: None,
            time_zone: None,
            watch: None,
            topic: None,
            policy: None,
            next: None,
            last: None,
            last_message: None,
            fires: 0,
            missed: 0,
            error: None,
        }
    }

    fn view(&self, peer: &Personality, schedule: &Schedule, memories: &Memories, reason: Option<&'static str>) -> ScheduleView {
        let fingerprint = schedule.fingerprint(self.zone);
        let known = memories.get(&schedule.name).cloned();
        let memory = known.filter(|m| m.trigger == fingerprint).unwrap_or_else(|| Memory::begin(fingerprint, self.now, Seen::default()));
        let mut view = ScheduleView {
            state: match (schedule.enabled, reason) {
                (false, _) => "off".into(),
                (true, Some(_)) => "waits".into(),
                (true, None) => "on".into(),
            },
            reason: reason.filter(|_| schedule.enabled).map(String::from),
            topic: schedule.topic.clone(),
            policy: Some(schedule.missed),
            last_message: memory.last_message.clone(),
            fires: memory.fires,
            missed: memory.missed,
            ..self.blank(peer, &schedule.name)
        };
        let zone = match &schedule.trigger {
            Trigger::Watch(path) => {
                view.watch = Some(path.clone());
                self.zone
            }
            Trigger::Cron(table) => {
                let zone = table.zone_on(self.zone);
                view.cron = Some(table.pattern.clone());
                view.time_zone = Some(zone.name().into());
                let next = due(table, self.zone, schedule.missed, &memory, self.now).next.filter(|_| schedule.enabled);
                view.next = next.map(|at| told(at, zone));
                zone
            }
        };
        view.last = memory.last.map(|at| told(at, zone));
        view
    }
}

fn told(at: DateTime<Utc>, zone: Zone) -> String {
    at.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, false)
}

/// The schedules of one peer, or of all.
pub fn views(host: &Host, peer: Option<&Personality>) -> Vec<ScheduleView> {
    let looker = Looker { disk: &*host.disk, root: &host.root, now: host.clock.utc(), zone: crate::sys::clock::zone() };
    let registry = host.registry();
    registry.peers.iter().filter(|(name, _)| peer.is_none_or(|p| p == *name)).flat_map(|(name, place)| looker.views(name, place)).collect()
}
