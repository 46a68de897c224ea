//! One peer, and the state it is put into before a message is sent to it.

use crate::api::Api;
use crate::attached::Attached;
use crate::harness::{Host, tmux};
use crate::page::Outcome;
use crate::runtimes::{Kind, Runtime};
use crate::truth::Truth;
use iapeer::core::runtime::Definition;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest time a state may take to be reached; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(150);
/// How long a person changes the size without pause.
const RESIZING: Duration = Duration::from_secs(2);
/// Longer than an agent takes that asks something after a paste.
const DIALOG_AFTER_PASTE: Duration = Duration::from_millis(150);
/// A screen that has not changed for so long is at rest.
const CALM: Duration = Duration::from_millis(700);
const DRAFT: &str = "half typed dra";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Idle,
    Busy,
    Starting,
    Asleep,
    NotReading,
    KilledAtPaste,
    KilledAtEnter,
    Draft,
    Dialog,
    Picker,
    CopyMode,
    Resizing,
}

pub const STATES: [State; 12] = [
    State::Idle,
    State::Busy,
    State::Starting,
    State::Asleep,
    State::NotReading,
    State::KilledAtPaste,
    State::KilledAtEnter,
    State::Draft,
    State::Dialog,
    State::Picker,
    State::CopyMode,
    State::Resizing,
];

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Busy => "busy",
            State::Starting => "starting",
            State::Asleep => "asleep",
            State::NotReading => "not reading",
            State::KilledAtPaste => "killed at the paste",
            State::KilledAtEnter => "killed at Enter",
            State::Draft => "draft",
            State::Dialog => "dialog",
            State::Picker => "picker",
            State::CopyMode => "copy mode",
            State::Resizing => "resizing",
        }
    }

    /// Whether the agent dies with the message.
    pub fn kills(self) -> bool {
        matches!(self, State::KilledAtPaste | State::KilledAtEnter)
    }

    /// Whether the agent ends in it, young.
    pub fn ends(self) -> bool {
        self.kills() || self == State::Asleep
    }

    /// Why a state is not produced for a runtime.
    pub fn absent(self, runtime: &Runtime) -> Option<&'static str> {
        match (self, runtime.kind) {
            (State::Picker, Kind::Echo) => Some("it has no picker"),
            (State::KilledAtEnter, Kind::Echo | Kind::Real) => Some("the moment cannot be hit from outside"),
            (State::KilledAtEnter, Kind::Fake) if !runtime.has_evidence() => Some("`entered` is all that is claimed, and it was"),
            _ => None,
        }
    }

    /// The reasons for which mail must be held in it.
    pub fn holds(self, kind: Kind) -> &'static [&'static str] {
        match (self, kind) {
            (State::Busy, _) => &["busy"],
            (State::Draft, _) => &["draft"],
            (State::Dialog, Kind::Fake) => &["dialog"],
            (State::Dialog, _) => &["approval"],
            (State::Picker, Kind::Fake) => &["picker"],
            // What its screen shows behind the sign that opens the picker is a draft as well.
            (State::Picker, _) => &["picker", "draft"],
            (State::CopyMode, _) => &["copy-mode"],
            _ => &[],
        }
    }
}

pub struct Stage<'a> {
    host: &'a Host,
    runtime: &'a Runtime,
    pub state: State,
    name: String,
    identity: String,
    folder: PathBuf,
    pub api: Api,
    pub truth: Truth,
    pub definition: &'a Definition,
    attached: Option<Attached<'a>>,
    /// Bytes that the fake agent had read when the obstacle stood.
    bytes: Value,
    /// An answer that nobody waits for.
    pending: Option<UnixStream>,
}

impl<'a> Stage<'a> {
    pub fn new(host: &'a Host, runtime: &'a Runtime, definition: &'a Definition, state: State, name: &str) -> Result<Stage<'a>, String> {
        let created = host.run(&["create", name, "--runtime", runtime.name]);
        if created.code != 0 {
            return Err(created.err);
        }
        let folder = host.root().join("peers").join(name);
        let mut stage = Stage {
            host,
            runtime,
            state,
            name: name.into(),
            identity: format!("{}-{name}", runtime.name),
            truth: Truth::new(runtime.kind, folder.clone()),
            folder,
            api: Api::connect(&host.root()),
            definition,
            attached: None,
            bytes: Value::Null,
            pending: None,
        };
        if runtime.kind == Kind::Fake {
            std::fs::create_dir_all(stage.folder.join(".fake")).unwrap();
            std::fs::write(stage.folder.join(".fake/profile.json"), runtime.profile(state == State::Starting).to_string()).unwrap();
        }
        std::fs::write(stage.folder.join("secret.txt"), "not for the model\n").unwrap();
        stage.truth.refresh();
        if !matches!(state, State::Starting | State::Asleep) {
            stage.ensure_live()?;
        }
        if matches!(state, State::CopyMode | State::Resizing) {
            stage.attached = Some(Attached::open(host, name));
            stage.until("a terminal is attached", |s| !s.tmux(&["list-clients"]).is_empty())?;
        }
        Ok(stage)
    }

    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) -> Result<(), String> {
        let began = Instant::now();
        while !holds(self) {
            if began.elapsed() > PATIENCE {
                return Err(format!("not within {} s: {what}", PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(8));
        }
        Ok(())
    }

    fn session(&self) -> Option<Value> {
        self.host.session(&self.identity)
    }

    fn incarnation(&self) -> u64 {
        self.session().and_then(|s| s["incarnation"].as_u64()).unwrap_or(0)
    }

    fn ensure_live(&mut self) -> Result<(), String> {
        if self.session().is_some_and(|s| s["ready"] == true) {
            return Ok(());
        }
        self.api.order(&self.name, "start")?;
        self.until("it is live", |s| s.session().is_some_and(|x| x["ready"] == true))
    }

    fn tmux(&self, args: &[&str]) -> String {
        let Some(session) = self.session() else { return String::new() };
        let out = Command::new(tmux()).args(["-u", "-S", session["socket"].as_str().unwrap_or_default()]).args(args).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn on_pane(&self, verb: &str, args: &[&str]) -> String {
        let pane = self.session().and_then(|s| s["pane"].as_str().map(String::from)).unwrap_or_default();
        self.tmux(&[&[verb, "-t", &pane], args].concat())
    }

    pub fn screen(&self) -> String {
        self.on_pane("capture-pane", &["-p"])
    }

    fn shows(&mut self, what: &str) -> Result<(), String> {
        let pattern = regex::Regex::new(what).unwrap();
        self.until(&format!("the screen shows {what:?}"), |s| pattern.is_match(&s.screen()))
    }

    fn keys(&self, keys: &[&str]) {
        self.on_pane("send-keys", keys);
    }

    /// A program that is still drawing what it starts with is not stopped in the midst of that.
    fn calm(&mut self) -> Result<(), String> {
        let mut last = (String::new(), Instant::now());
        self.until("it has nothing more to draw", |s| {
            let now = s.screen() + &s.on_pane("display-message", &["-p", "#{cursor_flag} #{pane_title}"]);
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > CALM
        })
    }

    /// An order to the fake agent; its state after it.
    fn agent(&self, order: &str) -> Value {
        let answer = || {
            let mut stream = UnixStream::connect(self.folder.join(".fake/sock")).ok()?;
            // One that is stopped says nothing.
            stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
            writeln!(stream, "{order}").ok()?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).ok()?;
            serde_json::from_str(&line).ok()
        };
        answer().unwrap_or_default()
    }

    fn agent_pid(&self) -> Result<nix::unistd::Pid, String> {
        let path = self.host.state_dir(&self.identity).join(format!("exits/{}.start.json", self.incarnation()));
        let record: Value =
            std::fs::read(&path).ok().and_then(|b| serde_json::from_slice(&b).ok()).ok_or_else(|| format!("{} cannot be read", path.display()))?;
        record["agent"]["pid"].as_i64().map(|p| nix::unistd::Pid::from_raw(p as i32)).ok_or_else(|| "no pid".into())
    }

    /// To the agent and everything below it: a program may be a launcher and its child.
    fn signal(&self, signal: Signal) -> Result<(), String> {
        let mut tree = vec![self.agent_pid()?];
        let mut next = 0;
        while let Some(pid) = tree.get(next) {
            tree.extend(children(pid.as_raw()));
            next += 1;
        }
        for pid in &tree {
            kill(*pid, signal).or_else(|e| if *pid == tree[0] { Err(format!("{signal}: {e}")) } else { Ok(()) })?;
        }
        Ok(())
    }

    /// A message of the matrix's own that brings an agent into a state.
    fn prompt(&mut self, text: &str) -> Result<(), String> {
        let id = self.api.send(&self.name, text)?;
        self.until("the agent has its prompt", |s| {
            s.truth.refresh();
            s.truth.has(&id)
        })
    }

    pub fn send(&mut self, text: &str) -> Result<String, String> {
        self.api.send(&self.name, text)
    }

    /// Puts the obstacle up.
    pub fn block(&mut self) -> Result<(), String> {
        if !matches!(self.state, State::Starting | State::Asleep) {
            self.ensure_live()?;
        }
        if matches!(self.state, State::NotReading | State::KilledAtPaste | State::Draft | State::Dialog | State::Picker | State::Asleep)
            && self.session().is_some()
        {
            // What is stopped or covered in the midst of a turn could not tell of its end.
            self.until("the last turn is over", |s| s.api.is_idle(&s.name.clone()) && !s.screen().contains("esc to interrupt"))?;
        }
        self.refuse_what_opens()?;
        match (self.state, self.runtime.kind) {
            (State::Idle, _) => {}
            (State::Resizing, _) => self.drag(true),
            (State::Busy, Kind::Fake) => {
                self.agent("busy");
                self.shows("fake · busy")?;
            }
            (State::Busy, Kind::Echo) => {
                self.prompt("work: 600s")?;
                self.shows("echo · busy")?;
            }
            (State::Busy, Kind::Real) => self.prompt("MOCK:slow 4")?,
            (State::Starting, kind) => {
                let (before, starts) = (self.incarnation(), self.truth.starts);
                self.pending = Some(self.api.order_only(&self.name, "new"));
                self.until("another process starts", |s| {
                    s.truth.refresh();
                    if kind == Kind::Fake { s.truth.starts > starts } else { ![0, before].contains(&s.incarnation()) }
                })?;
            }
            (State::Asleep, kind) => {
                self.ensure_live()?;
                match kind {
                    Kind::Fake => drop(self.agent("exit 0")),
                    _ => {
                        let quit = self.definition.control.quit.clone().unwrap_or_default();
                        self.keys(&["-l", &quit]);
                        self.shows(&regex::escape(&quit))?;
                        self.keys(&["Enter"]);
                    }
                }
                self.until("it sleeps", |s| s.session().is_none())?;
            }
            (State::KilledAtPaste, Kind::Fake) => drop(self.agent("die paste")),
            (State::KilledAtEnter, _) => drop(self.agent("die enter")),
            (State::KilledAtPaste | State::NotReading, kind) => {
                if kind == Kind::Real || self.runtime.name == "lag" {
                    self.calm()?;
                }
                self.signal(Signal::SIGSTOP)?;
            }
            (State::Draft, _) => {
                self.keys(&["-l", DRAFT]);
                self.shows(DRAFT)?;
            }
            (State::Dialog, Kind::Fake) => {
                self.agent("dialog");
                self.shows("enter confirms")?;
            }
            (State::Dialog, Kind::Echo) => {
                self.prompt("ask: sure?")?;
                self.shows("1. Yes")?;
            }
            (State::Dialog, Kind::Real) => {
                self.prompt(permission(self.runtime.name))?;
                self.shows(r"1\. Yes")?;
            }
            (State::Picker, kind) => {
                self.keys(&["-l", "/"]);
                self.shows(if kind == Kind::Fake { "fake · picker" } else { "(?m)^[❯›].?/" })?;
            }
            (State::CopyMode, _) => {
                self.on_pane("copy-mode", &[]);
            }
        }
        if self.runtime.kind == Kind::Fake && !self.state.holds(Kind::Fake).is_empty() {
            self.bytes = self.agent("state")["bytes"].clone();
        }
        Ok(())
    }

    /// Nothing was typed at the obstacle.
    pub fn untouched(&mut self) -> Result<(), String> {
        if self.runtime.kind == Kind::Fake {
            let state = self.agent("state");
            if state["bytes"] != self.bytes {
                return Err(format!("{} bytes had been read when the obstacle stood, now {}", self.bytes, state["bytes"]));
            }
            return Ok(());
        }
        let wanted = match self.state {
            State::Draft => DRAFT,
            State::Dialog => r"1\. Yes",
            State::Picker => "(?m)^[❯›].?/ *$",
            _ => "",
        };
        if regex::Regex::new(wanted).unwrap().is_match(&self.screen()) { Ok(()) } else { Err(format!("the obstacle was touched:\n{}", self.screen())) }
    }

    /// What must be seen before the obstacle is cleared, where no hold says it.
    pub fn witness(&mut self, id: &str) -> Result<(), String> {
        match (self.state, self.runtime.kind) {
            (State::NotReading, _) | (State::KilledAtPaste, Kind::Echo | Kind::Real) => {
                self.until("it is typed", |s| s.api.message(id).is_ok_and(|(state, _)| state == "injected"))
            }
            (State::Starting, Kind::Fake) => {
                let (state, reason) = self.api.message(id)?;
                let waits = state == "accepted" || (state == "held" && reason == "starting");
                if waits { Ok(()) } else { Err(format!("{state} {reason} while the agent starts")) }
            }
            _ => Ok(()),
        }
    }

    /// Takes the obstacle away.
    pub fn clear(&mut self) -> Result<(), String> {
        match (self.state, self.runtime.kind) {
            (State::Busy, Kind::Fake) => drop(self.agent("idle")),
            (State::Busy, Kind::Echo) | (State::Dialog, Kind::Real) => self.keys(&["Escape"]),
            (State::Starting, Kind::Fake) => drop(self.agent("open")),
            (State::NotReading, _) => self.signal(Signal::SIGCONT)?,
            (State::KilledAtPaste, Kind::Echo | Kind::Real) => self.signal(Signal::SIGKILL)?,
            (State::Draft, _) | (State::Picker, Kind::Fake) => self.keys(&["C-u"]),
            (State::Picker, _) => self.keys(&["BSpace"]),
            (State::Dialog, Kind::Fake) => drop(self.agent("refuse")),
            (State::Dialog, Kind::Echo) => self.keys(&["n"]),
            (State::CopyMode, _) => drop(self.on_pane("send-keys", &["-X", "cancel"])),
            _ => {}
        }
        Ok(())
    }

    fn drag(&mut self, on: bool) {
        if let Some(attached) = &mut self.attached {
            attached.drag(on);
        }
    }

    /// A dialog that the last paste brings must not come over the state that is to be made.
    fn refuse_what_opens(&mut self) -> Result<(), String> {
        if self.runtime.name != "asking" || self.session().is_none() {
            return Ok(());
        }
        let mut quiet = Instant::now();
        self.until("no more dialogs open", |s| {
            if s.agent("state")["dialog"] == true {
                s.agent("refuse");
                quiet = Instant::now();
            }
            quiet.elapsed() > DIALOG_AFTER_PASTE
        })
    }

    /// What a person at the terminal does meanwhile: refuses whatever a fake agent asks, and is done with
    /// resizing after a while.
    pub fn attend(&mut self, since: Instant) {
        if since.elapsed() > RESIZING {
            self.drag(false);
        }
        if self.runtime.name == "asking" && self.agent("state")["dialog"] == true {
            self.agent("refuse");
        }
    }

    /// A dialog that opens by itself may eat a paste: the message is put aside, and the operator sends it again.
    pub fn send_eaten_again(&mut self, id: &str) -> bool {
        let eaten = self.runtime.name == "asking" && self.api.message(id).is_ok_and(|m| m == ("parked".into(), "paste-lost".into()));
        eaten && self.api.release(id).is_ok()
    }

    pub fn holds(&self) -> &'static [&'static str] {
        self.state.holds(self.runtime.kind)
    }

    /// Whether nothing may arrive before the obstacle is cleared.
    pub fn waits(&self) -> bool {
        let gated = self.state == State::Starting && self.runtime.kind == Kind::Fake;
        // A real program's turn ends by itself.
        let endless = !(self.state == State::Busy && self.runtime.kind == Kind::Real);
        gated || self.state == State::NotReading || (!self.holds().is_empty() && endless)
    }

    pub fn has_evidence(&self) -> bool {
        self.runtime.has_evidence()
    }

    /// The agent got them in the order in which they were sent.
    pub fn in_order(&self, ids: &[String]) -> Result<(), String> {
        let at = |id: &String| self.truth.places(id).first().copied();
        if ids.iter().map(at).is_sorted() { Ok(()) } else { Err("out of order".into()) }
    }

    pub fn outcome(&self, held: String, first: &str) -> Result<Outcome, String> {
        let again = self.truth.first_turn_with(first).contains(" redelivered=\"2\"");
        match (again, self.state.kills()) {
            (true, true) => Ok(Outcome::Again),
            (true, false) => Err("said to be redelivered, but no agent died".into()),
            (false, true) => Err("not said to be redelivered".into()),
            (false, false) if held.is_empty() => Ok(Outcome::Delivered),
            (false, false) => Ok(Outcome::Held(held)),
        }
    }

    /// What a failure needs to be understood.
    pub fn evidence(&self) -> String {
        let of_this = |log: &str| {
            let text = std::fs::read_to_string(self.host.root().join("logs").join(log)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().filter(|l| l.contains(&self.identity)).collect();
            lines[lines.len().saturating_sub(14)..].join("\n")
        };
        format!("{}\n{}\n{}\nagent: {}", of_this("lifecycle.log"), of_this("delivery.log"), self.screen().trim(), self.agent("state"))
    }

    /// Ends it for good.
    pub fn end(mut self) {
        self.attached = None;
        // Only a stopped one needs it.
        let _ = self.signal(Signal::SIGCONT);
        let _ = self.api.order(&self.name, "stop");
    }
}

fn children(pid: i32) -> Vec<nix::unistd::Pid> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists: Vec<String> = threads.filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok()).collect();
    lists.iter().flat_map(|l| l.split_whitespace()).filter_map(|p| p.parse().ok().map(nix::unistd::Pid::from_raw)).collect()
}

fn permission(runtime: &str) -> &'static str {
    match runtime {
        "claude" => "MOCK:bash touch permission-was-given; id",
        _ => "MOCK:tool exec_command {\"cmd\":\"touch permission-was-given\",\"sandbox_permissions\":\"require_escalated\",\"justification\":\"x\"}",
    }
}

/// The operator's keys for all peers, where the sandbox gives some.
pub fn host_env() -> String {
    let wanted = |name: &str| {
        ["ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "CODEX_HOME", "MOCK_KEY"].contains(&name)
            || name.starts_with("DISABLE_")
            || name.starts_with("CLAUDE_CODE_DISABLE")
    };
    std::env::vars().filter(|(name, _)| wanted(name)).map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// Settings under which agents may die as often as the matrix kills them.
pub fn settings() -> Value {
    json!({"crashloop_window_secs": 0, "term_grace_secs": 1})
}
