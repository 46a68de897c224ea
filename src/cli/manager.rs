//! The service manager of this system, run as its own commands, and the unit file of this root.

use crate::core::fault::{Code, Fault};
use crate::core::service::{self, Manager, Place, State, Unit, Words};
use crate::runtime::launch::shell_quote;
use crate::store::config_file;
use crate::store::disk::{self, OsDisk};
use crate::store::layout::Root;
use crate::sys::process;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// Longest time one command may take: the start of a unit waits for the daemon's readiness.
const COMMAND_LIMIT: Duration = Duration::from_secs(330);
/// A unit is small; what is larger is not ours.
const UNIT_MAX: u64 = 64 * 1024;

/// The service of a root: where its unit belongs, and what it would be made of now.
pub struct Service {
    pub place: Place,
    root: Root,
}

/// What lies where the unit belongs.
pub enum Found {
    Nothing,
    Ours(String),
    /// Something that we did not write, and why we think so.
    Foreign(String),
}

fn invalid(text: impl Into<String>) -> Fault {
    Fault::new(Code::Invalid, text)
}

fn var(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

impl Service {
    /// # Errors
    /// A user without a home.
    pub fn of(root: &Root, manager: Manager) -> Result<Self, Fault> {
        let home = var("HOME").ok_or_else(|| invalid("HOME is not set, so there is no place for a unit"))?;
        let name = service::name_for(root.base(), Some(&home.join(".iapeer")));
        let file = match manager {
            Manager::Systemd => {
                let config = var("XDG_CONFIG_HOME").filter(|c| c.is_absolute()).unwrap_or_else(|| home.join(".config"));
                config.join("systemd/user").join(format!("{name}.service"))
            }
            Manager::Launchd => home.join("Library/LaunchAgents").join(format!("{name}.plist")),
        };
        Ok(Service { place: Place { manager, name, file, uid: nix::unistd::getuid().as_raw() }, root: root.clone() })
    }

    /// The one that we have installed for a root, if there is one.
    pub fn installed(root: &Root) -> Option<Self> {
        let service = Self::of(root, Manager::here()).ok()?;
        matches!(service.found(), Ok(Found::Ours(_))).then_some(service)
    }

    /// # Errors
    /// A file that cannot be read.
    pub fn found(&self) -> Result<Found, Fault> {
        let file = &self.place.file;
        match std::fs::symlink_metadata(file) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Found::Nothing),
            Err(e) => return Err(Fault::new(Code::Internal, format!("{}: {e}", file.display()))),
            Ok(meta) if meta.file_type().is_symlink() => return Ok(Found::Foreign("it is a link".into())),
            Ok(_) => {}
        }
        match disk::read_own(file, UNIT_MAX).map(String::from_utf8) {
            Ok(Ok(text)) if service::is_ours(&text) => Ok(Found::Ours(text)),
            Ok(_) => Ok(Found::Foreign("its first line does not say so".into())),
            Err(e) => Ok(Found::Foreign(e.to_string())),
        }
    }

    /// What the unit is made of now.
    pub fn unit(&self) -> Result<Unit, Fault> {
        let path = std::env::var("PATH").unwrap_or_default();
        let program = own_program(&path)?;
        let usual = Root::at(self.root.base());
        let sockets = self.root.api_socket().parent().filter(|dir| Some(*dir) != usual.api_socket().parent()).map(PathBuf::from);
        Unit::new(&program, self.root.base(), sockets.as_deref(), &path, &self.root.logs().join("daemon.log")).map_err(invalid)
    }

    pub fn text(&self) -> Result<String, Fault> {
        self.unit()?.render(&self.place).map_err(|e| invalid(e).hint("put the program, or a copy of it, at another place and run it from there"))
    }

    /// Whatever stops the daemon from starting is better said here than in the manager's log.
    ///
    /// # Errors
    /// What the daemon itself would say: an impossible root, a bad configuration.
    pub fn check(&self) -> Result<(), Fault> {
        self.root.ensure().map_err(|e| invalid(e.to_string()))?;
        // The service has none of this shell's overrides.
        config_file::load(&self.root, |_| None).map_err(|e| invalid(e.to_string()).hint("nothing was started; correct the setting and try again"))?;
        Ok(())
    }

    /// The unit is this text after it, whole or as it was.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let file = &self.place.file;
        let dir = file.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        disk::create_dir(dir)?;
        disk::replace(&OsDisk, file, text.as_bytes())
    }

    /// Removes the unit, and the link by which systemd would start it.
    pub fn remove(&self) -> io::Result<()> {
        let file = &self.place.file;
        disk::remove_if_there(&OsDisk, file)?;
        let wanted = file.with_file_name("default.target.wants").join(self.place.unit());
        match std::fs::read_link(&wanted) {
            Ok(target) if target == *file || target == Path::new("..").join(self.place.unit()) => disk::remove_if_there(&OsDisk, &wanted),
            _ => Ok(()),
        }
    }

    pub async fn state(&self) -> State {
        match execute(&self.place.ask()).await {
            Ok((status, out, err)) => self.place.understand(status.success(), &out, &err),
            Err(why) => State::Unknown(why),
        }
    }

    /// Tells the manager, in order, until something fails.
    ///
    /// # Errors
    /// The command that failed and what it said.
    pub async fn tell(&self, commands: &[Words]) -> Result<(), String> {
        for words in commands {
            let (status, out, err) = execute(words).await?;
            if !status.success() {
                let said = err.lines().chain(out.lines()).map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("Created symlink"));
                let said: Vec<&str> = said.take(3).collect();
                return Err(format!("`{}` failed ({status}): {}", by_hand(std::slice::from_ref(words)), said.join(" | ")));
            }
            if words.iter().any(|w| w == "bootout") {
                self.until_unloaded().await?;
            }
        }
        Ok(())
    }

    /// launchd answers before the job has ended, and takes no new one of its name until then.
    async fn until_unloaded(&self) -> Result<(), String> {
        let by = tokio::time::Instant::now() + COMMAND_LIMIT;
        while self.state().await != State::Absent {
            if tokio::time::Instant::now() > by {
                return Err(format!("{} has not ended within {} s", self.place.unit(), COMMAND_LIMIT.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Commands as a person types them.
pub fn by_hand(commands: &[Words]) -> String {
    let line = |words: &Words| words.iter().map(|w| shell_quote(w)).collect::<Vec<_>>().join(" ");
    commands.iter().map(line).collect::<Vec<_>>().join(" && ")
}

async fn execute(words: &Words) -> Result<(ExitStatus, String, String), String> {
    let Some((program, arguments)) = words.split_first() else { return Err("an empty command".into()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program}: {e}"),
    };
    let output = tokio::time::timeout(COMMAND_LIMIT, command.output()).await;
    let output = output.map_err(|_| format!("`{}` has not ended within {} s", by_hand(std::slice::from_ref(words)), COMMAND_LIMIT.as_secs()))?;
    let output = output.map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status, text(&output.stdout), text(&output.stderr)))
}

/// This program by the name under which PATH finds it, so that a link which an upgrade moves is followed;
/// else by its own path.
fn own_program(path: &str) -> Result<PathBuf, Fault> {
    let own = std::env::current_exe().and_then(std::fs::canonicalize);
    let own = own.map_err(|e| Fault::new(Code::Internal, format!("the path of this program: {e}")).hint("it may have been replaced; run it again"))?;
    let called = process::find_program("iapeer", path).filter(|p| p.is_absolute() && p.canonicalize().is_ok_and(|p| p == own));
    Ok(called.unwrap_or(own))
}
