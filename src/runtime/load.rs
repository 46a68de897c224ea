//! Runtime definitions from the binary and from `<root>/runtimes/`. A user's file of the same name
//! replaces the whole built-in one; a broken user's file takes only its own runtime out, and says so.

use crate::core::names::RuntimeName;
use crate::core::runtime::Definition;
use crate::store::disk::read_own;
use crate::store::yaml::{self, YamlError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BUILT_IN: [(&str, &str); 3] = [
    ("echo", include_str!("../../peers/runtimes/echo.yaml")),
    ("claude", include_str!("../../peers/runtimes/claude.yaml")),
    ("codex", include_str!("../../peers/runtimes/codex.yaml")),
];

#[derive(Debug, Clone)]
pub struct Runtimes {
    known: BTreeMap<RuntimeName, Known>,
}

#[derive(Debug, Clone)]
struct Known {
    definition: Result<Arc<Definition>, String>,
    /// What it was read from.
    text: Vec<u8>,
    /// Why the file as it is now does not count; the last good one does, if there was any.
    fault: Option<String>,
}

/// What became of a definition when the files were read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    Added,
    Changed,
    Removed,
    Invalid(String),
}

impl Reloaded {
    pub fn word(&self) -> &'static str {
        match self {
            Reloaded::Added => "added",
            Reloaded::Changed => "changed",
            Reloaded::Removed => "removed",
            Reloaded::Invalid(_) => "invalid",
        }
    }
}

impl Runtimes {
    pub fn load(dir: &Path) -> Self {
        Runtimes { known: sources(dir).into_iter().map(|(name, (path, text))| (name.clone(), Known::read(&path, text, &name))).collect() }
    }

    /// The files as they are now; only what has changed is parsed. A broken edit leaves the last good
    /// definition in force.
    pub fn reload(&self, dir: &Path) -> (Runtimes, Vec<(RuntimeName, Reloaded)>) {
        let mut known = BTreeMap::new();
        let mut told = Vec::new();
        for (name, (path, text)) in sources(dir) {
            let old = self.known.get(&name);
            if let Some(same) = old.filter(|old| text.as_ref() == Ok(&old.text)) {
                known.insert(name, same.clone());
                continue;
            }
            let mut new = Known::read(&path, text, &name);
            let what = match (old, &new.fault) {
                (_, Some(fault)) => Reloaded::Invalid(fault.clone()),
                (None, None) => Reloaded::Added,
                (Some(_), None) => Reloaded::Changed,
            };
            if let (Some(good), Some(_)) = (old.and_then(|o| o.definition.clone().ok()), &new.fault) {
                new.definition = Ok(good);
            }
            // A file that cannot be read says the same each time.
            if new.fault.is_none() || old.is_none_or(|o| o.fault != new.fault) {
                told.push((name.clone(), what));
            }
            known.insert(name, new);
        }
        told.extend(self.known.keys().filter(|n| !known.contains_key(n)).map(|n| (n.clone(), Reloaded::Removed)));
        (Runtimes { known }, told)
    }

    /// The definition, or why there is none.
    pub fn get(&self, name: &RuntimeName) -> Result<Arc<Definition>, String> {
        match self.known.get(name) {
            Some(found) => found.definition.clone(),
            None => Err(format!("no runtime definition {name}; known: {}", self.names().map(|n| n.as_str()).collect::<Vec<_>>().join(", "))),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &RuntimeName> {
        self.known.keys()
    }

    pub fn broken(&self) -> impl Iterator<Item = (&RuntimeName, &str)> {
        self.known.iter().filter_map(|(n, k)| k.fault.as_ref().map(|e| (n, e.as_str())))
    }
}

impl Known {
    fn read(path: &Path, text: Result<Vec<u8>, String>, name: &RuntimeName) -> Known {
        let definition = text.clone().and_then(|t| parse(path, &String::from_utf8_lossy(&t), name).map(Arc::new).map_err(|e| e.to_string()));
        Known { fault: definition.as_ref().err().cloned(), definition, text: text.unwrap_or_default() }
    }
}

/// The definition that is always there: it is compiled in and a test loads it.
///
/// # Panics
/// Never in a build whose tests passed.
#[allow(clippy::expect_used)]
pub fn embedded_echo() -> Definition {
    parse(Path::new("echo.yaml"), BUILT_IN[0].1, &RuntimeName::echo()).expect("the embedded definition loads")
}

/// The text of each definition; a user's file stands for the built-in one of its name.
fn sources(dir: &Path) -> BTreeMap<RuntimeName, (PathBuf, Result<Vec<u8>, String>)> {
    let built_in = BUILT_IN.into_iter().filter_map(|(name, text)| {
        let path = PathBuf::from(format!("(built-in) {name}.yaml"));
        Some((name.parse().ok()?, (path, Ok(text.as_bytes().to_vec()))))
    });
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let user = entries.filter_map(|e| {
        let name = e.file_name().to_str()?.strip_suffix(".yaml")?.parse().ok()?;
        let text = read_own(&e.path(), 1024 * 1024).map_err(|error| format!("{}: {error}", e.path().display()));
        Some((name, (e.path(), text)))
    });
    built_in.chain(user).collect()
}

/// Reads and checks one definition.
pub fn parse(path: &Path, text: &str, name: &RuntimeName) -> Result<Definition, YamlError> {
    let definition: Definition = yaml::parse(path, text)?;
    let fail = |message: String| YamlError { path: path.to_path_buf(), at: None, message };
    if definition.id != *name {
        return Err(fail(format!("id is {}, but the file is named {name}.yaml", definition.id)));
    }
    definition.check().map_err(fail)?;
    Ok(definition)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_definitions_load() {
        let runtimes = Runtimes::load(Path::new("/nonexistent"));
        assert_eq!(runtimes.broken().collect::<Vec<_>>(), []);
        assert_eq!(runtimes.names().count(), BUILT_IN.len());
    }

    #[test]
    fn an_error_names_file_line_and_column() {
        let text = BUILT_IN[0].1.replace("  submit: cr", "  submit: Return");
        let error = parse(Path::new("/r/echo.yaml"), &text, &RuntimeName::echo()).unwrap_err().to_string();
        assert!(error.starts_with("/r/echo.yaml:") && error.contains("\"Return\" is not a key"), "{error}");
        let text = BUILT_IN[0].1.replace("draft:", "drafts:");
        let error = parse(Path::new("/r/echo.yaml"), &text, &RuntimeName::echo()).unwrap_err().to_string();
        assert!(error.contains("did you mean `draft`?"), "{error}");
        let text = BUILT_IN[0].1.replace("'^›$'", "'\\d'");
        let error = parse(Path::new("/r/echo.yaml"), &text, &RuntimeName::echo()).unwrap_err().to_string();
        assert!(error.contains("POSIX"), "{error}");
    }

    #[test]
    fn an_edit_counts_and_a_broken_one_leaves_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let (echo, path) = (RuntimeName::echo(), dir.path().join("echo.yaml"));
        let runtimes = Runtimes::load(dir.path());
        assert_eq!(runtimes.reload(dir.path()).1, []);
        std::fs::write(&path, format!("# mine\n{}", BUILT_IN[0].1)).unwrap();
        let (edited, told) = runtimes.reload(dir.path());
        assert_eq!(told, [(echo.clone(), Reloaded::Changed)]);
        std::fs::write(&path, "id: echo\nkind: tui\n").unwrap();
        let (broken, told) = edited.reload(dir.path());
        assert!(matches!(&told[..], [(name, Reloaded::Invalid(why))] if *name == echo && why.contains("echo.yaml")), "{told:?}");
        assert!(Arc::ptr_eq(&broken.get(&echo).unwrap(), &edited.get(&echo).unwrap()), "the last good one goes on");
        assert_eq!(broken.broken().count(), 1);
        assert_eq!(broken.reload(dir.path()).1, [], "told once");
        std::fs::write(dir.path().join("other.yaml"), BUILT_IN[0].1.replace("id: echo", "id: other")).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (mended, told) = broken.reload(dir.path());
        assert_eq!(told, [(echo, Reloaded::Changed), ("other".parse().unwrap(), Reloaded::Added)]);
        assert_eq!(mended.broken().count(), 0);
        std::fs::remove_file(dir.path().join("other.yaml")).unwrap();
        assert_eq!(mended.reload(dir.path()).1, [("other".parse().unwrap(), Reloaded::Removed)]);
    }

    #[test]
    fn a_user_file_replaces_the_built_in_one_and_a_broken_one_takes_only_itself_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("echo.yaml"), "id: echo\nkind: tui\n").unwrap();
        let runtimes = Runtimes::load(dir.path());
        assert!(runtimes.get(&RuntimeName::echo()).unwrap_err().contains("echo.yaml"));
        assert!(runtimes.get(&"claude".parse().unwrap()).is_ok());
    }
}
