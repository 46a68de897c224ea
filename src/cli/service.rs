//! `iapeer service`: the daemon as a user unit of systemd or an agent of launchd.
//!
//! Installing again changes nothing, or makes the unit what it would be now. What we did not write is
//! neither replaced nor removed.

use super::daemon::ask_to_end;
use super::link::below_a_keeper;
use super::manager::{Found, Service, by_hand};
use super::{Done, Outcome, json, out, say};
use crate::api::client::Client;
use crate::core::fault::{Code, Fault};
use crate::core::service::{Manager, State, Words, differences};
use crate::store::layout::Root;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct ServiceArgs {
    #[command(subcommand)]
    verb: ServiceVerb,
    /// Whose unit it is (default: this system's).
    #[arg(long, value_enum, global = true)]
    manager: Option<ManagerArg>,
}

#[derive(Subcommand)]
enum ServiceVerb {
    /// Write the unit of this root (IAPEER_ROOT), start it now and at every login.
    Install {
        /// Only print the unit; write and start nothing.
        #[arg(long)]
        print: bool,
    },
    /// End the daemon and remove the unit; sessions go on.
    Uninstall,
    /// Say whether it is installed, is what would be installed now, and runs; exit code 3 when it does not.
    Status,
}

#[derive(Clone, Copy, ValueEnum)]
enum ManagerArg {
    Systemd,
    Launchd,
}

impl From<ManagerArg> for Manager {
    fn from(arg: ManagerArg) -> Self {
        match arg {
            ManagerArg::Systemd => Manager::Systemd,
            ManagerArg::Launchd => Manager::Launchd,
        }
    }
}

pub async fn service(root: &Root, args: ServiceArgs, as_json: bool) -> Outcome {
    let service = Service::of(root, args.manager.map_or(Manager::here(), Manager::from))?;
    match args.verb {
        ServiceVerb::Install { print: true } => {
            out(&service.text()?);
            Ok(Done::Ok)
        }
        ServiceVerb::Install { print: false } => install(root, &service, as_json).await,
        ServiceVerb::Uninstall => uninstall(root, &service, as_json).await,
        ServiceVerb::Status => status(&service, as_json).await,
    }
}

fn operator(root: &Root, what: &str) -> Result<(), Fault> {
    if below_a_keeper(root) {
        return Err(Fault::new(Code::NotAllowed, format!("an agent may not {what} the service: that is the operator's")));
    }
    Ok(())
}

/// What is not ours is left alone.
fn foreign(file: &Path, why: &str, verb: &str) -> Fault {
    let file = file.display();
    Fault::new(Code::Conflict, format!("{file} was not written by `iapeer service install` ({why}); it was left as it is"))
        .hint(format!("move it away (mv {file} {file}.old) and run `iapeer service {verb}` again, or go on managing it by hand"))
}

async fn install(root: &Root, service: &Service, as_json: bool) -> Outcome {
    operator(root, "install")?;
    let (place, file) = (&service.place, &service.place.file);
    let text = service.text()?;
    let changed = match service.found()? {
        Found::Foreign(why) => return Err(foreign(file, &why, "install")),
        Found::Ours(before) => before != text,
        Found::Nothing => true,
    };
    service.check()?;
    let written = if changed {
        service.write(&text).map_err(|e| Fault::new(Code::Internal, format!("{}: {e}", file.display())).hint("nothing was installed"))?;
        format!("{} was written", file.display())
    } else {
        format!("{} is as it would be written", file.display())
    };
    say(&format!("iapeer: {written}"));

    let told = service.tell(&place.reload()).await;
    let state = service.state().await;
    let steps = place.install(&state, changed);
    let by_hand = by_hand(&[place.reload(), steps.clone()].concat());
    let fault = |why: String, hint: String| Fault::new(Code::Conflict, format!("{written}, but {why}")).hint(hint);
    told.map_err(|why| fault(why, format!("in a login session of this user: {by_hand}")))?;
    if let State::Unknown(why) = &state {
        return Err(fault(why.clone(), format!("in a login session of this user: {by_hand}")));
    }
    if state != State::Active {
        make_room(root, place.unit()).await?;
    }
    let diagnostics = place.diagnostics(&service.unit()?);
    service.tell(&steps).await.map_err(|why| fault(why, format!("{diagnostics} says why; once that is mended: {by_hand}")))?;
    if as_json {
        return status(service, true).await;
    }
    out(&format!("{} runs now and from every login on; its diagnostics: {diagnostics}\n", place.unit()));
    if let Some(hint) = linger_hint(place.manager) {
        say(&hint);
    }
    Ok(Done::Ok)
}

/// The service's daemon would be refused while another one runs.
async fn make_room(root: &Root, unit: String) -> Result<(), Fault> {
    match Client::connect(root).await {
        Ok(client) => {
            let pid = ask_to_end(client, false).await?.gone().await?;
            say(&format!("iapeer: the daemon that ran (pid {pid}) was ended, {unit} takes its place; sessions go on"));
            Ok(())
        }
        Err(fault) if fault.code == Code::DaemonUnreachable => Ok(()),
        Err(fault) => Err(fault),
    }
}

async fn uninstall(root: &Root, service: &Service, as_json: bool) -> Outcome {
    operator(root, "uninstall")?;
    let (place, file) = (&service.place, &service.place.file);
    match service.found()? {
        Found::Foreign(why) => return Err(foreign(file, &why, "uninstall")),
        Found::Nothing => say(&format!("iapeer: there is no {}", file.display())),
        Found::Ours(_) => {
            let ended = service.tell(&place.uninstall(&service.state().await)).await;
            service.remove().map_err(|e| Fault::new(Code::Internal, format!("{}: {e}", file.display())).hint("remove it by hand"))?;
            let told = service.tell(&place.reload()).await;
            let left = |why: String, commands: Vec<Words>| {
                let more = by_hand(&commands);
                let more = if more.is_empty() { String::new() } else { format!("; in a login session of this user: {more}") };
                Fault::new(Code::Conflict, format!("{} was removed, but {why}", file.display()))
                    .hint(format!("`iapeer daemon stop` ends a daemon that runs{more}"))
            };
            ended.and(told).map_err(|why| left(why, place.reload()))?;
            say(&format!("iapeer: {} was removed and its daemon ended; sessions go on", file.display()));
        }
    }
    if as_json {
        json(&view(service).await?);
    }
    Ok(Done::Ok)
}

/// `service status --json`.
#[derive(Serialize)]
struct View {
    manager: &'static str,
    unit: String,
    file: PathBuf,
    /// Something lies there.
    installed: bool,
    /// We wrote it.
    ours: bool,
    /// It is what `install` would write now.
    current: bool,
    /// `-` lines that are installed, `+` lines that would be.
    differences: Vec<String>,
    active: bool,
    /// The manager's own word, or why it could not be asked.
    state: String,
    /// Whether the user's services outlive the login; none where that does not apply or is not known.
    linger: Option<bool>,
}

async fn view(service: &Service) -> Result<View, Fault> {
    let place = &service.place;
    let (installed, ours, differences) = match service.found()? {
        Found::Nothing => (false, false, Vec::new()),
        Found::Foreign(_) => (true, false, Vec::new()),
        Found::Ours(text) => (true, true, differences(&text, &service.text()?)),
    };
    let state = service.state().await;
    Ok(View {
        manager: place.manager.word(),
        unit: place.unit(),
        file: place.file.clone(),
        installed,
        ours,
        current: ours && differences.is_empty(),
        differences,
        active: state == State::Active,
        state: match state {
            State::Active => "active".into(),
            State::Inactive(word) => word,
            State::Absent => "not loaded".into(),
            State::Unknown(why) => format!("unknown: {why}"),
        },
        linger: lingers(place.manager),
    })
}

async fn status(service: &Service, as_json: bool) -> Outcome {
    let view = view(service).await?;
    if as_json {
        json(&view);
    } else {
        let unit = match (view.installed, view.ours, view.current) {
            (false, ..) => "not installed",
            (_, false, _) => "not written by iapeer, left alone",
            (.., true) => "installed, as it would be now",
            (.., false) => "installed, differs from what `iapeer service install` would write now",
        };
        out(&format!("unit    {} ({})\nfile    {}\nis      {unit}\nstate   {}\n", view.unit, view.manager, view.file.display(), view.state));
        view.differences.iter().for_each(|line| out(&format!("        {line}\n")));
        if let Some(hint) = linger_hint(service.place.manager).filter(|_| view.installed) {
            say(&hint);
        }
    }
    Ok(if view.installed && view.active { Done::Ok } else { Done::Code(Code::Conflict.exit()) })
}

/// Whether the user's services outlive the login.
fn lingers(manager: Manager) -> Option<bool> {
    let name = nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??.name;
    (manager == Manager::Systemd).then(|| Path::new("/var/lib/systemd/linger").join(name).exists())
}

fn linger_hint(manager: Manager) -> Option<String> {
    (lingers(manager) == Some(false)).then(|| {
        "iapeer: at the last logout systemd ends the service and every session; `loginctl enable-linger` keeps them, and starts the daemon at boot".into()
    })
}
