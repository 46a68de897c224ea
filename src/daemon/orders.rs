//! Orders about peers, and what is told of them: wake, stop, start, new, attach, list, status, screen.

use super::actor::Inbox;
use super::by_hand::Touch;
use super::handle::{PeerHandle, Snapshot};
use super::host::{Host, runtimes_in};
use super::logs::Line;
use super::{accept, ending, pane_logs, router};
use crate::api::shapes::{AttachView, PeerCounts, PeerView, PresenceView, QueueView, ScreenView, StatusView};
use crate::core::fault::{Code, Fault};
use crate::core::message::Hold;
use crate::core::names::{Identity, Party};
use crate::core::peer::WantedBy;
use crate::core::peer::event::Event;
use crate::core::screen::Screen;
use crate::ports::terminal::PaneRef;
use crate::store::disk::{remove_if_there, replace};
use crate::store::{profile_file, registry};
use std::sync::Arc;
use std::time::Duration;

/// How long an order waits for its peer before it answers with what there is.
const PATIENCE: Duration = Duration::from_secs(300);

/// Brings a peer up and says how to attach to it.
pub async fn wake(host: &Arc<Host>, handle: &PeerHandle, cause: WantedBy, fresh: bool) -> Result<AttachView, Fault> {
    if handle.identity.runtime.is_none() {
        return Err(Fault::new(Code::Conflict, format!("{} has no terminal: it reads its mail by the API", handle.identity))
            .hint(format!("`iapeer inbox {}` shows it", handle.identity)));
    }
    let snapshot = restored(handle).await;
    if snapshot.stopped && cause == WantedBy::Attach {
        return Err(stopped(&handle.identity));
    }
    let before = snapshot.incarnation.filter(|_| snapshot.session.is_some());
    match before {
        Some(_) if fresh => handle.order(Event::New { by: "operator".into() }).await,
        Some(_) => {}
        None if snapshot.stopped => handle.order(Event::New { by: "operator".into() }).await,
        None => {
            if cause == WantedBy::Attach && !fresh && !resumable(host, &handle.identity) {
                return Err(
                    Fault::new(Code::NothingToResume, format!("{} has no earlier conversation to resume", handle.identity)).hint("`--fresh` starts a new one")
                );
            }
            handle.order(Event::Want(if fresh { WantedBy::FolderLaunch } else { cause })).await;
        }
    }
    let woke = before.is_none() || fresh;
    let up = |s: &Snapshot| s.session.is_some() && (!woke || s.incarnation != before) && (s.ready || s.reason.is_some());
    // It came up and ended at once, or could not be started at all.
    let failed = |s: &Snapshot| s.session.is_none() && s.at_rest && (s.state == "held" || s.failures > snapshot.failures);
    let seen = handle.wait_until(PATIENCE, |s| up(s) || (woke && failed(s))).await.unwrap_or_else(|| handle.snapshot());
    match (seen.session, seen.incarnation) {
        (Some((socket, pane)), Some(incarnation)) => {
            Ok(AttachView { identity: handle.identity.clone(), incarnation, tmux: host.tmux_program.clone(), socket, pane, woke })
        }
        _ => {
            if seen.reason.as_deref() == Some(Hold::Capacity.word()) {
                let most = host.capacity.most;
                return Err(Fault::new(Code::Capacity, format!("{} waits for room: {most} sessions run, as many as may", handle.identity))
                    .hint("it starts by itself when one ends; `iapeer list` shows them, limits.live_peers in config.yaml the bound"));
            }
            let why = seen.last_failure.or(seen.reason).unwrap_or_else(|| "it did not come up in time".into());
            Err(Fault::new(Code::WakeFailed, format!("{} could not be started: {why}", handle.identity))
                .hint(format!("`iapeer screen {0}` shows what it said last, `iapeer logs {0}` what happened", handle.identity)))
        }
    }
}

async fn restored(handle: &PeerHandle) -> Snapshot {
    handle.wait_until(Duration::from_secs(10), |s| s.restored).await.unwrap_or_else(|| handle.snapshot())
}

/// Whoever replaces a session by the way is asked before a running turn is lost.
pub async fn refuse_running_turn(handle: &PeerHandle) -> Result<(), Fault> {
    let snapshot = restored(handle).await;
    match snapshot.turn.filter(|turn| *turn != "idle") {
        Some(turn) => Err(Fault::new(Code::Conflict, format!("{}: a turn is running ({turn}), and would be lost", handle.identity))
            .hint(format!("`--yes` replaces it all the same; `iapeer screen {}` shows what it does", handle.identity))),
        None => Ok(()),
    }
}

pub fn stopped(identity: &Identity) -> Fault {
    Fault::new(Code::PeerStopped, format!("{identity} is stopped")).hint(format!("`iapeer start {identity}` starts it"))
}

fn resumable(host: &Host, identity: &Identity) -> bool {
    let path = host.root.peer_state(identity).join("resume.json");
    path.exists()
}

pub async fn stop(host: &Host, handle: &PeerHandle, by: &str) -> Result<Snapshot, Fault> {
    restored(handle).await;
    handle.order(Event::Stop { by: by.into() }).await;
    // Stopped is stopped, also if the daemon dies at this moment.
    host.settled().await;
    let done = handle.wait_until(PATIENCE, |s| s.stopped && s.session.is_none() && s.at_rest).await;
    done.ok_or_else(|| Fault::new(Code::Timeout, format!("{} has not ended within {} s", handle.identity, PATIENCE.as_secs())))
}

pub async fn start(host: &Arc<Host>, handle: &PeerHandle, by: &str) -> Result<AttachView, Fault> {
    restored(handle).await;
    handle.order(Event::Start { by: by.into() }).await;
    host.settled().await;
    wake(host, handle, WantedBy::Start, false).await
}

pub async fn new(host: &Arc<Host>, handle: &PeerHandle) -> Result<AttachView, Fault> {
    wake(host, handle, WantedBy::FolderLaunch, true).await
}

/// All peers of the registry.
pub fn list(host: &Arc<Host>) -> Vec<PeerView> {
    let registry = host.registry();
    registry
        .peers
        .iter()
        .map(|(personality, place)| {
            let loaded = host.profile_at(personality, place);
            let (default_runtime, runtimes) = runtimes_in(loaded.as_ref().ok(), place);
            let presences = runtimes.iter().map(|r| presence(host, &host.handle(&Identity::new(r.clone(), personality.clone())), loaded.is_ok())).collect();
            let profile = loaded.as_ref().ok().map(|l| &l.profile);
            PeerView {
                personality: personality.clone(),
                runtimes: presences,
                default_runtime,
                wake_policy: profile.map(|p| p.wake_policy).unwrap_or_default(),
                approval_mode: profile.map(|p| p.approval_mode).unwrap_or_default(),
                description: profile.map(|p| p.description.clone()).unwrap_or_default(),
                folder: place.folder.clone(),
                warnings: match &loaded {
                    Ok(l) => l.warnings.clone(),
                    Err(error) => vec![error.clone()],
                },
            }
        })
        .collect()
}

fn presence(host: &Arc<Host>, handle: &PeerHandle, profile_ok: bool) -> PresenceView {
    let s = handle.snapshot();
    let queue = host.root.peer_state(&handle.identity).join("queue");
    let invalid = !profile_ok && s.session.is_none();
    PresenceView {
        runtime: handle.identity.runtime.clone(),
        identity: handle.identity.clone(),
        state: if invalid { "held".into() } else { s.state.into() },
        turn: s.turn.map(String::from),
        reason: if invalid { Some("profile-invalid".into()) } else { s.reason },
        incarnation: s.incarnation.filter(|_| s.session.is_some()),
        queue: QueueView {
            waiting: host.ledger.total_waiting(&Party::Peer(handle.identity.clone())),
            held: host.counts.of(&*host.disk, &queue.join("held")),
            dead: host.counts.of(&*host.disk, &queue.join("dead")),
        },
    }
}

pub fn status(host: &Arc<Host>) -> StatusView {
    let mut peers = PeerCounts::default();
    let mut mail = QueueView::default();
    for presence in list(host).into_iter().flat_map(|p| p.runtimes) {
        match presence.state.as_str() {
            "live" => peers.live += 1,
            "starting" | "stopping" => peers.starting += 1,
            "stopped" => peers.stopped += 1,
            "held" => peers.held += 1,
            "absent" => peers.absent += 1,
            _ => peers.asleep += 1,
        }
        mail.waiting += presence.queue.waiting;
        mail.held += presence.queue.held;
        mail.dead += presence.queue.dead;
    }
    let operator = host.root.party_state(&Party::Operator).join("queue/new");
    mail.waiting += host.counts.of(&*host.disk, &operator);
    let degraded = host.degraded();
    StatusView {
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: crate::api::shapes::PROTOCOL,
        pid: std::process::id() as i32,
        started: host.started.clone(),
        updated: host.now_text(),
        running: true,
        healthy: degraded.is_empty(),
        degraded,
        root: host.root.base().to_path_buf(),
        socket: host.root.api_socket(),
        tmux: host.tmux_version.clone(),
        peers,
        mail,
    }
}

/// Longest wait of a freeze for the peers to have taken it in.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);

/// Freezes a peer or the whole host, with a reason; without one, thaws it.
pub async fn freeze(host: &Arc<Host>, peer: Option<&str>, reason: Option<&str>) -> Result<(), Fault> {
    let by = format!("operator{}", reason.filter(|r| !r.is_empty()).map(|r| format!(": {r}")).unwrap_or_default());
    if let Some(peer) = peer {
        let handle = router::resolve(host, peer)?;
        restored(&handle).await;
        handle.order(if reason.is_some() { Event::Freeze { by } } else { Event::Unfreeze { by } }).await;
        host.settled().await;
        return Ok(());
    }
    let mut known = host.freeze_known.lock().await;
    let path = host.root.frozen();
    let text = format!("{}\n", reason.unwrap_or_default());
    let on = reason.is_some();
    let written = host.store.run(move |store| if on { replace(&*store.disk, &path, text.as_bytes()) } else { remove_if_there(&*store.disk, &path) });
    written.await.map_err(|e| Fault::new(Code::StoreDegraded, format!("{}: {e}", host.root.frozen().display())))?;
    *known = on;
    host.lifecycle(Line::new(if on { "freeze" } else { "unfreeze" }).with("by", by));
    drop(known);
    let handles = host.handles();
    handles.iter().for_each(|h| h.hint(Touch::Freeze));
    let settled = async {
        for handle in &handles {
            handle.settled().await;
        }
    };
    // A peer whose state cannot be read now looks at the file when it can.
    let _ = tokio::time::timeout(FREEZE_PATIENCE, settled).await;
    Ok(())
}

/// Takes a peer off this host: its sessions end, its waiting mail is given up with a word to the senders,
/// its state is kept aside, so that a namesake inherits nothing. Its folder stays.
pub async fn remove(host: &Arc<Host>, address: &str) -> Result<Vec<Identity>, Fault> {
    let handle = router::resolve(host, address)?;
    let personality = handle.identity.personality.clone();
    let place = host.place(&personality).ok_or_else(|| Fault::new(Code::PeerUnknown, format!("no peer is named {personality}")))?;
    let (_, runtimes) = host.runtimes_of(&personality, &place);
    let identities: Vec<Identity> = runtimes.into_iter().map(|r| Identity::new(r, personality.clone())).collect();
    for identity in &identities {
        let handle = host.handle(identity);
        restored(&handle).await;
        handle.order(Event::Remove { by: "operator".into() }).await;
        if handle.wait_until(PATIENCE, |s| s.session.is_none() && s.in_flight.is_none() && s.at_rest).await.is_none() {
            return Err(Fault::new(Code::Timeout, format!("{identity} has not ended within {} s; nothing was removed", PATIENCE.as_secs())));
        }
    }
    // Before the name leaves the registry: who reads the registry takes in what has a profile in `peers/`.
    if let Err(error) = profile_file::set_aside(&place.folder) {
        tracing::warn!(%error, folder = %place.folder.display(), "the profile of a removed peer stays");
    }
    let removed = registry::update(&host.root, |registry| {
        registry.peers.remove(&personality);
        Ok(())
    });
    if let Err(error) = removed {
        let _ = profile_file::take_back(&place.folder);
        return Err(Fault::new(Code::StoreDegraded, error.to_string()));
    }
    for identity in &identities {
        host.drop_handle(identity);
        pane_logs::forget(&host.root, identity);
        let party = Party::Peer(identity.clone());
        host.ledger.forget_party(&party);
        let (from, removed) = (host.root.peer_state(identity), host.root.removed());
        let to = removed.join(format!("{identity}-{}", accept::new_id()));
        let moved = host.store.run(move |store| {
            store.forget(&party);
            store.disk.create_dir(&removed)?;
            store.disk.rename(&from, &to)
        });
        moved.await.map_err(|e| Fault::new(Code::StoreDegraded, format!("the state of {identity} could not be put aside: {e}")))?;
    }
    Ok(identities)
}

/// What its terminal shows, or showed last.
pub async fn screen(host: &Arc<Host>, handle: &PeerHandle) -> Result<ScreenView, Fault> {
    let snapshot = restored(handle).await;
    if let (Some((socket, pane)), Some(incarnation)) = (snapshot.session, snapshot.incarnation) {
        let pane = PaneRef { socket, pane, keeper_pid: 0, incarnation };
        let captured = host.terminal.look(pane).await.map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
        return Ok(ScreenView { identity: handle.identity.clone(), text: Screen::parse(&captured.screen).text(), live: true });
    }
    let saved = ending::last_screen(&host.root.peer_state(&handle.identity).join("exits"));
    match saved.map(|path| crate::store::disk::read_own(&path, 16 * 1024 * 1024)) {
        Some(Ok(bytes)) => Ok(ScreenView { identity: handle.identity.clone(), text: String::from_utf8_lossy(&bytes).into_owned(), live: false }),
        _ => Err(Fault::new(Code::Conflict, format!("{} has no terminal and left no screen", handle.identity))
            .hint(format!("`iapeer start {}` starts it", handle.identity))),
    }
}

/// Less than a hook process waits for its answer.
const HOOK_PATIENCE: Duration = Duration::from_secs(2);

/// A hook report reaches its peer.
pub async fn hook(host: &Arc<Host>, identity: &Identity, inc: u64, event: &str, payload: &serde_json::Value) {
    let Some(handle) = host.existing(identity) else { return };
    handle.tell(Inbox::Hook { inc, event: event.into(), payload: payload.clone() }).await;
    // It counts as told when what follows from it is on disk: a hook process whose daemon dies before that
    // leaves its report to the next one. What the program does next finds the turn known.
    let settled = async {
        handle.settled().await;
        host.settled().await;
    };
    // A peer whose state cannot be read now takes it in later; nobody waits for that.
    let _ = tokio::time::timeout(HOOK_PATIENCE, settled).await;
}

/// Ends every session, as a sleep; the daemon is about to end as well and starts none again.
pub async fn end_all(host: &Arc<Host>) {
    let handles = host.handles();
    for handle in &handles {
        handle.event(Event::Rest).await;
    }
    for handle in &handles {
        let limit = Duration::from_secs(host.settings.term_grace_secs * 2 + 25);
        if handle.wait_until(limit, |s| s.session.is_none() && s.at_rest).await.is_none() {
            tracing::error!(identity = %handle.identity, "a session does not end");
        }
    }
}
