//! Reaching the daemon, and starting one where a verb may.

use super::manager::{Service, by_hand};
use super::say;
use crate::api::client::Client;
use crate::core::fault::{Code, Fault};
use crate::core::names::{Identity, Incarnation};
use crate::daemon::state_file;
use crate::store::layout::Root;
use crate::sys::{notify, process, spawn};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a daemon started in the background may take to answer.
const START_LIMIT: Duration = Duration::from_secs(20);

/// What is above this process.
pub enum Above {
    /// No keeper, and everything up to the first process was seen.
    Nobody,
    /// The keeper of a session of this root: its launch file says whose it is.
    Session(Identity, Incarnation),
    /// A keeper of something else, or what could not be seen: nobody is the operator for want of a look.
    Unclear,
}

/// Who is above, as the kernel says. It may have been started where pids mean something else (a namespace of its
/// own) than to the daemon of this root.
pub fn above(root: &Root) -> Above {
    let foreign = state_file::pid_namespace(root).is_some_and(|daemon| Some(daemon) != process::pid_namespace());
    let Some(chain) = process::lineage(process::own_pid()).ok().filter(|_| !foreign) else { return Above::Unclear };
    let Some(launch_file) = chain.iter().find_map(|p| process::keeps(p.pid)) else { return Above::Nobody };
    match root.session_of(&launch_file) {
        Some((identity, incarnation)) => Above::Session(identity, incarnation),
        None => Above::Unclear,
    }
}

/// Whether this process runs below a keeper: an agent's child must not become the daemon.
pub fn below_a_keeper(root: &Root) -> bool {
    std::env::var_os("IAPEER_SESSION").is_some() || !matches!(above(root), Above::Nobody)
}

/// Connects; when no daemon runs, starts the service where one is installed, else one in the background.
pub async fn connect_or_start(root: &Root) -> Result<Client, Fault> {
    let fault = match Client::connect(root).await {
        Ok(client) => return Ok(client),
        Err(fault) if fault.code == Code::DaemonUnreachable => fault,
        Err(fault) => return Err(fault),
    };
    if below_a_keeper(root) {
        return Err(fault.hint("an agent cannot start the daemon; the operator runs `iapeer daemon`"));
    }
    // Whatever stops a daemon from starting is better said here than in its log.
    root.ensure().map_err(|e| Fault::new(Code::Invalid, e.to_string()))?;
    if let Some(service) = Service::installed(root) {
        return through_service(root, &service).await;
    }
    let log = root.logs().join("daemon.log");
    let open =
        || OpenOptions::new().append(true).create(true).mode(0o600).open(&log).map_err(|e| Fault::new(Code::Internal, format!("{}: {e}", log.display())));
    let program = std::env::current_exe().map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
    let (out, err) = (open()?, open()?);
    let mut command = Command::new(program);
    command.arg("daemon").stdin(Stdio::null()).stdout(out).stderr(err).current_dir("/");
    // This process may be a service of its own; its manager does not wait for our daemon.
    for name in notify::VARIABLES {
        command.env_remove(name);
    }
    let mut child = spawn::detached(&mut command).map_err(|e| Fault::new(Code::Internal, format!("the daemon could not be started: {e}")))?;
    let began = std::time::Instant::now();
    loop {
        if let Ok(client) = Client::connect(root).await {
            say(&format!("iapeer: started a daemon in the background (pid {}, log {})", child.id(), log.display()));
            return Ok(client);
        }
        if let Ok(Some(status)) = child.try_wait() {
            // Another one may have been quicker.
            if let Ok(client) = Client::connect(root).await {
                return Ok(client);
            }
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(3).collect();
            let why = last.into_iter().rev().map(str::trim).collect::<Vec<_>>().join(" | ");
            return Err(Fault::new(Code::DaemonUnreachable, format!("the daemon ended at once ({status}): {why}")).hint(format!("see {}", log.display())));
        }
        if began.elapsed() > START_LIMIT {
            return Err(Fault::new(Code::DaemonUnreachable, format!("the daemon has not answered within {} s", START_LIMIT.as_secs()))
                .hint(format!("see {}", log.display())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two daemons would stand in each other's way, so an installed service is the only one that is started.
async fn through_service(root: &Root, service: &Service) -> Result<Client, Fault> {
    service.check()?;
    let unit = service.place.unit();
    let diagnostics = service.place.diagnostics(&service.unit()?);
    let start = service.place.start(&service.state().await);
    let fault = |why: String, hint: String| {
        Fault::new(Code::DaemonUnreachable, format!("no daemon runs, and the service {unit} could not be started: {why}")).hint(hint)
    };
    let told = service.tell(&start).await;
    told.map_err(|why| fault(why, format!("in a login session of this user: {} ({diagnostics} says why); or `iapeer service uninstall`", by_hand(&start))))?;
    let began = std::time::Instant::now();
    loop {
        match Client::connect(root).await {
            Ok(client) => {
                say(&format!("iapeer: started the service {unit}"));
                return Ok(client);
            }
            Err(_) if began.elapsed() < START_LIMIT => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(why) => return Err(fault(why.message, format!("{diagnostics} says why"))),
        }
    }
}

/// Percent-encodes what a user typed for use in a path.
pub fn segment(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() || b == b'-' { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
