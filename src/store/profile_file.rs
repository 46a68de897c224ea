//! Reading and writing `<folder>/.iapeer/peer.yaml`.

use super::disk::{OsDisk, create_dir, read_own, replace};
use super::schedule_file::{self, Listed};
use super::yaml::{self, YamlError};
use crate::core::names::{NameError, Personality, near};
use crate::core::profile::{KNOWN_KEYS, Profile};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("{0} has no .iapeer/peer.yaml; `iapeer init` there makes it a peer")]
    None(PathBuf),
    #[error("the folder {0} is gone; move it back, or run `iapeer init` where it is now")]
    FolderGone(PathBuf),
    #[error(transparent)]
    Yaml(#[from] YamlError),
    #[error("{path}: {message}")]
    Invalid { path: PathBuf, message: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

pub fn path_in(folder: &Path) -> PathBuf {
    folder.join(".iapeer/peer.yaml")
}

fn aside_in(folder: &Path) -> PathBuf {
    folder.join(".iapeer/peer.yaml.removed")
}

#[derive(Debug, Clone)]
pub struct Loaded {
    pub profile: Profile,
    /// One line each: unknown keys with the nearest known one, schedules that cannot be read.
    pub warnings: Vec<String>,
    pub schedules: Arc<Listed>,
}

pub fn load(folder: &Path) -> Result<Loaded, ProfileError> {
    if !folder.is_dir() {
        return Err(ProfileError::FolderGone(folder.into()));
    }
    let path = path_in(folder);
    let bytes = match read_own(&path, 1024 * 1024) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ProfileError::None(folder.into())),
        Err(source) => return Err(ProfileError::Io { path, source }),
    };
    let text = String::from_utf8_lossy(&bytes);
    let profile: Profile = yaml::parse(&path, &text)?;
    profile.check().map_err(|message| ProfileError::Invalid { path: path.clone(), message })?;
    let unknown_keys = profile.other.keys().filter(|k| !KNOWN_KEYS.contains(&k.as_str()));
    let unknown = unknown_keys
        .map(|key| {
            let line = text.lines().position(|l| l.starts_with(key.as_str())).map_or(0, |n| n + 1);
            let hint = near(key, KNOWN_KEYS.iter().copied()).first().map(|k| format!("; did you mean `{k}`?")).unwrap_or_default();
            format!("{}:{line}: unknown key `{key}` (kept){hint}", path.display())
        })
        .collect::<Vec<String>>();
    let schedules = Arc::new(schedule_file::list(folder, &path, &text, &profile.schedules));
    let warnings = unknown.into_iter().chain(schedules.faults.iter().map(|f| f.message.clone())).collect();
    Ok(Loaded { profile, warnings, schedules })
}

/// The profile of a peer that is removed: kept for people, read by nobody.
pub fn set_aside(folder: &Path) -> io::Result<()> {
    std::fs::rename(path_in(folder), aside_in(folder))
}

/// Undoes that, when the peer stays one.
pub fn take_back(folder: &Path) -> io::Result<()> {
    std::fs::rename(aside_in(folder), path_in(folder))
}

pub fn save(folder: &Path, profile: &Profile) -> Result<(), ProfileError> {
    let path = path_in(folder);
    let fail = |source| ProfileError::Io { path: path.clone(), source };
    let dir = folder.join(".iapeer");
    create_dir(&dir).map_err(fail)?;
    let ignore = dir.join(".gitignore");
    if !ignore.exists() {
        replace(&OsDisk, &ignore, b"# What iapeer writes here is of this machine only; the profile may be committed.\n*\n!.gitignore\n!peer.yaml\n")
            .map_err(fail)?;
    }
    let text = serde_yaml::to_string(profile).map_err(|e| ProfileError::Invalid { path: path.clone(), message: e.to_string() })?;
    replace(&OsDisk, &path, text.as_bytes()).map_err(fail)
}

/// The personality that a folder's name makes.
pub fn name_for(folder: &Path) -> Result<Personality, NameError> {
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Personality::from_folder_name(&deunicode::deunicode(&name))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use crate::core::names::RuntimeName;

    #[test]
    fn unknown_keys_are_kept_on_rewrite_and_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &Profile::new("bob".parse().unwrap(), RuntimeName::echo())).unwrap();
        let text = std::fs::read_to_string(path_in(dir.path())).unwrap();
        std::fs::write(path_in(dir.path()), format!("{text}descripton: typo\nx_custom: [1, 2]\n")).unwrap();
        let loaded = load(dir.path()).unwrap();
        assert_eq!(loaded.warnings.len(), 2);
        assert!(loaded.warnings[0].contains("did you mean `description`?"), "{:?}", loaded.warnings);
        save(dir.path(), &loaded.profile).unwrap();
        assert!(std::fs::read_to_string(path_in(dir.path())).unwrap().contains("x_custom"));
    }

    #[test]
    fn an_unknown_value_is_an_error_with_its_place_never_a_default() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".iapeer")).unwrap();
        std::fs::write(path_in(dir.path()), "personality: bob\nruntimes: [echo]\ndefault_runtime: echo\nwake_policy: lukewarm\n").unwrap();
        let error = load(dir.path()).err().unwrap().to_string();
        assert!(error.contains("peer.yaml:4:") && error.contains("lukewarm"), "{error}");
    }

    #[test]
    fn a_folder_of_another_script_gets_a_readable_name() {
        assert_eq!(name_for(Path::new("/x/Проект Ёлка")).unwrap().as_str(), "proekt-iolka");
    }
}
