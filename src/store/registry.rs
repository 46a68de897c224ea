//! The host's index of peers: which folder bears which name. A projection under a lock; what is lost or
//! corrupted is rebuilt from the profiles in the default folders and in the last known places.

use super::disk::{OsDisk, read_own, replace};
use super::layout::Root;
use super::profile_file;
use crate::core::names::{Personality, RuntimeName};
use crate::core::profile::Profile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    pub v: u32,
    /// Name to folder.
    pub peers: BTreeMap<Personality, Place>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub folder: PathBuf,
    /// The PATH in force when the operator last launched or created it: a service's own lacks the
    /// user's tools.
    #[serde(default)]
    pub path: String,
    /// For as long as the profile itself cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_runtime: Option<RuntimeName>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the name {name} is taken by {folder}; choose another with --name")]
    Taken { name: Personality, folder: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Reads the registry; a broken file counts as empty and the profiles are looked up again.
pub fn load(root: &Root) -> Registry {
    let mut registry: Registry = read_own(&root.registry(), 64 * 1024 * 1024).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    registry.v = 1;
    for entry in std::fs::read_dir(root.base().join("peers")).into_iter().flatten().flatten() {
        if let Ok(found) = profile_file::load(&entry.path()) {
            registry.peers.entry(found.profile.personality).or_insert(Place {
                folder: entry.path(),
                path: String::new(),
                default_runtime: Some(found.profile.default_runtime),
            });
        }
    }
    registry
}

/// Why the file itself says nothing: it is not there, or it does not parse.
pub fn fault(root: &Root) -> Option<String> {
    let path = root.registry();
    match read_own(&path, 64 * 1024 * 1024) {
        Ok(bytes) => serde_json::from_slice::<Registry>(&bytes).err().map(|e| format!("{}: {e}; it was kept as registry.json.corrupt", path.display())),
        Err(error) => Some(format!("{}: {error}", path.display())),
    }
}

/// Writes the registry again from what is known, when it was lost or does not parse.
pub fn rebuild(root: &Root, known: &Registry) -> Result<(), RegistryError> {
    update(root, |registry| {
        for (name, place) in &known.peers {
            registry.peers.entry(name.clone()).or_insert_with(|| place.clone());
        }
        Ok(())
    })
}

/// Changes the registry under its lock.
pub fn update<T>(root: &Root, change: impl FnOnce(&mut Registry) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
    let path = root.registry();
    let fail = |source| RegistryError::Io { path: path.clone(), source };
    let _lock = lock(&root.run().join("registry.lock")).map_err(fail)?;
    keep_corrupt(&path).map_err(fail)?;
    let mut registry = load(root);
    let out = change(&mut registry)?;
    replace(&OsDisk, &path, &serde_json::to_vec_pretty(&registry).map_err(|e| fail(io::Error::other(e)))?).map_err(fail)?;
    Ok(out)
}

/// A registry that does not parse is kept beside the new one: it may name folders that nothing else names.
fn keep_corrupt(path: &Path) -> io::Result<()> {
    let broken = read_own(path, 64 * 1024 * 1024).is_ok_and(|b| serde_json::from_slice::<Registry>(&b).is_err());
    if broken { std::fs::rename(path, path.with_extension("json.corrupt")) } else { Ok(()) }
}

fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    file.lock()?;
    Ok(file)
}

impl Registry {
    /// Enters a folder under a name. The same folder may come again; another folder may not take the
    /// name while the first still is a peer of that name.
    pub fn enter(&mut self, profile: &Profile, folder: &Path, path: String) -> Result<(), RegistryError> {
        self.check(profile, folder)?;
        let name = &profile.personality;
        // A folder bears one name.
        self.peers.retain(|n, p| n == name || p.folder != folder);
        self.peers.insert(name.clone(), Place { folder: folder.into(), path, default_runtime: Some(profile.default_runtime.clone()) });
        Ok(())
    }

    /// Whether the name is free for this folder.
    pub fn check(&self, profile: &Profile, folder: &Path) -> Result<(), RegistryError> {
        let name = &profile.personality;
        if let Some(place) = self.peers.get(name) {
            let still = profile_file::load(&place.folder).is_ok_and(|l| l.profile.personality == *name);
            if place.folder != folder && still {
                return Err(RegistryError::Taken { name: name.clone(), folder: place.folder.clone() });
            }
        }
        Ok(())
    }
}
