//! The directions of the source: which part may know which, and the plain rules of its files.
//!
//! Read from the text of `src`: paths `crate::X` and the names of the dependencies, in code outside test
//! modules. A new edge between parts fails here before it becomes a habit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 560;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every `.rs` file of `src`, with its path below `src`.
pub fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    found.sort();
    assert!(found.len() > 40, "src was not found");
    found.into_iter().map(|p| (p.strip_prefix(&src).unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&p).unwrap())).collect()
}

/// The code without comment lines and without what only tests see.
pub fn code_of(name: &str, text: &str) -> String {
    if name.ends_with("/tests.rs") || name.contains("/sim/") {
        return String::new();
    }
    let mut code = String::new();
    let lines: Vec<&str> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let mut after = lines[number + 1..].iter().skip_while(|l| l.starts_with("#["));
        if *line == "#[cfg(test)]" && after.next().is_some_and(|l| l.trim_start_matches("pub ").starts_with("mod ") && l.ends_with('{')) {
            // Test modules close the file.
            break;
        }
        if !line.trim_start().starts_with("//") {
            code += line;
            code.push('\n');
        }
    }
    code
}

/// Names of the crates in `[dependencies]`, as code spells them.
fn dependencies() -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    section.lines().filter_map(|l| l.split_once('=')).map(|(name, _)| name.trim().replace('-', "_")).collect()
}

/// The first words of paths in some code: `crate::store` gives `crate::store`, `tokio::spawn` `tokio`.
fn paths(code: &str, dependencies: &BTreeSet<String>) -> BTreeSet<String> {
    let word = regex::Regex::new(r"(?:^|[^A-Za-z0-9_:])(crate::\{|crate::[a-z_]+(?:::[a-z_]+)?|iapeer::[a-z_]+|[a-z][a-z0-9_]*)(::|\b)").unwrap();
    let mut found = BTreeSet::new();
    for line in code.lines() {
        let mut at = 0;
        while let Some(hit) = word.captures_at(line, at) {
            let path = hit.get(1).unwrap();
            at = path.end();
            assert!(path.as_str() != "crate::{", "spell `use crate::` one part a line: {line}");
            let is_path = hit.get(2).unwrap().as_str() == "::";
            if path.as_str().starts_with("crate::") || (is_path && dependencies.contains(path.as_str())) {
                found.insert(path.as_str().to_string());
            }
        }
    }
    found
}

/// What each part may not do, as (file, path) pairs.
fn violations() -> Vec<String> {
    let dependencies = dependencies();
    assert!(dependencies.contains("tokio") && dependencies.contains("signal_hook"), "{dependencies:?}");
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let part = name.split('/').next().unwrap().to_string();
        for path in paths(&code_of(&name, &text), &dependencies) {
            let inner = path.strip_prefix("crate::");
            let target = inner.map(|p| p.split("::").next().unwrap());
            let allowed = match part.as_str() {
                "core" => {
                    target.map_or(["serde", "serde_json", "regex", "sha2", "thiserror", "chrono", "jiff", "croner"].contains(&path.as_str()), |t| t == "core")
                }
                "ports" => target.map_or(["chrono", "thiserror"].contains(&path.as_str()), |t| t == "core" || t == "ports"),
                "echo" => match inner {
                    Some(p) => p.starts_with("core::sanitize") || p.starts_with("echo"),
                    None => ["nix", "rustix", "signal_hook", "serde_json", "chrono"].contains(&path.as_str()),
                },
                "tmux" | "store" | "runtime" | "keeper" | "sys" => !matches!(target, Some("daemon" | "api" | "cli")),
                "api" => target != Some("cli") && (target != Some("daemon") || ["api/routes.rs", "api/control.rs"].contains(&name.as_str())),
                "daemon" => target != Some("cli"),
                _ => true,
            };
            if !allowed {
                wrong.push(format!("src/{name} uses {path}"));
            }
        }
    }
    wrong
}

#[test]
fn no_part_knows_what_it_must_not_know() {
    let wrong = violations();
    assert!(wrong.is_empty(), "forbidden directions:\n{}", wrong.join("\n"));
}

#[test]
fn a_path_is_seen_wherever_code_spells_it() {
    let known: BTreeSet<String> = ["tokio", "chrono"].map(String::from).into();
    let seen = |code: &str| paths(code, &known).into_iter().collect::<Vec<_>>();
    assert_eq!(seen("use crate::daemon::host::Host;"), ["crate::daemon::host"]);
    assert_eq!(seen("    let a = crate::cli::main();"), ["crate::cli::main"]);
    assert_eq!(seen("async fn f(a: tokio::time::Instant, b: chrono::Utc) {}"), ["chrono", "tokio"]);
    assert!(seen("fn tokio() { my_tokio::x(); let chrono = 1; }").is_empty());
    let cut = code_of("x.rs", "use a::b;\n// crate::cli\n#[cfg(test)]\nmod tests {\n use crate::cli::x;\n}\n");
    assert_eq!(cut, "use a::b;\n");
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    let bare: Vec<String> = sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| format!("src/{name}")).collect();
    assert!(bare.is_empty(), "without a `//!` at the top: {bare:?}");
}

#[test]
fn only_the_command_line_prints() {
    let print = regex::Regex::new(r"\be?print(ln)?!").unwrap();
    let loud: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| !name.starts_with("cli/"))
        .filter(|(name, text)| print.is_match(&code_of(name, text)))
        .map(|(name, _)| format!("src/{name}"))
        .collect();
    assert!(loud.is_empty(), "println! or eprintln! outside src/cli: {loud:?}");
}

#[test]
fn no_file_grows_beyond_reading() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| !name.ends_with("tests.rs") && !name.contains("/sim/"))
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, n)| *n > MAX_LINES)
        .map(|(name, n)| format!("src/{name}: {n}"))
        .collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines: {long:?}");
}
