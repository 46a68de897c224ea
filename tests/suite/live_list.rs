//! `iapeer list --watch` in a real terminal.

use crate::harness::Host;
use crate::person::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs it, notes what the terminal is like afterwards, and waits for Enter.
fn watch<'a>(host: &'a Host, name: &str, columns: u16, rows: u16) -> Terminal<'a> {
    let after = host.dir.path().join(format!("{name}.stty"));
    let after = after.display();
    let note = format!("stty -a > '{after}.tmp'; mv '{after}.tmp' '{after}'");
    Terminal::open(host, name, columns, rows, &format!("list --watch; code=$?; {note}; read line; (exit $code)"))
}

/// Waits for its end and that the terminal is as it was; its exit code.
#[track_caller]
fn given_back(host: &Host, terminal: &Terminal, name: &str) -> i32 {
    let after = host.dir.path().join(format!("{name}.stty"));
    host.until("it ends", || after.exists());
    let stty = std::fs::read_to_string(after).unwrap();
    for word in ["icanon", "echo", "isig", "icrnl", "opost"] {
        assert!(stty.split_whitespace().any(|w| w == word), "{word}: {stty}");
    }
    let state = || terminal.tmux(&["display-message", "-p", "-t", &format!("={name}:"), "#{alternate_on} #{cursor_flag}"]);
    host.until("the other screen is left, the cursor is back", || state().trim() == "0 1");
    assert!(!terminal.shows().contains("q quits"));
    terminal.press(&["Enter"]);
    terminal.ended().0
}

#[test]
fn it_follows_states_sizes_and_the_daemon_and_gives_the_terminal_back() {
    let host = Host::with_peers(&["a", "b"]);
    host.run(&["create", "c", "--runtime", "echo", "--description", "北京 reads along"]).ok();
    let name = "live";
    let terminal = watch(&host, name, 80, 12);
    let line = |peer: &str| terminal.shows().lines().find(|l| l.contains(&format!(" {peer}  echo"))).unwrap_or_default().to_string();
    host.until("all are shown", || line("a").starts_with('○') && line("b").starts_with('○') && line("c").contains("北京 reads along"));
    host.deliver("a", "hello");
    host.until("a is up", || line("a").starts_with("● a") && line("a").contains("live idle"));
    host.run(&["stop", "b"]).ok();
    host.until("b is stopped", || line("b").starts_with("✕ b"));
    let coloured = terminal.tmux(&["capture-pane", "-p", "-e", "-t", "=live:"]);
    assert!(coloured.contains("\u{1b}[32m") && coloured.contains("\u{1b}[31m"), "{coloured:?}");
    terminal.tmux(&["resize-window", "-t", "=live:", "-x", "24", "-y", "3"]);
    host.until("it fits the smaller terminal", || terminal.shows().lines().last().is_some_and(|l| l.trim() == "… 2 more"));
    terminal.tmux(&["resize-window", "-t", "=live:", "-x", "90", "-y", "12"]);
    host.until("and the larger one", || line("c").contains("北京 reads along"));
    terminal.press(&["q"]);
    assert_eq!(given_back(&host, &terminal, name), 0);
}

#[test]
fn it_says_that_the_daemon_is_away_and_goes_on_when_it_is_back() {
    let host = Host::with_peers(&["a"]);
    let terminal = watch(&host, "away", 100, 12);
    host.until("a is shown", || terminal.shows().contains("○ a"));
    // Ended as by a crash; the next one comes from a verb.
    let pid = Pid::from_raw(host.daemon_pid());
    kill(pid, Signal::SIGKILL).unwrap();
    host.until("it says so", || terminal.shows().contains("no daemon answers since"));
    assert!(terminal.shows().contains("○ a"), "what was known stays");
    host.run(&["start", "a"]).ok();
    host.until("it is back", || !terminal.shows().contains("no daemon answers") && terminal.shows().contains("● a"));
    let shell: i32 = terminal.tmux(&["display-message", "-p", "-t", "=away:", "#{pane_pid}"]).trim().parse().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
    kill(Pid::from_raw(children.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(given_back(&host, &terminal, "away"), 143);
    host.run(&["daemon", "stop", "--all-peers"]).ok();
}

#[test]
fn ctrl_c_ends_it_and_without_a_terminal_it_refuses() {
    let host = Host::with_peers(&["a"]);
    let terminal = watch(&host, "keys", 60, 6);
    host.until("a is shown", || terminal.shows().contains("○ a"));
    terminal.press(&["C-c"]);
    assert_eq!(given_back(&host, &terminal, "keys"), 0);
    let ran = host.run(&["list", "--watch"]);
    assert!(ran.code == 2 && ran.err.contains("needs a terminal") && ran.err.contains("`iapeer list` prints once"), "{ran:?}");
    let ran = host.run(&["ls", "--watch", "--json"]);
    assert!(ran.code == 2 && ran.json()["error"]["code"] == "invalid", "{ran:?}");
}
