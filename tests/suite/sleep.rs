//! Sessions in which nothing happens are put to sleep, and only those; mail wakes them as the table says.

use crate::harness::{Host, body_of};
use std::time::{Duration, Instant};

/// A host on which a session without activity sleeps after a second.
fn drowsy(names: &[&str]) -> Host {
    Host::with_config("idle_secs: 1\n", names)
}

fn asleep(host: &Host, name: &str) -> bool {
    host.presence(name)["state"] == "asleep"
}

/// What must not happen is given time to happen.
fn for_a_while(host: &Host, seconds: u64, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) {
        assert!(holds(), "{}", host.evidence());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_idle_session_sleeps_and_mail_on_its_topic_resumes_its_conversation() {
    let host = drowsy(&["a"]);
    let send = |text: &str, topic: &[&str]| {
        let args = [&["send", "a", text, "--wait", "submitted", "--timeout", "60"], topic].concat();
        host.run(&args).ok();
    };
    send("one", &["--topic", "release"]);
    let first = host.session("echo-a").unwrap()["session_id"].clone();
    host.until("it sleeps", || asleep(&host, "a"));
    send("two", &["--topic", "release"]);
    assert_eq!(host.session("echo-a").unwrap()["session_id"], first, "the same conversation");
    host.until("it sleeps again", || asleep(&host, "a"));
    send("three", &["--topic", "another"]);
    assert_ne!(host.session("echo-a").unwrap()["session_id"], first, "a fresh one");
    host.until("and again", || asleep(&host, "a"));
    send("four", &[]);
    let log = host.lifecycle();
    let causes: Vec<&str> = log.lines().filter(|l| l.contains("ev=wake ")).filter_map(|l| l.split("cause=").nth(1)?.split(' ').next()).collect();
    assert_eq!(causes, ["first-wake", "idle-reaped-resume", "idle-reaped-new-topic", "idle-reaped-no-topic"], "{log}");
    assert!(log.contains("ev=supervise identity=echo-a inc=1 action=reaped-idle"), "{log}");
    assert!(!log.contains("ev=death"), "a sleep is no death\n{log}");
    assert_eq!(host.turns("a").len(), 4);
}

#[test]
fn a_long_silent_turn_is_not_idleness() {
    let host = drowsy(&["a"]);
    host.deliver("a", "work: 4s\nsay: done");
    for_a_while(&host, 3, || host.presence("a")["turn"] == "working");
    host.until("it sleeps when its turn is over", || asleep(&host, "a"));
    let log = host.lifecycle();
    assert_eq!(log.matches("action=reaped-idle").count(), 1, "{log}");
}

#[test]
fn a_draft_and_a_dialog_keep_a_session_awake() {
    let host = drowsy(&["a", "b"]);
    host.deliver("a", "hello");
    host.type_keys("echo-a", &["half a thou"]);
    host.deliver("b", "ask: sure?");
    for_a_while(&host, 4, || !asleep(&host, "a") && !asleep(&host, "b"));
    assert!(host.screen("a").contains("half a thou"));
    host.type_keys("echo-a", &["C-u"]);
    host.until("the draft is gone, it sleeps", || asleep(&host, "a"));
}

#[test]
fn a_session_older_than_allowed_ends_between_turns_also_under_mail() {
    let mut host = Host::with_config("max_age_secs: 2\nidle_secs: 0\n", &["a"]);
    for n in 0..12 {
        host.deliver("a", &format!("work: 300ms\nsay: {n}"));
    }
    host.until("it was replaced", || host.lifecycle().contains("action=reaped-age"));
    let turns = host.turns("a");
    assert_eq!(turns.len(), 12, "no turn was cut, none repeated: {turns:?}");
    host.stop_daemon();
}

#[test]
fn an_idle_session_found_by_a_new_daemon_sleeps_too_and_zero_means_never() {
    let mut host = drowsy(&["a"]);
    host.deliver("a", "hello");
    host.kill_daemon();
    host.start();
    host.until("it sleeps", || asleep(&host, "a"));
    let host = Host::with_config("idle_secs: 0\n", &["a"]);
    host.deliver("a", "hello");
    for_a_while(&host, 2, || !asleep(&host, "a"));
}

#[test]
fn a_daemon_that_was_stopped_for_a_while_reaps_nobody_for_it() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let host = Host::with_config("idle_secs: 4\n", &["a"]);
    host.deliver("a", "work: 8s\nsay: done");
    let pid = Pid::from_raw(host.daemon_pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    // Longer than the bound: the turn goes on meanwhile.
    std::thread::sleep(Duration::from_secs(5));
    kill(pid, Signal::SIGCONT).unwrap();
    host.until("the turn is over", || host.presence("a")["turn"] == "idle");
    assert!(!host.lifecycle().contains("ev=supervise"), "{}", host.lifecycle());
    host.deliver("a", "again");
    assert!(host.turns("a").iter().any(|t| body_of(t) == "again"));
    assert_eq!(host.session("echo-a").unwrap()["incarnation"], 1);
}

#[test]
fn ten_seconds_in_which_the_daemon_stands_still_end_and_expire_nothing() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let host = Host::with_config("idle_secs: 30\nboot_deadline_secs: 5\n", &["idle", "turning", "starting", "held"]);
    for name in ["idle", "turning", "held"] {
        host.deliver(name, "hello");
    }
    // A turn that ends meanwhile; a person's draft, and mail that waits for it; a session that is just starting.
    host.type_keys("echo-held", &["-l", "half a sentence"]);
    host.until("the draft is there", || host.screen("held").contains("half a sentence"));
    host.run(&["send", "held", "later"]).ok();
    host.until("it waits", || host.presence("held")["reason"] == "draft");
    host.deliver("turning", "work: 3s\nsay: done");
    host.run(&["send", "starting", "hello"]).ok();
    host.until("it starts", || host.lifecycle().contains("ev=wake identity=echo-starting"));
    let pid = Pid::from_raw(host.daemon_pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(10));
    kill(pid, Signal::SIGCONT).unwrap();
    host.until("the turn is over", || host.presence("turning")["turn"] == "idle");
    host.until("the start is over", || host.turns("starting").len() == 1);
    host.type_keys("echo-held", &["C-u"]);
    host.until("what waited has arrived", || host.turns("held").len() == 2);
    host.deliver("idle", "again");
    for event in ["ev=supervise", "ev=death", "ev=wake-failed", "ev=backoff", "ev=stray-ended"] {
        assert!(!host.lifecycle().contains(event), "{event}: {}", host.lifecycle());
    }
    let log = host.delivery_log();
    assert!(!log.contains("state=expired") && !log.contains("state=unknown") && !log.contains("redelivered"), "{log}");
    for name in ["idle", "turning", "starting", "held"] {
        assert_eq!(host.presence(name)["incarnation"], 1, "{name}");
    }
}

#[test]
fn mail_that_waits_for_a_new_daemon_resumes_its_conversation_too() {
    let mut host = Host::with_peers(&["a"]);
    host.run(&["send", "a", "one", "--topic", "t", "--wait", "submitted", "--timeout", "60"]).ok();
    let conversation = host.session("echo-a").unwrap()["session_id"].clone();
    host.run(&["freeze"]).ok();
    host.run(&["unfreeze"]).ok();
    host.stop_daemon();
    // Its terminal is lost while no daemon looks, and mail comes meanwhile.
    host.tmux("echo-a", &["kill-server"]);
    host.run(&["send", "a", "two", "--topic", "t"]).ok();
    host.start();
    host.until("it is back", || host.turns("a").len() == 2);
    assert_eq!(host.session("echo-a").unwrap()["session_id"], conversation, "{}", host.evidence());
}

#[test]
fn what_keeps_a_session_is_told_to_whoever_asks_for_it() {
    let reviewed = |verbose: &str| {
        let mut host = Host::new();
        host.env.extend([("IAPEER_TEST_DEEP_MS".into(), "100".into()), ("IAPEER_SUPERVISE_LOG_VERBOSE".into(), verbose.into())]);
        for name in ["a", "e"] {
            host.run(&["create", name, "--runtime", "echo"]).ok();
        }
        host.start();
        host.deliver("a", "hello");
        host.deliver("e", "hello");
        host
    };
    let host = reviewed("yes");
    let told = |words: &str| host.lifecycle().lines().any(|l| l.contains("ev=supervise ") && l.contains(words));
    host.until("an idle session is told of", || told("identity=echo-a inc=1 action=alive ") && told(" reason=\"quiet for "));
    let profile = host.root().join("peers/e/.iapeer/peer.yaml");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, format!("{text}managed: external\n")).unwrap();
    host.until("so is one of somebody else", || told("identity=echo-e inc=1 action=skipped-external "));
    host.deliver("a", "work: 1s");
    host.until("and a turn that runs", || told("identity=echo-a inc=1 action=alive ") && told("reason=\"a turn runs\""));
    let host = reviewed("");
    for_a_while(&host, 1, || !host.lifecycle().contains("ev=supervise"));
}
