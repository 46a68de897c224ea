//! A night of ten peers: `lifecycle.log` alone says of each why it slept, woke, came back or stayed down.
//! `docs/night.md` walks through such a log, and says nothing that this night does not.

use crate::harness::Host;
use std::collections::BTreeSet;

const PEERS: [&str; 10] = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal", "ivy", "joe"];

fn prepare() -> Host {
    let mut host = Host::with_config("idle_secs: 0\nephemeral_quiet_secs: 0\ncrashloop_max: 3\n", &[]);
    let dir = host.root().join("runtimes");
    std::fs::create_dir_all(&dir).unwrap();
    let echo = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/runtimes/echo.yaml")).unwrap();
    let runtime = |name: &str, program: &str, more: &str| {
        let text = echo.replace("id: echo", &format!("id: {name}")).replace("argv: [\"{iapeer}\", echo-agent]", &format!("argv: {program}"));
        std::fs::write(dir.join(format!("{name}.yaml")), text + more).unwrap();
    };
    runtime("acme", "[\"{iapeer}\", echo-agent]", "\nlimits:\n  - {is: login, pattern: '^ *please log in$'}\n");
    runtime("dud", "[\"false\"]", "");
    runtime("gone", "[\"no-such-program-anywhere\"]", "");
    host.kill_daemon();
    host.start();
    for name in PEERS {
        let more: &[&str] = match name {
            "bob" => &["--wake-policy", "ephemeral"],
            "dan" => &["--runtime", "dud"],
            "fay" => &["--runtime", "acme"],
            "joe" => &["--runtime", "gone"],
            _ => &[],
        };
        host.run(&[&["create", name], more].concat()).ok();
    }
    for (name, more) in [("ivy", "max_age_secs: 1\n"), ("ann", "idle_secs: 2\n")] {
        let profile = host.root().join("peers").join(name).join(".iapeer/peer.yaml");
        let text = std::fs::read_to_string(&profile).unwrap();
        std::fs::write(&profile, text + more).unwrap();
    }
    host
}

fn send(host: &Host, to: &str, text: &str, topic: Option<&str>) {
    let mut args = vec!["send", to, text];
    args.extend(topic.iter().flat_map(|t| ["--topic", t]));
    host.run(&args).ok();
}

fn said(host: &Host, words: &str) {
    host.until(words, || words.split(" … ").all(|w| host.lifecycle().contains(w)));
}

/// Plays the night, returns its log.
fn night() -> String {
    let mut host = prepare();
    let host = &mut host;
    send(host, "ann", "say: the first half", Some("report"));
    send(host, "bob", "reply: one", None);
    send(host, "bob", "reply: two", None);
    send(host, "cid", "crash: 3", None);
    send(host, "dan", "hello", None);
    send(host, "eve", "hello", None);
    send(host, "fay", "say: please log in", None);
    send(host, "gus", "self: fresh", None);
    send(host, "hal", "hello", Some("deploy"));
    send(host, "ivy", "hello", None);
    send(host, "joe", "hello", None);
    said(host, "ev=crash-loop identity=dud-dan");
    said(host, "ev=held identity=gone-joe reason=missing-binary");
    host.until("eve is up", || host.presence("eve")["state"] == "live");
    host.run(&["stop", "eve"]).ok();
    send(host, "fay", "are you there?", None);
    said(host, "ev=held identity=acme-fay inc=1 reason=login");
    host.until("hal is up", || host.presence("hal")["turn"] == "idle");
    host.tmux("echo-hal", &["kill-server"]);
    said(host, "ev=death identity=echo-hal inc=1 cause=tmux-lost");
    send(host, "cid", "are you back?", None);
    send(host, "hal", "hello again", Some("deploy"));
    said(host, "ev=supervise identity=echo-ann inc=1 action=reaped-idle");
    // Awake until the next daemon has seen it.
    let ann = host.root().join("peers/ann/.iapeer/peer.yaml");
    let profile = std::fs::read_to_string(&ann).unwrap();
    std::fs::write(&ann, profile.replace("idle_secs: 2", "idle_secs: 600")).unwrap();
    said(host, "ev=profile peer=ann action=changed at_once=idle_secs");
    send(host, "ann", "say: the second half", Some("report"));
    said(host, "identity=echo-gus inc=2 mode=fresh cause=self-fresh");
    said(host, "action=reaped-age");
    for name in ["ann", "cid", "hal"] {
        host.until("it is up", || host.presence(name)["turn"] == "idle");
    }
    host.kill_daemon();
    host.start();
    said(host, "ev=adopted identity=echo-ann inc=2");
    std::fs::write(&ann, profile).unwrap();
    said(host, "ev=supervise identity=echo-ann inc=2 action=reaped-idle");
    host.until("two tasks are done", || host.lifecycle().matches("ev=ephemeral-armed identity=echo-bob").count() == 2);
    host.lifecycle()
}

/// A line without what differs from night to night.
fn shape(line: &str) -> Option<String> {
    let value = |key: &str| line.split(&format!(" {key}=")).nth(1).map(|v| v.split(' ').next().unwrap_or_default().to_string());
    let ev = value("ev")?;
    let keys = ["identity", "inc", "mode", "cause", "action", "outcome", "by"];
    // A hold by its reason; other reasons are sentences.
    let reason = value("reason").filter(|_| matches!(ev.as_str(), "held" | "released" | "wake-failed"));
    let told = keys.iter().filter_map(|k| Some(format!("{k}={}", value(k)?))).chain(reason.map(|r| format!("reason={r}")));
    Some(format!("ev={ev} {}", told.collect::<Vec<_>>().join(" ")))
}

#[test]
fn the_log_of_a_night_says_of_each_peer_why() {
    let log = night();
    if std::env::var_os("IAPEER_SHOW_NIGHT").is_some() {
        eprintln!("{log}");
    }
    for (name, why) in [
        ("ann", "cause=first-wake … action=reaped-idle … outcome=resume-eligible … inc=2 mode=resume cause=idle-reaped-resume"),
        ("bob", "cause=ephemeral-policy … ev=ephemeral-armed identity=echo-bob inc=1 by=reply … action=reaped-ephemeral … inc=2"),
        ("cid", "cause=exit-3 … inc=2 mode=fresh cause=crash-or-self-close"),
        ("dan", "cause=exit-1 … ev=crash-loop … count=3 … reason=crash-loop"),
        ("eve", "ev=stop … by=operator"),
        ("fay", "ev=held … reason=login"),
        ("gus", "ev=self-fresh … by=itself … action=needs-eager-fresh … cause=self-fresh"),
        ("hal", "cause=tmux-lost … mode=resume cause=idle-reaped-resume"),
        ("ivy", "action=reaped-age"),
        ("joe", "ev=wake-failed … reason=missing-binary … ev=held"),
    ] {
        let lines: String = log.lines().filter(|l| l.contains(&format!("-{name} ")) || l.ends_with(&format!("-{name}"))).map(|l| format!("{l} \n")).collect();
        for words in why.split(" … ") {
            assert!(lines.contains(words), "{name}: {words:?} is not told\n{lines}");
        }
    }
    let shapes: BTreeSet<String> = log.lines().filter_map(shape).collect();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/night.md")).unwrap();
    let shown: Vec<&str> = page.lines().filter(|l| l.starts_with("ts=")).collect();
    assert!(shown.len() > 20, "the page shows a night");
    for line in shown {
        assert!(shapes.contains(&shape(line).unwrap()), "docs/night.md tells of what did not happen: {line}\n{log}");
    }
}
