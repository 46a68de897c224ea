//! What other hands do to the files of the host: registry, profiles, runtime definitions, the freeze file.
//!
//! One task, one inotify for the whole daemon. What a watch tells, and what the look once a minute covers, is
//! looked at and compared with what was last seen; watches only make it sooner. Each peer's own state is
//! looked at by its actor ([`super::by_hand`]). Where no more can be watched, the minute is what remains, and
//! `status` says so.

use super::by_hand::Touch;
use super::host::Host;
use super::logs::Line;
use crate::core::names::{Identity, Personality};
use crate::core::profile::{Profile, Takes};
use crate::runtime::load::Reloaded;
use crate::store::registry::{self, Place, Registry};
use crate::tmux::watch::{Files, Names, Watching, is_used_up};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What may have changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Registry,
    Profile(Personality),
    Runtimes,
    Freeze,
    Everything,
}

/// What was told of and not looked at yet; the same thing told twice is looked at once.
#[derive(Default)]
pub struct Touched {
    what: Mutex<BTreeSet<What>>,
    came: Notify,
}

impl Touched {
    pub fn mark(&self, what: What) {
        self.what.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
        self.came.notify_one();
    }

    async fn next(&self) -> BTreeSet<What> {
        self.came.notified().await;
        std::mem::take(&mut *self.what.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub struct Watcher {
    host: Arc<Host>,
    fixed: Vec<Watching>,
    profiles: BTreeMap<Personality, Seen>,
}

/// A profile as it was last seen.
struct Seen {
    folder: PathBuf,
    _watching: Option<Watching>,
    good: Option<Profile>,
    /// What was told of it, while it cannot be read.
    fault: Option<String>,
}

impl Watcher {
    /// Watches, and takes note of how things are: what is edited from here on is seen.
    pub async fn start(host: &Arc<Host>) -> Self {
        let lost = host.clone();
        host.watch.on_loss(Box::new(move || lost.touched.mark(What::Everything)));
        let mut watcher = Watcher { host: host.clone(), fixed: Vec::new(), profiles: BTreeMap::new() };
        watcher.everything().await;
        watcher
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        let host = self.host.clone();
        loop {
            let touched = tokio::select! {
                () = shutdown.cancelled() => return,
                touched = host.touched.next() => touched,
            };
            for what in touched {
                self.look(what).await;
            }
        }
    }

    async fn look(&mut self, what: What) {
        match what {
            What::Registry => self.registry(),
            What::Profile(name) => {
                if let Some(seen) = self.profiles.get(&name) {
                    self.host.forget_profile(&seen.folder);
                }
                self.profile(&name);
            }
            What::Runtimes => self.runtimes(),
            What::Freeze => self.freeze().await,
            What::Everything => self.everything().await,
        }
    }

    async fn everything(&mut self) {
        self.watch_host();
        self.freeze().await;
        self.runtimes();
        self.registry();
        for name in self.profiles.keys().cloned().collect::<Vec<_>>() {
            self.profile(&name);
        }
        for handle in self.host.handles() {
            handle.hint(Touch::All);
        }
    }

    fn watch(&self, key: &str, dir: &Path, files: Files, names: Names, what: What) -> Option<Watching> {
        let host = self.host.clone();
        let watching = self.host.watch.files(dir, files, names, Box::new(move || host.touched.mark(what.clone())));
        self.host.unwatched(key, watching.as_ref().err().is_some_and(is_used_up));
        watching.ok()
    }

    /// A directory that was replaced is another one: watched anew each time.
    fn watch_host(&mut self) {
        let root = &self.host.root;
        let (state, runtimes) = (root.base().join("state"), root.runtimes());
        let watches = [
            self.watch("registry", root.base(), Files::Whole, |n| n == "registry.json", What::Registry),
            self.watch("freeze", &state, Files::Any, |n| n == "frozen", What::Freeze),
            self.watch("runtimes", &runtimes, Files::Whole, |n| n.to_str().is_some_and(|n| n.ends_with(".yaml")), What::Runtimes),
        ];
        self.fixed = watches.into_iter().flatten().collect();
    }

    /// Who is a peer: newcomers get their actor, those who left are drained by theirs.
    fn registry(&mut self) {
        self.mend_registry();
        let registry = self.host.registry();
        self.profiles.retain(|name, seen| {
            let stays = registry.peers.contains_key(name);
            if let (false, Some(fault)) = (stays, &seen.fault) {
                self.host.set_degraded(fault, false);
            }
            stays
        });
        for (name, place) in &registry.peers {
            self.follow(name, place);
        }
        for handle in self.host.handles() {
            if !registry.peers.contains_key(&handle.identity.personality) {
                handle.hint(Touch::Profile);
            }
        }
    }

    /// A registry that was lost or broken is written again from what is known; the broken one is kept.
    fn mend_registry(&self) {
        let known = self.host.registry();
        let Some(fault) = registry::fault(&self.host.root).filter(|_| !known.peers.is_empty()) else { return };
        let mended = registry::rebuild(&self.host.root, &Registry::clone(&known));
        let action = if mended.is_ok() { "rebuilt" } else { "broken" };
        let reason = mended.err().map_or(fault, |e| e.to_string());
        self.host.lifecycle(Line::new("registry").with("action", action).with("file", "registry.json").with("reason", reason));
    }

    fn follow(&mut self, name: &Personality, place: &Place) {
        let key = format!("profile of {name}");
        let dir = place.folder.join(".iapeer");
        let watching = self.watch(&key, &dir, Files::Whole, |n| n == "peer.yaml", What::Profile(name.clone()));
        match self.profiles.get_mut(name).filter(|seen| seen.folder == place.folder) {
            Some(seen) => seen._watching = watching,
            None => {
                let earlier = self.profiles.remove(name);
                let (good, fault) = earlier.map_or((None, None), |s| (s.good, s.fault));
                self.profiles.insert(name.clone(), Seen { folder: place.folder.clone(), _watching: watching, good, fault });
                self.profile(name);
                let (_, runtimes) = self.host.runtimes_of(name, place);
                runtimes.into_iter().for_each(|r| drop(self.host.handle(&Identity::new(r, name.clone()))));
            }
        }
    }

    /// Compares a profile with what was last seen of it, and tells what that means.
    fn profile(&mut self, name: &Personality) {
        let Some(seen) = self.profiles.get_mut(name) else { return };
        let said = |action: &str| Line::new("profile").with("peer", name).with("action", action);
        let changed = match self.host.profile(name) {
            Err(fault) => {
                if seen.fault.as_ref() == Some(&fault) {
                    return;
                }
                self.host.lifecycle(said("invalid").with("reason", &fault));
                self.host.set_degraded(&fault, true);
                if let Some(earlier) = seen.fault.replace(fault) {
                    self.host.set_degraded(&earlier, false);
                }
                false
            }
            Ok((_, loaded)) => {
                let mended = seen.fault.take();
                if let Some(fault) = &mended {
                    self.host.set_degraded(fault, false);
                    self.host.lifecycle(said("mended"));
                }
                let before = seen.good.replace(loaded.profile.clone());
                let changes = before.map(|b| b.changes(&loaded.profile)).unwrap_or_default();
                if !changes.is_empty() {
                    let keys = |takes: Takes| {
                        let of: Vec<&str> = changes.iter().filter(|(_, t)| *t == takes).map(|(k, _)| k.as_str()).collect();
                        (!of.is_empty()).then(|| of.join(","))
                    };
                    let told = said("changed").maybe("at_once", keys(Takes::AtOnce));
                    self.host.lifecycle(told.maybe("next_session", keys(Takes::NextSession)).maybe("next_fresh", keys(Takes::NextFresh)));
                }
                if let Some(place) = self.host.place(name) {
                    let (_, runtimes) = self.host.runtimes_of(name, &place);
                    runtimes.into_iter().for_each(|r| drop(self.host.handle(&Identity::new(r, name.clone()))));
                }
                mended.is_some() || !changes.is_empty()
            }
        };
        if changed {
            self.tell_actors(|identity| identity.personality == *name);
        }
    }

    fn runtimes(&self) {
        let mut touched = BTreeSet::new();
        for (name, what) in self.host.reload_runtimes() {
            let line = Line::new("runtime").with("runtime", &name).with("action", what.word());
            self.host.lifecycle(match &what {
                Reloaded::Invalid(reason) => line.with("reason", reason),
                _ => line.with("takes", "next-session"),
            });
            touched.insert(name);
        }
        self.tell_actors(|identity| touched.contains(&identity.runtime));
    }

    fn tell_actors(&self, concerns: impl Fn(&Identity) -> bool) {
        self.host.handles().iter().filter(|h| concerns(&h.identity)).for_each(|h| h.hint(Touch::Profile));
    }

    async fn freeze(&self) {
        // An order that writes the file tells of it itself.
        let mut known = self.host.freeze_known.lock().await;
        let reason = self.host.frozen();
        if reason.is_some() == *known {
            return;
        }
        *known = reason.is_some();
        let by = match reason.filter(|r| !r.is_empty()) {
            Some(reason) => format!("file: {reason}"),
            None => "file".into(),
        };
        self.host.lifecycle(Line::new(if *known { "freeze" } else { "unfreeze" }).with("by", by));
        self.host.handles().iter().for_each(|h| h.hint(Touch::Freeze));
    }
}
