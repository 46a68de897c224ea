//! What hook processes leave while no daemon runs: one JSON file each in `state/spool/`, read at start.

use super::disk::{OsDisk, read_own, replace};
use super::layout::Root;
use super::outbox;
use crate::core::names::{Identity, Incarnation};
use crate::ports::disk::Disk;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// What a hook process of an agent program told, with where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HookReport {
    pub v: u32,
    pub identity: Identity,
    pub incarnation: Incarnation,
    /// The secret of that session: nobody else may speak for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The event's name in the words of the program.
    pub event: String,
    /// The program's own JSON.
    pub payload: serde_json::Value,
}

impl HookReport {
    /// Whether it comes from the session that it names.
    pub fn is_genuine(&self, disk: &dyn Disk, root: &Root) -> bool {
        self.secret.is_some() && outbox::secret(disk, root, &self.identity, self.incarnation) == self.secret
    }
}

pub fn leave(spool: &Path, report: &HookReport, unique: &str) -> io::Result<()> {
    replace(&OsDisk, &spool.join(format!("hook-{unique}.json")), &serde_json::to_vec(report).map_err(io::Error::other)?)
}

/// All reports, oldest first, with their files. What is not a report is left where it is.
pub fn read(spool: &Path) -> Vec<(PathBuf, HookReport)> {
    let mut names: Vec<String> = std::fs::read_dir(spool)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with("hook-") && n.ends_with(".json"))
        .collect();
    names.sort();
    names
        .into_iter()
        .filter_map(|n| {
            let path = spool.join(n);
            let report = serde_json::from_slice(&read_own(&path, 16 * 1024 * 1024).ok()?).ok()?;
            Some((path, report))
        })
        .collect()
}
