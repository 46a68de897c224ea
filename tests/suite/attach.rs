//! `iapeer attach` in a real terminal: a pane of a tmux server of the test's own, of another size.

use crate::harness::{Host, body_of};
use crate::person::Terminal;
use serde_json::Value;
use std::process::Command;

fn size(host: &Host) -> String {
    host.pane("echo-a", "#{window_width}x#{window_height} #{pane_width}x#{pane_height}")
}

#[track_caller]
fn until_size(host: &Host, columns: u16, rows: u16) {
    let want = format!("{columns}x{rows} {columns}x{rows}");
    host.until(&format!("the pane is {columns}x{rows}"), || size(host) == want);
}

/// What the agent itself believes of its terminal.
fn tty_size(host: &Host) -> String {
    let out = Command::new("stty").arg("-F").arg(host.pane("echo-a", "#{pane_tty}")).arg("size").output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().to_string()
}

fn clients(host: &Host) -> Vec<i32> {
    let out = host.tmux("echo-a", &["list-clients", "-F", "#{client_pid}"]);
    String::from_utf8_lossy(&out.stdout).lines().map(|l| l.parse().unwrap()).collect()
}

#[test]
fn an_attached_terminal_has_its_size_its_keys_and_exact_delivery_and_leaves_no_trace() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    until_size(&host, 200, 50);
    let terminal = Terminal::open(&host, "one", 100, 30, "attach a");
    until_size(&host, 100, 30);
    host.until("the agent's terminal has it, too", || tty_size(&host) == "30 100");
    host.until("its screen is shown", || terminal.shows().contains("echo · ready"));

    let bodies = ["one line", "two\nlines with 'quotes' \"and\" $(touch pwned) 🦀", &"long ".repeat(2_000), "/quit", "a;"];
    for body in bodies {
        let before = host.turns("a").len();
        host.deliver("a", body);
        let turns = host.turns("a");
        assert_eq!(turns.len(), before + 1, "one turn for {body:.40?}");
        assert_eq!(body_of(turns.last().unwrap()), body);
    }
    terminal.press(&["-l", "typed by hand"]);
    host.until("the draft shows", || terminal.shows().contains("› typed by hand"));
    terminal.press(&["Enter"]);
    host.until("it is a turn", || host.turns("a").last().is_some_and(|t| t == "typed by hand"));
    // A key that tmux would take by default reaches the agent: C-b is no prefix here.
    terminal.press(&["C-b", "d"]);
    host.until("the key after it is typed", || terminal.shows().contains("› d"));
    assert!(!terminal.file("exit").exists(), "C-b d detached");
    terminal.press(&["BSpace"]);

    terminal.press(&["C-]"]);
    let (code, said) = terminal.ended();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("echo-a goes on") && said.contains("iapeer attach a"), "{said}");
    until_size(&host, 200, 50);
    host.until("the agent's terminal, too", || tty_size(&host) == "50 200");
    host.deliver("a", "after it");
    assert_eq!(body_of(host.turns("a").last().unwrap()), "after it");
    assert_eq!(host.presence("a")["incarnation"], 1);
}

#[test]
fn a_killed_client_gives_the_size_back() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let terminal = Terminal::open(&host, "one", 90, 28, "attach a");
    until_size(&host, 90, 28);
    let pids = clients(&host);
    assert_eq!(pids.len(), 1);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pids[0]), nix::sys::signal::Signal::SIGKILL).unwrap();
    until_size(&host, 200, 50);
    let (code, said) = terminal.ended();
    assert_eq!(code, 3, "{said}");
    host.deliver("a", "it goes on");
    assert_eq!(host.turns("a").len(), 2);
    assert_eq!(host.presence("a")["incarnation"], 1);
}

#[test]
fn two_terminals_share_a_session_and_the_last_one_gives_the_size_back() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let first = Terminal::open(&host, "one", 100, 30, "attach a");
    until_size(&host, 100, 30);
    let second = Terminal::open(&host, "two", 120, 40, "attach echo-a");
    host.until("both are attached", || clients(&host).len() == 2);
    host.deliver("a", "for both to see");
    // The window has the size of whoever was active last; the smaller terminal sees a part of a larger one.
    host.until("the one that came last shows it", || second.shows().contains("for both to see"));
    first.press(&["-l", "from one"]);
    host.until("the first shows it when it is active", || first.shows().contains("for both to see"));
    host.until("the other shows the draft", || second.shows().contains("› from one"));
    second.press(&["Enter"]);
    host.until("it is one turn", || host.turns("a").last().is_some_and(|t| t == "from one"));
    first.press(&["C-]"]);
    assert_eq!(first.ended().0, 0);
    until_size(&host, 120, 40);
    assert!(!second.file("exit").exists(), "the other stays attached");
    second.press(&["C-]"]);
    assert_eq!(second.ended().0, 0);
    until_size(&host, 200, 50);
    assert_eq!(host.turns("a").len(), 3);
}

#[test]
fn a_read_only_terminal_types_nothing_and_detaches() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let terminal = Terminal::open(&host, "one", 100, 30, "attach a --read-only");
    host.until("it is attached", || clients(&host).len() == 1);
    terminal.press(&["-l", "not to be typed"]);
    terminal.press(&["Enter", "C-c", "C-d", "Escape"]);
    // The turn of a later message proves that the keys before it were read and dropped.
    host.deliver("a", "typed by the daemon");
    host.until("the viewer sees it", || terminal.shows().contains("typed by the daemon"));
    assert_eq!(host.turns("a").len(), 2, "{:?}", host.turns("a"));
    assert!(!host.screen("a").contains("not to be typed"), "{}", host.screen("a"));
    terminal.press(&["C-]"]);
    assert_eq!(terminal.ended().0, 0);
    until_size(&host, 200, 50);
    assert_eq!(host.presence("a")["incarnation"], 1);
}

#[test]
fn a_sleeping_peer_without_a_conversation_says_so_and_fresh_starts_one() {
    let host = Host::with_peers(&["a"]);
    let refused = Terminal::open(&host, "one", 100, 30, "attach a");
    let (code, said) = refused.ended();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("nothing_to_resume") && said.contains("echo-a") && said.contains("--fresh"), "{said}");
    assert!(host.session("echo-a").is_none(), "nothing was started");
    let terminal = Terminal::open(&host, "two", 100, 30, "attach a --fresh");
    host.until("it is started", || host.session("echo-a").is_some());
    until_size(&host, 100, 30);
    host.until("its screen is shown", || terminal.shows().contains("echo · ready"));
    terminal.press(&["C-]"]);
    assert_eq!(terminal.ended().0, 0);
    host.deliver("a", "hello");
    assert_eq!(host.presence("a")["incarnation"], 1);
}

#[test]
fn attach_wakes_a_sleeper_into_its_last_conversation() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "remember this");
    let conversation = host.session("echo-a").unwrap()["session_id"].clone();
    host.type_keys("echo-a", &["-l", "/quit"]);
    host.type_keys("echo-a", &["Enter"]);
    host.until("it sleeps", || host.session("echo-a").is_none() && host.presence("a")["state"] == "asleep");
    let terminal = Terminal::open(&host, "one", 100, 30, "attach a");
    host.until("it is up again", || host.session("echo-a").is_some_and(|s| s["ready"] == true));
    assert_eq!(host.session("echo-a").unwrap()["session_id"], conversation);
    assert!(host.lifecycle().contains("inc=2 mode=resume cause=attach"), "{}", host.lifecycle());
    until_size(&host, 100, 30);
    terminal.press(&["C-]"]);
    assert_eq!(terminal.ended().0, 0);
}

#[test]
fn attach_refuses_without_a_terminal_an_unknown_peer_and_a_stopped_one() {
    let host = Host::with_peers(&["a"]);
    let ran = host.run(&["attach", "a"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("needs a terminal") && ran.err.contains("iapeer screen a"), "{ran:?}");
    let ran = host.run(&["attach", "a", "--json"]);
    let error: Value = ran.json()["error"].clone();
    assert_eq!((ran.code, error["code"].as_str()), (2, Some("invalid")), "{ran:?}");
    let (code, said) = Terminal::open(&host, "one", 100, 30, "attach aa").ended();
    assert!(code == 3 && said.contains("peer_unknown") && said.contains("did you mean a?"), "{code}: {said}");
    host.run(&["stop", "a"]).ok();
    let (code, said) = Terminal::open(&host, "two", 100, 30, "attach a").ended();
    assert!(code == 3 && said.contains("peer_stopped") && said.contains("iapeer start echo-a"), "{code}: {said}");
    let (code, said) = Terminal::open(&host, "three", 100, 30, "attach a --fresh").ended();
    assert!(code == 3 && said.contains("peer_stopped"), "{code}: {said}");
    assert!(host.session("echo-a").is_none());
}

#[test]
fn the_end_of_the_session_ends_the_attached_terminal() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let terminal = Terminal::open(&host, "one", 100, 30, "attach a");
    until_size(&host, 100, 30);
    host.run(&["stop", "a"]).ok();
    let (_, said) = terminal.ended();
    assert!(said.contains("echo-a"), "{said}");
    host.run(&["start", "a"]).ok();
    until_size(&host, 200, 50);
}

#[test]
fn a_daemon_that_ends_leaves_the_attached_terminal_alone() {
    let mut host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    host.kill_daemon();
    host.start();
    {
        let terminal = Terminal::open(&host, "one", 100, 30, "attach a");
        until_size(&host, 100, 30);
        terminal.press(&["-l", "still typing"]);
        host.until("the draft shows", || terminal.shows().contains("› still typing"));
    }
    until_size(&host, 200, 50);
    assert!(host.screen("a").contains("› still typing"), "a closed terminal takes no draft away");
    host.run(&["send", "a", "waits"]).ok();
    host.until("the draft holds the message", || host.presence("a")["reason"] == "draft");
    host.type_keys("echo-a", &["C-u"]);
    host.until("it is delivered", || host.turns("a").len() == 2);
}

#[test]
fn mail_waits_while_an_attached_person_presses_keys_and_goes_when_they_pause() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let terminal = Terminal::open(&host, "one", 100, 30, "attach a");
    until_size(&host, 100, 30);
    terminal.press(&["BSpace"]);
    let sent = host.run(&["send", "a", "when they pause", "--json"]).ok().json();
    let id = sent["id"].as_str().unwrap();
    host.until("it is held", || host.delivery_log().contains(&format!("msg={id}")) && host.delivery_log().contains("reason=attached-typing"));
    terminal.press(&["BSpace"]);
    host.until("it goes when nobody types", || host.message(id)["submitted"].is_string());
    assert_eq!(host.turns("a").len(), 2);
    terminal.press(&["C-]"]);
    assert_eq!(terminal.ended().0, 0);
}
