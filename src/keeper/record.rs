//! What the keeper reads and writes: launch file, start record, exit record. Their own version, because
//! a keeper outlives upgrades of the daemon.

use crate::core::message::ProcessRef;
use crate::core::names::{Identity, Incarnation};
use crate::core::peer::event::DeathCause;
use crate::store::disk::{OsDisk, read_own, replace};
use crate::sys::process;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Version of these records; the daemon reads this and the one before.
pub const PROTOCOL: u32 = 1;

/// Everything the keeper needs, tokens included: mode 0600, deleted as soon as it is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaunchFile {
    pub protocol: u32,
    pub identity: Identity,
    pub incarnation: Incarnation,
    pub argv: Vec<String>,
    pub cwd: PathBuf,
    pub env: BTreeMap<String, String>,
    /// Where the start and exit records go.
    pub exits: PathBuf,
    pub term_grace_secs: u64,
    /// The file mode creation mask the agent works with.
    #[serde(default = "default_umask")]
    pub umask: u32,
}

fn default_umask() -> u32 {
    0o022
}

impl LaunchFile {
    pub fn take(path: &Path) -> io::Result<Self> {
        let bytes = read_own(path, 16 * 1024 * 1024)?;
        std::fs::remove_file(path)?;
        let launch: LaunchFile = serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display())))?;
        if launch.argv.is_empty() || launch.protocol != PROTOCOL {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: protocol {} with {} arguments, expected protocol {PROTOCOL}", path.display(), launch.protocol, launch.argv.len()),
            ));
        }
        Ok(launch)
    }
}

/// Written before the agent runs, and again with its pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    pub protocol: u32,
    pub identity: Identity,
    pub incarnation: Incarnation,
    pub keeper: ProcessRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<ProcessRef>,
    pub at: String,
    pub boot_id: String,
}

impl StartRecord {
    pub fn path(exits: &Path, inc: Incarnation) -> PathBuf {
        exits.join(format!("{inc}.start.json"))
    }
    pub fn write(&self, exits: &Path) -> io::Result<()> {
        write(&Self::path(exits, self.incarnation), self)
    }
    pub fn read(exits: &Path, inc: Incarnation) -> Option<Self> {
        read(&Self::path(exits, inc))
    }
}

/// How the agent ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub protocol: u32,
    pub incarnation: Incarnation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The agent could not be started at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub at: String,
    /// CPU time of the agent and its reaped children.
    pub user_ms: u64,
    pub system_ms: u64,
    /// Largest resident set of one of them.
    pub max_rss_kib: u64,
    /// Processes that outlived the agent and were ended.
    pub left_over: usize,
    /// The keeper was told to end the session, by the daemon or because its terminal was gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
    /// The kernel killed the agent for want of memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom: bool,
    /// What the agent had started long ago and what ended with it (a development server).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
}

/// A process of the agent that ended with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    pub pid: i32,
    pub name: String,
    pub age_secs: u64,
}

/// A child that has run for so long is no tool of the turn: its end is told.
const LONG_LIVED_SECS: u64 = 60;

impl Child {
    /// Those of these processes that have run for long. What bears our own name is left out: the bridges
    /// and hooks that an agent runs are ours.
    pub fn long_lived(processes: &[ProcessRef]) -> Vec<Child> {
        let own = process::name(std::process::id() as i32);
        let child = |p: &ProcessRef| Child { pid: p.pid, name: process::name(p.pid), age_secs: process::age_secs(p) };
        processes.iter().map(child).filter(|c| c.age_secs >= LONG_LIVED_SECS && c.name != own).collect()
    }

    /// Adds to a list what is not in it.
    pub fn add(list: &mut Vec<Child>, more: Vec<Child>) {
        let fresh: Vec<Child> = more.into_iter().filter(|c| list.iter().all(|known| known.pid != c.pid)).collect();
        list.extend(fresh);
    }
}

impl ExitRecord {
    pub fn of(incarnation: Incarnation, ended: super::Ended, at: String, left_over: usize) -> Self {
        let (code, signal) = match ended {
            super::Ended::Code(c) => (Some(c), None),
            super::Ended::Signal(s) => (None, Some(s)),
        };
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).ok();
        let ms = |t: nix::sys::time::TimeVal| t.tv_sec() as u64 * 1000 + t.tv_usec() as u64 / 1000;
        ExitRecord {
            protocol: PROTOCOL,
            incarnation,
            code,
            signal,
            error: None,
            at,
            user_ms: usage.map_or(0, |u| ms(u.user_time())),
            system_ms: usage.map_or(0, |u| ms(u.system_time())),
            max_rss_kib: usage.map_or(0, |u| u.max_rss() as u64),
            left_over,
            asked: false,
            oom: false,
            children: Vec::new(),
        }
    }
    pub fn path(exits: &Path, inc: Incarnation) -> PathBuf {
        exits.join(format!("{inc}.exit.json"))
    }
    pub fn write(&self, exits: &Path) -> io::Result<()> {
        write(&Self::path(exits, self.incarnation), self)
    }
    pub fn read(exits: &Path, inc: Incarnation) -> Option<Self> {
        read(&Self::path(exits, inc))
    }
    pub fn cause(&self) -> DeathCause {
        match (self.code, self.signal) {
            _ if self.oom => DeathCause::Oom,
            (Some(code), _) => DeathCause::Exit(code),
            (_, Some(signal)) => DeathCause::Signal(signal),
            _ => DeathCause::Unknown,
        }
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(&OsDisk, path, &serde_json::to_vec(value).map_err(io::Error::other)?)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read_own(path, 1024 * 1024).ok()?).ok()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_for_long_is_named_once_and_what_has_not_is_not() {
        let mut named = Child::long_lived(&[process::reference(1).unwrap(), process::reference(std::process::id() as i32).unwrap()]);
        assert_eq!(named.iter().map(|c| c.pid).collect::<Vec<_>>(), [1], "the first process is as old as the host");
        let again = named.clone();
        Child::add(&mut named, again);
        assert_eq!(named.len(), 1);
    }

    #[test]
    fn a_record_of_an_older_keeper_is_read_and_oom_goes_before_its_signal() {
        let old = r#"{"protocol":1,"incarnation":3,"signal":9,"at":"","user_ms":1,"system_ms":1,"max_rss_kib":1,"left_over":0}"#;
        let record: ExitRecord = serde_json::from_str(old).unwrap();
        assert_eq!((record.cause(), record.asked), (DeathCause::Signal(9), false));
        assert_eq!(serde_json::to_string(&record).unwrap(), old, "and nothing new is written where there is nothing to say");
        assert_eq!(ExitRecord { oom: true, ..record }.cause(), DeathCause::Oom);
    }
}
