//! YAML files that the operator owns, with errors that name the file, the place and the way out.

use crate::core::names::near;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, thiserror::Error)]
#[error("{}{}: {message}", path.display(), place(*at))]
pub struct YamlError {
    pub path: PathBuf,
    /// Line and column, from 1.
    pub at: Option<(usize, usize)>,
    pub message: String,
}

fn place(at: Option<(usize, usize)>) -> String {
    at.map_or(String::new(), |(line, column)| format!(":{line}:{column}"))
}

pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, YamlError> {
    serde_yaml::from_str(text).map_err(|e| {
        let at = e.location().map(|l| (l.line(), l.column()));
        let mut message = e.to_string();
        // The place is told once, in front.
        if let Some(cut) = message.find(" at line ") {
            message.truncate(cut);
        }
        if let Some(hint) = did_you_mean(&message) {
            message = format!("{message}; did you mean `{hint}`?");
        }
        YamlError { path: path.to_path_buf(), at, message }
    })
}

fn did_you_mean(message: &str) -> Option<String> {
    let (unknown, expected) = message.split_once("unknown field `")?.1.split_once('`')?;
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    near(unknown, known).first().map(|s| s.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::settings::Settings;

    #[test]
    fn an_unknown_key_names_file_line_and_the_nearest_known_key() {
        let error = parse::<Settings>(Path::new("/r/config.yaml"), "crashloop_max: 3\nboot_deadline_sec: 4\n").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("/r/config.yaml:2:1: "), "{text}");
        assert!(text.contains("did you mean `boot_deadline_secs`?"), "{text}");
    }

    #[test]
    fn a_malformed_value_is_an_error_with_its_place() {
        let error = parse::<Settings>(Path::new("c.yaml"), "limits:\n  body_bytes: lots\n").unwrap_err().to_string();
        assert!(error.starts_with("c.yaml:2:"), "{error}");
    }
}
