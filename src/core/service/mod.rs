//! The service: what a service manager is given so that it keeps the daemon running, and what it is told.
//!
//! Only texts and words are made here. A unit depends on nothing but the program, the root and PATH, so
//! the same ones give the same bytes; what a path holds never changes what a line means.

pub mod launchd;
pub mod systemd;

use super::names::Personality;
use super::record::hex;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Stands in the first line of what we wrote. A unit without it is somebody else's.
pub const MARK: &str = "written by `iapeer service install`";

/// Seconds without a sign of life after which the daemon counts as hung.
pub const WATCHDOG_SECS: u64 = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    Systemd,
    Launchd,
}

impl Manager {
    /// The one of this system.
    pub const fn here() -> Self {
        if cfg!(target_os = "macos") { Manager::Launchd } else { Manager::Systemd }
    }
    pub fn word(self) -> &'static str {
        match self {
            Manager::Systemd => "systemd",
            Manager::Launchd => "launchd",
        }
    }
}

/// A command of the service manager, word by word.
pub type Words = Vec<String>;

/// Where a unit belongs, and what its manager calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub manager: Manager,
    /// The name of the unit, without an ending.
    pub name: String,
    pub file: PathBuf,
    pub uid: u32,
}

/// What a manager says about a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Active,
    /// Known to it and not running, with its own word for that.
    Inactive(String),
    /// Not known to it.
    Absent,
    /// It could not be asked.
    Unknown(String),
}

impl Place {
    /// What a person calls it.
    pub fn unit(&self) -> String {
        match self.manager {
            Manager::Systemd => format!("{}.service", self.name),
            Manager::Launchd => self.name.clone(),
        }
    }
    /// Makes the manager read what was written or removed.
    pub fn reload(&self) -> Vec<Words> {
        match self.manager {
            Manager::Systemd => systemd::reload(),
            Manager::Launchd => Vec::new(),
        }
    }
    /// After the file was written: runs now and from every login on. `changed`: a running one is not of
    /// this text.
    pub fn install(&self, state: &State, changed: bool) -> Vec<Words> {
        match self.manager {
            Manager::Systemd => systemd::install(self, state, changed),
            Manager::Launchd => launchd::install(self, state, changed),
        }
    }
    pub fn start(&self, state: &State) -> Vec<Words> {
        match self.manager {
            Manager::Systemd => systemd::start(self),
            Manager::Launchd => launchd::start(self, state),
        }
    }
    /// Ended, and not started again before somebody asks for it or the next login.
    pub fn stop(&self) -> Vec<Words> {
        match self.manager {
            Manager::Systemd => systemd::stop(self),
            Manager::Launchd => launchd::stop(self),
        }
    }
    /// Before the file is removed.
    pub fn uninstall(&self, state: &State) -> Vec<Words> {
        match (self.manager, state) {
            (Manager::Systemd, _) => systemd::uninstall(self),
            (Manager::Launchd, State::Absent) => Vec::new(),
            (Manager::Launchd, _) => launchd::stop(self),
        }
    }
    pub fn ask(&self) -> Words {
        match self.manager {
            Manager::Systemd => systemd::ask(self),
            Manager::Launchd => launchd::ask(self),
        }
    }
    /// What an answer to [`Place::ask`] means.
    pub fn understand(&self, success: bool, out: &str, err: &str) -> State {
        match self.manager {
            Manager::Systemd => systemd::understand(success, out, err),
            Manager::Launchd => launchd::understand(success, out),
        }
    }
    /// Where its diagnostics are read.
    pub fn diagnostics(&self, unit: &Unit) -> String {
        match self.manager {
            Manager::Systemd => format!("journalctl --user -u {}", self.unit()),
            Manager::Launchd => unit.log.clone(),
        }
    }
}

pub fn words(line: &str, more: &[&str]) -> Words {
    line.split(' ').chain(more.iter().copied()).map(String::from).collect()
}

/// The name of the unit of a root: two roots never share one.
pub fn name_for(root: &Path, default_root: Option<&Path>) -> String {
    if default_root == Some(root) {
        return "iapeer".into();
    }
    let speaking = root.file_name().and_then(|n| Personality::from_folder_name(&n.to_string_lossy()).ok());
    let speaking = speaking.map(|p| format!("{p}-")).unwrap_or_default();
    // By components, so that a trailing slash makes no other root.
    let same = root.components().collect::<PathBuf>();
    format!("iapeer-{speaking}{}", hex(&Sha256::digest(same.to_string_lossy().as_bytes())[..4]))
}

/// What a unit is made of. Everything in it is absolute and one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    executable: String,
    root: String,
    /// Where the sockets are, when they are not in their usual place below the root.
    sockets: Option<String>,
    path: String,
    log: String,
}

impl Unit {
    /// # Errors
    /// One line: a path that is not absolute, not UTF-8, or holds a control character.
    pub fn new(executable: &Path, root: &Path, sockets: Option<&Path>, path: &str, log: &Path) -> Result<Self, String> {
        let entries = path.split(':').filter(|e| e.starts_with('/') && one_line(e));
        let mut kept: Vec<&str> = Vec::new();
        for entry in entries {
            if !kept.contains(&entry) {
                kept.push(entry);
            }
        }
        Ok(Unit {
            executable: checked("the program", executable)?,
            root: checked("the root", root)?,
            sockets: sockets.map(|s| checked("the directory of the sockets", s)).transpose()?,
            path: kept.join(":"),
            log: checked("the log", log)?,
        })
    }

    /// The text of the unit, the same for the same parts.
    ///
    /// # Errors
    /// One line: a path that this manager cannot be told.
    pub fn render(&self, place: &Place) -> Result<String, String> {
        match place.manager {
            Manager::Systemd => systemd::render(self, &place.unit()),
            Manager::Launchd => Ok(launchd::render(self, &place.name)),
        }
    }

    /// What the daemon finds in its environment.
    fn environment(&self) -> Vec<(&'static str, &str)> {
        let sockets = self.sockets.as_deref().map(|s| ("IAPEER_SOCK_DIR", s));
        [("IAPEER_ROOT", self.root.as_str())].into_iter().chain(sockets).chain([("PATH", self.path.as_str())]).collect()
    }
}

fn one_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn checked(what: &str, path: &Path) -> Result<String, String> {
    let shown = path.display();
    match path.to_str() {
        None => Err(format!("{what} {shown} is not UTF-8: a unit cannot name it")),
        Some(text) if !one_line(text) => Err(format!("{what} {text:?} holds a control character: a unit cannot name it")),
        Some(text) if !path.is_absolute() => Err(format!("{what} {text} is not an absolute path")),
        Some(text) => Ok(text.into()),
    }
}

/// Whether we wrote this.
pub fn is_ours(text: &str) -> bool {
    text.lines().next().is_some_and(|first| first.contains(MARK))
}

/// The lines that only one of two texts has: `-` what is installed, `+` what would be.
pub fn differences(installed: &str, wanted: &str) -> Vec<String> {
    let only = |sign: char, these: &str, those: &str| {
        let other: Vec<&str> = those.lines().collect();
        these.lines().filter(|l| !other.contains(l)).map(|l| format!("{sign} {}", l.trim())).collect::<Vec<_>>()
    };
    let mut lines = only('-', installed, wanted);
    lines.extend(only('+', wanted, installed));
    if lines.is_empty() && installed != wanted {
        lines.push("only the order or the number of its lines differs".into());
    }
    lines
}

#[cfg(test)]
mod tests;
