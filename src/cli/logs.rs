//! `logs`: the lines of `lifecycle.log` and `delivery.log` in order of time, or of `exits.log`, followed
//! through rotation.

use super::{Done, LogsArgs, Outcome, out};
use crate::core::fault::{Code, Fault};
use crate::daemon::pane_logs;
use crate::store::layout::Root;
use crate::tmux::watch::{FileWatch, Tail};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A file that appears or is rotated is noticed by then at the latest.
const RESCAN: Duration = Duration::from_secs(1);

struct Followed {
    path: PathBuf,
    tail: Tail,
    inode: Option<u64>,
}

impl Followed {
    fn new(path: PathBuf) -> Self {
        Followed { tail: Tail::new(path.clone(), 0), path, inode: None }
    }

    fn lines(&mut self) -> Vec<String> {
        let inode = std::fs::metadata(&self.path).ok().map(|m| m.ino());
        let mut lines = Vec::new();
        if self.inode.is_some() && inode != self.inode {
            // Rotated: what came last into the old file lies beside it now.
            let old = PathBuf::from(format!("{}.1", self.path.display()));
            if std::fs::metadata(&old).ok().map(|m| m.ino()) == self.inode {
                lines.extend(Tail::new(old, self.tail.offset).lines());
            }
            self.tail = Tail::new(self.path.clone(), 0);
        }
        self.inode = inode;
        lines.extend(self.tail.lines());
        lines
    }
}

/// What the terminals of a peer have shown.
fn pane(root: &Root, peer: &str) -> Outcome {
    match pane_logs::shown(root, peer) {
        Ok(Some(text)) => {
            out(&text);
            Ok(Done::Ok)
        }
        Ok(None) => {
            let hint = "a session that runs writes one, unless `pane_log_max_bytes` is 0";
            Err(Fault::new(Code::Conflict, format!("nothing is written down of what a terminal of {peer} has shown")).hint(hint))
        }
        Err(error) => Err(Fault::new(Code::Internal, format!("the pane log of {peer}: {error}"))),
    }
}

pub async fn logs(root: &Root, args: LogsArgs) -> Outcome {
    if let Some(peer) = args.peer.as_ref().filter(|_| args.pane) {
        return pane(root, peer);
    }
    let names: &[&str] = match (args.lifecycle, args.delivery, args.exits) {
        (true, ..) => &["lifecycle.log"],
        (_, true, _) => &["delivery.log"],
        (.., true) => &["exits.log"],
        // What stands in exits.log is the long form of what lifecycle.log says.
        _ => &["lifecycle.log", "delivery.log"],
    };
    let mut files: Vec<Followed> = names.iter().map(|name| Followed::new(root.logs().join(name))).collect();
    let wanted = |line: &str| args.peer.as_ref().is_none_or(|peer| concerns(line, peer));
    let watch = FileWatch::start().map_err(|e| Fault::new(Code::Internal, format!("inotify: {e}")))?;
    let news = Arc::new(Notify::new());
    loop {
        let mut watching = Vec::new();
        for file in files.iter().filter(|_| args.follow) {
            let news = news.clone();
            watching.extend(watch.modified(&file.path, Box::new(move || news.notify_one())));
        }
        let mut lines: Vec<String> = files.iter_mut().flat_map(Followed::lines).filter(|l| wanted(l)).collect();
        // Each begins with its time.
        lines.sort();
        for line in &lines {
            out(&format!("{line}\n"));
        }
        if !args.follow {
            return Ok(Done::Ok);
        }
        let _ = tokio::time::timeout(RESCAN, news.notified()).await;
    }
}

/// Whether a line speaks of a peer, by personality or identity.
fn concerns(line: &str, peer: &str) -> bool {
    line.split(' ').filter_map(|f| f.split_once('=')).any(|(key, value)| {
        matches!(key, "identity" | "from" | "to") && (value == peer || value.split_once('-').is_some_and(|(_, personality)| personality == peer))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_whole_names() {
        let line = "ts=x ev=delivery msg=1 from=echo-a to=echo-ab state=accepted";
        assert!(concerns(line, "a") && concerns(line, "ab") && concerns(line, "echo-a"));
        assert!(!concerns(line, "b") && !concerns(line, "echo"));
    }
}
