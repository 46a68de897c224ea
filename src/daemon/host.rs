//! What all parts of the daemon share. Each piece of state has one owner; this only says where it is.

use super::capacity::Capacity;
use super::flow::Flow;
use super::handle::PeerHandle;
use super::ledger::Ledger;
use super::logs::{Line, LogFile};
use super::store_thread::StoreHandle;
use super::strays::Search;
use super::watcher::Touched;
use crate::core::Millis;
use crate::core::message::{Entry, Message, ProcessRef, Stamp, State};
use crate::core::names::{Identity, Incarnation, Party, Personality, RuntimeName};
use crate::core::profile::Profile;
use crate::core::settings::Settings;
use crate::core::zone::Zone;
use crate::ports::Clock;
use crate::ports::disk::Disk;
use crate::ports::terminal::Terminal;
use crate::runtime::load::{Reloaded, Runtimes};
use crate::store::count::FolderCounts;
use crate::store::layout::Root;
use crate::store::peer_state::SessionRecord;
use crate::store::profile_file::{self, Loaded};
use crate::store::registry::{self, Place, Registry};
use crate::tmux::watch::FileWatch;
use chrono::DateTime;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

pub struct Host {
    pub root: Root,
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    pub disk: Arc<dyn Disk>,
    pub terminal: Arc<dyn Terminal>,
    pub tmux_program: PathBuf,
    pub tmux_version: String,
    pub store: StoreHandle,
    runtimes: RwLock<Arc<Runtimes>>,
    /// What other hands may have changed.
    pub touched: Touched,
    /// Whether the host is known to be frozen; who writes the file, or looks at it, holds this.
    pub freeze_known: tokio::sync::Mutex<bool>,
    pub watch: FileWatch,
    pub ledger: Ledger,
    pub flow: Flow,
    pub capacity: Capacity,
    pub counts: FolderCounts,
    pub boot_id: String,
    pub iapeer: PathBuf,
    pub started: String,
    pub tracker: tokio_util::task::TaskTracker,
    lifecycle: LogFile,
    delivery: LogFile,
    exits: LogFile,
    /// The search for processes that no session holds.
    pub search: Search,
    peers: RwLock<BTreeMap<Identity, PeerHandle>>,
    registry: Mutex<Cached>,
    /// Profiles as last read, by folder, with the file's stamp; and the last that was good.
    profiles: Mutex<HashMap<PathBuf, ReadProfile>>,
    good: Mutex<HashMap<Personality, Profile>>,
    keepers: Mutex<HashMap<(i32, u64), (Identity, Incarnation)>>,
    degraded: Mutex<Vec<String>>,
    /// What could not be watched for want of watches.
    unwatched: Mutex<BTreeSet<String>>,
    /// Every name that the registry has held since this daemon started.
    seen: Mutex<HashSet<Personality>>,
    /// Spooled hook reports that an actor has read, and removes when it needs them no more.
    held_hooks: Mutex<HashSet<PathBuf>>,
}

#[derive(Default)]
struct Cached {
    registry: Arc<Registry>,
    read_at: Option<Stamped>,
}

/// When a profile was read, and what it was.
type ReadProfile = (Option<Stamped>, Result<Loaded, String>);

/// Times of content and inode, the inode, the size: what tells one version of a file from the next.
type Stamped = (SystemTime, i64, i64, u64, u64);

fn stamped(path: &std::path::Path) -> Option<Stamped> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.ctime(), file.ctime_nsec(), file.ino(), file.len()))
}

pub struct Parts {
    pub root: Root,
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    pub disk: Arc<dyn Disk>,
    pub terminal: Arc<dyn Terminal>,
    pub tmux_program: PathBuf,
    pub tmux_version: String,
    pub store: StoreHandle,
    pub watch: FileWatch,
    pub iapeer: PathBuf,
}

/// The default runtime of a peer, and all of them.
pub fn runtimes_in(loaded: Option<&Loaded>, place: &Place) -> (RuntimeName, Vec<RuntimeName>) {
    match loaded {
        Some(Loaded { profile, .. }) => (profile.default_runtime.clone(), profile.runtimes.clone()),
        None => {
            let default = place.default_runtime.clone().unwrap_or_else(RuntimeName::echo);
            (default.clone(), vec![default])
        }
    }
}

fn freeze_reason(root: &Root) -> Option<String> {
    let path = root.frozen();
    match crate::store::disk::read_own(&path, 64 * 1024) {
        Ok(reason) => Some(String::from_utf8_lossy(&reason).trim().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => Some(format!("{}: {e}", path.display())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    pub fn new(parts: Parts) -> Self {
        let Parts { root, settings, clock, disk, terminal, tmux_program, tmux_version, store, watch, iapeer } = parts;
        let logs = root.logs();
        Host {
            runtimes: RwLock::new(Arc::new(Runtimes::load(&root.runtimes()))),
            touched: Touched::default(),
            freeze_known: tokio::sync::Mutex::new(freeze_reason(&root).is_some()),
            lifecycle: LogFile::new(logs.join("lifecycle.log"), settings.lifecycle_log_max_bytes, settings.lifecycle_log_keep),
            delivery: LogFile::new(logs.join("delivery.log"), settings.delivery_log_max_bytes, settings.delivery_log_keep),
            exits: LogFile::new(logs.join("exits.log"), settings.lifecycle_log_max_bytes, settings.lifecycle_log_keep),
            search: Search::default(),
            boot_id: crate::sys::clock::boot_id(),
            started: clock.local().to_rfc3339_opts(chrono::SecondsFormat::Secs, false),
            ledger: Ledger::default(),
            flow: Flow::default(),
            capacity: Capacity::new(&settings.limits),
            counts: FolderCounts::default(),
            tracker: tokio_util::task::TaskTracker::new(),
            peers: RwLock::default(),
            registry: Mutex::default(),
            profiles: Mutex::default(),
            good: Mutex::default(),
            keepers: Mutex::default(),
            degraded: Mutex::default(),
            unwatched: Mutex::default(),
            seen: Mutex::default(),
            held_hooks: Mutex::default(),
            root,
            settings,
            clock,
            disk,
            terminal,
            tmux_program,
            tmux_version,
            store,
            watch,
            iapeer,
        }
    }

    pub fn lifecycle(&self, line: Line) {
        self.lifecycle.write(self.clock.utc(), line);
    }
    pub fn delivery(&self, line: Line) {
        self.delivery.write(self.clock.utc(), line);
    }
    /// One line for each end of a session.
    pub fn exit(&self, line: Line) {
        self.exits.write(self.clock.utc(), line);
    }
    pub fn now_text(&self) -> String {
        self.clock.local().to_rfc3339_opts(chrono::SecondsFormat::Secs, false)
    }

    /// A moment of the boot clock, for people.
    pub fn text_of(&self, boot_ms: Millis) -> String {
        let ahead = i64::try_from(boot_ms).unwrap_or(i64::MAX).saturating_sub(i64::try_from(self.clock.boot_ms()).unwrap_or(0));
        let at = self.clock.local().checked_add_signed(chrono::TimeDelta::try_milliseconds(ahead).unwrap_or_default());
        at.map_or_else(|| self.now_text(), |at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, false))
    }

    pub fn degraded(&self) -> Vec<String> {
        let mut parts = lock(&self.degraded).clone();
        parts.extend(self.runtimes().broken().map(|(_, e)| e.to_string()));
        let unwatched = lock(&self.unwatched).len();
        if unwatched > 0 {
            parts.push(format!(
                "files: no watch is left for {unwatched} folders; edits there are seen within a minute only (raise fs.inotify.max_user_watches)"
            ));
        }
        parts
    }
    /// Notes whether something had to go without a watch because all are used up.
    pub fn unwatched(&self, what: &str, on: bool) {
        let mut unwatched = lock(&self.unwatched);
        if on {
            unwatched.insert(what.into())
        } else {
            unwatched.remove(what)
        };
    }

    pub fn runtimes(&self) -> Arc<Runtimes> {
        self.runtimes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Reads the definitions again and says what has changed.
    pub fn reload_runtimes(&self) -> Vec<(RuntimeName, Reloaded)> {
        let (now, told) = self.runtimes().reload(&self.root.runtimes());
        *self.runtimes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        told
    }
    pub fn set_degraded(&self, what: &str, on: bool) {
        let mut parts = lock(&self.degraded);
        parts.retain(|p| p != what);
        if on {
            parts.push(what.into());
        }
    }

    pub fn hold_hooks(&self, files: &[PathBuf]) {
        lock(&self.held_hooks).extend(files.iter().cloned());
    }
    pub fn holds_hook(&self, file: &PathBuf) -> bool {
        lock(&self.held_hooks).contains(file)
    }

    /// Whoever comes from below these two is that session: its keeper, and its tmux server, by which an agent could
    /// start something beside the keeper.
    pub fn note_session(&self, session: &SessionRecord) {
        for process in [&session.keeper, &session.server] {
            lock(&self.keepers).insert((process.pid, process.start), (session.identity.clone(), session.incarnation));
        }
    }
    pub fn forget_session(&self, session: &SessionRecord) {
        for process in [&session.keeper, &session.server] {
            lock(&self.keepers).remove(&(process.pid, process.start));
        }
    }
    pub fn keeper_of(&self, process: &ProcessRef) -> Option<(Identity, Incarnation)> {
        lock(&self.keepers).get(&(process.pid, process.start)).cloned()
    }

    /// The registry as it is on disk now; what was known stays known while the file is lost or broken.
    pub fn registry(&self) -> Arc<Registry> {
        let mut cached = lock(&self.registry);
        let stamp = stamped(&self.root.registry());
        if stamp.is_none() || cached.read_at != stamp {
            let mut now = registry::load(&self.root);
            if registry::fault(&self.root).is_some() {
                for (name, place) in &cached.registry.peers {
                    now.peers.entry(name.clone()).or_insert_with(|| place.clone());
                }
            }
            lock(&self.seen).extend(now.peers.keys().cloned());
            cached.registry = Arc::new(now);
            cached.read_at = stamp;
        }
        cached.registry.clone()
    }

    /// Whether an identity is one by registry and profile. What cannot be read changes nothing, and one
    /// that this daemon has never seen in the registry may be the running agent of a lost one.
    pub fn belongs(&self, identity: &Identity) -> bool {
        match self.registry().peers.get(&identity.personality) {
            None => !lock(&self.seen).contains(&identity.personality),
            Some(_) => self.profile(&identity.personality).map_or(true, |(_, l)| l.profile.runtimes.contains(&identity.runtime)),
        }
    }

    pub fn place(&self, personality: &Personality) -> Option<Place> {
        self.registry().peers.get(personality).cloned()
    }

    pub fn profile(&self, personality: &Personality) -> Result<(Place, Loaded), String> {
        let place = self.place(personality).ok_or_else(|| format!("{personality} is in no registry"))?;
        let loaded = self.profile_at(personality, &place)?;
        Ok((place, loaded))
    }

    /// The same for a peer whose place is known.
    pub fn profile_at(&self, personality: &Personality, place: &Place) -> Result<Loaded, String> {
        let loaded = self.read_profile(&place.folder)?;
        if loaded.profile.personality != *personality {
            return Err(format!(
                "{} says personality {}, the registry says {personality}; run `iapeer init` in that folder",
                profile_file::path_in(&place.folder).display(),
                loaded.profile.personality
            ));
        }
        lock(&self.good).insert(personality.clone(), loaded.profile.clone());
        Ok(loaded)
    }

    /// Reads a profile only when its file has changed.
    fn read_profile(&self, folder: &std::path::Path) -> Result<Loaded, String> {
        let stamp = stamped(&profile_file::path_in(folder));
        if let Some((known, loaded)) = lock(&self.profiles).get(folder) {
            if stamp.is_some() && *known == stamp {
                return loaded.clone();
            }
        }
        let loaded = profile_file::load(folder).map_err(|e| e.to_string());
        lock(&self.profiles).insert(folder.to_path_buf(), (stamp, loaded.clone()));
        loaded
    }

    /// The next look reads the file, however little its time tells.
    pub fn forget_profile(&self, folder: &std::path::Path) {
        lock(&self.profiles).remove(folder);
    }

    /// The profile as it is, or as it last was while it could be read.
    pub fn last_good_profile(&self, personality: &Personality) -> Option<Profile> {
        match self.profile(personality) {
            Ok((_, loaded)) => Some(loaded.profile),
            Err(_) => lock(&self.good).get(personality).cloned(),
        }
    }

    /// The runtimes of a peer, the default one first; from the registry when the profile cannot be read.
    pub fn runtimes_of(&self, personality: &Personality, place: &Place) -> (RuntimeName, Vec<RuntimeName>) {
        runtimes_in(self.profile_at(personality, place).as_ref().ok(), place)
    }

    pub fn handles(&self) -> Vec<PeerHandle> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn existing(&self, identity: &Identity) -> Option<PeerHandle> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(identity).cloned()
    }

    /// The handle of an identity; its actor is started when there is none yet.
    pub fn handle(self: &Arc<Self>, identity: &Identity) -> PeerHandle {
        if let Some(handle) = self.existing(identity) {
            return handle;
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.entry(identity.clone()).or_insert_with(|| super::actor::spawn(self.clone(), identity.clone())).clone()
    }

    /// The peer is no more; its actor ends with its last handle.
    pub fn drop_handle(&self, identity: &Identity) {
        self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(identity);
    }

    /// Everything posted to the store before is on disk once this returns.
    pub async fn settled(&self) {
        if self.store.run(|_| Ok(())).await.is_err() {
            tracing::error!("the store has ended");
        }
    }

    /// Now, by all clocks.
    pub fn stamp(&self) -> Stamp {
        Stamp { boot_id: self.boot_id.clone(), boot_ms: self.clock.boot_ms(), unix: self.clock.utc().timestamp() }
    }

    /// The time of day where this host stands.
    pub fn wall(&self) -> DateTime<Zone> {
        self.clock.utc().with_timezone(&crate::sys::clock::zone())
    }

    /// Why the whole host is frozen, if it is. What cannot be read counts as frozen.
    pub fn frozen(&self) -> Option<String> {
        freeze_reason(&self.root)
    }

    /// Where a party finds the files that come with its mail.
    pub fn inbox_of(&self, party: &Party) -> PathBuf {
        let folder = party.peer().and_then(|i| self.place(&i.personality)).map(|p| p.folder);
        folder.map_or_else(|| self.root.operator_inbox(), |f| f.join(".iapeer/inbox"))
    }

    /// Tells a sender, once, what has become of a message.
    pub async fn tell_sender(self: &Arc<Self>, entry: &Entry, to: &Party, state: State, reason: &str) {
        if entry.notice {
            return;
        }
        let id = entry.id();
        let what = match state {
            State::Expired => "has expired undelivered",
            State::Submitted | State::Entered => "was taken by a session that ended without a word about it",
            State::Held => "waits until its operator has looked after that peer",
            _ => "was not delivered",
        };
        // What a schedule sends is the operator's.
        let (whose, from) = if entry.from == Party::System { ("The scheduled", Party::Operator) } else { ("Your", entry.from.clone()) };
        let text = format!("{whose} message {id} to {to} {what}: {reason}.");
        super::accept::notify(self, from, text, Some(id.clone()), Some(format!("{}-{id}", state.word()))).await;
    }

    /// Mail has come for the operator.
    pub fn tell_operator(&self, message: &Message) {
        let Some((program, arguments)) = self.settings.on_notice.split_first() else { return };
        let mail = serde_json::to_vec(&super::mail::mail_of(message.clone(), false)).unwrap_or_default();
        super::notice::run(program.clone(), arguments.to_vec(), mail);
    }

    /// A notice of the system in the operator's mailbox.
    pub async fn notify_operator(self: &Arc<Self>, text: String) {
        self.lifecycle(Line::new("notice").with("to", "operator").with("text", &text));
        super::accept::notify(self, Party::Operator, text, None, None).await;
    }
}
