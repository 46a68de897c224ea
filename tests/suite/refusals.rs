//! Refusals: each names the thing and the way out, for people and for programs, with the right exit code.

use crate::delivery::raw_post;
use crate::harness::{Host, PATIENCE, Ran, body_of, program};
use iapeer::core::fault::Code;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

/// Runs a command that must be refused, once for people and once for programs, and checks both.
#[track_caller]
fn refused(host: &Host, args: &[&str], exit: i32, code: &str, says: &[&str]) -> Value {
    refused_with(host, args, b"", exit, code, says)
}

#[track_caller]
fn refused_with(host: &Host, args: &[&str], input: &[u8], exit: i32, code: &str, says: &[&str]) -> Value {
    let listed = Code::ALL.iter().find(|c| c.word() == code).unwrap_or_else(|| panic!("{code} is no code"));
    let told = bounded(host, args, input);
    assert_eq!(told.code, exit, "{args:?}: {told:?}\n{}", host.evidence());
    assert_eq!(told.out, "", "{args:?}: an error is no data");
    let lines: Vec<&str> = told.err.lines().filter(|l| !l.contains(" INFO ")).collect();
    assert!(lines.iter().any(|l| l.starts_with("iapeer: ")) && lines.iter().any(|l| l.starts_with("  why: ") && l.contains(code)), "{args:?}: {}", told.err);

    let mut with_json = vec!["--json"];
    with_json.extend(args);
    let ran = bounded(host, &with_json, input);
    assert_eq!(ran.code, exit, "{with_json:?}: {ran:?}");
    assert_eq!(ran.out.lines().count(), 1, "{with_json:?}: one object: {ran:?}");
    let error = ran.json()["error"].clone();
    assert_eq!(error["code"], code, "{with_json:?}: {error}");
    assert_eq!(error["retryable"], listed.retryable(), "{with_json:?}: {error}");
    assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()) && error["hint"].is_string(), "{with_json:?}: {error}");
    for word in says {
        assert!(told.err.contains(word), "{args:?} does not say {word:?}:\n{}", told.err);
        let both = format!("{}\n{}", error["message"].as_str().unwrap(), error["hint"].as_str().unwrap());
        assert!(both.contains(word), "{with_json:?} does not say {word:?}: {error}");
    }
    error
}

/// Runs a command that should end by itself; one that does not (a daemon that starts after all) fails.
#[track_caller]
fn bounded(host: &Host, args: &[&str], input: &[u8]) -> Ran {
    use std::io::Write;
    let mut child = host.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that refuses early does not read its input.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let pid = child.id() as i32;
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = done.recv_timeout(PATIENCE) else {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        panic!("{args:?} does not end\n{}", host.evidence());
    };
    feeder.join().unwrap();
    output.unwrap().into()
}

fn profile(host: &Host, name: &str) -> PathBuf {
    host.root().join("peers").join(name).join(".iapeer/peer.yaml")
}

/// Makes the root as the program would, for files that stand there before it runs.
fn make_root(host: &Host) {
    std::fs::create_dir_all(host.root().join("runtimes")).unwrap();
    std::fs::set_permissions(host.root(), std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// A runtime like `echo` whose program is another one.
pub fn define(host: &Host, id: &str, argv: &str) {
    host.define(id, argv);
}

fn view(host: &Host, id: &Value) -> Value {
    let stream = crate::security::get(&host.root().join("run/iapeer.sock"), &format!("/v1/messages/{}", id.as_str().unwrap()));
    serde_json::from_str(stream.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

#[test]
fn a_stopped_peer_refuses_mail_and_keeps_what_is_queued_for_its_start() {
    let host = Host::with_peers(&["a"]);
    host.run(&["stop", "a"]).ok();
    refused(&host, &["send", "a", "hello"], 3, "peer_stopped", &["echo-a is stopped", "iapeer start echo-a", "--queue"]);
    let kept = host.run(&["send", "a", "for later", "--queue", "--json"]).ok().json();
    host.until("it is held", || host.presence("a")["queue"]["waiting"] == 1);
    assert_eq!((view(&host, &kept["id"])["state"].as_str(), view(&host, &kept["id"])["reason"].as_str()), (Some("held"), Some("stopped")));
    assert_eq!(host.presence("a")["state"], "stopped");
    assert!(host.session("echo-a").is_none(), "queued mail starts nothing");
    host.run(&["start", "a"]).ok();
    host.until("it is delivered", || host.turns("a").len() == 1);
    assert_eq!(body_of(&host.turns("a")[0]), "for later");
}

#[test]
fn a_stopped_peer_stays_stopped_over_a_restart_of_the_daemon() {
    let mut host = Host::with_peers(&["a"]);
    host.run(&["stop", "a"]).ok();
    host.run(&["send", "a", "for later", "--queue"]).ok();
    host.kill_daemon();
    host.start();
    refused(&host, &["send", "a", "hello"], 3, "peer_stopped", &["echo-a is stopped"]);
    refused(&host, &["send", "echo-a", "hello"], 3, "peer_stopped", &["echo-a is stopped"]);
    assert!(host.session("echo-a").is_none(), "{}", host.evidence());
}

#[test]
fn wrong_messages_are_refused_with_what_is_wrong_and_the_way_out() {
    let host = Host::with_peers(&["bob"]);
    refused(&host, &["send", "bbo", "hello"], 3, "peer_unknown", &["\"bbo\"", "did you mean bob"]);
    refused(&host, &["send", "zzzzzzzz", "hello"], 3, "peer_unknown", &["\"zzzzzzzz\"", "iapeer list"]);
    refused(&host, &["send", "claude-bob", "hello"], 3, "peer_unknown", &["\"claude-bob\""]);
    for verb in ["stop", "start", "new", "screen"] {
        refused(&host, &[verb, "bbo"], 3, "peer_unknown", &["\"bbo\"", "did you mean bob"]);
    }
    refused(&host, &["send", "bob", ""], 2, "invalid", &["empty"]);
    refused(&host, &["send", "bob"], 2, "invalid", &["no message", "--message-file"]);
    refused(&host, &["send", "bob", "--message-file", "/nowhere/at/all"], 2, "invalid", &["/nowhere/at/all"]);
    refused(&host, &["send", "bob", "x", "--topic", "two\nlines"], 2, "invalid", &["topic", "200"]);
    refused(&host, &["send", "bob", "x", "--topic", ""], 2, "invalid", &["topic"]);
    refused(&host, &["send", "bob", "x", "--topic", &"t".repeat(201)], 2, "invalid", &["topic", "200"]);
    let large = vec![b'x'; 1024 * 1024 + 1];
    refused_with(&host, &["send", "bob", "--message-file", "-"], &large, 2, "too_large", &["1048577", "1048576", "limits.body_bytes"]);
    assert_eq!(host.presence("bob")["queue"]["waiting"], 0, "nothing of it was accepted");
    assert!(host.session("echo-bob").is_none(), "nothing of it started anything");
    host.run(&["send", "bob", "x", "--topic", &"é".repeat(200)]).ok();
}

#[test]
fn a_message_of_any_size_is_refused_as_too_large() {
    let host = Host::with_peers(&["a"]);
    // Beyond what the API reads at all.
    let huge = vec![b'x'; 17 * 1024 * 1024];
    refused_with(&host, &["send", "a", "--message-file", "-"], &huge, 2, "too_large", &["limit"]);
}

#[test]
fn a_peer_cannot_send_to_itself() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "relay: a 1");
    let notes = || {
        std::fs::read_dir(host.root().join("peers/a/.iapeer/echo")).unwrap().flatten().map(|e| std::fs::read_to_string(e.path()).unwrap()).collect::<String>()
    };
    host.until("its own message is refused", || notes().contains("not sent to a: iapeer: echo-a cannot send to itself"));
    refused(&host, &["send", "operator", "hello me"], 2, "self_send", &["operator cannot send to itself"]);
    assert_eq!(host.turns("a").len(), 1);
}

#[test]
fn a_broken_profile_holds_only_its_own_peer_and_mending_it_delivers() {
    let host = Host::with_peers(&["a", "b"]);
    let good = std::fs::read_to_string(profile(&host, "a")).unwrap();
    let broken = [
        (format!("{good}wake_policy: lukewarm\n"), format!("peer.yaml:{}:", good.lines().count() + 1), "lukewarm"),
        (format!("{good}description: [1, 2\n"), "peer.yaml:".to_string(), "peer.yaml"),
        (good.replace("- echo", "- ec ho"), "peer.yaml:".to_string(), "ec ho"),
    ];
    let mut want = Vec::new();
    for (n, (text, place, names)) in broken.iter().enumerate() {
        std::fs::write(profile(&host, "a"), text).unwrap();
        let body = format!("kept {n}");
        host.run(&["send", "a", &body]).ok();
        want.push(body);
        host.until("it is held", || host.presence("a")["reason"] == "profile-invalid");
        assert_eq!(host.presence("a")["state"], "held");
        let list = host.run(&["list"]).ok();
        let digits = list.err.split(place.as_str()).nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        assert!(digits && list.err.contains(names), "the place of {names:?} is not told: {}", list.err);
        host.deliver("b", &format!("you go on {n}"));
        std::fs::write(profile(&host, "a"), &good).unwrap();
        let body = format!("mended {n}");
        host.deliver("a", &body);
        want.push(body);
        let got: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
        assert_eq!(got, want, "what was held comes first");
        // The next round begins with a peer that sleeps.
        host.run(&["stop", "a"]).ok();
        std::fs::write(profile(&host, "a"), &good).unwrap();
        if n + 1 < broken.len() {
            host.run(&["start", "a"]).ok();
            host.type_keys("echo-a", &["-l", "/quit"]);
            host.type_keys("echo-a", &["Enter"]);
            host.until("it has ended", || host.session("echo-a").is_none());
            want = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
        }
    }
}

#[test]
fn the_answer_to_a_send_says_that_the_peer_is_held_and_why() {
    let host = Host::with_peers(&["a"]);
    let good = std::fs::read_to_string(profile(&host, "a")).unwrap();
    std::fs::write(profile(&host, "a"), format!("{good}wake_policy: lukewarm\n")).unwrap();
    let sent = host.run(&["send", "a", "hello", "--json"]).ok().json();
    assert_eq!((sent["state"].as_str(), sent["reason"].as_str()), (Some("held"), Some("profile-invalid")), "{sent}");
}

#[test]
fn a_profile_broken_under_a_live_session_strands_no_message() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let good = std::fs::read_to_string(profile(&host, "a")).unwrap();
    std::fs::write(profile(&host, "a"), format!("{good}wake_policy: lukewarm\n")).unwrap();
    host.run(&["send", "a", "meanwhile"]).ok();
    // Either is right: the session is live and takes it, or it says why not.
    host.until("it is delivered, or held with its reason", || host.turns("a").len() == 2 || host.presence("a")["reason"] == "profile-invalid");
    std::fs::write(profile(&host, "a"), good).unwrap();
    host.deliver("a", "mended");
    let got: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(got, ["hello", "meanwhile", "mended"]);
}

#[test]
fn an_unknown_key_of_a_profile_is_a_warning_with_the_nearest_key() {
    let host = Host::with_peers(&["a"]);
    let good = std::fs::read_to_string(profile(&host, "a")).unwrap();
    std::fs::write(profile(&host, "a"), format!("{good}descripton: typo\n")).unwrap();
    let list = host.run(&["list"]).ok();
    let line = good.lines().count() + 1;
    assert!(
        list.err.contains(&format!("peer.yaml:{line}:")) && list.err.contains("`descripton`") && list.err.contains("did you mean `description`?"),
        "{}",
        list.err
    );
    let warnings = host.run(&["list", "--json"]).ok().json()[0]["warnings"].clone();
    assert!(warnings[0].as_str().unwrap().contains("did you mean `description`?"), "{warnings}");
    host.deliver("a", "it is only a warning");
    host.run(&["init", host.root().join("peers/a").to_str().unwrap(), "--description", "kept"]).ok();
    assert!(std::fs::read_to_string(profile(&host, "a")).unwrap().contains("descripton: typo"), "a rewrite keeps what it does not know");
}

#[test]
fn a_second_daemon_names_the_first_one() {
    let host = Host::with_peers(&[]);
    let pid = host.run(&["status", "--json"]).ok().json()["pid"].to_string();
    let socket = host.root().join("run/iapeer.sock");
    refused(
        &host,
        &["daemon"],
        3,
        "conflict",
        &[&format!("pid {pid}"), concat!("version ", env!("CARGO_PKG_VERSION")), socket.to_str().unwrap(), "iapeer daemon stop"],
    );
    assert_eq!(host.run(&["status", "--json"]).ok().json()["pid"].to_string(), pid, "the first one is untouched");
}

struct Daemons(Vec<Child>);

impl Drop for Daemons {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn of_ten_daemons_started_at_once_exactly_one_wins() {
    let host = Host::with_peers(&[]);
    host.run(&["daemon", "stop"]).ok();
    for round in 0..4 {
        let mut daemons =
            Daemons((0..10).map(|_| host.command(&["daemon"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()).collect());
        host.until("one answers", || host.run(&["status"]).code == 0);
        let winner = host.run(&["status", "--json"]).ok().json()["pid"].as_u64().unwrap();
        host.until("nine have given up", || daemons.0.iter_mut().filter_map(|c| c.try_wait().unwrap()).count() == 9);
        for child in &mut daemons.0 {
            let Some(ended) = child.try_wait().unwrap() else {
                assert_eq!(u64::from(child.id()), winner, "round {round}: the one that runs is the one that answers");
                continue;
            };
            let mut said = String::new();
            std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
            assert_eq!(ended.code(), Some(3), "round {round}: {said}");
            assert!(said.contains(&format!("pid {winner},")), "round {round}: the winner {winner} is not named: {said}");
        }
        // A killed one leaves its lock file and its socket: the next round starts over them.
        drop(daemons);
    }
}

#[test]
fn a_missing_or_old_tmux_refuses_the_start_and_says_what_to_install() {
    let mut host = Host::new();
    let bin = host.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    host.env.insert("PATH".into(), bin.to_str().unwrap().into());
    refused(&host, &["daemon"], 2, "invalid", &["tmux", "install tmux", "3.2"]);
    let fake = |version: &str| {
        std::fs::write(bin.join("tmux"), format!("#!/bin/sh\necho '{version}'\n")).unwrap();
        std::fs::set_permissions(bin.join("tmux"), std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    for old in ["tmux 2.9", "tmux 3.1c", "tmux next-3.1"] {
        fake(old);
        refused(&host, &["daemon"], 2, "invalid", &[old.trim_start_matches("tmux "), "3.2", "newer tmux"]);
    }
    // A verb that starts a daemon in the background says the same, not only its log.
    let ran = bounded(&host, &["start", "a"], b"");
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("3.2") && ran.err.contains("daemon.log"), "{ran:?}");
}

#[test]
fn a_root_that_leaves_no_room_for_sockets_says_so_and_a_socket_directory_helps() {
    let mut host = Host::new();
    let long = host.dir.path().join("r".repeat(90));
    host.env.insert("IAPEER_ROOT".into(), long.to_str().unwrap().into());
    refused(&host, &["daemon"], 2, "invalid", &["iapeer.sock", "107", "IAPEER_SOCK_DIR"]);
    let short = host.dir.path().join("s");
    std::fs::create_dir(&short).unwrap();
    std::fs::set_permissions(&short, std::fs::Permissions::from_mode(0o700)).unwrap();
    host.env.insert("IAPEER_SOCK_DIR".into(), short.to_str().unwrap().into());
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    host.start();
    host.run(&["send", "a", "reply: from afar", "--wait", "answered", "--timeout", "30"]).ok();
    host.run(&["daemon", "stop", "--all-peers"]).ok();
}

#[test]
fn a_root_or_socket_directory_open_to_others_is_refused() {
    let mut host = Host::with_peers(&["a"]);
    host.stop_daemon();
    for mode in [0o755, 0o770, 0o701] {
        std::fs::set_permissions(host.root(), std::fs::Permissions::from_mode(mode)).unwrap();
        refused(&host, &["daemon"], 2, "invalid", &[&format!("mode {mode:o}"), &format!("chmod go-rwx {}", host.root().display())]);
        refused(&host, &["create", "b"], 2, "invalid", &["chmod go-rwx"]);
    }
    assert_eq!(std::fs::metadata(host.root()).unwrap().permissions().mode() & 0o777, 0o701, "and never changed by itself");
    std::fs::set_permissions(host.root(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let open = host.dir.path().join("s");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    host.env.insert("IAPEER_SOCK_DIR".into(), open.to_str().unwrap().into());
    refused(&host, &["daemon"], 2, "invalid", &["mode 777", "chmod go-rwx"]);
    host.env.insert("IAPEER_SOCK_DIR".into(), "relative/dir".into());
    refused(&host, &["daemon"], 2, "invalid", &["relative/dir", "absolute"]);
}

#[test]
fn a_peer_whose_folder_is_gone_is_held_and_served_when_it_is_back() {
    let host = Host::with_peers(&["a", "b"]);
    let (folder, away) = (host.root().join("peers/a"), host.dir.path().join("away"));
    std::fs::rename(&folder, &away).unwrap();
    host.run(&["send", "a", "where are you"]).ok();
    host.until("it is held", || host.presence("a")["reason"] == "profile-invalid");
    let list = host.run(&["list"]).ok();
    assert!(list.err.contains(folder.to_str().unwrap()) && list.err.contains("gone") && list.err.contains("iapeer init"), "{}", list.err);
    assert!(host.lifecycle().contains("reason=folder-gone"), "{}", host.lifecycle());
    let start = refused(&host, &["start", "a"], 1, "wake_failed", &[folder.to_str().unwrap(), "gone"]);
    assert!(start["hint"].as_str().unwrap().contains("iapeer logs echo-a"), "{start}");
    host.deliver("b", "you go on");
    std::fs::rename(&away, &folder).unwrap();
    host.deliver("a", "welcome back");
    let got: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(got, ["where are you", "welcome back"]);
}

#[test]
fn a_missing_program_holds_the_mail_and_is_found_once_it_is_there() {
    let mut host = Host::new();
    let ghost = host.dir.path().join("ghost");
    define(&host, "ghost", &format!("[\"{}\", echo-agent]", ghost.display()));
    host.run(&["create", "a", "--runtime", "ghost"]).ok();
    host.start();
    host.run(&["send", "a", "are you there"]).ok();
    host.until("it is held", || host.presence("a")["reason"] == "missing-binary");
    assert_eq!(host.presence("a")["state"], "held");
    refused(&host, &["start", "a"], 1, "wake_failed", &[ghost.to_str().unwrap(), "not installed"]);
    assert!(host.lifecycle().contains("reason=missing-binary") && host.lifecycle().contains(ghost.to_str().unwrap()), "{}", host.lifecycle());
    assert_eq!(host.presence("a")["queue"]["waiting"], 1, "the mail is kept");
    std::os::unix::fs::symlink(program(), &ghost).unwrap();
    host.deliver("a", "now");
    let got: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(got, ["are you there", "now"]);
}

#[test]
fn an_unknown_verb_or_runtime_names_the_nearest_one() {
    let host = Host::new();
    refused(&host, &["ecoh"], 2, "invalid", &["\"ecoh\"", "did you mean `iapeer echo`"]);
    refused(&host, &["zzzzzzzz"], 2, "invalid", &["\"zzzzzzzz\"", "--help", "echo"]);
    refused(&host, &["create", "a", "--runtime", "ecoh"], 2, "invalid", &["ecoh", "echo", "ecoh.yaml"]);
    refused(&host, &["create", "a", "--runtime", "no-dash"], 2, "invalid", &["no-dash"]);
    for (typed, meant) in [("sned", "send"), ("stauts", "status"), ("ist", "list"), ("deamon", "daemon")] {
        refused(&host, &[typed], 2, "invalid", &[typed, &format!("did you mean `iapeer {meant}`")]);
    }
}

#[test]
fn a_misspelt_option_is_usage_and_json_stays_json() {
    let host = Host::with_peers(&["a"]);
    for args in [&["send", "a", "x", "--tpoic", "y"][..], &["send"], &["send", "a", "x", "--in-reply-to", "nonsense"], &["stop"], &["stop", "a", "--all"]] {
        let told = host.run(args);
        assert!(told.code == 2 && told.out.is_empty() && told.err.contains("Usage") | told.err.contains("For more information"), "{told:?}");
        let mut with_json = args.to_vec();
        with_json.push("--json");
        let ran = host.run(&with_json);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert_eq!(ran.json()["error"]["code"], "invalid", "{ran:?}");
    }
}

#[test]
fn a_bad_configuration_refuses_the_start_with_its_place() {
    let mut host = Host::new();
    make_root(&host);
    let config = host.root().join("config.yaml");
    for (text, says) in [
        ("crashloop_max: 3\ncrashlop_window_secs: 4\n", &["config.yaml:2:", "crashlop_window_secs", "did you mean `crashloop_window_secs`"][..]),
        ("boot_deadline_secs: soon\n", &["config.yaml:1:", "soon"]),
        ("crashloop_max: 3\nlimits:\n  body_bytes: -1\n", &["config.yaml:3:", "-1"]),
        ("limits:\n  boddy_bytes: 1\n", &["config.yaml:2:", "did you mean `body_bytes`"]),
        ("window: [\n", &["config.yaml:"]),
        ("default_runtime: Not-A-Name\n", &["config.yaml:1:", "Not-A-Name"]),
    ] {
        std::fs::write(&config, text).unwrap();
        refused(&host, &["daemon"], 2, "invalid", says);
        refused(&host, &["create", "a"], 2, "invalid", says);
    }
    std::fs::remove_file(&config).unwrap();
    for (name, value) in
        [("IAPEER_CRASHLOOP_MAX", "abc"), ("IAPEER_CRASHLOOP_MAX", "99999999999"), ("IAPEER_BOOT_DEADLINE_SECS", "-1"), ("IAPEER_LIFECYCLE_LOG_KEEP", "1.5")]
    {
        host.env.insert(name.into(), value.into());
        refused(&host, &["daemon"], 2, "invalid", &[name, value]);
        host.env.remove(name);
    }
    assert!(!host.root().join("peers/a").exists(), "a refused create leaves nothing");
}

#[test]
fn a_peer_that_is_made_beside_a_running_daemon_is_whole_when_it_is_seen() {
    let host = Host::with_peers(&[]);
    for n in 0..8 {
        let name = format!("p{n}");
        host.run(&["create", &name, "--runtime", "echo"]).ok();
        host.deliver(&name, "hello");
    }
    assert!(!host.lifecycle().contains("ev=profile"), "{}", host.lifecycle());
}

#[test]
fn reading_verbs_work_from_the_files_when_no_daemon_runs_and_say_so() {
    let mut host = Host::new();
    refused(&host, &["status"], 4, "daemon_unreachable", &["iapeer.sock", "iapeer daemon"]);
    refused(&host, &["list"], 4, "daemon_unreachable", &["iapeer.sock", "iapeer daemon"]);
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    host.start();
    host.deliver("a", "reply: kept for you");
    host.until("the answer is there", || host.run(&["inbox", "--keep"]).ok().out.contains("kept for you"));
    host.kill_daemon();

    let status = host.run(&["status"]);
    assert_eq!(status.code, 4, "{status:?}");
    assert!(status.out.contains("not running") && status.err.contains("no daemon runs"), "{status:?}");
    let json = host.run(&["--json", "status"]);
    assert_eq!(json.code, 4, "{json:?}");
    assert!(json.json()["updated"].is_string() && json.err.contains("no daemon runs"), "{json:?}");
    let list = host.run(&["list"]).ok();
    assert!(list.out.contains(" a ") && list.err.contains("no daemon runs"), "{list:?}");
    let explained = host.run(&["explain", "a"]).ok();
    assert!(explained.out.contains("echo-a  ") && explained.out.contains("ev=wake") && explained.err.contains("no daemon runs"), "{explained:?}");
    let inbox = host.run(&["inbox"]).ok();
    assert!(inbox.out.contains("kept for you") && inbox.err.contains("no daemon runs") && inbox.err.contains("unread"), "{inbox:?}");
    for args in [&["stop", "a"][..], &["screen", "a"], &["daemon", "stop"]] {
        refused(&host, args, 4, "daemon_unreachable", &["iapeer.sock", "iapeer daemon"]);
    }
    host.start();
    assert!(host.run(&["inbox"]).ok().out.contains("kept for you"), "what was shown without a daemon stayed unread");
    assert_eq!(host.run(&["inbox"]).ok().out, "no mail\n");
}

#[test]
fn a_state_that_is_not_reached_in_time_is_exit_code_5_and_the_message_goes_on() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "work: 3s");
    let ran = host.run(&["send", "a", "second", "--wait", "submitted", "--timeout", "0", "--json"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    let message = ran.json();
    assert!(matches!(message["state"].as_str(), Some("accepted" | "held")), "{message}");
    let ran = host.run(&["send", "a", "third", "--wait", "answered", "--timeout", "1"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.out.contains("reason=busy"), "{ran:?}");
    host.until("both are delivered all the same", || host.turns("a").len() == 3);
    let got: Vec<String> = host.turns("a").iter().skip(1).map(|t| body_of(t).to_string()).collect();
    assert_eq!(got, ["second", "third"]);
}

#[test]
fn names_that_would_confuse_are_refused_and_leave_nothing() {
    let host = Host::new();
    host.run(&["create", "taken", "--runtime", "echo"]).ok();
    let before = tree(host.dir.path());
    refused(&host, &["create", "claude-bob"], 2, "invalid", &["claude-bob", "claude-", "--name"]);
    refused(&host, &["create", "operator"], 2, "invalid", &["operator", "reserved"]);
    refused(&host, &["create", "iapeer"], 2, "invalid", &["reserved"]);
    refused(&host, &["create", "all"], 2, "invalid", &["reserved"]);
    refused(&host, &["create", "status"], 2, "invalid", &["reserved"]);
    refused(&host, &["create", "UPPER"], 2, "invalid", &["UPPER", "a-z"]);
    refused(&host, &["create", &"n".repeat(33)], 2, "invalid", &["32"]);
    refused(&host, &["create", "taken"], 3, "conflict", &["peers/taken", "peer already"]);
    let other = host.dir.path().join("other");
    let taken = host.root().join("peers/taken");
    refused(&host, &["create", "taken", "--path", other.to_str().unwrap()], 3, "conflict", &["taken", taken.to_str().unwrap()]);
    let after = tree(host.dir.path());
    let left: Vec<&PathBuf> = after.iter().filter(|p| !before.contains(p) && !p.ends_with("registry.lock")).collect();
    assert!(left.is_empty(), "refused names left {left:?}");
}

pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(tree(&entry.path()));
        }
        found.push(entry.path());
    }
    found.sort();
    found
}

#[test]
fn a_home_folder_is_no_peer() {
    let host = Host::new();
    let home = host.dir.path().join("home");
    refused(&host, &["init", home.to_str().unwrap()], 2, "invalid", &["home"]);
    let aside = host.dir.path().join("aside");
    std::os::unix::fs::symlink(&home, &aside).unwrap();
    refused(&host, &["init", aside.to_str().unwrap(), "--name", "sly"], 2, "invalid", &["home"]);
    assert!(!home.join(".iapeer").exists());
}

#[test]
fn a_broken_definition_is_named_with_its_place_and_takes_only_its_own_runtime_out() {
    let mut host = Host::new();
    define(&host, "dud", "[\"true\"]");
    let path = host.root().join("runtimes/dud.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("\ninput:\n", "\ninptu: {}\ninput:\n");
    let line = text.lines().position(|l| l == "inptu: {}").unwrap() + 1;
    std::fs::write(&path, text).unwrap();
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    refused(&host, &["create", "b", "--runtime", "dud"], 2, "invalid", &[&format!("dud.yaml:{line}:"), "inptu"]);
    host.start();
    let status = host.run(&["status", "--json"]).ok().json();
    assert_eq!(status["healthy"], false);
    let part = status["degraded"][0].as_str().unwrap();
    let place = part.split(&format!("dud.yaml:{line}:")).nth(1).unwrap_or_else(|| panic!("no line: {part}"));
    assert!(place.starts_with(|c: char| c.is_ascii_digit()) && part.contains("did you mean `input`"), "{part}");
    let told = host.run(&["status"]).ok().out;
    assert!(told.contains("degraded") && told.contains(&format!("dud.yaml:{line}:")), "{told}");
    host.deliver("a", "echo goes on");
}

#[test]
fn every_refusal_of_the_api_is_one_envelope() {
    let host = Host::with_peers(&["a"]);
    let socket = host.root().join("run/iapeer.sock");
    let get = |path: &str| crate::security::get(&socket, path);
    for (what, answer, status, code) in [
        ("no such route", get("/v1/nothing"), "400", "invalid"),
        ("a broken body", raw_post(&socket, "/v1/messages", "{"), "400", "invalid"),
        ("an unknown field", raw_post(&socket, "/v1/messages", r#"{"to":"a","text":"x","colour":"red"}"#), "400", "invalid"),
        ("deep JSON", raw_post(&socket, "/v1/messages", &"[".repeat(100_000)), "400", "invalid"),
        ("a message id", get("/v1/messages/nonsense"), "400", "invalid"),
        ("an unknown message", get("/v1/messages/0199a0b0-0000-7000-8000-00000000dead"), "404", "message_unknown"),
        ("a query", get("/v1/inbox?all=perhaps"), "400", "invalid"),
        ("a wait", get("/v1/messages/0199a0b0-0000-7000-8000-00000000dead?wait=forever"), "400", "invalid"),
        ("a method", get("/v1/hook"), "400", "invalid"),
        ("a hook from outside", raw_post(&socket, "/v1/hook", r#"{"event":"Stop"}"#), "403", "not_allowed"),
    ] {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{what}: {answer:?}"));
        let json: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{what}: {e}: {answer}"));
        assert_eq!(json["error"]["code"], code, "{what}: {answer}");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
    }
    host.deliver("a", "and it goes on");
}

#[test]
fn a_refused_command_ends_at_once() {
    let host = Host::new();
    let began = Instant::now();
    bounded(&host, &["send", "a", "hello", "--wait", "answered"], b"");
    // Five seconds is the longest time to reach a daemon; without a socket there is nothing to wait for.
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}
