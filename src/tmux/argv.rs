//! Every command list that tmux gets, as argument vectors.
//!
//! Rules kept here: `-u` and `-S` always; a user's own configuration is never read; a pane is addressed
//! by `%id`; an argument that ends in `;` would be split by tmux, so it is escaped; texts travel by
//! standard input, never as arguments.

use super::format;
use crate::core::message::MessageId;
use crate::core::runtime::{CR, KeyName};
use crate::ports::terminal::{PaneRef, Paste, StartSpec, Submit};
use std::path::Path;
use tmux_interface::{
    BindKey, CapturePane, DeleteBuffer, DisplayMessage, LoadBuffer, PasteBuffer, ResizeWindow, SendKeys, SetBuffer, SetHook, SetOption, TmuxCommand,
};

/// First field of a look's header line, and of a start's.
pub const LOOK: &str = "iap-look";
pub const STARTED: &str = "iap-started";
/// Printed by a guarded list that acted.
pub const OK_PASTE: &str = "iap-pasted";
pub const OK_SUBMIT: &str = "iap-submitted";
pub const OK_PROBE: &str = "iap-probed";
/// What a guard said last, and the word for yes.
const GATE: &str = "@iap_g";
const OPEN: &str = "open";
/// The buffer that the press of a dialog's key depends on.
const KEY: &str = "iap-key";
/// Between fields: no tmux variable but the title can hold it, and the title comes last.
pub const SEPARATOR: char = '\u{1f}';
/// Lines of scrollback a pane keeps (2,000 lines are 1 to 4 MB).
const HISTORY_LINES: &str = "2000";
/// A person who leaves copy mode makes the program write nothing: the terminal is touched, so that whoever
/// watches it looks again.
const MODE_SEEN: &str = "run-shell -b 'touch -c #{pane_tty}'";

/// A list of commands, run by one client without yielding between them.
#[derive(Default)]
pub struct List(Vec<String>);

impl List {
    fn then(mut self, command: TmuxCommand<'_>) -> Self {
        if !self.0.is_empty() {
            self.0.push(";".into());
        }
        self.0.extend(command.to_vec().into_iter().map(|word| escape_semicolon(&word)));
        self
    }
    fn then_words<const N: usize>(self, words: [&str; N]) -> Self {
        let mut command = TmuxCommand::new();
        command.name(words[0].to_string());
        for word in &words[1..] {
            command.push_param(word.to_string());
        }
        self.then(command)
    }
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

/// An argument that ends in `;` is a command separator to tmux unless the `;` is escaped.
fn escape_semicolon(word: &str) -> String {
    match word.strip_suffix(';') {
        Some(stem) => format!("{stem}\\;"),
        None => word.to_string(),
    }
}

/// The client's own arguments, before the list.
pub fn client(socket: &Path) -> Vec<String> {
    ["-u", "-f", "/dev/null", "-S", &socket.to_string_lossy()].map(String::from).to_vec()
}

fn option<'a>(name: &'a str, value: &'a str) -> TmuxCommand<'a> {
    SetOption::new().global().quiet().option(name).value(value).build()
}

/// Starts the server with our options, then the session, and prints where it is.
pub fn start(spec: &StartSpec) -> List {
    let (columns, rows) = (spec.columns.to_string(), spec.rows.to_string());
    let name = spec.identity.to_string();
    let back = format!("if-shell -F '#{{==:#{{session_attached}},0}}' 'resize-window -x {columns} -y {rows}'");
    let mut list = List::default().then_words(["start-server"]);
    for (key, value) in [
        ("escape-time", "10"),
        ("set-clipboard", "off"),
        ("default-terminal", "tmux-256color"),
        ("remain-on-exit", "on"),
        ("status", "off"),
        ("prefix", "None"),
        ("history-limit", HISTORY_LINES),
        ("assume-paste-time", "1"),
        ("automatic-rename", "off"),
        ("allow-rename", "off"),
        ("allow-passthrough", "off"),
        ("bell-action", "none"),
        ("monitor-bell", "off"),
        // Its log of commands, of which a delivery has nine.
        ("message-limit", "0"),
    ] {
        list = list.then(option(key, value));
    }
    list = list
        .then(BindKey::new().key_table("root").key("C-]").command("detach-client").build())
        .then(SetHook::new().global().hook_name("client-attached").command("set-option -w window-size latest").build())
        .then(SetHook::new().global().hook_name("client-detached").command(&back).build())
        .then(SetHook::new().global().hook_name("pane-mode-changed").command(MODE_SEEN).build());
    // No -c: tmux expands it as a format, and a folder may be named #(cmd). The keeper changes there.
    let mut session = TmuxCommand::new();
    session.name("new-session");
    for word in ["-d", "-s", &name, "-x", &columns, "-y", &rows, "--"] {
        session.push_param(word.to_string());
    }
    for word in &spec.argv {
        session.push_param(word.clone());
    }
    let target = format!("={name}:");
    let mut list = list.then(session);
    if let Some(pipe) = &spec.pipe {
        // tmux expands the command as a format, and as a time.
        let command = pipe.replace('#', "##").replace('%', "%%");
        list = list.then_words(["pipe-pane", "-O", "-t", &target, &command]);
    }
    let print = format!("{STARTED}{SEPARATOR}#{{pane_id}}{SEPARATOR}#{{pane_pid}}{SEPARATOR}#{{pid}}{SEPARATOR}#{{pane_tty}}");
    list.then(ResizeWindow::new().target_window(&target).width(spec.columns as usize).height(spec.rows as usize).build())
        .then(DisplayMessage::new().print().target_pane(&target).message(&print).build())
}

fn look_format() -> String {
    let fields = [
        "cursor_x",
        "cursor_y",
        "cursor_flag",
        "pane_dead",
        "pane_in_mode",
        "pane_input_off",
        "session_attached",
        "client_activity",
        "pane_pid",
        "@iap_p",
        "@iap_e",
        "pane_title",
    ];
    let values: Vec<String> = fields.iter().map(|f| format!("#{{{f}}}")).collect();
    format!("{LOOK}{SEPARATOR}{}", values.join(&SEPARATOR.to_string()))
}

/// The state of the pane and its screen.
pub fn look(pane: &PaneRef) -> List {
    looking(List::default(), pane)
}

fn looking(list: List, pane: &PaneRef) -> List {
    list.then(DisplayMessage::new().print().target_pane(&pane.pane).message(look_format()).build())
        .then(CapturePane::new().escape_sequences().stdout().target_pane(&pane.pane).build())
}

/// The same with the row above the screen.
pub fn last_look(pane: &PaneRef) -> List {
    List::default()
        .then(DisplayMessage::new().print().target_pane(&pane.pane).message(look_format()).build())
        .then(CapturePane::new().escape_sequences().stdout().start_line("-1").target_pane(&pane.pane).build())
}

/// A look, as a command string for the branch of a guard that refused.
fn look_string(pane: &PaneRef) -> String {
    format!("display-message -p -t {p} '{}' ; capture-pane -e -p -t {p}", look_format(), p = pane.pane)
}

/// What follows in the list happens only if the guard holds. Its value is written down, and unless that says so the
/// branch is taken, which removes the buffer that the next command needs: that one fails, and tmux drops the rest. A
/// guard that cannot be evaluated leaves nothing and so refuses as well. The way by a branch that acts would do the
/// same, but 3.3a never frees the commands of a branch that was taken.
fn guarded(list: List, pane: &PaneRef, guard: &str, drop_buffers: &str) -> List {
    let p = &pane.pane;
    let shut = format!("#{{?#{{==:#{{{GATE}}},{OPEN}}},0,}}x");
    gate(list, pane, guard, OPEN).then_words(["if-shell", "-F", "-t", p, &shut, &format!("{drop_buffers} ; {}", look_string(pane))])
}

/// Writes down what a guard says now: this word, or nothing.
fn gate(list: List, pane: &PaneRef, guard: &str, word: &str) -> List {
    list.then_words(["set-option", "-p", "-F", "-t", &pane.pane, GATE, &format!("#{{?{guard},{word},}}")])
}

fn mark(list: List, pane: &PaneRef, option: &str, value: &str) -> List {
    list.then_words(["set-option", "-p", "-t", &pane.pane, option, value])
}

fn say_so(list: List, word: &str) -> List {
    list.then_words(["display-message", "-p", word])
}

fn delete_buffer(name: &str) -> String {
    words(DeleteBuffer::new().buffer_name(name).build())
}

/// The guarded paste and its mark; the text comes on standard input.
pub fn paste(pane: &PaneRef, paste: &Paste) -> List {
    let (p, id) = (&pane.pane, &paste.id);
    let mut list = List::default();
    if paste.leave_mode {
        // `copy-mode -q` leaves any mode; the builder does not know the flag yet.
        list = list.then_words(["copy-mode", "-q", "-t", p]);
    }
    let buffer = id.to_string();
    let mut drop_buffers = delete_buffer(&buffer);
    list = list.then(LoadBuffer::new().buffer_name(&buffer).path("-").build());
    // Nothing comes between the two: what the guard has proven of the pane holds for both.
    let press = paste.submit.as_ref().map(|key| Press::of(pane, id, key, 1));
    if let Some(press) = &press {
        list = press.prepare(list);
        drop_buffers = format!("{drop_buffers} ; {}", delete_buffer(&press.buffer));
    }
    list = guarded(list, pane, &format::paste_guard(pane, id, &paste.guard), &drop_buffers)
        .then(PasteBuffer::new().bracket_codes().no_replacement().delete().buffer_name(&buffer).target_pane(p).build());
    list = say_so(mark(list, pane, "@iap_p", &format::mark(id, pane.incarnation)), OK_PASTE);
    match &press {
        Some(press) => press.act(list),
        None => list,
    }
}

pub fn submit(pane: &PaneRef, submit: &Submit) -> List {
    let press = Press::of(pane, &submit.id, &submit.key, submit.attempt);
    let guard = format::submit_guard(pane, &submit.id, submit.attempt, &submit.guard);
    press.act(guarded(press.prepare(List::default()), pane, &guard, &delete_buffer(&press.buffer)))
}

/// The submit key of one attempt, with its mark.
struct Press<'a> {
    pane: &'a PaneRef,
    key: &'a KeyName,
    /// Holds a real carriage return, which no mode and no key table can eat; for a named key it is there only to be
    /// taken away by a guard that refuses.
    buffer: String,
    mark: String,
}

impl<'a> Press<'a> {
    fn of(pane: &'a PaneRef, id: &MessageId, key: &'a KeyName, attempt: u32) -> Self {
        Press { pane, key, buffer: format!("{id}-r"), mark: format!("{id}@{}#{attempt}", pane.incarnation) }
    }

    fn prepare(&self, list: List) -> List {
        list.then(SetBuffer::new().buffer_name(&self.buffer).data("\r").build())
    }

    fn act(&self, list: List) -> List {
        let p = &self.pane.pane;
        let list = if self.key.0 == CR {
            list.then(PasteBuffer::new().delete().buffer_name(&self.buffer).target_pane(p).build())
        } else {
            list.then(DeleteBuffer::new().buffer_name(&self.buffer).build()).then(SendKeys::new().target_pane(p).key(&self.key.0).build())
        };
        say_so(mark(list, self.pane, "@iap_e", &self.mark), OK_SUBMIT)
    }
}

/// Evaluates the submit guard and types nothing; a look comes with the answer in any case.
pub fn probe(pane: &PaneRef, id: &MessageId, guard: &crate::core::guard::Guard) -> List {
    let condition = format::submit_guard(pane, id, 1, guard);
    let said = gate(List::default(), pane, &condition, OK_PROBE).then_words(["display-message", "-p", "-t", &pane.pane, &format!("#{{{GATE}}}")]);
    looking(said, pane)
}

/// Presses one key of a dialog while its frame is on the screen.
pub fn key(pane: &PaneRef, guard: &crate::core::guard::Guard, key: &KeyName) -> List {
    let name = if key.0 == CR { "Enter" } else { &key.0 };
    let list = List::default().then(SetBuffer::new().buffer_name(KEY).data("x").build());
    let list = guarded(list, pane, &format::key_guard(pane, guard), &delete_buffer(KEY))
        .then(DeleteBuffer::new().buffer_name(KEY).build())
        .then(SendKeys::new().target_pane(&pane.pane).key(name).build());
    say_so(list, OK_PROBE)
}

/// Takes the paste mark of one message off its pane.
pub fn unmark(pane: &PaneRef, id: &MessageId) -> List {
    let condition = format::marked(pane, id);
    let yes = format!("set-option -p -u -t {} @iap_p", pane.pane);
    List::default().then_words(["if-shell", "-F", "-t", &pane.pane, &condition, &yes])
}

/// For the self-test: prints a text.
pub fn say(text: &str) -> List {
    List::default().then(DisplayMessage::new().print().message(text).build())
}

/// For the self-test: what no tmux knows.
pub fn unknown() -> List {
    List::default().then_words(["iapeer-unknown"])
}

pub fn kill_server() -> List {
    List::default().then_words(["kill-server"])
}

/// A command as text, for the branch of an `if-shell`. All its words are ours and need no quotes.
fn words(command: TmuxCommand<'_>) -> String {
    command.to_vec().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_semicolon_is_escaped() {
        assert_eq!(escape_semicolon("a;"), "a\\;");
        assert_eq!(escape_semicolon("a;b"), "a;b");
    }

    #[test]
    fn the_paste_list_reads_as_designed() {
        let pane = PaneRef { socket: "/s".into(), pane: "%0".into(), keeper_pid: 7, incarnation: 3 };
        let id: MessageId = "0199a0b0-0000-7000-8000-000000000001".parse().unwrap();
        let list = paste(&pane, &Paste { id: id.clone(), text: String::new(), guard: Default::default(), leave_mode: true, submit: None });
        let text = list.words().join(" ");
        assert!(text.starts_with(&format!("copy-mode -q -t %0 ; load-buffer -b {id} - ; set-option -p -F -t %0 @iap_g #{{?#{{&&:")), "{text}");
        let acts = format!("paste-buffer -d -p -r -b {id} -t %0 ; set-option -p -t %0 @iap_p {id}@3 ; display-message -p {OK_PASTE}");
        assert!(text.ends_with(&format!(" ; {acts}")), "{text}");
        assert!(text.contains(&format!(",0,}}x delete-buffer -b {id} ; display-message")), "{text}");
    }
}
