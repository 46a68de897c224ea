//! What the agent really got: its own log, transcript, or the requests at the mock model server. Nothing
//! here asks iapeer.

use crate::runtimes::Kind;
use crate::shapes;
use iapeer::core::runtime::Definition;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Characters of a body that the envelope shows when the body travels as a file.
const PREVIEW_CHARS: usize = 2000;
const ENVELOPE: &str = "<iap id=\"";
/// How the lines of the fake agent begin that hold the raw bytes.
const BYTES: &str = "{\"data\":";

pub struct Truth {
    kind: Kind,
    /// The peer's folder.
    folder: PathBuf,
    /// How far each file was read.
    read: BTreeMap<PathBuf, u64>,
    turns: Vec<String>,
    /// In which turns each message id stands.
    places: BTreeMap<String, Vec<usize>>,
    /// What must never happen: consent to a dialog, a choice in a picker, a lost text.
    pub faults: Vec<String>,
    pub starts: usize,
}

#[derive(Deserialize)]
struct FakeLine {
    ev: String,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct EchoLine {
    #[serde(default)]
    role: String,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct MockLine {
    main: Option<bool>,
    #[serde(default)]
    new_user: Vec<String>,
}

impl Truth {
    pub fn new(kind: Kind, folder: PathBuf) -> Truth {
        Truth { kind, folder, read: BTreeMap::new(), turns: Vec::new(), places: BTreeMap::new(), faults: Vec::new(), starts: 0 }
    }

    fn files(&self) -> Vec<PathBuf> {
        match self.kind {
            Kind::Fake => vec![self.folder.join(".fake/log.jsonl")],
            Kind::Echo => std::fs::read_dir(self.folder.join(".iapeer/echo")).into_iter().flatten().flatten().map(|e| e.path()).collect(),
            Kind::Real => vec![PathBuf::from(std::env::var("MOCK_LOG").expect("real programs run only inside tests/runtimes/sandbox.sh"))],
        }
    }

    pub fn refresh(&mut self) {
        for path in self.files() {
            for line in self.new_lines(&path) {
                self.line(&line);
            }
        }
    }

    fn new_lines(&mut self, path: &Path) -> Vec<String> {
        let from = self.read.entry(path.into()).or_default();
        let Ok(mut file) = std::fs::File::open(path) else { return Vec::new() };
        if file.metadata().map_or(0, |m| m.len()) <= *from {
            return Vec::new();
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(*from)).and_then(|_| file.read_to_end(&mut bytes)).unwrap();
        // A line that is still being written is read when it is whole.
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        *from += whole as u64;
        String::from_utf8_lossy(&bytes[..whole]).lines().map(String::from).collect()
    }

    fn line(&mut self, line: &str) {
        match self.kind {
            Kind::Fake if line.starts_with(BYTES) => {}
            Kind::Fake => match serde_json::from_str::<FakeLine>(line) {
                Ok(l) if l.ev == "turn" => self.turn(l.text),
                Ok(l) if l.ev == "start" => self.starts += 1,
                Ok(l) if ["consent", "picked", "lost"].contains(&l.ev.as_str()) => self.faults.push(l.ev),
                _ => {}
            },
            Kind::Echo => match serde_json::from_str::<EchoLine>(line) {
                Ok(l) if l.role == "user" => self.turn(l.text),
                Ok(l) if l.text == "answer: yes" => self.faults.push("consent".into()),
                _ => {}
            },
            Kind::Real => match serde_json::from_str::<MockLine>(line) {
                Ok(l) if l.main != Some(false) => l.new_user.into_iter().for_each(|t| self.turn(t)),
                _ => {}
            },
        }
    }

    fn turn(&mut self, text: String) {
        for piece in text.split(ENVELOPE).skip(1) {
            let id = piece.split('"').next().unwrap_or_default();
            self.places.entry(id.into()).or_default().push(self.turns.len());
        }
        self.turns.push(text);
    }

    /// The turns that hold a message, in order.
    pub fn places(&self, id: &str) -> &[usize] {
        self.places.get(id).map_or(&[], Vec::as_slice)
    }

    pub fn has(&self, id: &str) -> bool {
        !self.places(id).is_empty()
    }

    pub fn first_turn_with(&self, id: &str) -> &str {
        self.places(id).first().map_or("", |n| &self.turns[*n])
    }

    /// Exactly one turn, alone in it, byte for byte.
    pub fn check(&self, definition: &Definition, id: &str, body: &str) -> Result<(), String> {
        let [place] = self.places(id) else { return Err(format!("{} turns instead of one", self.places(id).len())) };
        let turn = &self.turns[*place];
        if turn.matches(ENVELOPE).count() != 1 {
            return Err("merged with another message into one turn".into());
        }
        let at = turn.find(ENVELOPE).unwrap_or_default();
        let (head, rest) = turn[at..].split_once(">\n").ok_or("the envelope has no end of its head")?;
        let attribute = |name: &str| head.split_once(&format!(" {name}=\""))?.1.split_once('"').map(|(v, _)| v.to_string());
        let fence = attribute("fence").ok_or("the envelope has no fence")?;
        let (got, behind) = rest.split_once(&format!("\n</iap:{fence}>")).ok_or("the envelope does not close")?;
        if self.kind != Kind::Real && (at != 0 || !behind.trim().is_empty()) {
            return Err(format!("text outside of the envelope: {:?} {behind:?}", &turn[..at]));
        }
        let Some(file) = attribute("file") else { return same(got, &shapes::expected(definition, body)) };
        let clean = shapes::sanitised(body);
        let kept = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        same(&kept, &clean)?;
        let preview: String = clean.chars().take(PREVIEW_CHARS).collect();
        if got.starts_with(&shapes::expected(definition, &preview)) { Ok(()) } else { Err("the preview differs".into()) }
    }
}

fn same(got: &str, want: &str) -> Result<(), String> {
    if got == want {
        return Ok(());
    }
    let at = got.bytes().zip(want.bytes()).take_while(|(a, b)| a == b).count();
    let show = |s: &str| String::from_utf8_lossy(&s.as_bytes()[at.saturating_sub(20).min(s.len())..(at + 40).min(s.len())]).into_owned();
    Err(format!("differs at byte {at}: {:?} ({}) instead of {:?} ({})", show(got), got.len(), show(want), want.len()))
}
