//! One launch, from the decision to a recorded session: profile, program, environment, tmux, `session.json`.
//! A session that could not be recorded does not go on.

use super::acts::Outcome;
use super::ending::{self, end_processes};
use super::host::Host;
use super::pane_logs;
use super::policy::chooses_session_id;
use super::restore;
use super::strays;
use crate::core::names::{Identity, Incarnation};
use crate::core::peer::event::{Event, LaunchFault};
use crate::core::peer::wake::Mode;
use crate::core::runtime::Definition;
use crate::keeper::record::{ExitRecord, StartRecord};
use crate::ports::terminal::{PaneRef, StartSpec};
use crate::runtime::launch::{self, Known, Plan};
use crate::store::disk::{read_own, replace_all};
use crate::store::outbox;
use crate::store::peer_state::{Intent, PeerState, SessionRecord};
use crate::sys::process;
use std::sync::Arc;

pub async fn launch(host: &Arc<Host>, identity: &Identity, definition: &Definition, inc: Incarnation, mode: Mode) -> Outcome {
    match try_launch(host, identity, definition, inc, &mode).await {
        Ok(record) => Outcome { event: Event::Launched { inc, result: Ok(()) }, session: Some(Box::new(record)), claim: None },
        Err(fault) => {
            // Counted as the failed launch that it is.
            let dir = host.root.peer_state(identity);
            host.store.post("intent", move |store| PeerState::at(&*store.disk.clone(), dir.clone()).clear_intent()).await;
            Event::Launched { inc, result: Err(fault) }.into()
        }
    }
}

async fn try_launch(host: &Arc<Host>, identity: &Identity, definition: &Definition, inc: Incarnation, mode: &Mode) -> Result<SessionRecord, LaunchFault> {
    let other = |e: String| LaunchFault::Other(e);
    // The peer has what was there when it decided; without any it holds a stand-in.
    host.runtimes().get(&identity.runtime).map_err(LaunchFault::ProfileInvalid)?;
    let (place, loaded) = host.profile(&identity.personality).map_err(|e| {
        if host.place(&identity.personality).is_some_and(|p| !p.folder.is_dir()) { LaunchFault::FolderGone(e) } else { LaunchFault::ProfileInvalid(e) }
    })?;
    let var: &(dyn Fn(&str) -> Option<String> + Sync) = &|name: &str| std::env::var(name).ok();
    let path = if place.path.is_empty() { var("PATH").unwrap_or_default() } else { place.path.clone() };
    let host_env = host_env(host).map_err(LaunchFault::ProfileInvalid)?;
    let path = host_env.get("PATH").cloned().unwrap_or(path);
    let session_id = match mode {
        Mode::Resume { session_id } => Some(session_id.clone()),
        Mode::Fresh => chooses_session_id(definition).then(|| uuid::Uuid::now_v7().to_string()),
    };
    let doctrine = read_own(&host.root.doctrine(), 1024 * 1024).ok().map(|b| String::from_utf8_lossy(&b).into_owned());
    let system_prompt = launch::system_prompt(identity, &loaded.profile, doctrine.as_deref(), &roster(host, identity));
    let plan = Plan {
        root: &host.root,
        identity,
        incarnation: inc,
        folder: &place.folder,
        profile: &loaded.profile,
        definition,
        mode,
        session_id: session_id.as_deref().unwrap_or_default(),
        iapeer: &host.iapeer,
        path: &path,
        system_prompt: &system_prompt,
        term_grace_secs: host.settings.term_grace_secs,
        umask: crate::sys::spawn::original_umask(),
        var,
        host_env: &host_env,
    };
    let file = launch::compose(&plan).map_err(LaunchFault::ProfileInvalid)?;
    let wanted = override_bin(identity).unwrap_or_else(|| file.argv[0].clone());
    let program = process::find_program(&wanted, &path).ok_or_else(|| {
        LaunchFault::MissingBinary(format!(
            "{wanted} is not installed, or not in the PATH of this peer ({path}); install it, then run `iapeer {}` in {} so that your PATH is taken over",
            identity.runtime,
            place.folder.display()
        ))
    })?;
    let mut file = file;
    file.argv[0] = program.to_string_lossy().into_owned();

    // What the session proves itself with while no daemon runs.
    let token = outbox::new_secret().map_err(|e| other(format!("/dev/urandom: {e}")))?;
    file.env.insert("IAPEER_TOKEN".into(), token.clone());
    let dir = host.root.peer_state(identity);
    let launch_path = dir.join(format!("launch-{inc}.json"));
    let bytes = serde_json::to_vec(&file).map_err(|e| other(e.to_string()))?;
    let resumed = if let Mode::Resume { session_id } = mode { Some(session_id.clone()) } else { None };
    let intent = Intent {
        v: 1,
        act: "waking".into(),
        incarnation: inc,
        mode: mode.word().into(),
        session_id: resumed,
        at: host.now_text(),
        boot_id: host.boot_id.clone(),
    };
    let (state_dir, launch_file, token_file) = (dir.clone(), launch_path.clone(), outbox::token_path(&host.root, identity, inc));
    host.store
        .run(move |store| {
            let disk = store.disk.clone();
            let state = PeerState::open(&*disk, state_dir)?;
            let (number, intent) = (state.incarnation_file(inc), state.intent_file(&intent)?);
            disk.create_dir(token_file.parent().unwrap_or(&token_file))?;
            // What it is about to do and what its keeper needs, at the price of one file.
            let files = [(number.0.as_path(), number.1.as_slice()), (&intent.0, &intent.1), (&token_file, token.as_bytes()), (&launch_file, &bytes)];
            replace_all(&*disk, &files)
        })
        .await
        .map_err(|e| other(format!("{}: {e}", dir.display())))?;
    let spec = StartSpec {
        identity: identity.clone(),
        socket: host.root.tmux_socket(identity),
        cwd: place.folder.clone(),
        argv: vec![host.iapeer.to_string_lossy().into_owned(), "keep".into(), launch_path.to_string_lossy().into_owned()],
        columns: host.settings.window.columns,
        rows: host.settings.window.rows,
        pipe: pane_logs::command(host, identity),
    };
    let socket = spec.socket.clone();
    // Never beside what an earlier try may have left.
    restore::end_stray(host, identity).await.map_err(other)?;
    strays::clear(host, identity, |_| true).await.map_err(other)?;
    let started = match host.terminal.start(spec).await {
        Ok(started) => started,
        Err(error) => {
            // The call failed; the session may run all the same. It ends before anything else is tried.
            let _ = std::fs::remove_file(&launch_path);
            let _ = host.terminal.kill(socket).await;
            restore::end_stray(host, identity).await.map_err(other)?;
            return Err(other(error.to_string()));
        }
    };
    // A keeper that is gone already has told who it was, and goes the way of every death. One that has not,
    // or could not start the agent at all, is a launch that failed.
    let exits = dir.join("exits");
    let gone_already = || StartRecord::read(&exits, inc).map(|s| s.keeper).filter(|k| k.pid == started.keeper_pid);
    let unable = ExitRecord::read(&exits, inc).and_then(|r| r.error);
    let keeper = process::reference(started.keeper_pid).or_else(gone_already).filter(|_| unable.is_none());
    let Some(keeper) = keeper else {
        let pane = PaneRef { socket: socket.clone(), pane: started.pane, keeper_pid: started.keeper_pid, incarnation: inc };
        ending::save_screen(host, pane, &exits).await;
        let _ = host.terminal.kill(socket).await;
        return Err(other(unable.unwrap_or_else(|| "the session ended at once".into())));
    };
    let record = SessionRecord {
        v: 1,
        identity: identity.clone(),
        incarnation: inc,
        socket: socket.clone(),
        server: started.server,
        pane: started.pane,
        tty: started.tty,
        keeper,
        transcript: match mode {
            Mode::Resume { .. } => resumed_transcript(host, identity).await,
            Mode::Fresh => None,
        },
        resumed: session_id.clone().filter(|_| matches!(mode, Mode::Resume { .. })),
        session_id,
        woke_at: host.now_text(),
        woke_ms: host.clock.boot_ms(),
        boot_id: host.boot_id.clone(),
        ready: false,
        reported: false,
        seed_due: *mode == Mode::Fresh,
        asked: Vec::new(),
        trouble: None,
        keeper_protocol: crate::keeper::record::PROTOCOL,
    };
    // Known from here on: a hook of this session may come at any moment.
    host.note_session(&record);
    let (dir, written) = (dir.clone(), record.clone());
    let kept = host.store.run(move |store| {
        let disk = store.disk.clone();
        let state = PeerState::open(&*disk, dir)?;
        state.write_session(&written)?;
        state.clear_intent()
    });
    let kept = kept.await;
    if let Err(error) = kept {
        // A session that nobody could find again must not run.
        let _ = end_processes(&record, &host.root.peer_state(identity).join("exits"), host.settings.term_grace_secs).await;
        let _ = host.terminal.kill(socket).await;
        return Err(other(format!("state-write: {error}")));
    }
    Ok(record)
}

async fn resumed_transcript(host: &Arc<Host>, identity: &Identity) -> Option<String> {
    let dir = host.root.peer_state(identity);
    let read = host.store.run(move |store| PeerState::open(&*store.disk.clone(), dir)?.resumable()).await;
    read.ok().flatten().and_then(|r| r.transcript)
}

/// `IAPEER_<RUNTIME>_BIN`: another program file for a runtime.
fn override_bin(identity: &Identity) -> Option<String> {
    std::env::var(format!("IAPEER_{}_BIN", identity.runtime.as_str().to_uppercase())).ok().filter(|v| !v.is_empty())
}

fn host_env(host: &Host) -> Result<std::collections::BTreeMap<String, String>, String> {
    let path = host.root.env_file();
    match read_own(&path, 1024 * 1024) {
        Ok(bytes) => launch::parse_env(&String::from_utf8_lossy(&bytes)).map_err(|e| format!("{}: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Default::default()),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

fn roster(host: &Host, me: &Identity) -> Vec<Known> {
    let registry = host.registry();
    registry
        .peers
        .iter()
        .filter(|(name, _)| **name != me.personality)
        .map(|(name, place)| Known {
            personality: name.to_string(),
            description: crate::store::profile_file::load(&place.folder).map(|l| l.profile.description).unwrap_or_default(),
        })
        .collect()
}
