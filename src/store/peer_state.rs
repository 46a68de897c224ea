//! The small files of one identity: `session.json`, markers, topics, deaths, incarnation.
//!
//! | file | written by | cleared by |
//! |---|---|---|
//! | `session.json` | wake, READY, hooks that tell session id and transcript | death, stop |
//! | `stopped` | `stop`, before the end | `start`, `new` |
//! | `idle-reaped` | an ordered or host-caused end | the next launch, with its `session.json` |
//! | `new-eager` | an agent that wants to begin anew | the next fresh launch, `new` |
//! | `fresh-next` | `refresh`, the operator | the next launch, with its `session.json` |
//! | `ephemeral-armed` | the end of an ephemeral task | the end of its session, the next launch |
//! | `frozen` | `freeze` | `unfreeze` |
//! | `topics` | evidence of a delivery with a topic | a fresh wake |
//! | `deaths.json` | death pass, failed launch | `start` |
//! | `resume.json` | hooks that tell the session id | – (replaced) |

use super::disk::{remove_if_there, replace};
use crate::core::Millis;
use crate::core::message::{MessageId, ProcessRef};
use crate::core::names::{Identity, Incarnation};
use crate::core::peer::{Armed, Death, Markers, Resumable, Trouble};
use crate::core::sanitize;
use crate::ports::disk::Disk;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

const CAP: u64 = 1024 * 1024;

/// The live incarnation, as a later daemon needs it for adoption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub v: u32,
    pub identity: Identity,
    pub incarnation: Incarnation,
    pub socket: PathBuf,
    pub server: ProcessRef,
    pub pane: String,
    pub tty: PathBuf,
    pub keeper: ProcessRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<String>,
    /// RFC 3339, for people.
    pub woke_at: String,
    /// Boot-time clock at launch, in milliseconds, of the boot `boot_id`.
    pub woke_ms: Millis,
    pub boot_id: String,
    pub ready: bool,
    /// Its start has been told of; records of an older version do not say.
    #[serde(default = "told")]
    pub reported: bool,
    /// The first message still carries the profile's initial prompt.
    pub seed_due: bool,
    /// The conversation that it was to resume, until a hook has told which one it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<String>,
    /// Messages of an ephemeral session to others that nobody has answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<MessageId>,
    /// Its usage limit is reached, or it is not logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    pub keeper_protocol: u32,
}

fn told() -> bool {
    true
}

/// What is about to be done, written before: a later daemon learns of it when this one does not live to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub v: u32,
    /// `waking`: the one act whose traces alone do not tell.
    pub act: String,
    pub incarnation: Incarnation,
    /// `fresh` or `resume`.
    pub mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// RFC 3339, for people.
    pub at: String,
    pub boot_id: String,
}

#[derive(Serialize, Deserialize)]
struct Deaths {
    v: u32,
    boot_id: String,
    deaths: Vec<Death>,
}

/// The files of the markers.
pub const MARKERS: [&str; 7] = ["stopped", "idle-reaped", "new-eager", "fresh-next", "ephemeral-armed", "frozen", "topics"];
/// Topics that are remembered.
const TOPICS: usize = 16;

/// The markers, and what was wrong with their files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenMarkers {
    pub markers: Markers,
    /// What is no plain file, one line each: told of, left alone.
    pub odd: Vec<String>,
    /// Files whose content does not say what it should: told of, and put right.
    pub broken: Vec<Broken>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub name: &'static str,
    pub why: String,
}

/// The newest topics of a file, each once.
fn topics_of(text: &str) -> Vec<String> {
    let mut topics: Vec<String> = Vec::new();
    let good = text.lines().filter(|l| !l.is_empty() && !l.chars().any(sanitize::is_control));
    for line in good {
        topics.retain(|t| t != line);
        topics.push(line.into());
    }
    topics.split_off(topics.len().saturating_sub(TOPICS))
}

fn topics_text(topics: &[String]) -> String {
    topics.iter().map(|t| format!("{t}\n")).collect()
}

/// Empty is the session that runs; else the number of one.
fn armed_of(bytes: &[u8]) -> Option<Armed> {
    match std::str::from_utf8(bytes).ok()?.trim() {
        "" => Some(Armed { inc: None }),
        number => Some(Armed { inc: Some(number.parse().ok()?) }),
    }
}

pub struct PeerState<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
}

impl<'a> PeerState<'a> {
    pub fn open(disk: &'a dyn Disk, dir: PathBuf) -> io::Result<Self> {
        disk.create_dir(&dir.join("exits"))?;
        Ok(PeerState { disk, dir })
    }

    /// To look only: creates nothing.
    pub fn at(disk: &'a dyn Disk, dir: PathBuf) -> Self {
        PeerState { disk, dir }
    }

    pub fn dir(&self) -> &PathBuf {
        &self.dir
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match self.disk.read(&self.dir.join(name), CAP) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", self.dir.join(name).display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        replace(self.disk, &self.dir.join(name), &serde_json::to_vec(value).map_err(io::Error::other)?)
    }

    pub fn session(&self) -> io::Result<Option<SessionRecord>> {
        self.json("session.json")
    }
    pub fn write_session(&self, session: &SessionRecord) -> io::Result<()> {
        self.write_json("session.json", session)
    }
    pub fn clear_session(&self) -> io::Result<()> {
        remove_if_there(self.disk, &self.dir.join("session.json"))
    }

    pub fn resumable(&self) -> io::Result<Option<Resumable>> {
        self.json("resume.json")
    }
    pub fn write_resumable(&self, resumable: &Resumable) -> io::Result<()> {
        self.write_json("resume.json", resumable)
    }

    /// What bears a marker's name but is no plain file of ours.
    fn oddity(&self, name: &str) -> Option<String> {
        let meta = self.dir.join(name).symlink_metadata().ok()?;
        let kind = meta.file_type();
        let what = match kind {
            _ if kind.is_file() && meta.uid() == nix::unistd::getuid().as_raw() => return None,
            _ if kind.is_file() => "a file of another user",
            _ if kind.is_dir() => "a directory",
            _ if kind.is_symlink() => "a symlink",
            _ if kind.is_fifo() => "a pipe",
            _ => "a special file",
        };
        Some(what.into())
    }

    /// The markers as they lie there. Nothing is followed and nothing blocks: what is no plain file counts
    /// only where it withholds something (`stopped`, `frozen`), and is told of.
    ///
    /// # Errors
    /// The directory itself cannot be looked at.
    pub fn markers(&self) -> io::Result<SeenMarkers> {
        let mut seen = SeenMarkers::default();
        let names = self.disk.list(&self.dir)?;
        for name in MARKERS.into_iter().filter(|n| names.iter().any(|found| found == n)) {
            let odd = self.oddity(name);
            let counts = odd.is_none() || matches!(name, "stopped" | "frozen");
            if let Some(what) = odd {
                let way_out = if counts { "it counts all the same" } else { "it does not count" };
                seen.odd.push(format!("{} is {what}, not a marker: {way_out}; remove it", self.dir.join(name).display()));
            }
            if counts {
                self.read_marker(name, &mut seen);
            }
        }
        Ok(seen)
    }

    fn read_marker(&self, name: &str, seen: &mut SeenMarkers) {
        let markers = &mut seen.markers;
        match name {
            "stopped" => markers.stopped = true,
            "idle-reaped" => markers.idle_reaped = true,
            "new-eager" => markers.new_eager = true,
            "fresh-next" => markers.fresh_next = true,
            "frozen" => markers.frozen = true,
            _ => match self.disk.read(&self.dir.join(name), CAP) {
                Ok(bytes) if name == "topics" => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    markers.topics = topics_of(&text);
                    if topics_text(&markers.topics) != text {
                        seen.broken.push(Broken { name: "topics", why: "not one topic a line, or more than 16: only the last good ones are kept".into() });
                    }
                }
                Ok(bytes) => match armed_of(&bytes) {
                    Some(armed) => markers.ephemeral_armed = Some(armed),
                    None => {
                        let said: String = String::from_utf8_lossy(&bytes).chars().take(40).collect();
                        seen.broken.push(Broken { name: "ephemeral-armed", why: format!("{said:?} is no number of a session: taken away") });
                    }
                },
                Err(error) => seen.odd.push(format!("{} cannot be read and does not count: {error}", self.dir.join(name).display())),
            },
        }
    }

    /// Puts right what [`PeerState::markers`] found broken: the files then say what was understood.
    pub fn mend_markers(&self, seen: &SeenMarkers) -> io::Result<()> {
        for broken in &seen.broken {
            match broken.name {
                "topics" if !seen.markers.topics.is_empty() => replace(self.disk, &self.dir.join("topics"), topics_text(&seen.markers.topics).as_bytes())?,
                name => self.clear_marker(name)?,
            }
        }
        Ok(())
    }

    /// Writes what differs between the two, and nothing else: what an operator has touched meanwhile stays
    /// until it is read.
    pub fn set_markers(&self, was: &Markers, markers: &Markers, now: &str) -> io::Result<()> {
        for ((name, had), (_, want)) in was.flags().into_iter().zip(markers.flags()) {
            match (had, want) {
                (false, true) => self.write_marker(name, &format!("{now}\n"))?,
                (true, false) => self.clear_marker(name)?,
                _ => {}
            }
        }
        match markers.ephemeral_armed {
            armed if armed == was.ephemeral_armed => {}
            Some(armed) => {
                let text = armed.inc.map(|inc| format!("{inc}\n")).unwrap_or_default();
                self.write_marker("ephemeral-armed", &text)?;
            }
            None => self.clear_marker("ephemeral-armed")?,
        }
        if markers.topics != was.topics {
            self.write_marker("topics", &topics_text(&markers.topics))?;
        }
        Ok(())
    }

    fn write_marker(&self, name: &str, text: &str) -> io::Result<()> {
        if self.is_dir(name) {
            self.clear_marker(name)?;
        }
        replace(self.disk, &self.dir.join(name), text.as_bytes())
    }

    fn is_dir(&self, name: &str) -> bool {
        self.dir.join(name).symlink_metadata().is_ok_and(|m| m.is_dir())
    }

    /// A directory that somebody made in a marker's place is moved aside, never emptied.
    fn clear_marker(&self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        if self.is_dir(name) {
            let taken = self.disk.list(&self.dir)?;
            let aside = (1..).map(|n: u32| format!("{name}.aside.{n}")).find(|n| taken.iter().all(|t| t != n.as_str()));
            self.disk.rename(&path, &self.dir.join(aside.unwrap_or_default()))?;
        } else {
            remove_if_there(self.disk, &path)?;
        }
        self.disk.sync_dir(&self.dir)
    }

    /// Deaths of this boot; those of another boot count no more.
    pub fn deaths(&self, boot_id: &str) -> io::Result<Vec<Death>> {
        Ok(self.json::<Deaths>("deaths.json")?.filter(|d| d.boot_id == boot_id).map(|d| d.deaths).unwrap_or_default())
    }
    pub fn write_deaths(&self, boot_id: &str, deaths: &[Death]) -> io::Result<()> {
        self.write_json("deaths.json", &Deaths { v: 1, boot_id: boot_id.into(), deaths: deaths.to_vec() })
    }

    /// The launch that was begun, until its session is recorded or it is known to have failed.
    pub fn intent(&self) -> io::Result<Option<Intent>> {
        self.json("intent.json")
    }
    /// Where it is written, and what.
    pub fn intent_file(&self, intent: &Intent) -> io::Result<(PathBuf, Vec<u8>)> {
        Ok((self.dir.join("intent.json"), serde_json::to_vec(intent).map_err(io::Error::other)?))
    }
    pub fn clear_intent(&self) -> io::Result<()> {
        remove_if_there(self.disk, &self.dir.join("intent.json"))
    }

    pub fn incarnation(&self) -> io::Result<Incarnation> {
        match self.disk.read(&self.dir.join("incarnation"), 64) {
            Ok(bytes) => String::from_utf8_lossy(&bytes)
                .trim()
                .parse()
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{} does not hold a number", self.dir.join("incarnation").display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        }
    }
    /// Where it is written, and what.
    pub fn incarnation_file(&self, inc: Incarnation) -> (PathBuf, Vec<u8>) {
        (self.dir.join("incarnation"), format!("{inc}\n").into_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use crate::store::disk::OsDisk;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn at(dir: &Path) -> PeerState<'static> {
        PeerState::open(&OsDisk, dir.to_path_buf()).unwrap()
    }

    fn all() -> Markers {
        Markers {
            stopped: true,
            idle_reaped: true,
            new_eager: true,
            fresh_next: true,
            frozen: true,
            ephemeral_armed: Some(Armed { inc: Some(7) }),
            topics: vec!["a topic".into(), "b".into()],
        }
    }

    #[test]
    fn every_marker_is_written_read_and_cleared_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = at(dir.path());
        state.set_markers(&Markers::default(), &all(), "now").unwrap();
        assert_eq!(state.markers().unwrap(), SeenMarkers { markers: all(), ..SeenMarkers::default() });
        assert!(MARKERS.iter().all(|n| dir.path().join(n).is_file()), "the list of names is complete");
        state.set_markers(&all(), &Markers::default(), "now").unwrap();
        assert_eq!(state.markers().unwrap(), SeenMarkers::default());
    }

    #[test]
    fn what_another_hand_touched_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let state = at(dir.path());
        std::fs::write(dir.path().join("fresh-next"), "").unwrap();
        state.set_markers(&Markers::default(), &Markers { idle_reaped: true, ..Markers::default() }, "now").unwrap();
        assert!(state.markers().unwrap().markers.fresh_next);
    }

    #[test]
    fn what_is_no_plain_file_is_told_of_and_counts_only_where_it_withholds() {
        for (kind, make) in [
            ("a directory", (|p: &Path| std::fs::create_dir(p).unwrap()) as fn(&Path)),
            ("a symlink", |p| symlink("/etc/passwd", p).unwrap()),
            ("a pipe", |p| nix::unistd::mkfifo(p, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let state = at(dir.path());
            MARKERS.iter().for_each(|n| make(&dir.path().join(n)));
            let seen = state.markers().unwrap();
            assert_eq!(seen.markers, Markers { stopped: true, frozen: true, ..Markers::default() }, "{kind}");
            assert!(seen.odd.len() == MARKERS.len() && seen.odd.iter().all(|o| o.contains(kind)), "{kind}: {:?}", seen.odd);
            state.set_markers(&seen.markers, &Markers::default(), "now").unwrap();
            assert_eq!(state.markers().unwrap().markers, Markers::default(), "{kind}: it can be lifted");
            assert_eq!(dir.path().join("stopped.aside.1").exists(), kind == "a directory", "never deleted with what is in it");
        }
    }

    #[test]
    fn content_that_says_nothing_is_told_of_and_put_right() {
        let dir = tempfile::tempdir().unwrap();
        let state = at(dir.path());
        std::fs::write(dir.path().join("ephemeral-armed"), "seven").unwrap();
        let many: String = (0..20).map(|n| format!("t{n}\n")).collect();
        std::fs::write(dir.path().join("topics"), format!("{many}\u{7}\n\nt19")).unwrap();
        let seen = state.markers().unwrap();
        assert_eq!(seen.markers.ephemeral_armed, None);
        assert_eq!(seen.markers.topics.len(), 16);
        assert_eq!(seen.markers.topics.last().unwrap(), "t19");
        assert_eq!(seen.broken.iter().map(|b| b.name).collect::<Vec<_>>(), ["ephemeral-armed", "topics"]);
        state.mend_markers(&seen).unwrap();
        assert_eq!(state.markers().unwrap(), SeenMarkers { markers: seen.markers, ..SeenMarkers::default() });
        std::fs::write(dir.path().join("ephemeral-armed"), "\n").unwrap();
        assert_eq!(state.markers().unwrap().markers.ephemeral_armed, Some(Armed { inc: None }));
    }

    #[test]
    fn a_state_that_is_gone_is_no_change_of_markers() {
        let dir = tempfile::tempdir().unwrap();
        assert!(PeerState::at(&OsDisk, dir.path().join("gone")).markers().is_err());
        assert!(!dir.path().join("gone").exists(), "looking creates nothing");
    }
}
