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
    known: BTreeMap<RuntimeName, Result<Arc<Definition>, String>>,
}

impl Runtimes {
    pub fn load(dir: &Path) -> Self {
        let mut known = BTreeMap::new();
        for (name, text) in BUILT_IN {
            if let Ok(id) = name.parse::<RuntimeName>() {
                let parsed = parse(Path::new(&format!("(built-in) {name}.yaml")), text, &id);
                known.insert(id, parsed.map(Arc::new).map_err(|e| e.to_string()));
            }
        }
        for (name, path) in user_files(dir) {
            let text = read_own(&path, 1024 * 1024).map_err(|e| format!("{}: {e}", path.display()));
            let parsed = text.and_then(|t| parse(&path, &String::from_utf8_lossy(&t), &name).map_err(|e| e.to_string()));
            known.insert(name, parsed.map(Arc::new));
        }
        Runtimes { known }
    }

    /// The definition, or why there is none.
    pub fn get(&self, name: &RuntimeName) -> Result<Arc<Definition>, String> {
        match self.known.get(name) {
            Some(found) => found.clone(),
            None => Err(format!("no runtime definition {name}; known: {}", self.names().map(|n| n.as_str()).collect::<Vec<_>>().join(", "))),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &RuntimeName> {
        self.known.keys()
    }

    pub fn broken(&self) -> impl Iterator<Item = (&RuntimeName, &str)> {
        self.known.iter().filter_map(|(n, d)| d.as_ref().err().map(|e| (n, e.as_str())))
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

fn user_files(dir: &Path) -> Vec<(RuntimeName, PathBuf)> {
    let mut found: Vec<(RuntimeName, PathBuf)> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.strip_suffix(".yaml")?.parse().ok()?, e.path())))
        .collect();
    found.sort();
    found
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
    fn a_user_file_replaces_the_built_in_one_and_a_broken_one_takes_only_itself_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("echo.yaml"), "id: echo\nkind: tui\n").unwrap();
        let runtimes = Runtimes::load(dir.path());
        assert!(runtimes.get(&RuntimeName::echo()).unwrap_err().contains("echo.yaml"));
        assert!(runtimes.get(&"claude".parse().unwrap()).is_ok());
    }
}
