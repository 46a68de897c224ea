//! The daemon: start, adopt, serve, end. The only place that wires the parts together.
//!
//! It is disposable: tmux holds the terminals, files hold the truth. Ending it ends no session, and the
//! next start adopts them all.

pub mod accept;
pub mod actor;
pub mod acts;
pub mod by_hand;
pub mod capacity;
pub mod control;
mod door;
pub mod ending;
pub mod flow;
pub mod hand_over;
pub mod handle;
pub mod hearing;
pub mod host;
pub mod last_screen;
pub mod launching;
pub mod ledger;
pub mod live;
pub mod logs;
pub mod mail;
pub mod notice;
pub mod orders;
pub mod pane_logs;
pub mod policy;
pub mod readiness;
pub mod restore;
pub mod router;
pub mod schedule_desk;
pub mod schedules;
pub mod state_file;
pub mod store_thread;
pub mod strays;
pub mod upkeep;
pub mod watcher;

use crate::api::caller::Caller;
use crate::api::routes::{self, App};
use crate::core::fault::{Code, Fault};
use crate::core::names::{Identity, Party};
use crate::core::peer::WantedBy;
use crate::core::peer::event::Event;
use crate::core::profile::WakePolicy;
use crate::core::settings::Restore;
use crate::ports::disk::Disk;
use crate::ports::terminal::TerminalError;
use crate::store::config_file;
use crate::store::disk::OsDisk;
use crate::store::journal::JournalDisk;
use crate::store::layout::Root;
use crate::store::mailbox::keys_in;
use crate::sys::clock::{self, HostClock};
use crate::sys::notify::Notify;
use crate::sys::process;
use crate::tmux::driver::Driver;
use crate::tmux::watch::FileWatch;
use host::{Host, Parts};
use logs::Line;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// Longest time an effect in flight gets at shutdown.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(8);

/// Runs until SIGTERM, SIGINT or a shutdown request. A second signal ends at once. The service manager, if
/// there is one, is told of readiness, life and end.
///
/// # Errors
/// What keeps a daemon from starting, as a user sees it: a second daemon, no tmux, a bad configuration,
/// an impossible root.
pub async fn run(root: Root, manager: Notify) -> Result<(), Fault> {
    let invalid = |e: String| Fault::new(Code::Invalid, e);
    root.ensure().map_err(|e| invalid(e.to_string()))?;
    let settings = config_file::load(&root, |n| std::env::var(n).ok())
        .map_err(|e| invalid(e.to_string()).hint("nothing was started; correct the setting and start again"))?;
    let _lock = single_instance(&root).await?;
    let path = std::env::var("PATH").unwrap_or_default();
    let (driver, tmux_version) = Driver::find(root.run(), path, settings.tmux.driver).await.map_err(|e| tmux_fault(&e))?;
    let driver_name = driver.name();
    let internal = |what: &str, e: std::io::Error| Fault::new(Code::Internal, format!("{what}: {e}"));
    let disk = disk(&root).map_err(invalid)?;
    let (store, _thread) = store_thread::StoreHandle::start(disk.clone(), root.clone()).map_err(|e| internal("the store thread", e))?;
    let parts = Parts {
        settings,
        clock: Arc::new(HostClock),
        disk,
        tmux_program: driver.program().to_path_buf(),
        terminal: Arc::new(driver),
        tmux_version,
        store,
        watch: FileWatch::start().map_err(|e| internal("inotify", e))?,
        iapeer: std::env::current_exe().map_err(|e| internal("the path of this program", e))?,
        root: root.clone(),
    };
    let host = Arc::new(Host::new(parts));
    sweep(&root);

    let shutdown = CancellationToken::new();
    let end_sessions = Arc::new(AtomicBool::new(false));
    install_signals(shutdown.clone()).map_err(|e| internal("signals", e))?;
    let rebooted = state_file::boot_before(&root).is_some_and(|before| before != host.boot_id);
    adopt_all(&host).await;
    if rebooted && host.settings.restore == Restore::All {
        restore_all(&host).await;
    }

    let watcher = watcher::Watcher::start(&host).await;
    let listener = listen(&root)?;
    host.lifecycle(
        Line::new("daemon-start")
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("pid", std::process::id())
            .with("tmux", &host.tmux_version)
            .with("driver", driver_name)
            .with("peers", host.handles().len()),
    );
    let keeping = tokio::spawn(upkeep::run(host.clone(), shutdown.clone()));
    let scheduling = tokio::spawn(schedules::run(host.clone(), shutdown.clone()));
    let watching = tokio::spawn(watcher.run(shutdown.clone()));
    let writer = tokio::spawn(state_file::keep_written(host.clone(), shutdown.clone()));
    let app = App { host: host.clone(), shutdown: shutdown.clone(), end_sessions: end_sessions.clone() };
    let service = routes::router(app).into_make_service_with_connect_info::<Caller>();
    let ending = shutdown.clone();
    let serve = axum::serve(listener, service).with_graceful_shutdown(async move { ending.cancelled().await });
    let served = tokio::spawn(async move { serve.await });
    readiness::tell(&host, &manager, &shutdown).await;
    shutdown.cancelled().await;

    manager.tell("STOPPING=1\nSTATUS=coming to rest; sessions go on");
    come_to_rest(&host).await;
    if end_sessions.load(Ordering::SeqCst) {
        orders::end_all(&host).await;
    }
    let _ = tokio::time::timeout(Duration::from_secs(2), served).await;
    let _ = writer.await;
    let _ = keeping.await;
    let _ = tokio::time::timeout(SHUTDOWN_PATIENCE, scheduling).await;
    let _ = watching.await;
    // Everything posted before is on disk once this job has run.
    host.settled().await;
    host.lifecycle(
        Line::new("daemon-stop").with("pid", std::process::id()).with("sessions", if end_sessions.load(Ordering::SeqCst) { "ended" } else { "kept" }),
    );
    let _ = std::fs::remove_file(root.api_socket());
    Ok(())
}

/// The disk, behind a journal where the system can sync a whole file system.
fn disk(root: &Root) -> Result<Arc<dyn Disk>, String> {
    let (disk, boot) = (plain_disk(root)?, clock::boot_id());
    if !cfg!(target_os = "linux") || boot == clock::NO_BOOT_ID {
        return Ok(disk);
    }
    #[cfg(target_os = "linux")]
    let boot = match crate::sys::mount::id(root.base()) {
        Some(mount) => format!("{boot} {mount}"),
        None => boot,
    };
    let journal = JournalDisk::open(disk, root.base(), &boot);
    journal.map(|j| Arc::new(j) as Arc<dyn Disk>).map_err(|e| format!("the journal in {} cannot be opened: {e}", root.journal().display()))
}

/// In a debug build it may be one that fails on demand.
fn plain_disk(root: &Root) -> Result<Arc<dyn Disk>, String> {
    #[cfg(debug_assertions)]
    if let Ok(plan) = std::env::var("IAPEER_TEST_FAULT") {
        return Ok(Arc::new(crate::store::fault::FaultDisk::new(plan.parse()?)));
    }
    // On the file system of the mailboxes, where nobody watches what is made.
    #[cfg(target_os = "linux")]
    match crate::store::spare::SpareDisk::start(&root.logs()) {
        Ok(disk) => return Ok(Arc::new(disk)),
        Err(error) => tracing::warn!(%error, "no files are made ahead"),
    }
    Ok(Arc::new(OsDisk))
}

pub fn tmux_fault(error: &TerminalError) -> Fault {
    let hint = match error {
        TerminalError::Missing => "install tmux, 3.2 or newer (Debian: apt-get install tmux; macOS: brew install tmux)",
        TerminalError::TooOld { .. } => "install a newer tmux, or put one earlier in PATH",
        TerminalError::SelfTest(_) => "set tmux.driver to auto or spawn (config.yaml, IAPEER_TMUX_DRIVER); nothing was started",
        _ => "",
    };
    Fault::new(Code::Invalid, error.to_string()).hint(hint)
}

/// How long a lock whose holder serves nobody is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// The lock is the ownership; the text in it only tells people who holds it. A holder that answers on the
/// socket is a daemon that runs. One that does not is still starting, or it was killed: the kernel closes
/// its socket before it frees the lock, and a process that it was just starting holds both until it
/// becomes the other program.
async fn single_instance(root: &Root) -> Result<File, Fault> {
    let path = root.lock();
    let fail = |e: std::io::Error| Fault::new(Code::Invalid, format!("{}: {e}", path.display()));
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(fail)?;
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(e)) => return Err(fail(e)),
            Err(TryLockError::WouldBlock) => {}
        }
        if serves(root).await || tokio::time::Instant::now() >= deadline {
            let mut told = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut told)).map_err(fail)?;
            return Err(Fault::new(Code::Conflict, format!("a daemon runs already: {}, socket {}", told.trim(), root.api_socket().display()))
                .hint("`iapeer status` shows it, `iapeer daemon stop` ends it"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let text = format!("pid {}, version {}\n", std::process::id(), env!("CARGO_PKG_VERSION"));
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes())).map_err(fail)?;
    Ok(file)
}

/// Whether the process that opened the socket is there to answer. Being connected proves nothing: the
/// kernel connects for as long as anybody holds the socket.
async fn serves(root: &Root) -> bool {
    let Ok(stream) = UnixStream::connect(root.api_socket()).await else { return false };
    let opener = stream.peer_cred().ok().and_then(|c| c.pid());
    opener.is_none_or(|pid| process::reference(pid).is_some_and(|p| process::is_alive(&p)))
}

/// What a killed daemon left half-way: launch files (they hold environments) and texts on their way.
fn sweep(root: &Root) {
    let remove = |dir: &std::path::Path, wanted: fn(&str) -> bool| {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(wanted) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    };
    remove(&root.run(), |n| n.starts_with(".paste-"));
    for peer in std::fs::read_dir(root.all_peer_states()).into_iter().flatten().flatten() {
        remove(&peer.path(), |n| n.starts_with('.') && n.ends_with(".tmp"));
        // A keeper that is just starting still needs its own; one of a running session is gone already.
        let starting = restore::stray_keeper(&peer.path()).is_some();
        if !starting {
            remove(&peer.path(), |n| n.starts_with("launch-") && n.ends_with(".json"));
        }
    }
}

/// SIGTERM and SIGINT end in order; the second one ends at once, even when the runtime is wedged.
fn install_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let asked = Arc::new(AtomicBool::new(false));
    for number in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(number, 1, asked.clone())?;
        signal_hook::flag::register(number, asked.clone())?;
    }
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

/// Every identity that the registry or the state knows gets its actor; all are restored before anybody
/// is served.
async fn adopt_all(host: &Arc<Host>) {
    let mut identities: Vec<Identity> = Vec::new();
    for (personality, place) in &host.registry().peers {
        let (_, runtimes) = host.runtimes_of(personality, place);
        identities.extend(runtimes.into_iter().map(|r| Identity::new(r, personality.clone())));
    }
    // A session whose peer left the registry is still somebody's running agent, and mail that waits is somebody's.
    for entry in std::fs::read_dir(host.root.all_peer_states()).into_iter().flatten().flatten() {
        let identity = entry.file_name().to_str().and_then(|n| n.parse::<Identity>().ok());
        let waits = |folder: &str| !keys_in(&*host.disk, &entry.path().join("queue").join(folder)).is_empty();
        if let Some(identity) = identity.filter(|_| entry.path().join("session.json").exists() || waits("new") || waits("cur")) {
            identities.push(identity);
        }
    }
    identities.sort();
    identities.dedup();
    strays::sweep(host).await;
    let handles: Vec<_> = identities.iter().map(|i| host.handle(i)).collect();
    for handle in handles {
        handle.wait_until(Duration::from_secs(30), |s| s.restored || s.last_failure.is_some()).await;
    }
    note_operator_mail(host).await;
}

/// After a reboot: every warm peer on its default runtime, at the pace that the host allows.
async fn restore_all(host: &Arc<Host>) {
    for (personality, place) in &host.registry().peers {
        let Ok(loaded) = host.profile_at(personality, place) else { continue };
        let identity = Identity::new(loaded.profile.default_runtime, personality.clone());
        if loaded.profile.wake_policy == WakePolicy::Warm && !identity.runtime.is_none() {
            host.handle(&identity).event(Event::Want(WantedBy::Restore)).await;
        }
    }
}

async fn note_operator_mail(host: &Arc<Host>) {
    let scanned = host
        .store
        .run(|store| {
            let (mailbox, disk) = store.mailbox(&Party::Operator)?;
            mailbox.scan(&*disk)
        })
        .await;
    match scanned {
        Ok(scan) => scan.keys.into_iter().for_each(|key| host.ledger.note_place(&Party::Operator, key)),
        Err(error) => host.set_degraded(&format!("operator: {error}"), true),
    }
}

fn listen(root: &Root) -> Result<UnixListener, Fault> {
    let socket = root.api_socket();
    // The lock is ours, so whatever lies here is a dead daemon's.
    let _ = std::fs::remove_file(&socket);
    let fail = |e: std::io::Error| Fault::new(Code::Invalid, format!("{}: {e}", socket.display()));
    let listener = UnixListener::bind(&socket).map_err(fail)?;
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Effects in flight finish, nothing new begins, sessions stay.
async fn come_to_rest(host: &Arc<Host>) {
    let handles = host.handles();
    for handle in &handles {
        handle.event(Event::Drain).await;
    }
    let all = async {
        for handle in &handles {
            handle.wait_until(SHUTDOWN_PATIENCE, |s| s.at_rest).await;
        }
    };
    let _ = tokio::time::timeout(SHUTDOWN_PATIENCE, all).await;
}
