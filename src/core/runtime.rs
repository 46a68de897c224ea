//! Runtime definitions: agent programs as data.
//!
//! One YAML file per program says how to launch it, recognise it, type into it, prove a submission and
//! resume it. The schema is closed: an unknown key is an error with line and column, every pattern is
//! compiled at load, every template variable comes from a closed list.

use super::guard::FactSet;
use super::names::RuntimeName;
use super::profile::ApprovalMode;
use super::template;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub id: RuntimeName,
    pub kind: Kind,
    pub program: Program,
    pub launch: Launch,
    /// Ordered; the first rule that matches says what the screen is.
    pub screen: Vec<ScreenRule>,
    #[serde(default)]
    pub dialogs: BTreeMap<String, Dialog>,
    pub input: Input,
    pub draft: Draft,
    pub evidence: EvidenceRule,
    pub turn: Turn,
    #[serde(default)]
    pub transcript: Option<Transcript>,
    pub resume: Resume,
    pub control: Control,
    #[serde(default)]
    pub limits: Vec<LimitRule>,
    /// Filled by a check against the real program.
    #[serde(default)]
    pub proven: Vec<Proven>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Typed into through its terminal.
    Tui,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// First word: a name looked up in the peer's PATH, or a template such as `{iapeer}`.
    pub argv: Vec<Template>,
    /// Arguments that make it print its version.
    #[serde(default)]
    pub version_args: Vec<String>,
    /// Versions for which screens are recorded.
    #[serde(default)]
    pub covered: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Launch {
    pub fresh: Vec<Argument>,
    pub resume: Vec<Argument>,
    /// Follow the arguments of `fresh` and `resume`.
    pub common: Vec<Argument>,
    pub gated: Vec<Argument>,
    pub yolo: Vec<Argument>,
    pub env: BTreeMap<String, Template>,
    /// Names, or prefixes ending in `*`, that are never inherited.
    pub strip_env: Vec<String>,
    /// Prepared in the launch folder: file name to structured content, written as JSON.
    pub files: BTreeMap<String, Value>,
    /// The first message waits until the program has asked our MCP server for its tools.
    pub await_tools: bool,
}

/// One argument: text with variables, or `KEY=<inline TOML>` of a structured value.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    Text(Template),
    Toml(TomlArgument),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TomlArgument {
    pub toml: String,
    pub value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScreenClass {
    Dialog,
    Picker,
    Busy,
    Ready,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScreenRule {
    pub class: ScreenClass,
    #[serde(default)]
    pub name: Option<String>,
    /// How many of the bottom-most rows that are not blank the patterns see, joined by LF.
    #[serde(default = "default_tail")]
    pub tail: usize,
    #[serde(default)]
    pub all: Vec<Pattern>,
    #[serde(default)]
    pub any: Vec<Pattern>,
    #[serde(default)]
    pub none: Vec<Pattern>,
    #[serde(default)]
    pub title: Option<Pattern>,
    #[serde(default)]
    pub cursor_shown: Option<bool>,
}

fn default_tail() -> usize {
    12
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialog {
    pub policy: DialogPolicy,
    /// It comes while a session runs, and is answered then as well, unless somebody is at the terminal.
    #[serde(default)]
    pub running: bool,
    /// Pressed one frame after the other, each only while its own pattern is on the screen.
    #[serde(default)]
    pub frames: Vec<Frame>,
    /// The hold reason while it waits for a person.
    #[serde(default)]
    pub hold: DialogHold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DialogPolicy {
    /// Answered by us while a session starts.
    Accept,
    /// Answered by a person.
    Ask,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DialogHold {
    #[default]
    Dialog,
    Approval,
    Login,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// tmux tests these in the same list that presses the key.
    pub when: FactSet,
    /// Key name as tmux spells it (`Enter`, `Up`).
    pub key: KeyName,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What must be on the screen for a paste, as tmux can test it.
    pub guard: FactSet,
    /// What shows that the paste was taken: at least one group must hold before the submit key.
    /// `{id}` and `{fence}` stand for those of the message. Empty: the program shows nothing.
    #[serde(default)]
    pub taken: Vec<FactSet>,
    /// Pause between *taken* and the submit key, in milliseconds.
    #[serde(default)]
    pub settle_ms: u64,
    pub submit: KeyName,
    /// The same for what a person typed, a command for instance; left out: the same key.
    #[serde(default)]
    pub submit_raw: Option<KeyName>,
    /// Largest text pasted inline, in bytes of the rendered envelope.
    pub max_bytes: usize,
    /// Replacements that keep the composer from acting on a text.
    #[serde(default)]
    pub neutralise: Vec<Neutralise>,
    /// What the program itself changes in a text, for the docs and the delivery matrix.
    #[serde(default)]
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neutralise {
    pub find: String,
    pub replace: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    TabToFourSpaces,
    DropZeroWidth,
    /// U+202A to U+202E, U+2066 to U+2069.
    DropBidi,
    /// A letter and a combining accent become one letter (NFC).
    ComposeAccents,
    LineSeparatorToLf,
    WrapLongPaste,
    TrimOuterSpace,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// The beginning of the composer's row, prompt and its space included.
    pub composer: Pattern,
    /// Further rows of a draft, directly below.
    #[serde(default)]
    pub continuation: Option<Pattern>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRule {
    /// Best first. Empty: the program can give no evidence, and `entered` is the most that is claimed.
    pub submitted: Vec<EvidenceSource>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvidenceSource {
    Hook,
    Transcript,
}

/// How the program's hooks name what we need to know of a turn.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Turn {
    pub session_start: Vec<String>,
    pub prompt_submitted: Vec<String>,
    pub turn_end: Vec<String>,
    /// Turns that ended because the model could not be asked: they answer nothing and end no task.
    pub turn_failed: Vec<String>,
    pub permission_asked: Vec<String>,
    /// Fields of a turn's end that hold the turn's final text.
    pub final_text: Vec<String>,
    pub session_end: Vec<String>,
    /// A row of the conversation with which the text of a turn begins: what stands above belongs to older
    /// turns.
    pub shown: Option<Pattern>,
    /// Hook fields that, when present and not empty, mark an event of a sub-agent or of work that goes
    /// on: such an event is ignored.
    pub ignore_with: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// A JSONL record is a user turn when one of these groups of pointer = value holds; `text` points
    /// to what was said.
    pub user: Vec<RecordRule>,
    /// The same for records that end a turn.
    #[serde(default)]
    pub turn_end: Vec<RecordRule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordRule {
    /// JSON pointer to expected string.
    #[serde(default)]
    pub equals: BTreeMap<String, String>,
    /// JSON pointers to strings, any of which carries the text.
    #[serde(default)]
    pub text: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    pub session_id: SessionIdFrom,
    /// The transcript must exist for a resume.
    #[serde(default = "yes")]
    pub needs_transcript: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionIdFrom {
    /// We choose it and pass it at launch.
    Chosen,
    /// The program tells it in its hooks.
    Learned,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    pub interrupt: Option<KeyName>,
    /// How urgent mail interrupts a turn: the key, pressed while this is on the screen. Absent: it waits.
    pub urgent: Option<Frame>,
    /// What a person types to let the program shorten its conversation.
    pub compact: Option<String>,
    /// What a person types to end the program.
    pub quit: Option<String>,
    /// How a session is ended before any signal: keys, one frame after the other, each pressed only while
    /// it is on the screen; the first also needs everything that `input.guard` asks for. Never a submit
    /// key. Empty: TERM at once.
    pub quit_keys: Vec<Frame>,
    /// Environment names that mark children which leave the process group.
    pub child_marks: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitRule {
    pub is: LimitKind,
    /// Of a `limit`, the groups `in`, `at` and `zone` name what is printed of its end (see [`super::reset`]).
    pub pattern: Pattern,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitKind {
    Limit,
    Login,
    Error,
    Retrying,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    pub version: String,
    pub date: String,
    pub held: Vec<String>,
}

/// A compiled expression over the tail of a screen: `^` and `$` match at rows.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(Regex);

impl Pattern {
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
    pub fn find<'a>(&self, text: &'a str) -> Option<regex::Match<'a>> {
        self.0.find(text)
    }
    pub fn captures<'a>(&self, text: &'a str) -> Option<regex::Captures<'a>> {
        self.0.captures(text)
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        regex::RegexBuilder::new(&s).multi_line(true).build().map(Pattern).map_err(|e| e.to_string())
    }
}

/// A string whose `{variables}` were checked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(pub String);

impl TryFrom<String> for Template {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        template::check(&s)?;
        Ok(Template(s))
    }
}

/// A key as `send-keys` spells it; `cr` stands for a real carriage return that no key table can eat.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyName(pub String);

/// The submit key that is pasted as a byte.
pub const CR: &str = "cr";

impl TryFrom<String> for KeyName {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        const NAMED: &[&str] = &[CR, "Enter", "Tab", "Escape", "Up", "Down", "Left", "Right", "Space", "BSpace"];
        let modified = |m: &str| s.strip_prefix(m).is_some_and(|k| k.len() == 1 && k.as_bytes()[0].is_ascii_lowercase());
        if NAMED.contains(&s.as_str()) || modified("C-") || modified("M-") {
            Ok(KeyName(s))
        } else {
            Err(format!("{s:?} is not a key; known: {}, C-a to C-z, M-a to M-z", NAMED.join(", ")))
        }
    }
}

impl Definition {
    /// What the types alone cannot say.
    pub fn check(&self) -> Result<(), String> {
        if self.program.argv.is_empty() {
            return Err("program.argv is empty".into());
        }
        for rule in &self.screen {
            if let (ScreenClass::Dialog, name) = (rule.class, rule.name.as_deref().unwrap_or("")) {
                if !self.dialogs.contains_key(name) {
                    return Err(format!("screen: the dialog {name:?} has no entry under dialogs"));
                }
            }
        }
        if !self.screen.iter().any(|r| r.class == ScreenClass::Ready) {
            return Err("screen: no rule of class ready, so nothing could ever be delivered".into());
        }
        for (name, dialog) in &self.dialogs {
            if dialog.policy == DialogPolicy::Accept && dialog.frames.is_empty() {
                return Err(format!("dialogs.{name}: policy accept needs at least one frame"));
            }
            if dialog.frames.iter().any(|f| f.when.shows.is_empty()) {
                return Err(format!("dialogs.{name}: every frame needs a `shows` that proves it"));
            }
        }
        if let Some(frame) = self.control.quit_keys.iter().find(|f| f.when == FactSet::default() || ["cr", "Enter", "Tab"].contains(&f.key.0.as_str())) {
            return Err(format!("control.quit_keys: the key {} needs a `when` that proves its frame, and must be none that submits", frame.key.0));
        }
        if self.input.guard == FactSet::default() {
            return Err("input.guard is empty: nothing may be typed blind".into());
        }
        let transcript = self.evidence.submitted.contains(&EvidenceSource::Transcript);
        if transcript && self.transcript.is_none() {
            return Err("evidence names the transcript, but there is no section transcript".into());
        }
        if self.evidence.submitted.contains(&EvidenceSource::Hook) && self.turn.prompt_submitted.is_empty() {
            return Err("evidence names the hook, but turn.prompt_submitted is empty".into());
        }
        let strings = self.launch.files.values().chain(self.all_arguments().filter_map(|a| match a {
            Argument::Toml(t) => Some(&t.value),
            Argument::Text(_) => None,
        }));
        for value in strings {
            template::expand_value(value, &|s| template::check(s).map(|()| s.to_string()))?;
        }
        Ok(())
    }

    fn all_arguments(&self) -> impl Iterator<Item = &Argument> {
        let l = &self.launch;
        [&l.fresh, &l.resume, &l.common, &l.gated, &l.yolo].into_iter().flatten()
    }

    pub fn approval(&self, mode: ApprovalMode) -> &[Argument] {
        match mode {
            ApprovalMode::Gated => &self.launch.gated,
            ApprovalMode::Yolo => &self.launch.yolo,
        }
    }

    pub fn neutralise(&self, text: String) -> String {
        self.input.neutralise.iter().fold(text, |t, rule| super::sanitize::replace_seen(&t, &rule.find, &rule.replace))
    }

    /// Whether the program tells when a turn is over.
    pub fn tells_turns(&self) -> bool {
        !self.turn.turn_end.is_empty() || self.transcript.as_ref().is_some_and(|t| !t.turn_end.is_empty())
    }
    pub fn has_evidence(&self) -> bool {
        !self.evidence.submitted.is_empty()
    }
}
