//! Recorded screens of agent programs against their definitions: what is each screen, when may a text
//! be pasted, when does a paste stand, when is a start dialog's key pressed. Once by the rules that read
//! a capture, and once by real tmux through the very conditions that the driver hands it.
//!
//! A fixture's name says what it shows: `NN-<class>-<what>[-80x24].esc`.

use iapeer::core::guard::{Fact, Guard};
use iapeer::core::message::MessageId;
use iapeer::core::runtime::{Definition, DialogPolicy};
use iapeer::core::screen::{Class, Composer, Look, Screen, absent, classify};
use iapeer::echo::view::{Dialog, Part, View};
use iapeer::ports::terminal::PaneRef;
use iapeer::runtime::load::Runtimes;
use iapeer::tmux::{argv, format};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Dialog(&'static str),
    Picker,
    Busy,
    /// Ready with an empty composer: the one state in which a text may be pasted blindly guarded.
    Empty,
    /// Ready, the composer shows only the program's own faint suggestion: pasted after a look.
    Ghost,
    /// Ready with a person's text in the composer, or a paste of ours.
    Draft,
    /// Not there yet, or no longer.
    NotReady,
}

/// The dialog that each fixture of class `dialog` shows.
const DIALOGS: &[(&str, &str, &str)] = &[
    ("claude", "01-dialog-first-run-theme", "theme"),
    ("claude", "02-dialog-first-run-security-notes", "security-notes"),
    ("claude", "03-dialog-trust-folder", "trust"),
    ("claude", "04-dialog-api-key-approval", "api-key"),
    ("claude", "05-dialog-project-mcp-json", "project-mcp"),
    ("claude", "30-dialog-permission-mcp", "permission"),
    ("claude", "31-dialog-permission-bash", "permission"),
    ("claude", "32-dialog-permission-write", "permission"),
    ("claude", "33-dialog-ask-question", "question"),
    ("claude", "34-dialog-bypass-warning", "bypass"),
    ("claude", "35-dialog-help", "other"),
    ("claude", "36-dialog-status", "other"),
    ("claude", "43-dialog-plan-approval", "permission"),
    ("claude", "46-dialog-rewind", "other"),
    ("claude", "49-dialog-exit-with-background-task", "other"),
    ("claude", "63-dialog-80x24-permission-bash", "permission"),
    ("codex", "20-dialog-permission-exec", "permission"),
    ("codex", "21-dialog-trust-folder", "trust"),
    ("codex", "22-dialog-hooks-review", "hooks"),
    ("codex", "23-dialog-mcp-approval", "permission"),
    ("codex", "24-dialog-onboarding-login", "login"),
    ("codex", "26-dialog-resume-cwd", "resume-folder"),
    ("codex", "38-dialog-esc-esc-backtrack", "other"),
    ("codex", "39-dialog-agents-center", "other"),
    ("echo", "dialog", "question"),
];

/// Fixtures that are something else than the class in their name says at first sight.
const BY_DESIGN: &[(&str, &str, Expect)] = &[
    // The agent wakes by itself when its sub-agent ends, and would take the paste into that turn.
    ("claude", "23-ready-subagent-in-background", Expect::Busy),
    ("claude", "42-ready-ghost-suggestion", Expect::Ghost),
    // After a failed turn the composer suggests to send it again.
    ("claude", "72-error-http-529", Expect::Ghost),
    ("claude", "75-error-http-403", Expect::Ghost),
    ("claude", "76-error-http-401-final", Expect::Ghost),
    ("claude", "78-error-http-529-final", Expect::Ghost),
    ("claude", "79-error-http-429-final", Expect::Ghost),
    ("claude", "80-error-connection-refused-final", Expect::Ghost),
];

/// Fixtures on which our own pasted text stands alone in the composer.
const TAKEN: &[(&str, &str)] = &[
    ("claude", "13-draft-paste-placeholder-20"),
    ("claude", "14-draft-paste-envelope-inline"),
    ("codex", "06-draft-paste-placeholder"),
    ("codex", "07-draft-envelope-pasted"),
    ("echo", "draft-envelope"),
    ("echo", "draft-placeholder"),
];

/// What a capture does not hold, by runtime and part of the name, first match: pane title and whether
/// the terminal cursor is shown. From the measurements in docs/runtimes: Codex spins its title in every
/// sample of a turn, blinks `[ ! ]` and `[ . ]` while it asks, hides the cursor in everything that
/// covers the composer, and sets no title (the host's name stays) before a session is open. Claude Code
/// never shows the terminal cursor and never changes its title, so that both say nothing.
const WORLD: &[(&str, &str, &str, bool)] = &[
    ("claude", "", "✳ Claude Code", false),
    ("codex", "-busy-", "⠋ project", true),
    ("codex", "-dialog-permission", "[ ! ] Action Required | project", false),
    ("codex", "-dialog-mcp-approval", "[ . ] Action Required | project", false),
    ("codex", "-dialog-trust", "somehost", false),
    ("codex", "-dialog-hooks", "somehost", false),
    ("codex", "-dialog-", "project", false),
    ("codex", "-picker-model", "project", false),
    ("codex", "-picker-permissions", "project", false),
    ("codex", "", "project", true),
    ("echo", "dialog", "echo", false),
    ("echo", "", "echo", true),
];

#[derive(Clone)]
struct Fixture {
    runtime: &'static str,
    name: String,
    /// Rows with attributes, joined by LF.
    rows: String,
    size: (u16, u16),
    title: String,
    cursor_shown: bool,
}

fn is_of(fixture: &Fixture, runtime: &str, name: &str) -> bool {
    fixture.runtime == runtime && fixture.name.trim_end_matches("-80x24") == name
}

impl Fixture {
    fn new(runtime: &'static str, name: &str, rows: &str) -> Fixture {
        let size: (u16, u16) = if name.contains("80x24") { (80, 24) } else { (200, 50) };
        let world = WORLD.iter().find(|(r, part, ..)| *r == runtime && name.contains(part)).expect("a row in WORLD");
        let rows: Vec<&str> = rows.strip_suffix('\n').unwrap_or(rows).split('\n').collect();
        let rows = rows[rows.len().saturating_sub(usize::from(size.1))..].join("\n");
        Fixture { runtime, name: name.into(), rows, size, title: world.2.into(), cursor_shown: world.3 }
    }

    fn screen(&self) -> Screen {
        Screen { cursor_shown: self.cursor_shown, title: self.title.clone(), ..Screen::parse(&self.rows) }
    }

    fn expect(&self) -> Expect {
        if let Some((.., expect)) = BY_DESIGN.iter().find(|(r, n, _)| is_of(self, r, n)) {
            return *expect;
        }
        let digits = self.name.starts_with(|c: char| c.is_ascii_digit());
        match self.name.split('-').nth(usize::from(digits)).unwrap_or("") {
            "ready" | "error" => Expect::Empty,
            "busy" => Expect::Busy,
            "draft" => Expect::Draft,
            "picker" => Expect::Picker,
            "starting" | "exited" => Expect::NotReady,
            "dialog" => Expect::Dialog(DIALOGS.iter().find(|(r, n, _)| is_of(self, r, n)).unwrap_or_else(|| panic!("{self} has no row in DIALOGS")).2),
            other => panic!("{self}: the name says the class {other:?}, which is none"),
        }
    }

    fn is_taken(&self) -> bool {
        TAKEN.iter().any(|(r, n)| is_of(self, r, n))
    }

    /// Id and fence of the bottom-most envelope, so that one further up cannot pass for it unnoticed.
    fn envelope(&self) -> (String, String) {
        let text = self.screen().text();
        let last = |before: &str, end: char| text.rsplit_once(before).and_then(|(_, rest)| rest.split(end).next()).map(String::from);
        (last("<iap id=\"", '"').unwrap_or("0199aaaa".into()), last("</iap:", '>').unwrap_or("zzzzzz".into()))
    }

    /// The same screen with `history` above its last prompt, dialog or composer.
    fn below(&self, history: &str) -> Fixture {
        let rows: Vec<&str> = self.rows.trim_end().lines().collect();
        let screen = self.screen();
        let text: Vec<String> = (0..rows.len()).map(|i| screen.row_text(i)).collect();
        let said = |t: &String| t.strip_prefix("❯ ").or(t.strip_prefix("› ")).is_some_and(|t| !t.starts_with(|c: char| c.is_ascii_digit()));
        let rule = |t: &String| t.starts_with("────") || t.starts_with("▔▔▔▔");
        let at = text.iter().rposition(said).or_else(|| text.iter().position(rule)).unwrap_or(0);
        // What is further up only has to make room. Attributes carry over, so that they end here.
        let above = history.lines().rev().take(usize::from(self.size.1).saturating_sub(rows.len() - at)).collect::<Vec<_>>();
        let rows: Vec<&str> = above.into_iter().rev().chain(["\x1b[0m"]).chain(rows[at..].iter().copied()).collect();
        Fixture { rows: rows[rows.len().saturating_sub(usize::from(self.size.1))..].join("\n"), ..self.clone() }
    }
}

impl std::fmt::Display for Fixture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.runtime, self.name)
    }
}

fn definition(runtime: &str) -> Arc<Definition> {
    static LOADED: LazyLock<Runtimes> = LazyLock::new(|| Runtimes::load(Path::new("/nonexistent")));
    LOADED.get(&runtime.parse().unwrap()).unwrap()
}

fn recorded(runtime: &'static str) -> Vec<Fixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/runtimes/fixtures").join(runtime);
    let versions: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
    let mut files: Vec<PathBuf> = versions.iter().flat_map(|v| std::fs::read_dir(v).unwrap()).map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 40, "{}: only {} fixtures", root.display(), files.len());
    files.iter().map(|p| Fixture::new(runtime, p.file_stem().unwrap().to_str().unwrap(), &std::fs::read_to_string(p).unwrap())).collect()
}

/// The embedded program draws its screens for us.
fn drawn() -> Vec<Fixture> {
    let view = || View { history: vec!["› earlier".into(), "• answer".into()], session_id: "s1".into(), ..View::default() };
    let envelope = "<iap id=\"0199aaaa\" from=\"claude-boris\" fence=\"k3v9q2\">\nhello\n</iap:k3v9q2>";
    let screens = [
        ("ready", view()),
        ("busy", View { busy: Some("working".into()), ..view() }),
        ("dialog", View { dialog: Some(Dialog { question: "Run it?".into(), yes: true }), ..view() }),
        ("draft", View { composer: vec![Part::Typed("half a thou".into())], ..view() }),
        ("draft-envelope", View { composer: vec![Part::Typed(envelope.into())], ..view() }),
        ("draft-placeholder", View { composer: vec![Part::Pasted { text: "x".repeat(2000), number: 7 }], ..view() }),
        ("draft-before-placeholder", View { composer: vec![Part::Typed("mine ".into()), Part::Pasted { text: "x".repeat(2000), number: 7 }], ..view() }),
    ];
    screens.map(|(name, v)| Fixture::new("echo", name, &v.draw(200, 50).replace("\r\n", "\n"))).into()
}

/// Recorded screens with one thing changed.
fn altered() -> Vec<Fixture> {
    let change = |runtime, from: &str, name: &str, find: &str, replace: &str| {
        let origin = recorded(runtime).into_iter().find(|f| f.name == from).unwrap();
        let rows = origin.rows.replace(find, replace);
        assert!(find.is_empty() || rows != origin.rows, "{from} has no {find:?}");
        Fixture::new(runtime, name, if find.is_empty() { &origin.rows } else { &rows })
    };
    let ready = recorded("codex").into_iter().find(|f| f.name == "02-ready-after-turn").unwrap();
    let (no_footer, _) = ready.rows.trim_end().rsplit_once('\n').unwrap();
    vec![
        // A draft that begins with an empty line shows the prompt row of an empty composer.
        change("claude", "48-draft-two-lines", "draft-below-one-empty-line", "❯\u{a0}line one\n", "❯\u{a0}\n"),
        change("claude", "48-draft-two-lines", "draft-below-two-empty-lines", "❯\u{a0}line one\n", "❯\u{a0}\n\n"),
        change("claude", "12-ready-manual-mode", "starting-unknown-footer", "⏸ manual mode on", "something new"),
        change("codex", "06-draft-paste-placeholder", "draft-before-placeholder", "[Pasted", "mine [Pasted"),
        change("codex", "01-ready-empty", "starting-unknown-footer", "←", "x"),
        Fixture { rows: no_footer.into(), ..Fixture::new("codex", "starting-no-footer", "") },
        // Submitted, and the same text stands in the history of the turn that it began.
        change("codex", "07-draft-envelope-pasted", "07-busy-envelope", "", ""),
    ]
}

fn all_fixtures() -> Vec<Fixture> {
    [recorded("claude"), recorded("codex"), drawn(), altered()].concat()
}

fn agrees(class: &Class, composer: &Composer, expect: Expect) -> bool {
    match expect {
        Expect::Dialog(name) => *class == Class::Dialog(name.into()),
        Expect::Picker => *class == Class::Picker,
        Expect::Busy => *class == Class::Busy,
        Expect::Empty | Expect::Ghost => *class == Class::Ready && matches!(composer, Composer::Empty { .. }),
        Expect::Draft => *class == Class::Ready && matches!(composer, Composer::Text(_)),
        Expect::NotReady => *class == Class::Unknown,
    }
}

/// Collects what is wrong over all fixtures, so that one run tells everything.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, ok: bool, what: impl FnOnce() -> String) {
        if !ok {
            self.0.push(what());
        }
    }
    fn none(self) {
        assert!(self.0.is_empty(), "{} wrong:\n{}", self.0.len(), self.0.join("\n"));
    }
}

#[test]
fn every_screen_is_what_its_name_says() {
    let mut wrong = Wrong::default();
    for fixture in all_fixtures() {
        let (class, composer, _) = classify(&definition(fixture.runtime), &fixture.screen());
        let expect = fixture.expect();
        wrong.unless(agrees(&class, &composer, expect), || format!("{fixture}: expected {expect:?}, is {class:?} with {composer:?}"));
    }
    wrong.none();
}

#[test]
fn every_covered_version_has_screens_and_every_screen_a_covered_version() {
    for runtime in ["claude", "codex"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/runtimes/fixtures").join(runtime);
        let mut versions: Vec<String> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        versions.sort();
        assert_eq!(versions, definition(runtime).program.covered);
    }
}

#[test]
fn no_dialog_or_picker_is_ready_even_when_title_and_cursor_say_nothing() {
    let mut wrong = Wrong::default();
    for mut fixture in all_fixtures() {
        let expect = fixture.expect();
        if matches!(expect, Expect::Dialog(_) | Expect::Picker) {
            (fixture.title, fixture.cursor_shown) = ("project".into(), true);
            let (class, composer, _) = classify(&definition(fixture.runtime), &fixture.screen());
            let same = agrees(&class, &composer, expect);
            wrong.unless(same, || format!("{fixture}: expected {expect:?}, is {class:?} with {composer:?}"));
        }
    }
    wrong.none();
}

/// What a conversation may show above the rest, as the program sets it: its own recorded screens and our
/// definitions, said by the agent and said by a person.
fn histories(runtime: &'static str) -> Vec<String> {
    let (agent, person, prompt) = if runtime == "claude" { ("● ", "❯ ", "❯\u{a0}") } else { ("• ", "› ", "› ") };
    let set = |sign: &str, said: &[String]| {
        let rows = said.iter().enumerate().map(|(i, row)| format!("{}{row}", if i == 0 { sign } else { "  " }));
        rows.map(|row| row.chars().take(80).collect::<String>() + "\n").collect::<String>()
    };
    // Without the indent that the program adds again.
    let rows = |text: &str| text.lines().filter(|l| !l.trim().is_empty()).map(|l| l.strip_prefix("  ").unwrap_or(l).to_string()).collect::<Vec<_>>();
    let screens = recorded(runtime).into_iter().filter(|f| matches!(f.expect(), Expect::Dialog(_) | Expect::Empty | Expect::Draft | Expect::Busy));
    let mut histories: Vec<String> = Vec::new();
    for shown in screens.map(|f| rows(&f.screen().text())).chain([rows(DEFINITIONS[0]), rows(DEFINITIONS[1])]) {
        histories.push(set(agent, &shown));
        // What a person says begins in the column of the prompt.
        let begins = shown.iter().rposition(|r| r.trim_start().starts_with(prompt.trim_end())).unwrap_or(0);
        let mut said = shown[begins..].to_vec();
        said[0] = said[0].trim_start().trim_start_matches(prompt).into();
        histories.push(set(person, &said));
    }
    histories
}

const DEFINITIONS: [&str; 2] = [include_str!("../../peers/runtimes/claude.yaml"), include_str!("../../peers/runtimes/codex.yaml")];

#[test]
fn no_conversation_passes_for_a_composer_or_for_a_dialog_that_we_answer() {
    let mut wrong = Wrong::default();
    for runtime in ["claude", "codex"] {
        let definition = definition(runtime);
        let histories = histories(runtime);
        for fixture in recorded(runtime) {
            let expect = fixture.expect();
            for (i, history) in histories.iter().enumerate() {
                let (class, composer, _) = classify(&definition, &fixture.below(history).screen());
                let answered = matches!(&class, Class::Dialog(n) if definition.dialogs[n].policy == DialogPolicy::Accept);
                let ok = match expect {
                    // A dialog may pass for another that is left to a person as well.
                    Expect::Dialog(_) => agrees(&class, &composer, expect) || matches!(class, Class::Dialog(_)) && !answered,
                    // Without anything of the program below, the conversation is all there is.
                    Expect::NotReady => class != Class::Ready && !answered,
                    _ => agrees(&class, &composer, expect),
                };
                wrong.unless(ok, || format!("{fixture} below history {i}: expected {expect:?}, is {class:?} with {composer:?}\n{history}"));
            }
        }
    }
    wrong.none();
}

// ---- Real tmux.

/// Our own server; it ends with the test, also when that panics.
struct Server {
    dir: tempfile::TempDir,
    socket: PathBuf,
    shown: usize,
}

struct Pane {
    reference: PaneRef,
    drawn: String,
}

/// What tmux says of one screen.
struct Seen {
    captured: String,
    cursor: (u16, u16),
    /// The answers to the conditions asked, in order.
    holds: Vec<bool>,
}

/// Draws the screen, lets the terminal answer a question (it does so only after it has drawn), tells.
const SHOW: &str = r#"stty -icanon -echo; cat "$1"; printf '\033[6n'; head -c 1 >/dev/null; tmux -S "$2" wait-for -S "$3"; exec cat >/dev/null"#;
const DEADLINE: Duration = Duration::from_secs(30);

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let server = Server { dir, socket, shown: 0 };
        let words = "start-server ; set-option -g status off ; set-option -g history-limit 0 ; new-session -d -s base cat";
        server.tmux(&words.split(' ').map(String::from).collect::<Vec<_>>());
        server
    }

    fn tmux(&self, list: &[String]) -> String {
        let mut command = Command::new("tmux");
        command.args(argv::client(&self.socket)).args(list).env_remove("TMUX").stdin(Stdio::null());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(command.output()));
        let output = told.recv_timeout(DEADLINE).expect("an answer from tmux").expect("tmux, which these tests need, in PATH");
        assert!(output.status.success(), "tmux {list:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn show(&mut self, fixture: &Fixture) -> Pane {
        self.shown += 1;
        let (file, channel) = (self.dir.path().join(format!("{}.esc", self.shown)), format!("c{}", self.shown));
        let cursor = if fixture.cursor_shown { 'h' } else { 'l' };
        std::fs::write(&file, format!("{}\x1b]2;{}\x1b\\\x1b[?25{cursor}", fixture.rows, fixture.title)).unwrap();
        let (columns, rows) = (fixture.size.0.to_string(), fixture.size.1.to_string());
        let (file, socket) = (file.to_string_lossy(), self.socket.to_string_lossy());
        let list =
            ["new-session", "-d", "-P", "-F", "#{pane_id} #{pane_pid}", "-x", &columns, "-y", &rows, "--", "sh", "-c", SHOW, "sh", &file, &socket, &channel];
        let printed = self.tmux(&list.map(String::from));
        let (pane, pid) = printed.trim().split_once(' ').unwrap();
        Pane { reference: PaneRef { socket: self.socket.clone(), pane: pane.into(), keeper_pid: pid.parse().unwrap(), incarnation: 1 }, drawn: channel }
    }

    /// Waits until the screen is drawn, then captures it and asks tmux for each condition.
    fn ask(&self, pane: &Pane, conditions: &[String]) -> Seen {
        let p = pane.reference.pane.clone();
        let mut list: Vec<String> = ["wait-for", &pane.drawn, ";", "wait-for", "-S", &pane.drawn].map(String::from).into();
        let header = ["display-message", "-p", "-t", &p, "#{cursor_x} #{cursor_y}"].map(String::from);
        let capture = ["capture-pane", "-p", "-e", "-t", &p].map(String::from);
        list.extend(std::iter::once(";".to_string()).chain(header));
        for condition in conditions {
            list.extend([";", "if-shell", "-F", "-t", &p, condition, "display-message -p yes", "display-message -p no"].map(String::from));
        }
        list.extend(std::iter::once(";".to_string()).chain(capture));
        let printed = self.tmux(&list);
        let mut lines = printed.splitn(conditions.len() + 2, '\n');
        let (x, y) = lines.next().unwrap().split_once(' ').unwrap();
        let holds = conditions.iter().map(|c| match lines.next() {
            Some("yes") => true,
            Some("no") => false,
            other => panic!("{c} answered {other:?}"),
        });
        let holds = holds.collect();
        Seen { captured: lines.next().unwrap().into(), cursor: (x.parse().unwrap(), y.parse().unwrap()), holds }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(argv::client(&self.socket)).arg("kill-server").output();
    }
}

fn message_id() -> MessageId {
    "0199a0b0-0000-7000-8000-000000000001".parse().unwrap()
}

/// The conditions of every act on this pane: paste, submit, and each key of each accepted dialog.
fn conditions(definition: &Definition, pane: &PaneRef, envelope: &(String, String)) -> (Vec<String>, Vec<(String, usize)>) {
    let (id, fence) = envelope;
    let paste = format::paste_guard(pane, &message_id(), &Guard { facts: definition.input.guard.facts(id, fence) });
    let taken = Fact::Any(definition.input.taken.iter().map(|t| t.facts(id, fence)).collect());
    let mut asked = vec![paste, format::key_guard(pane, &Guard { facts: vec![taken] })];
    let mut frames = Vec::new();
    for (name, dialog) in &definition.dialogs {
        for (i, frame) in dialog.frames.iter().enumerate() {
            asked.push(format::key_guard(pane, &Guard { facts: frame.when.facts("", "") }));
            frames.push((name.clone(), i));
        }
    }
    (asked, frames)
}

/// The frames of accepted dialogs that a fixture shows: the first one, as recorded.
fn is_shown_frame(expect: Expect, frame: &(String, usize)) -> bool {
    expect == Expect::Dialog(frame.0.clone().leak()) && frame.1 == 0
}

#[test]
fn tmux_lets_paste_submit_and_keys_pass_only_where_they_belong() {
    let mut server = Server::start();
    let mut wrong = Wrong::default();
    let panes: Vec<(Fixture, Pane)> = all_fixtures().into_iter().map(|f| (f.clone(), server.show(&f))).collect();
    for (fixture, pane) in &panes {
        let definition = definition(fixture.runtime);
        let expect = fixture.expect();
        let (asked, frames) = conditions(&definition, &pane.reference, &fixture.envelope());
        let seen = server.ask(pane, &asked);
        wrong.unless(seen.holds[0] == (expect == Expect::Empty), || format!("{fixture}: {expect:?}, but a paste passes: {}", seen.holds[0]));
        wrong.unless(seen.holds[1] == fixture.is_taken(), || format!("{fixture}: a submit passes: {}", seen.holds[1]));
        for (frame, holds) in frames.iter().zip(&seen.holds[2..]) {
            wrong.unless(*holds == is_shown_frame(expect, frame), || format!("{fixture}: the key of {frame:?} passes: {holds}"));
        }
        let captured = Screen { cursor_shown: fixture.cursor_shown, title: fixture.title.clone(), ..Screen::parse(&seen.captured) };
        wrong.unless(captured.text() == fixture.screen().text(), || format!("{fixture}: the pane does not show the recording:\n{}", captured.text()));
        let (class, composer, composer_row) = classify(&definition, &captured);
        wrong.unless(agrees(&class, &composer, expect), || format!("{fixture}: captured again it is {class:?} with {composer:?}"));
        if matches!(expect, Expect::Empty | Expect::Ghost) {
            let absent = absent(&definition, &captured);
            let look = Look { absent, ..look(class, composer, composer_row, seen.cursor, fixture.cursor_shown) };
            let moved = Look { cursor: (look.cursor.0 + 1, look.cursor.1), ..look.clone() };
            let typed = Look { composer_row: format!("{}x", look.composer_row), ..look.clone() };
            let bound = [&look, &moved, &typed].map(|l| format::paste_guard(&pane.reference, &message_id(), &l.guard()));
            let holds = server.ask(pane, &bound).holds;
            wrong.unless(holds == [true, false, false], || format!("{fixture}: bound to its own look, a moved cursor, another text: {holds:?}"));
        }
    }
    wrong.none();
}

fn look(class: Class, composer: Composer, composer_row: String, cursor: (u16, u16), cursor_shown: bool) -> Look {
    let (mark_pasted, mark_entered) = Default::default();
    Look {
        wall: chrono::DateTime::UNIX_EPOCH.with_timezone(&iapeer::core::zone::Zone::utc()),
        absent: Vec::new(),
        class,
        composer,
        composer_row,
        cursor,
        cursor_shown,
        dead: false,
        in_mode: false,
        input_off: false,
        typing: false,
        rows: Vec::new(),
        title: String::new(),
        attached: 0,
        mark_pasted,
        mark_entered,
    }
}

/// Rows of a conversation that look like everything tmux is asked for. What stands behind Codex' `› ` is
/// a person's or the first row of an envelope: no peer can make it say the placeholder.
fn forged_rows(runtime: &str) -> String {
    let claude = "❯ ❯\u{a0}\n  ❯\u{a0}\n  ⏸ manual mode on · ? for shortcuts · ← for agents\n● ❯\u{a0}[Pasted text #1 +4 lines]\n  Quick safety check\n  ❯ No, exit\n    Yes, I trust this folder\n  \
        Choose the text style that looks best with your terminal\n  ❯ ✔ Auto\n  Security notes:\n  Press Enter to continue\n❯ <iap id=\"0199aaaa\" fence=\"k3v9q2\">\n  hello\n  </iap:k3v9q2>\n";
    let codex = "› › Ask Codex to do anything\n  › Ask Codex to do anything\n• › [Pasted Content 3000 chars]\n  › [Pasted Content 3000 chars]\n• Ask Codex to do anything\n  gpt-5.1-codex default · /home/user/project\n  ← for agents · ? for shortcuts\n\
        › 1. Use session directory\n  enter continue · esc use session · ^c quit\n";
    if runtime == "claude" { claude.into() } else { codex.into() }
}

/// A composer that stays on the screen while a dialog of the running session is open.
fn composer_beside(runtime: &str) -> [&'static str; 2] {
    match runtime {
        "claude" => {
            ["❯\u{a0}\n  ⏸ manual mode on · ? for shortcuts · ← for agents\n", "❯\u{a0}<iap id=\"0199aaaa\" fence=\"k3v9q2\">\n  hello\n  </iap:k3v9q2>\n"]
        }
        _ => ["› Ask Codex to do anything\n  ← for agents · ? for shortcuts\n", "› <iap id=\"0199aaaa\" fence=\"k3v9q2\">\n  hello\n  </iap:k3v9q2>\n"],
    }
}

#[test]
fn tmux_is_not_fooled_by_a_conversation_or_a_composer_above_a_dialog_a_turn_or_a_draft() {
    let mut server = Server::start();
    let mut wrong = Wrong::default();
    let recorded = [recorded("claude"), recorded("codex")].concat();
    let not_ready = recorded.iter().filter(|f| f.expect() != Expect::Empty).map(|f| f.below(&forged_rows(f.runtime)));
    // The dialogs of a start have never had a composer beside them.
    let in_session = |f: &&Fixture| matches!(f.expect(), Expect::Dialog(n) if definition(f.runtime).dialogs[n].policy == DialogPolicy::Ask);
    let beside = recorded.iter().filter(in_session).flat_map(|f| composer_beside(f.runtime).map(|rows| f.below(rows)));
    let panes: Vec<(Fixture, Pane)> = not_ready.chain(beside).map(|f| (f.clone(), server.show(&f))).collect();
    for (fixture, pane) in &panes {
        let (asked, frames) = conditions(&definition(fixture.runtime), &pane.reference, &fixture.envelope());
        let seen = server.ask(pane, &asked);
        wrong.unless(!seen.holds[0], || format!("{fixture}: a paste passes"));
        wrong.unless(!seen.holds[1] || fixture.is_taken(), || format!("{fixture}: a submit passes"));
        for (frame, holds) in frames.iter().zip(&seen.holds[2..]) {
            wrong.unless(!holds || is_shown_frame(fixture.expect(), frame), || format!("{fixture}: the key of {frame:?} passes"));
        }
    }
    wrong.none();
}
