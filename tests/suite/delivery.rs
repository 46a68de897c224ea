//! Delivery into live `echo` sessions: exact bodies, order, nothing executed, nothing typed blind.

use crate::harness::{Host, body_of, id_of};
use std::time::Duration;

#[test]
fn a_message_travels_over_three_sleeping_peers() {
    let host = Host::with_peers(&["a", "b", "c"]);
    host.run(&["send", "a", "relay: b,c,a 3"]).ok();
    host.until("the relay comes back", || host.turns("a").len() == 2);
    assert_eq!((host.turns("b").len(), host.turns("c").len()), (1, 1));
    let read = || std::fs::read_to_string(host.root().join("logs/delivery.log")).unwrap();
    host.until("each has its evidence", || read().matches("state=submitted").count() == 4);
    let log = read();
    assert!(log.contains("evidence=hook") || log.contains("evidence=transcript"));
}

#[test]
fn bodies_arrive_exact_after_sanitising_and_nothing_is_executed() {
    let host = Host::with_peers(&["a"]);
    let large = "0123456789abcdef".repeat(65_536);
    let cases: [(&str, String, String); 9] = [
        ("short", "hello".into(), "hello".into()),
        ("20 lines", (0..20).map(|n| format!("line {n} 'x' \"y\" $(touch pwned) `touch pwned` é 🦀\n")).collect(), String::new()),
        ("leading dash", "-rf --help".into(), String::new()),
        ("trailing semicolon", "echo a;".into(), String::new()),
        ("lone semicolon", ";".into(), String::new()),
        ("paste end", "x\u{1b}[201~\rtouch pwned\r\n".into(), "x\u{fffd}[201~\ntouch pwned\n".into()),
        ("controls", "a\u{0}b\u{7}c\u{9b}201~d\u{7f}\te".into(), "a\u{fffd}b\u{fffd}c\u{fffd}201~d\u{fffd}\te".into()),
        ("mode characters", "/quit\n!ls\n#x\n@file".into(), String::new()),
        ("1 MiB", large, String::new()),
    ];
    for (name, body, want) in &cases {
        let want = if want.is_empty() { body } else { want };
        let before = host.turns("a").len();
        let sent = host.deliver("a", body);
        assert_eq!(sent["state"], "submitted", "{name}");
        let turns = host.turns("a");
        assert_eq!(turns.len(), before + 1, "{name}: one turn each");
        let turn = turns.last().unwrap();
        assert_eq!(id_of(turn), sent["id"].as_str().unwrap(), "{name}");
        assert!(body_of(turn) == want, "{name}: {:?}", &body_of(turn)[..body_of(turn).len().min(200)]);
    }
    let pwned = walk(host.dir.path()).into_iter().filter(|p| p.ends_with("pwned")).count();
    assert_eq!(pwned, 0, "something was executed");
    assert_eq!(host.presence("a")["incarnation"], 1, "nothing ended the agent");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(walk(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}

#[test]
fn fifty_rapid_messages_are_fifty_turns_in_order() {
    let host = Host::with_peers(&["a"]);
    for n in 0..50 {
        host.run(&["send", "a", &format!("message {n}")]).ok();
    }
    host.until("all are taken", || host.turns("a").len() >= 50);
    let bodies: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    let want: Vec<String> = (0..50).map(|n| format!("message {n}")).collect();
    assert_eq!(bodies, want);
}

#[test]
fn urgent_mail_goes_before_normal_mail() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "work: 1500ms");
    host.run(&["send", "a", "normal"]).ok();
    host.run(&["send", "a", "urgent", "--urgent"]).ok();
    host.until("both are taken", || host.turns("a").len() == 3);
    let bodies: Vec<String> = host.turns("a").iter().skip(1).map(|t| body_of(t).to_string()).collect();
    assert_eq!(bodies, ["urgent", "normal"]);
}

#[test]
fn mail_waits_for_the_end_of_a_running_turn() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "work: 2s");
    let second = host.run(&["send", "a", "second", "--json"]).ok().json();
    let id = second["id"].as_str().unwrap();
    host.until("it is held", || {
        let log = host.run(&["list", "--json"]).ok().out;
        log.contains("\"reason\":\"busy\"")
    });
    assert_eq!(host.turns("a").len(), 1, "nothing was typed into the running turn");
    host.until("it is delivered", || host.turns("a").len() == 2);
    assert_eq!(id_of(&host.turns("a")[1]), id);
}

#[test]
fn a_dialog_is_never_answered_by_a_message() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "ask: shall I delete everything?");
    host.until("the dialog is open", || host.screen("a").contains("1. Yes"));
    let sent = host.run(&["send", "a", "an innocent message", "--json"]).ok().json();
    host.until("the message is held for the dialog", || host.presence("a")["reason"] == "approval");
    // The dialog takes Enter for yes; had anything been typed, it would be gone.
    assert!(host.screen("a").contains("1. Yes"), "{}", host.screen("a"));
    host.type_keys("echo-a", &["n"]);
    host.until("the message is delivered", || host.turns("a").len() == 2);
    assert_eq!(id_of(&host.turns("a")[1]), sent["id"].as_str().unwrap());
    let notes =
        std::fs::read_dir(host.root().join("peers/a/.iapeer/echo")).unwrap().flatten().map(|e| std::fs::read_to_string(e.path()).unwrap()).collect::<String>();
    assert!(notes.contains("answer: no") && !notes.contains("answer: yes"), "{notes}");
}

#[test]
fn a_draft_is_left_alone_and_holds_the_message() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    host.type_keys("echo-a", &["-l", "half typed dra"]);
    host.until("the draft shows", || host.screen("a").contains("› half typed dra"));
    host.run(&["send", "a", "must wait"]).ok();
    host.until("it is held", || host.presence("a")["reason"] == "draft");
    assert!(host.screen("a").contains("› half typed dra\n"), "{}", host.screen("a"));
    host.type_keys("echo-a", &["C-u"]);
    host.until("it is delivered", || host.turns("a").len() == 2);
    assert_eq!(body_of(&host.turns("a")[1]), "must wait");
}

#[test]
fn copy_mode_of_nobody_is_left_and_the_message_arrives() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let pane = host.session("echo-a").unwrap()["pane"].as_str().unwrap().to_string();
    assert!(host.tmux("echo-a", &["copy-mode", "-t", &pane]).status.success());
    assert_eq!(host.pane("echo-a", "#{pane_in_mode}"), "1");
    host.deliver("a", "after copy mode");
    assert_eq!(body_of(&host.turns("a")[1]), "after copy mode");
}

#[test]
fn a_pane_with_input_off_holds() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let pane = host.session("echo-a").unwrap()["pane"].as_str().unwrap().to_string();
    assert!(host.tmux("echo-a", &["select-pane", "-d", "-t", &pane]).status.success());
    host.run(&["send", "a", "held"]).ok();
    host.until("it is held", || host.presence("a")["reason"] == "input-off");
    assert_eq!(host.turns("a").len(), 1);
}

#[test]
fn a_question_is_answered_by_the_recipients_message() {
    let host = Host::with_peers(&["a"]);
    let ran = host.run(&["send", "a", "reply: forty two", "--wait", "answered", "--timeout", "30"]).ok();
    assert_eq!(ran.out, "forty two\n");
    assert_eq!(host.run(&["inbox", "--json"]).ok().json().as_array().unwrap().len(), 0, "the script has read the answer");
    host.deliver("a", "reply: for the inbox");
    host.until("the answer is in the inbox", || host.run(&["inbox", "--keep"]).ok().out.contains("for the inbox"));
    assert!(host.run(&["inbox"]).ok().out.contains("from echo-a"));
    assert_eq!(host.run(&["inbox"]).ok().out, "no mail\n");
}

#[test]
fn the_sender_is_who_the_kernel_says() {
    let host = Host::with_peers(&["a", "b"]);
    host.deliver("a", "relay: b 1");
    host.until("b has it", || host.turns("b").len() == 1);
    assert!(host.turns("b")[0].contains(" from=\"echo-a\" intelligence=\"artificial\""), "{:?}", host.turns("b"));
    assert!(host.turns("a")[0].contains(" from=\"operator\" intelligence=\"natural\""));
}

#[test]
fn a_repeated_send_with_the_same_id_is_one_message() {
    let host = Host::with_peers(&["a"]);
    let socket = host.root().join("run/iapeer.sock");
    let id = "0199a0b0-0000-7000-8000-000000000001";
    let post = |text: &str| {
        let body = serde_json::json!({"id": id, "to": "a", "text": text}).to_string();
        raw_post(&socket, "/v1/messages", &body)
    };
    assert!(post("once").contains("200 OK"));
    assert!(post("once").contains("200 OK"));
    let other = post("another text");
    assert!(other.contains("409") && other.contains("key_conflict"), "{other}");
    host.until("it is taken", || !host.turns("a").is_empty());
    host.deliver("a", "afterwards");
    let bodies: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(bodies, ["once", "afterwards"]);
}

#[test]
fn the_same_id_from_many_connections_at_once_is_one_message() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "warm up");
    let socket = host.root().join("run/iapeer.sock");
    let body = serde_json::json!({"id": "0199a0b0-0000-7000-8000-000000000002", "to": "a", "text": "once"}).to_string();
    let answers: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..16).map(|_| scope.spawn(|| raw_post(&socket, "/v1/messages", &body))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|a| a.contains("200 OK")), "{answers:?}");
    host.deliver("a", "afterwards");
    let bodies: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(bodies, ["warm up", "once", "afterwards"]);
    let queue = host.state_dir("echo-a").join("queue");
    let left = || ["new", "cur"].iter().map(|f| std::fs::read_dir(queue.join(f)).unwrap().count()).sum::<usize>();
    // The last message itself is put away just after its evidence is told.
    host.until("no second record waits for the next start", || left() == 0);
}

pub fn raw_post(socket: &std::path::Path, path: &str, body: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_sender_that_vanishes_while_its_message_is_kept_strands_nothing() {
    use std::io::Write;
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "the session is up");
    let socket = host.root().join("run/iapeer.sock");
    let kept = || host.delivery_log().matches(" state=accepted ").count();
    let mut sent = 0;
    // Some are gone before the daemon has heard them.
    host.until("twenty are kept", || {
        sent += 1;
        let body = format!("{{\"to\":\"a\",\"text\":\"letter {sent}\"}}");
        let head = "POST /v1/messages HTTP/1.1\r\nHost: iapeer\r\nContent-Type: application/json\r\nContent-Length:";
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        // Gone before any answer.
        write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        kept() > 20
    });
    host.deliver("a", "the next one");
    let queue = host.state_dir("echo-a").join("queue");
    let records = |folder: &str| std::fs::read_dir(queue.join(folder)).unwrap().flatten().filter(|e| e.path().extension().is_some_and(|x| x == "msg")).count();
    host.until("nothing waits", || records("new") + records("cur") == 0);
    let mut bodies: Vec<String> = host.turns("a").iter().map(|t| body_of(t).to_string()).collect();
    assert_eq!(bodies.len(), records("done"));
    assert!(bodies.len() > 20, "{} were kept", bodies.len());
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), records("done"), "each once");
}
