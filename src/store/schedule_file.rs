//! The `schedules:` of a profile: each entry read for itself, each fault with its file and line.

use super::yaml;
use crate::core::limits::Limits;
use crate::core::schedule::{Entry, MOST, Schedule, Trigger, Wrong};
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// The schedules of a profile, good and bad.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    pub good: Vec<Schedule>,
    pub faults: Vec<Fault>,
}

/// An entry that never fires, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its name, or its place in the list.
    pub name: String,
    /// File, line, what is wrong and what would mend it.
    pub message: String,
}

pub fn list(folder: &Path, path: &Path, text: &str, schedules: &Value) -> Listed {
    let lines = Lines::find(text);
    let mut listed = Listed::default();
    let entries = match schedules {
        Value::Null => return listed,
        Value::Array(entries) => entries,
        _ => {
            let message = format!("{}:{}: `schedules` is a list: each entry begins with `- name: …`", path.display(), lines.head);
            listed.faults.push(Fault { name: "schedules".into(), message });
            return listed;
        }
    };
    for (n, value) in entries.iter().enumerate() {
        let place = Place { path, text, at: lines.entry(n, entries.len()) };
        let named = value.get("name").and_then(Value::as_str).map(String::from);
        let read = place.read(value).and_then(|entry| {
            let schedule = entry.read(&Limits::default()).map_err(|wrong| place.tell(&wrong))?;
            check(folder, &schedule).map_err(|wrong| place.tell(&wrong))?;
            let taken = listed.good.iter().any(|s| s.name == schedule.name) || listed.faults.iter().any(|f| f.name == schedule.name);
            if taken {
                let message = format!("another entry is named `{}` already; give this one a name of its own", schedule.name);
                return Err(place.tell(&Wrong { key: "name", message }));
            }
            match listed.good.len() < MOST {
                true => Ok(schedule),
                false => Err(place.tell(&Wrong { key: "name", message: format!("there are more than {MOST} schedules; this one is one too many") })),
            }
        });
        match read {
            Ok(schedule) => listed.good.push(schedule),
            Err(message) => listed.faults.push(Fault { name: named.unwrap_or_else(|| format!("#{}", n + 1)), message }),
        }
    }
    listed
}

fn check(folder: &Path, schedule: &Schedule) -> Result<(), Wrong> {
    let Trigger::Watch(path) = &schedule.trigger else { return Ok(()) };
    watched_path(folder, path).map(|_| ()).map_err(|message| Wrong { key: "watch", message })
}

/// Where a watched path lies: in the peer's folder, also when links are followed.
pub fn watched_path(folder: &Path, path: &str) -> Result<PathBuf, String> {
    let outside = || format!("`watch: {path}` lies outside the peer's folder {}; name a path in it", folder.display());
    let mut plain = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    if !plain.starts_with(folder) {
        return Err(outside());
    }
    // What is not there yet can lead nowhere else.
    let there = plain.ancestors().find(|p| p.symlink_metadata().is_ok()).unwrap_or(folder);
    match (there.canonicalize(), folder.canonicalize()) {
        (Ok(real), Ok(folder)) if real.starts_with(&folder) => Ok(plain),
        (Ok(_), Ok(_)) => Err(outside()),
        (Err(e), _) | (_, Err(e)) => Err(format!("`watch: {path}` cannot be followed ({}: {e}); mend the link or name another path", there.display())),
    }
}

/// Where the entries of the list stand in the text, for as far as that can be told by looking.
struct Lines {
    /// Line of the key, from 1.
    head: usize,
    /// First line of each entry, and of what follows the list; from 0.
    starts: Vec<usize>,
}

impl Lines {
    fn find(text: &str) -> Lines {
        let lines: Vec<&str> = text.lines().collect();
        let Some(head) = lines.iter().position(|l| l.starts_with("schedules:")) else { return Lines { head: 1, starts: Vec::new() } };
        let indent = |l: &str| l.len() - l.trim_start().len();
        let mut starts = Vec::new();
        let mut dash = None;
        let mut end = lines.len();
        for (n, line) in lines.iter().enumerate().skip(head + 1) {
            let content = line.trim_start();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let begins = content.starts_with("- ") || content == "-";
            let column = indent(line);
            if column == 0 && !begins {
                end = n;
                break;
            }
            if begins && column == *dash.get_or_insert(column) {
                starts.push(n);
            }
        }
        starts.push(end);
        Lines { head: head + 1, starts }
    }

    /// The lines of an entry, when the list is written one entry below the other; else that of the key.
    fn entry(&self, n: usize, of: usize) -> Spot {
        match (self.starts.len() == of + 1, self.starts.get(n), self.starts.get(n + 1)) {
            (true, Some(first), Some(end)) => Spot::Lines(*first, *end),
            _ => Spot::Key(self.head),
        }
    }
}

enum Spot {
    Lines(usize, usize),
    Key(usize),
}

struct Place<'a> {
    path: &'a Path,
    text: &'a str,
    at: Spot,
}

impl Place<'_> {
    /// The entry; an error is told with the line of the key that is wrong.
    fn read(&self, value: &Value) -> Result<Entry, String> {
        let by_value = serde_json::from_value::<Entry>(value.clone());
        if let Spot::Lines(first, end) = self.at {
            // Everything else blanked out, the lines keep their numbers.
            let alone: Vec<&str> = self.text.lines().enumerate().map(|(n, l)| if (first..end).contains(&n) { l } else { "" }).collect();
            return match (yaml::parse::<Vec<Entry>>(self.path, &alone.join("\n")), by_value) {
                (Ok(mut entries), _) if entries.len() == 1 => Ok(entries.remove(0)),
                // An alias is known to the whole text only.
                (_, Ok(entry)) => Ok(entry),
                (Err(error), _) => Err(error.to_string()),
                (Ok(_), Err(error)) => Err(self.tell(&Wrong { key: "name", message: error.to_string() })),
            };
        }
        by_value.map_err(|error| self.tell(&Wrong { key: "name", message: error.to_string() }))
    }

    fn tell(&self, wrong: &Wrong) -> String {
        let line = match self.at {
            Spot::Key(line) => line,
            Spot::Lines(first, end) => {
                let says = |line: &str| line.trim_start().trim_start_matches("- ").trim_start().strip_prefix(wrong.key).is_some_and(|r| r.starts_with(':'));
                let found = self.text.lines().enumerate().skip(first).take(end - first).find(|(_, l)| says(l));
                found.map_or(first, |(n, _)| n) + 1
            }
        };
        format!("{}:{line}: {}", self.path.display(), wrong.message)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use crate::store::profile_file;

    const HEAD: &str = "personality: bob\nruntimes: [echo]\ndefault_runtime: echo\n";

    fn peer(schedules: &str) -> (tempfile::TempDir, profile_file::Loaded) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".iapeer")).unwrap();
        std::fs::write(profile_file::path_in(dir.path()), format!("{HEAD}{schedules}")).unwrap();
        let loaded = profile_file::load(dir.path()).unwrap();
        (dir, loaded)
    }

    #[track_caller]
    fn faulty(schedules: &str, expected: &[(&str, &str, &str)]) {
        let (_dir, loaded) = peer(schedules);
        let faults = &loaded.schedules.faults;
        assert_eq!(faults.len(), expected.len(), "{faults:?}");
        for (fault, (name, line, says)) in faults.iter().zip(expected) {
            let place = format!("peer.yaml:{line}:");
            assert!(fault.name == *name && fault.message.contains(&place) && fault.message.contains(says), "{fault:?}");
        }
        assert_eq!(loaded.warnings.len(), expected.len(), "each is warned of");
    }

    #[test]
    fn each_entry_is_read_for_itself_and_a_bad_one_has_its_line() {
        faulty(
            "schedules:\n  - name: good\n    cron: 0 9 * * *\n    text: hello\n\n  # said below\n  - cron: 99 * * * *\n    name: late\n    text: x\n  - name: typo\n    text: x\n    corn: 0 9 * * *\n  - name: good\n    text: x\n    watch: in\n  - text: nameless\n    watch: in\ndescription: x\n",
            &[
                ("late", "10", "five fields"),
                ("typo", "15", "did you mean `cron`?"),
                ("good", "16", "another entry is named `good`"),
                ("#5", "19", "missing field `name`"),
            ],
        );
    }

    #[test]
    fn another_way_of_writing_the_list_works_as_well() {
        let (_dir, loaded) = peer("schedules: [{name: a, cron: '0 9 * * *', text: x}, {name: b, watch: ., text: x}]\n");
        assert_eq!(loaded.schedules.good.len(), 2);
        let (_dir, loaded) = peer("schedules:\n- name: a\n  cron: 0 9 * * *\n  text: |\n    - no entry\n    two lines\n- {name: b, watch: ., text: x}\n");
        assert_eq!(loaded.schedules.good.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), ["- no entry\ntwo lines\n", "x"]);
        let (_dir, loaded) = peer("topics: &t release\nschedules:\n  - name: a\n    topic: *t\n    watch: .\n    text: x\n");
        assert_eq!(loaded.schedules.good[0].topic.as_deref(), Some("release"));
        let (_dir, loaded) = peer("schedules:\n  - name: 7\n    watch: .\n    text: 7\n");
        assert_eq!(loaded.schedules.good[0].name, "7");
        faulty("schedules: [{name: a, cron: often, text: x}]\n", &[("a", "4", "often")]);
        faulty("schedules: daily\n", &[("schedules", "4", "is a list")]);
        faulty("schedules:\n  - name: a\n    text: [7]\n    watch: .\n", &[("a", "6", "expected a string")]);
    }

    #[test]
    fn a_watched_path_stays_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("peer");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.join("leads-out")).unwrap();
        std::os::unix::fs::symlink(folder.join("sub"), folder.join("leads-in")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.join("broken")).unwrap();
        let at = |path: &str| watched_path(&folder, path);
        for (path, means) in [("sub", "sub"), ("./sub/../new/one", "new/one"), ("leads-in/x", "leads-in/x"), (".", "")] {
            assert_eq!(at(path).unwrap(), folder.join(means), "{path}");
        }
        assert_eq!(at(folder.join("sub/x").to_str().unwrap()).unwrap(), folder.join("sub/x"), "absolute");
        for path in ["..", "../peer2", "/etc/passwd", "sub/../../x", "leads-out", "leads-out/passwd"] {
            assert!(at(path).unwrap_err().contains("outside the peer's folder"), "{path}");
        }
        assert!(at("broken").unwrap_err().contains("cannot be followed"));
    }

    #[test]
    fn a_rewritten_profile_keeps_its_schedules() {
        let (dir, loaded) = peer("schedules:\n  - {name: a, cron: '0 9 * * *', text: x, odd: 1}\n");
        profile_file::save(dir.path(), &loaded.profile).unwrap();
        assert_eq!(profile_file::load(dir.path()).unwrap().profile.schedules, loaded.profile.schedules);
    }
}
