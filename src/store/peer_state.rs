//! The small files of one identity: `session.json`, markers, topics, deaths, incarnation.
//!
//! | file | written by | cleared by |
//! |---|---|---|
//! | `session.json` | wake, READY, hooks that tell session id and transcript | death, stop |
//! | `stopped` | `stop`, before the end | `start`, `new` |
//! | `idle-reaped` | an ordered or host-caused end | the next launch, with its `session.json` |
//! | `fresh-next` | `refresh`, the operator | the next launch, with its `session.json` |
//! | `new-eager` | `self-fresh`, before the end | the next fresh launch |
//! | `ephemeral-armed` | an ephemeral session that has done its task: its number | the next launch |
//! | `frozen` | `freeze` | `unfreeze` |
//! | `topics` | evidence of a delivery with a topic | a fresh wake |
//! | `deaths.json` | death pass, failed launch | `start` |
//! | `resume.json` | hooks that tell the session id | – (replaced) |

use super::disk::{remove_if_there, replace};
use crate::core::Millis;
use crate::core::message::{MessageId, ProcessRef};
use crate::core::names::{Identity, Incarnation};
use crate::core::peer::{Armed, Death, Markers, Resumable};
use crate::ports::disk::Disk;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
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
    /// The first message still carries the profile's initial prompt.
    pub seed_due: bool,
    /// The conversation that it was to resume, until a hook has told which one it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<String>,
    /// Messages of an ephemeral session to others that nobody has answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<MessageId>,
    pub keeper_protocol: u32,
}

#[derive(Serialize, Deserialize)]
struct Deaths {
    v: u32,
    boot_id: String,
    deaths: Vec<Death>,
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

    /// A marker counts when anything bears its name; what is not a regular file is reported elsewhere.
    fn marked(&self, name: &str) -> bool {
        self.dir.join(name).symlink_metadata().is_ok()
    }

    pub fn markers(&self) -> Markers {
        let topics = self.disk.read(&self.dir.join("topics"), CAP).unwrap_or_default();
        Markers {
            stopped: self.marked("stopped"),
            idle_reaped: self.marked("idle-reaped"),
            fresh_next: self.marked("fresh-next"),
            new_eager: self.marked("new-eager"),
            ephemeral_armed: self.marked("ephemeral-armed").then(|| self.armed()),
            frozen: self.marked("frozen"),
            topics: String::from_utf8_lossy(&topics).lines().filter(|l| !l.is_empty()).map(String::from).collect(),
        }
    }

    /// Which session has done its task; an empty file, or one that names none, means the one that runs.
    fn armed(&self) -> Armed {
        let text = self.disk.read(&self.dir.join("ephemeral-armed"), 64).unwrap_or_default();
        Armed { inc: String::from_utf8_lossy(&text).trim().parse().ok() }
    }

    /// Makes the files say what `markers` says; what already fits is not touched.
    pub fn set_markers(&self, markers: &Markers, now: &str) -> io::Result<()> {
        let was = self.markers();
        for (name, want, had) in [
            ("stopped", markers.stopped, was.stopped),
            ("idle-reaped", markers.idle_reaped, was.idle_reaped),
            ("fresh-next", markers.fresh_next, was.fresh_next),
            ("new-eager", markers.new_eager, was.new_eager),
            ("frozen", markers.frozen, was.frozen),
        ] {
            match (want, had) {
                (true, false) => replace(self.disk, &self.dir.join(name), format!("{now}\n").as_bytes())?,
                (false, true) => {
                    remove_if_there(self.disk, &self.dir.join(name))?;
                    self.disk.sync_dir(&self.dir)?;
                }
                _ => {}
            }
        }
        if markers.ephemeral_armed != was.ephemeral_armed {
            let path = self.dir.join("ephemeral-armed");
            match markers.ephemeral_armed {
                Some(Armed { inc }) => replace(self.disk, &path, inc.map(|i| format!("{i}\n")).unwrap_or_default().as_bytes())?,
                None => {
                    remove_if_there(self.disk, &path)?;
                    self.disk.sync_dir(&self.dir)?;
                }
            }
        }
        if markers.topics != was.topics {
            let lines: String = markers.topics.iter().map(|t| format!("{t}\n")).collect();
            replace(self.disk, &self.dir.join("topics"), lines.as_bytes())?;
        }
        Ok(())
    }

    /// Deaths of this boot; those of another boot count no more.
    pub fn deaths(&self, boot_id: &str) -> io::Result<Vec<Death>> {
        Ok(self.json::<Deaths>("deaths.json")?.filter(|d| d.boot_id == boot_id).map(|d| d.deaths).unwrap_or_default())
    }
    pub fn write_deaths(&self, boot_id: &str, deaths: &[Death]) -> io::Result<()> {
        self.write_json("deaths.json", &Deaths { v: 1, boot_id: boot_id.into(), deaths: deaths.to_vec() })
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
    pub fn write_incarnation(&self, inc: Incarnation) -> io::Result<()> {
        replace(self.disk, &self.dir.join("incarnation"), format!("{inc}\n").as_bytes())
    }
}
