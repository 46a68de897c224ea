//! What the terminals have shown: one log for each identity, written by a process of tmux's pane, so that it
//! goes on whether a daemon runs or not.

use super::host::Host;
use crate::core::names::Identity;
use crate::keeper::pane_log::rotated;
use crate::runtime::launch::shell_quote;
use crate::store::disk::{OsDisk, replace};
use crate::store::layout::Root;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Of the log, what an end is explained with.
const TAIL_BYTES: usize = 64 * 1024;
const TAIL_LINES: usize = 200;
/// How long its writer may take to write down the last of it.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn path(root: &Root, identity: &Identity) -> PathBuf {
    root.pane_logs().join(format!("{identity}.log"))
}

/// The shell command that a pane's output is piped to; none when nothing is to be written down.
pub fn command(host: &Host, identity: &Identity) -> Option<String> {
    let max = host.settings.pane_log_max_bytes;
    let words = [host.iapeer.to_string_lossy().into_owned(), "pane-log".into(), path(&host.root, identity).to_string_lossy().into_owned(), max.to_string()];
    let quoted: Vec<String> = words.iter().map(|word| shell_quote(word)).collect();
    (max > 0).then(|| format!("exec {}", quoted.join(" ")))
}

/// Where the last of it lies for a session that is over.
pub fn tail_path(exits: &Path, inc: u64) -> PathBuf {
    exits.join(format!("{inc}.tail.txt"))
}

/// Keeps the last of what the terminal of a session has shown, as plain text, once its writer has ended.
pub async fn keep_tail(host: &Host, identity: &Identity, exits: &Path, inc: u64) -> Option<PathBuf> {
    let (log, kept) = (path(&host.root, identity), tail_path(exits, inc));
    let began = tokio::time::Instant::now();
    while File::open(&log).is_ok_and(|file| file.try_lock().is_err()) && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let written = tokio::task::spawn_blocking(move || {
        let text = tail(&log)?;
        replace(&OsDisk, &kept, text.as_bytes()).map(|()| kept)
    });
    match written.await {
        Ok(Ok(kept)) => Some(kept),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Ok(Err(error)) => {
            tracing::warn!(%error, %identity, "the last of the pane log could not be kept");
            None
        }
        Err(_) => None,
    }
}

fn tail(log: &Path) -> io::Result<String> {
    let bytes = whole(log)?;
    if bytes.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let text = plain(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("{line}\n")).collect())
}

/// Without what moves the cursor or colours the text.
pub fn plain(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&strip_ansi_escapes::strip(bytes)).into_owned()
}

/// What the terminals of one peer have shown, by its name or its address, as plain text; `None` when nothing is
/// written down of them.
///
/// # Errors
/// A log cannot be read.
pub fn shown(root: &Root, peer: &str) -> io::Result<Option<String>> {
    let mut identities: Vec<Identity> = Vec::new();
    for entry in std::fs::read_dir(root.pane_logs()).into_iter().flatten().flatten() {
        // In the middle of a rotation the older half stands alone.
        let name = entry.file_name();
        let stem = name.to_str().and_then(|n| n.strip_suffix(".1").unwrap_or(n).strip_suffix(".log"));
        identities.extend(stem.and_then(|n| n.parse::<Identity>().ok()).filter(|i| i.to_string() == peer || i.personality.as_str() == peer));
    }
    identities.sort();
    identities.dedup();
    let mut text = String::new();
    for identity in &identities {
        text += &plain(&whole(&path(root, identity))?);
    }
    Ok((!identities.is_empty()).then_some(text))
}

/// Both halves. The newer one is opened first: rotated meanwhile, it is the older one.
fn whole(log: &Path) -> io::Result<Vec<u8>> {
    let open = |path: &Path| match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let (newer, older) = (open(log)?, open(&rotated(log))?);
    let inode = |file: &File| file.metadata().map(|m| m.ino()).ok();
    let older = older.filter(|older| newer.as_ref().is_none_or(|newer| inode(newer) != inode(older)));
    let mut bytes = Vec::new();
    for mut file in older.into_iter().chain(newer) {
        file.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// A peer that is no more leaves no log.
pub fn forget(root: &Root, identity: &Identity) {
    let log = path(root, identity);
    for file in [rotated(&log), log] {
        let _ = std::fs::remove_file(file);
    }
}

/// Keeps the directory within its budget: the oldest files go first; what is being written is young.
pub fn prune(root: &Root, budget: u64) -> io::Result<()> {
    let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(root.pane_logs())? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            files.push((meta.modified()?, meta.len(), entry.path()));
        }
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in files {
        if total <= budget {
            break;
        }
        std::fs::remove_file(path)?;
        total -= len;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_plain_text() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("echo-a.log");
        let lines: String = (0..1000).map(|n| format!("\u{1b}[31mline {n}\u{1b}[0m\r\n")).collect();
        std::fs::write(&log, lines + "\u{1b}]0;title\u{7}\u{1b}[2Jthe end").unwrap();
        let text = tail(&log).unwrap();
        assert_eq!(text.lines().count(), TAIL_LINES);
        assert!(text.ends_with("line 999\nthe end\n") && !text.contains('\u{1b}') && !text.contains('\r'), "{text}");
    }

    #[test]
    fn the_oldest_logs_go_when_there_are_too_many_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let place = root.pane_logs();
        std::fs::create_dir_all(&place).unwrap();
        for (name, age) in [("echo-a.log", 10), ("echo-a.log.1", 500), ("echo-b.log", 900), ("echo-c.log", 20)] {
            std::fs::write(place.join(name), [b'x'; 100]).unwrap();
            let file = File::options().write(true).open(place.join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        prune(&root, 250).unwrap();
        let mut left: Vec<String> = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["echo-a.log", "echo-c.log"]);
        assert_eq!(shown(&root, "a").unwrap(), Some("x".repeat(100)));
        assert_eq!(shown(&root, "echo-b").unwrap(), None);
        // As in the middle of a rotation, and as a look that began before it finds the two.
        std::fs::rename(place.join("echo-a.log"), place.join("echo-a.log.1")).unwrap();
        assert_eq!(shown(&root, "echo-a").unwrap(), Some("x".repeat(100)));
        std::fs::hard_link(place.join("echo-a.log.1"), place.join("echo-a.log")).unwrap();
        assert_eq!(shown(&root, "echo-a").unwrap(), Some("x".repeat(100)));
    }
}
