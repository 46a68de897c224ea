//! Orders about sessions that run, what an agent says of its own, and what the host has room for.

use crate::harness::Host;

/// `echo` under another name, with rows that say what kind of trouble it is in.
fn with_troubles(config: &str) -> Host {
    let mut host = Host::with_config(config, &[]);
    let dir = host.root().join("runtimes");
    std::fs::create_dir_all(&dir).unwrap();
    let echo = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/runtimes/echo.yaml")).unwrap();
    let limits = "\nlimits:\n  - {is: login, pattern: '^ *please log in$'}\n  - {is: limit, pattern: '^ *too much for today$'}\n";
    std::fs::write(dir.join("acme.yaml"), echo.replace("id: echo", "id: acme") + limits).unwrap();
    host.kill_daemon();
    host.start();
    host.run(&["create", "a", "--runtime", "acme"]).ok();
    host
}

fn incarnation(host: &Host, identity: &str) -> u64 {
    host.session(identity).map_or(0, |s| s["incarnation"].as_u64().unwrap())
}

#[test]
fn an_interrupt_ends_the_turn_and_only_a_turn() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    host.run(&["wait", "a", "--until", "idle"]).ok();
    let refused = host.run(&["interrupt", "a"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    host.deliver("a", "work: 60s");
    host.run(&["wait", "a", "--until", "working", "--timeout", "10"]).ok();
    host.run(&["interrupt", "a"]).ok();
    assert_eq!(host.presence("a")["turn"], "idle");
    assert_eq!(incarnation(&host, "echo-a"), 1, "the session goes on");
    assert!(host.lifecycle().contains("ev=interrupt identity=echo-a by=operator"), "{}", host.lifecycle());
    host.deliver("a", "go on");
}

#[test]
fn a_script_can_wait_for_a_state_and_is_told_when_it_does_not_come() {
    let host = Host::with_peers(&["a"]);
    assert_eq!(host.run(&["wait", "a", "--until", "asleep", "--timeout", "60"]).ok().out, "echo-a is asleep\n");
    let late = host.run(&["wait", "a", "--until", "live", "--timeout", "1"]);
    assert_eq!(late.code, 5, "{late:?}");
    let wrong = host.run(&["wait", "a", "--until", "happy"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(wrong.err.contains("asleep"), "the states are named: {wrong:?}");
}

#[test]
fn refresh_lets_the_next_session_begin_afresh_and_the_present_one_go_on() {
    let host = Host::with_config("idle_secs: 1\n", &["a"]);
    let send = |text: &str| host.run(&["send", "a", text, "--topic", "t", "--wait", "submitted"]).ok();
    send("one");
    host.run(&["refresh", "a"]).ok();
    send("two");
    assert_eq!(incarnation(&host, "echo-a"), 1);
    host.run(&["wait", "a", "--until", "asleep", "--timeout", "20"]).ok();
    send("three");
    assert!(host.lifecycle().contains("inc=2 mode=fresh cause=soft-reload"), "{}", host.lifecycle());
    host.run(&["wait", "a", "--until", "asleep", "--timeout", "20"]).ok();
    send("four");
    assert!(host.lifecycle().contains("inc=3 mode=resume cause=idle-reaped-resume"), "once only\n{}", host.lifecycle());
}

#[test]
fn an_agent_that_wants_a_fresh_session_of_itself_gets_one_after_its_turn() {
    let mut host = Host::with_peers(&["a"]);
    host.deliver("a", "self: fresh\nwork: 500ms\nsay: bye");
    host.until("it came back", || incarnation(&host, "echo-a") == 2);
    host.run(&["wait", "a", "--until", "live", "--timeout", "20"]).ok();
    let log = host.lifecycle();
    assert!(log.contains("action=needs-eager-fresh") && log.contains("inc=2 mode=fresh cause=self-fresh"), "{log}");
    assert!(!host.state_dir("echo-a").join("new-eager").exists(), "the mark is gone");
    assert!(std::fs::read_dir(host.root().join("peers/a/.iapeer/echo")).unwrap().count() <= 2);
    // Also when the daemon dies between the mark and the end of the turn.
    host.deliver("a", "self: fresh\nwork: 1s");
    host.until("it is marked", || host.state_dir("echo-a").join("new-eager").exists());
    host.kill_daemon();
    host.start();
    host.until("it came back again", || incarnation(&host, "echo-a") == 3);
    // Nobody else may say it.
    assert_eq!(host.run(&["self-fresh"]).code, 3);
}

#[test]
fn a_warm_session_that_says_it_is_done_sleeps_soon() {
    let host = Host::with_config("ephemeral_quiet_secs: 0\n", &["a"]);
    host.deliver("a", "self: done");
    host.run(&["wait", "a", "--until", "asleep", "--timeout", "20"]).ok();
    assert!(host.lifecycle().contains("it said that it is done"), "{}", host.lifecycle());
}

#[test]
fn a_program_without_a_login_holds_what_waits_instead_of_burning_it() {
    let host = with_troubles("");
    host.deliver("a", "say: please log in");
    let id = host.run(&["send", "a", "next", "--json"]).ok().json()["id"].as_str().unwrap().to_string();
    host.until("held for its login", || host.message(&id)["reason"] == "login");
    assert_eq!(host.turns("a").len(), 1, "nothing more was typed");
    assert!(host.run(&["inbox"]).ok().out.contains("asks for a login"));
    host.run(&["start", "a"]).ok();
    host.until("it goes when the operator says so", || host.message(&id)["state"] == "submitted");
    // The old row is still in sight, above the new message.
    host.deliver("a", "and on");
    assert!(host.presence("a")["reason"].is_null(), "{}", host.evidence());
}

#[test]
fn a_task_that_failed_for_want_of_a_login_goes_to_the_next_worker_and_the_others_wait() {
    let host = with_troubles("ephemeral_quiet_secs: 0\n");
    host.run(&["create", "w", "--runtime", "acme", "--wake-policy", "ephemeral"]).ok();
    let send = |text: &str| host.run(&["send", "w", text, "--json"]).ok().json()["id"].as_str().unwrap().to_string();
    let (first, second) = (send("say: please log in"), send("reply: fine"));
    host.until("held for its login", || host.presence("w")["reason"] == "login");
    assert_eq!(host.turns("w").len(), 1, "the next task waits\n{}", host.evidence());
    assert!(!host.lifecycle().contains("ev=ephemeral-armed"), "nothing is done\n{}", host.lifecycle());
    host.run(&["start", "w"]).ok();
    host.until("the next worker has it", || host.turns("w").len() == 2);
    let again = host.turns("w")[1].clone();
    assert!(again.contains(&format!("id=\"{first}\"")) && again.contains("redelivered=\"2\""), "{again}");
    assert_eq!(incarnation(&host, "acme-w"), 2);
    assert!(!host.lifecycle().contains("ev=death"), "{}", host.lifecycle());
    assert_ne!(host.message(&second)["state"], "submitted");
}

#[test]
fn a_usage_limit_holds_with_its_own_reason() {
    let host = with_troubles("");
    host.deliver("a", "say: too much for today");
    let id = host.run(&["send", "a", "next", "--json"]).ok().json()["id"].as_str().unwrap().to_string();
    host.until("held for the limit", || host.message(&id)["reason"] == "limit");
    assert_eq!(host.turns("a").len(), 1);
    assert!(host.lifecycle().contains("ev=held identity=acme-a inc=1 reason=limit"), "{}", host.lifecycle());
}

#[test]
fn more_wakes_than_there_is_room_for_wait_and_go_when_a_session_ends() {
    let host = Host::with_config("idle_secs: 0\nlimits: {live_peers: 2}\n", &["a", "b", "c"]);
    host.deliver("a", "hello");
    host.deliver("b", "hello");
    let id = host.run(&["send", "c", "hello", "--json"]).ok().json()["id"].as_str().unwrap().to_string();
    host.until("it waits for room", || host.message(&id)["reason"] == "capacity");
    assert_eq!(incarnation(&host, "echo-c"), 0);
    host.run(&["stop", "a"]).ok();
    host.until("there is room now", || host.message(&id)["state"] == "submitted");
    let log = host.lifecycle();
    assert_eq!(log.matches("ev=wake identity=echo-c").count(), 1, "{log}");
}

#[test]
fn a_peer_that_is_kept_alive_comes_back_without_mail_and_a_stopped_one_does_not() {
    let host = Host::with_config("idle_secs: 1\n", &["a"]);
    let profile = host.root().join("peers/a/.iapeer/peer.yaml");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, text + "keep_alive: true\n").unwrap();
    host.deliver("a", "hello");
    host.deliver("a", "crash: 3");
    host.until("it came back", || incarnation(&host, "echo-a") == 2);
    host.run(&["wait", "a", "--until", "live", "--timeout", "20"]).ok();
    host.run(&["stop", "a"]).ok();
    assert_eq!(host.presence("a")["state"], "stopped");
}

#[test]
fn a_limit_and_a_login_hold_under_the_next_daemon_too() {
    for (words, reason) in [("say: too much for today", "limit"), ("say: please log in", "login")] {
        let mut host = with_troubles("");
        host.deliver("a", words);
        let id = host.run(&["send", "a", "next", "--json"]).ok().json()["id"].as_str().unwrap().to_string();
        host.until("held", || host.message(&id)["reason"] == reason);
        assert_eq!(host.lifecycle().contains(" until="), reason == "limit", "{}", host.lifecycle());
        host.kill_daemon();
        host.start();
        host.until("held again", || host.presence("a")["reason"] == reason);
        assert_eq!(host.turns("a").len(), 1, "nothing more was typed");
        host.run(&["start", "a"]).ok();
        host.until("it goes when the operator says so", || host.message(&id)["state"] == "submitted");
        // And is forgotten.
        host.kill_daemon();
        host.start();
        host.deliver("a", "and on");
    }
}

#[test]
fn a_program_that_ends_for_want_of_a_login_is_no_crash() {
    let mut host = with_troubles("");
    host.define("acme", "[\"sh\", \"-c\", \"echo please log in; exit 4\"]");
    let path = host.root().join("runtimes/acme.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + "\nlimits:\n  - {is: login, pattern: '^ *please log in$'}\n").unwrap();
    host.kill_daemon();
    host.start();
    host.run(&["start", "a"]);
    host.until("held for its login", || host.presence("a")["reason"] == "login");
    let id = host.run(&["send", "a", "next", "--json"]).ok().json()["id"].as_str().unwrap().to_string();
    host.until("its mail waits", || host.message(&id)["reason"] == "login");
    assert!(host.lifecycle().contains("ev=death identity=acme-a inc=1 cause=exit-4"), "{}", host.lifecycle());
    assert_eq!(host.lifecycle().matches("ev=wake ").count(), 1, "it is not started again by itself\n{}", host.lifecycle());
    assert!(host.run(&["inbox"]).ok().out.contains("asks for a login"));
    host.run(&["start", "a"]);
    host.until("it is tried again when the operator says so", || host.lifecycle().matches("ev=wake ").count() == 2);
    host.until("and held again", || host.presence("a")["reason"] == "login");
}

#[test]
fn whoever_writes_to_a_sleeper_hears_how_it_wakes_and_why() {
    let host = Host::with_config("idle_secs: 1\n", &["a"]);
    let send = |words: &[&str]| host.run(&[&["send", "a", "hello"], words].concat()).ok();
    let sleeps = || drop(host.run(&["wait", "a", "--until", "asleep", "--timeout", "30"]).ok());
    assert!(send(&["--topic", "t"]).err.contains("echo-a was asleep and starts fresh: it has not run before"));
    host.until("it has it", || host.turns("a").len() == 1);
    sleeps();
    let fresh = send(&[]);
    assert!(fresh.err.contains("starts fresh: no topic; `--topic T` or `iapeer attach` resumes"), "{fresh:?}");
    host.until("it has it", || host.turns("a").len() == 2);
    assert_eq!(send(&[]).err, "", "it is awake");
    host.until("it has it", || host.turns("a").len() == 3);
    host.run(&["send", "a", "hello", "--topic", "t", "--wait", "submitted", "--timeout", "30"]).ok();
    sleeps();
    let resumed = host.run(&["send", "a", "hello", "--topic", "t", "--json"]).ok().json();
    assert_eq!((&resumed["wake"]["mode"], &resumed["wake"]["cause"]), (&"resume".into(), &"idle-reaped-resume".into()), "{resumed}");
    // What nobody starts is no wake.
    host.run(&["stop", "a"]).ok();
    let waits = host.run(&["send", "a", "hello", "--queue", "--json"]).ok().json();
    assert!(waits["wake"].is_null(), "{waits}");
}

#[test]
fn a_session_whose_turn_runs_is_not_replaced_by_the_way() {
    let host = Host::with_peers(&["a"]);
    let folder = host.root().join("peers/a");
    let fresh = |words: &[&str]| {
        let mut command = host.command(&[&["echo", "--fresh", "--detached", "--json"], words].concat());
        let ran: crate::harness::Ran = command.current_dir(&folder).stdin(std::process::Stdio::null()).output().unwrap().into();
        ran
    };
    host.deliver("a", "work: 600s");
    host.run(&["wait", "a", "--until", "working", "--timeout", "10"]).ok();
    let refused = fresh(&[]);
    assert!(refused.code == 3 && refused.err.contains("a turn is running") && refused.err.contains("--yes"), "{refused:?}");
    assert_eq!((incarnation(&host, "echo-a"), host.presence("a")["turn"].as_str().unwrap()), (1, "working"));
    assert_eq!(fresh(&["--yes"]).ok().json()["incarnation"], 2);
    // Without a turn nobody is asked.
    host.run(&["wait", "a", "--until", "idle", "--timeout", "10"]).ok();
    assert_eq!(fresh(&[]).ok().json()["incarnation"], 3);
}

#[test]
fn a_turn_that_no_interrupt_ends_is_told_of_and_forced() {
    let host = Host::new();
    host.define("stubborn", "[\"{iapeer}\", echo-agent]");
    let path = host.root().join("runtimes/stubborn.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    // A key that the program takes no notice of.
    let deaf = text.replace("  interrupt: Escape\n", "  interrupt: C-q\n").replace("    key: Escape\n", "    key: C-q\n") + "\n  compact: \"note: shorter\"\n";
    assert_eq!(deaf.matches("C-q").count(), 2);
    std::fs::write(&path, deaf).unwrap();
    host.run(&["create", "a", "--runtime", "stubborn"]).ok();
    let mut host = host;
    host.start();
    host.deliver("a", "hello");
    host.run(&["wait", "a", "--until", "idle", "--timeout", "10"]).ok();
    host.run(&["compact", "a"]).ok();
    assert!(host.lifecycle().contains("ev=compact identity=stubborn-a inc=1 by=operator"), "{}", host.lifecycle());
    host.run(&["wait", "a", "--until", "idle", "--timeout", "10"]).ok();
    host.deliver("a", "work: 600s");
    host.run(&["wait", "a", "--until", "working", "--timeout", "10"]).ok();
    let refused = host.run(&["interrupt", "a"]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("has not ended within") && refused.err.contains("--force"), "{refused:?}");
    assert_eq!((incarnation(&host, "stubborn-a"), host.presence("a")["turn"].as_str().unwrap()), (1, "working"));
    host.run(&["interrupt", "a", "--force"]).ok();
    host.until("its session is over", || host.session("stubborn-a").is_none());
    assert!(host.lifecycle().contains("by=\"operator --force\""), "{}", host.lifecycle());
    assert!(!host.lifecycle().contains("ev=death"), "{}", host.lifecycle());
}
