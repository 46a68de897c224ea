//! The border: who speaks, what an agent may do, what it sees, and what hostile names and files cannot do.
//!
//! The agents here are real processes below a real keeper: `echo` whose send command is a script of the
//! test (see [`Agent`]). What other processes of the same user could do on purpose is not the subject.

use crate::delivery::raw_post;
use crate::harness::{Host, body_of, program, tmux};
use crate::refusals::{define, tree};
use iapeer::core::record;
use iapeer::store::disk::OsDisk;
use iapeer::store::layout::Root;
use iapeer::store::outbox::{self, Spooled, Token};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub fn request(socket: &Path, head: &str, body: &str) -> String {
    exchange(UnixStream::connect(socket).unwrap(), head, body)
}

fn exchange(mut stream: UnixStream, head: &str, body: &str) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // Whoever is refused may be answered, and hung up on, before the last byte is sent.
    let _ = stream.write_all(format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub fn get(socket: &Path, path: &str) -> String {
    request(socket, &format!("GET {path} HTTP/1.1"), "")
}

/// A host on which the peer `a` runs a program of the test below its keeper.
pub struct Agent {
    pub host: Host,
    dir: PathBuf,
}

impl Agent {
    /// Peers `a`, whose agent does what [`Agent::does`] says, and these others on `echo`.
    pub fn with_peers(others: &[&str]) -> Agent {
        let agent = Agent::prepare(others);
        Agent {
            host: {
                let mut host = agent.host;
                host.start();
                host
            },
            dir: agent.dir,
        }
    }

    pub fn prepare(others: &[&str]) -> Agent {
        let host = Host::new();
        let dir = host.dir.path().join("tool");
        std::fs::create_dir(&dir).unwrap();
        define(&host, "puppet", "[\"{iapeer}\", echo-agent]");
        let path = host.root().join("runtimes/puppet.yaml");
        let tool = dir.join("tool.sh");
        let text = std::fs::read_to_string(&path).unwrap();
        let bent = text.replace("- --send={iapeer}\n    - --send=send", &format!("- --send={}", tool.display()));
        assert_ne!(bent, text, "the definition of echo has changed its form");
        std::fs::write(&path, bent).unwrap();
        script(&tool, &format!("cat > /dev/null\ncd {}\nsh ./orders > answer.tmp 2>&1\nmv answer.tmp answer\n", dir.display()));
        host.run(&["create", "a", "--runtime", "puppet"]).ok();
        for name in others {
            host.run(&["create", name, "--runtime", "echo"]).ok();
        }
        Agent { host, dir }
    }

    /// Has the agent run a shell script; `iapeer` is the program under test. Returns what it printed.
    #[track_caller]
    pub fn does(&self, orders: &str) -> String {
        self.begins(orders);
        self.answer()
    }

    fn begins(&self, orders: &str) {
        let _ = std::fs::remove_file(self.dir.join("answer"));
        std::fs::write(self.dir.join("orders"), format!("iapeer() {{ '{}' \"$@\"; }}\n{orders}", program())).unwrap();
        self.host.deliver("a", "relay: nobody 1");
    }

    #[track_caller]
    fn answer(&self) -> String {
        self.host.until("the agent has done it", || self.dir.join("answer").exists());
        std::fs::read_to_string(self.dir.join("answer")).unwrap()
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_agent_may_send_and_list_but_use_no_operator_route() {
    let agent = Agent::with_peers(&["b"]);
    agent.host.deliver("b", "hello");
    let verbs = ["stop b", "stop puppet-a", "stop --all", "start b", "new b", "screen b", "inbox", "inbox --keep", "daemon stop", "daemon stop --all-peers"];
    let orders: String = verbs.iter().map(|v| format!("iapeer {v} --json; echo \"exit=$?\"\n")).collect();
    let said = agent.does(&orders);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), verbs.len() * 2, "{said}");
    for (verb, answer) in verbs.iter().zip(lines.chunks(2)) {
        let json: Value = serde_json::from_str(answer[0]).unwrap_or_else(|e| panic!("{verb}: {e}: {said}"));
        assert_eq!((json["error"]["code"].as_str(), answer[1]), (Some("not_allowed"), "exit=3"), "{verb}: {said}");
        assert!(json["error"]["message"].as_str().unwrap().contains("puppet-a may not"), "{verb}: {said}");
    }
    assert_eq!(agent.host.presence("b")["state"], "live", "nothing happened to b");
    let said = agent.does("iapeer list --json; iapeer status --json; iapeer send b 'from an agent' --json");
    assert!(said.lines().count() == 3 && said.contains("\"from\":\"puppet-a\""), "what agents may do: {said}");
}

#[test]
fn an_agent_cannot_edit_the_fleet() {
    let agent = Agent::with_peers(&["b"]);
    let before = std::fs::read(agent.host.root().join("registry.json")).unwrap();
    let said = agent.does("iapeer create evil --runtime echo --approval-mode yolo --json; echo \"exit=$?\"; mkdir -p f; iapeer init f --json; echo \"exit=$?\"; iapeer init . --name b2 --json; echo \"exit=$?\"");
    assert_eq!(said.matches("\"not_allowed\"").count(), 3, "{said}");
    assert_eq!(said.matches("exit=3").count(), 3, "{said}");
    assert_eq!(std::fs::read(agent.host.root().join("registry.json")).unwrap(), before);
}

#[test]
fn an_agent_does_not_become_the_parent_of_a_daemon() {
    let mut agent = Agent::with_peers(&["b"]);
    agent.begins(
        "while [ ! -e go ]; do sleep 0.02; done\niapeer start b; echo \"exit=$?\"\niapeer attach b; echo \"attach=$?\"\niapeer daemon; echo \"daemon=$?\"",
    );
    agent.host.kill_daemon();
    std::fs::write(agent.dir.join("go"), "").unwrap();
    agent.host.until("a verb or a daemon has ended", || agent.dir.join("answer").exists() || agent.host.run(&["status"]).code == 0);
    if agent.host.run(&["status"]).code == 0 {
        agent.host.run(&["daemon", "stop"]).ok();
        panic!("an agent started a daemon: {}", agent.answer());
    }
    let said = agent.answer();
    assert!(said.contains("exit=4") && said.contains("an agent cannot start the daemon"), "{said}");
    assert!(!said.contains("attach=0") && !said.contains("daemon=0"), "{said}");
}

#[test]
fn a_sender_is_forged_neither_by_header_nor_by_argument_nor_by_environment() {
    let agent = Agent::with_peers(&["b"]);
    let host = &agent.host;
    let socket = host.root().join("run/iapeer.sock");
    let heads = "POST /v1/messages HTTP/1.1\r\nx-iapeer-from: echo-b\r\nx-iapeer-session: echo-b@1\r\nauthorization: Bearer echo-b\r\nfrom: echo-b";
    let answer = request(&socket, heads, r#"{"to":"operator","text":"x"}"#);
    assert!(answer.contains("self_send"), "it is the operator still: {answer}");
    for field in ["sent", "sender", "intelligence", "hops", "seq", "fence"] {
        let answer = raw_post(&socket, "/v1/messages", &format!(r#"{{"to":"b","text":"x","{field}":"echo-b"}}"#));
        assert!(answer.contains("400 Bad Request") && answer.contains(field), "{field}: {answer}");
    }
    // The mark in the environment gives nobody a name; without a keeper above it, it only takes one away.
    let mut forged = host.command(&["send", "a", "hello", "--json"]);
    let out = forged.env("IAPEER_SESSION", "echo-b@1").output().unwrap();
    let refused: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(refused["error"]["code"], "unauthorized", "{refused}");

    let said = agent.does("IAPEER_SESSION=echo-b@1 iapeer send operator one --json; unset IAPEER_SESSION; iapeer send operator two --json");
    let froms: Vec<Value> = said.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).map(|m| m["from"].clone()).collect();
    assert_eq!(froms, ["puppet-a", "puppet-a"], "{said}");

    let said = agent.does("iapeer send operator x --from echo-b --json");
    assert!(said.contains("not_allowed"), "an agent sends under its own name only: {said}");
    let sent = host.run(&["send", "operator", "for b", "--from", "b", "--json"]).ok().json();
    assert_eq!(sent["from"], "echo-b", "the operator may send for a peer");
    assert!(std::fs::read_to_string(host.root().join("logs/delivery.log")).unwrap().contains("via=operator"));
}

#[test]
fn mail_that_an_agent_sends_while_no_daemon_runs_is_its_own_and_forged_tokens_are_put_aside() {
    let mut agent = Agent::with_peers(&["b"]);
    agent.begins("while [ ! -e go ]; do sleep 0.02; done\niapeer send b from-the-agent --json; unset IAPEER_TOKEN IAPEER_SESSION; iapeer send b without-marks --json; touch sent");
    agent.host.kill_daemon();
    std::fs::write(agent.dir.join("go"), "").unwrap();
    agent.host.until("the agent has sent", || agent.dir.join("sent").exists());
    let said = agent.answer();
    assert_eq!(said.matches("\"from\":\"puppet-a\"").count(), 2, "{said}");
    assert!(said.contains("daemon down"), "{said}");

    // The same record with a token of somebody's own making.
    let spool = agent.host.root().join("state/spool");
    let sends = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        entries.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("send-")).collect()
    };
    let genuine = sends(&spool);
    assert_eq!(genuine.len(), 2, "{genuine:?}");
    let (spooled, text): (Spooled, _) = record::unframe(&std::fs::read(&genuine[0]).unwrap()).map(|(s, t)| (s, t.to_vec())).unwrap();
    for (n, identity) in ["echo-b", "puppet-a"].into_iter().enumerate() {
        let token = Token { identity: identity.parse().unwrap(), incarnation: 1, secret: "0".repeat(64) };
        let id = format!("0199a0b0-0000-7000-8000-00000000000{n}").parse().unwrap();
        let forged = Spooled { id, token: Some(token), text: text.clone(), ..spooled.clone() };
        outbox::leave(&OsDisk, &Root::at(agent.host.root()), &forged).unwrap();
    }
    agent.host.start();
    agent.host.until("both arrived", || agent.host.turns("b").len() >= 2);
    agent.host.until("the spool is empty", || sends(&spool).is_empty());
    for turn in agent.host.turns("b") {
        assert!(turn.contains("from=\"puppet-a\""), "{turn}");
    }
    assert_eq!(agent.host.turns("b").len(), 2, "neither doubled nor forged");
    assert_eq!(sends(&spool.join("corrupt")).len(), 2, "what was forged is kept aside");
    let inbox = agent.host.run(&["inbox", "--keep"]).ok().out;
    assert_eq!(inbox.matches("its token does not fit").count(), 2, "{inbox}");
}

#[test]
fn the_bridge_of_an_agent_outlives_the_daemon() {
    let mut agent = Agent::with_peers(&["b"]);
    let call = |id: u32, text: &str| {
        format!(
            r#"echo '{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"send_to_peer","arguments":{{"name":"b","text":"{text}"}}}}}}' >&3
until grep -q '"id":{id}' said; do sleep 0.02; done"#
        )
    };
    agent.begins(&format!(
        r#"mkfifo asks; iapeer mcp < asks > said & exec 3> asks
echo '{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2025-06-18","capabilities":{{}},"clientInfo":{{"name":"t","version":"1"}}}}}}' >&3
echo '{{"jsonrpc":"2.0","method":"notifications/initialized"}}' >&3
{}
touch sent; while [ ! -e down ]; do sleep 0.02; done
{}
touch spooled; while [ ! -e up ]; do sleep 0.02; done
{}
exec 3>&-; wait; cat said"#,
        call(2, "before"),
        call(3, "while no daemon runs"),
        call(4, "after")
    ));
    agent.host.until("the bridge has sent", || agent.dir.join("sent").exists());
    agent.host.kill_daemon();
    std::fs::write(agent.dir.join("down"), "").unwrap();
    agent.host.until("the bridge has left a message", || agent.dir.join("spooled").exists());
    agent.host.start();
    std::fs::write(agent.dir.join("up"), "").unwrap();
    let said = agent.answer();
    assert!(said.lines().any(|l| l.contains("\"id\":3") && l.contains("daemon down")), "{said}");
    agent.host.until("all have arrived", || agent.host.turns("b").len() >= 3);
    agent.host.until("nothing waits", || agent.host.presence("b")["queue"]["waiting"] == 0);
    let turns = agent.host.turns("b");
    assert!(turns.iter().all(|t| t.contains("from=\"puppet-a\"")), "{turns:?}");
    let mut bodies: Vec<&str> = turns.iter().map(|t| body_of(t)).collect();
    bodies.sort();
    assert_eq!(bodies, ["after", "before", "while no daemon runs"]);
}

#[test]
fn with_its_daemon_out_of_reach_an_agent_is_still_nobody_else() {
    let agent = Agent::with_peers(&["b"]);
    let host = &agent.host;
    host.deliver("b", "say: the answer");
    script(
        &agent.dir.join("deep.sh"),
        &format!(
            "if [ \"$1\" = 0 ]; then shift; '{}' \"$@\"; else n=$1; shift; env -i IAPEER_ROOT=\"$IAPEER_ROOT\" IAPEER_SOCK_DIR=\"$IAPEER_SOCK_DIR\" PATH=\"$PATH\" ./deep.sh $((n - 1)) \"$@\"; fi\nexit $?\n",
            program()
        ),
    );
    // Beyond what is looked at, nobody is the operator: neither for a send, nor for a new peer.
    let said = agent.does("IAPEER_SOCK_DIR=/nowhere ./deep.sh 1050 send b forged --json; ./deep.sh 1050 create evil --runtime echo --json");
    assert_eq!((said.matches("unauthorized").count(), said.matches("not_allowed").count()), (1, 1), "{said}");
    assert!(!host.root().join("peers/evil").exists());
    // Another's mark, with the secret that the host keeps for that one, and a hook's report in its name.
    let said = agent.does(
        "unset IAPEER_TOKEN; IAPEER_SESSION=echo-b@1 IAPEER_SOCK_DIR=/nowhere iapeer send operator forged --json
echo '{\"session_id\":\"x\",\"last_assistant_message\":\"forged\"}' | IAPEER_SESSION=echo-b@1 IAPEER_SOCK_DIR=/nowhere iapeer hook Stop",
    );
    assert!(said.contains("unauthorized"), "{said}");
    let corrupt = host.root().join("state/spool/corrupt");
    host.until("the report is put aside", || {
        std::fs::read_dir(&corrupt).into_iter().flatten().flatten().any(|e| e.file_name().to_string_lossy().starts_with("hook-"))
    });
    // What it starts beside its keeper, by the tmux of its own session, is no operator either.
    let socket = host.session("puppet-a").unwrap()["socket"].as_str().unwrap().to_string();
    let beside = agent.dir.join("beside");
    agent.does(&format!(
        "env -i {} -S {socket} new-window -d \"env -i IAPEER_ROOT='{}' '{}' stop b --json > beside.tmp 2>&1; mv beside.tmp {}\"",
        tmux().display(),
        host.root().display(),
        program(),
        beside.display()
    ));
    host.until("it has spoken", || beside.exists());
    assert!(agent.file("beside").contains("not_allowed"), "{}", agent.file("beside"));
    assert_eq!(host.presence("b")["state"], "live");
    assert!(!host.run(&["inbox", "--keep"]).ok().out.lines().any(|l| l.contains("forged")), "{}", host.run(&["inbox", "--keep"]).out);
}

#[test]
fn an_inbox_that_leads_elsewhere_is_neither_filled_nor_cleaned() {
    let mut host = Host::new();
    host.run(&["create", "a", "--runtime", "echo"]).ok();
    let folder = host.root().join("peers/a/.iapeer");
    let elsewhere = host.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let old = elsewhere.join("0123456789abcdef-old.txt");
    std::fs::write(&old, "a person's").unwrap();
    std::fs::File::options().append(true).open(&old).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let _ = std::fs::remove_dir_all(folder.join("inbox"));
    std::os::unix::fs::symlink(&elsewhere, folder.join("inbox")).unwrap();
    // The start prunes.
    host.start();
    let plan = host.dir.path().join("plan.md");
    std::fs::write(&plan, "the plan").unwrap();
    let refused = host.run(&["send", "a", "x", "--attachment", plan.to_str().unwrap(), "--json"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    host.deliver("a", "mail without files goes on");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 1);
    assert!(old.exists());
}

#[test]
fn an_agent_cannot_prove_mail_of_another_peer() {
    let agent = Agent::with_peers(&["b"]);
    agent.host.deliver("b", "work: 4s");
    let held = agent.host.run(&["send", "b", "waits its turn", "--json"]).ok().json();
    let id = held["id"].as_str().unwrap();
    let report = format!(r#"{{"prompt":"<iap id=\"{id}\" from=\"operator\" fence=\"x\">\nwaits its turn\n</iap:x>","session_id":"s"}}"#);
    agent.does(&format!("printf '%s' '{report}' > r.json\nIAPEER_SESSION=echo-b@1 iapeer hook UserPromptSubmit < r.json"));
    assert_eq!(agent.host.turns("b").len(), 1, "b is still in its first turn, or this test proves nothing");
    let view = message(&agent.host, id);
    assert!(matches!(view["state"].as_str(), Some("accepted" | "held")), "{view}");
    agent.host.until("b takes it by itself", || agent.host.turns("b").len() == 2);
}

fn message(host: &Host, id: &str) -> Value {
    let answer = get(&host.root().join("run/iapeer.sock"), &format!("/v1/messages/{id}"));
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

#[test]
fn only_the_peer_that_was_asked_can_answer() {
    let agent = Agent::with_peers(&["b"]);
    agent.host.deliver("b", "work: 4s");
    let asked = agent.host.run(&["send", "b", "reply: the true answer", "--json"]).ok().json();
    let id = asked["id"].as_str().unwrap();
    agent.does(&format!("iapeer send operator 'a forged answer' --in-reply-to {id}"));
    let view = message(&agent.host, id);
    assert_ne!(view["state"], "answered", "a answered what b was asked: {view}");
    agent.host.until("b answers", || message(&agent.host, id)["state"] == "answered");
    assert_eq!(message(&agent.host, id)["answer"]["text"], "the true answer");
}

#[test]
fn a_daemonised_child_of_an_agent_is_that_agent() {
    let agent = Agent::with_peers(&[]);
    let inner = agent.dir.join("inner.sh");
    script(
        &inner,
        &format!(
            "cd {}\nwhile [ ! -e go ]; do sleep 0.02; done\nawk '{{print $4, $6}}' /proc/$$/stat > place\n'{}' send operator orphaned --json > orphan.tmp 2>&1\n'{}' stop a --json >> orphan.tmp 2>&1\nmv orphan.tmp orphan\n",
            agent.dir.display(),
            program(),
            program()
        ),
    );
    agent.does("echo $$ > parent\n(setsid sh -c './inner.sh < /dev/null > /dev/null 2>&1 &' &)\nwait");
    let parent = agent.file("parent").trim().to_string();
    agent.host.until("its parents are gone", || !Path::new(&format!("/proc/{parent}")).exists());
    std::fs::write(agent.dir.join("go"), "").unwrap();
    agent.host.until("the orphan has spoken", || agent.dir.join("orphan").exists());
    let keeper = agent.host.session("puppet-a").unwrap()["keeper"]["pid"].to_string();
    assert_eq!(agent.file("place").split(' ').next(), Some(keeper.as_str()), "adopted by the keeper, in a session of its own: {}", agent.file("place"));
    let said = agent.file("orphan");
    assert!(said.contains("\"from\":\"puppet-a\"") && said.contains("not_allowed"), "{said}");
}

#[test]
fn a_long_chain_of_parents_makes_no_agent_the_operator() {
    let agent = Agent::with_peers(&[]);
    // Each process stays until its child has ended, and none but the keeper's own shows the mark.
    script(
        &agent.dir.join("deep.sh"),
        &format!(
            "if [ \"$1\" = 0 ]; then '{}' send operator deep --json; else env -i IAPEER_ROOT=\"$IAPEER_ROOT\" PATH=\"$PATH\" ./deep.sh $(($1 - 1)); fi\nexit $?\n",
            program()
        ),
    );
    let said = agent.does("./deep.sh 250");
    assert!(said.contains("\"from\":\"puppet-a\""), "{said}");
    let said = agent.does("./deep.sh 1050");
    assert!(said.contains("\"code\":\"capacity\""), "further up than anybody looks: {said}");
}

#[test]
fn an_agent_is_no_operator_in_the_moment_of_its_start() {
    let agent = Agent::prepare(&[]);
    let mut host = agent.host;
    // A tmux that is slow to come back from the start of a session: the agent runs before the daemon
    // has heard of it.
    let bin = host.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    script(&bin.join("tmux"), &format!("'{}' \"$@\"; rc=$?\ncase \" $* \" in *' new-session '*) sleep 0.5;; esac\nexit $rc\n", tmux().display()));
    host.env.insert("PATH".into(), format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    let early = host.dir.path().join("early.sh");
    script(
        &early,
        &format!(
            "cd {}\n'{}' send operator early --json > early.tmp 2>&1\n'{}' inbox --json >> early.tmp 2>&1\nmv early.tmp early\nexec '{}' echo-agent \"$@\"\n",
            agent.dir.display(),
            program(),
            program(),
            program()
        ),
    );
    let path = host.root().join("runtimes/puppet.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("argv: [\"{iapeer}\", echo-agent]", &format!("argv: [\"{}\"]", early.display()));
    std::fs::write(path, text).unwrap();
    host.start();
    host.run(&["send", "a", "hello"]).ok();
    host.until("the agent has spoken", || agent.dir.join("early").exists());
    let said = std::fs::read_to_string(agent.dir.join("early")).unwrap();
    let lines: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {said}"))).collect();
    assert!(lines[0]["from"] != "operator" && lines[0]["error"]["code"] != "self_send", "it was taken for the operator: {said}");
    assert!(matches!(lines[1]["error"]["code"].as_str(), Some("not_allowed" | "unauthorized")), "it read the operator's mail: {said}");
    host.until("it is delivered all the same", || host.turns("a").len() == 1);
}

#[test]
fn what_a_killed_keeper_leaves_is_no_operator() {
    let agent = Agent::with_peers(&["b"]);
    agent.host.deliver("b", "hello");
    let inner = agent.dir.join("inner.sh");
    script(
        &inner,
        &format!(
            "cd {}\necho $$ > inner.pid\nwhile [ ! -e go ]; do sleep 0.02; done\n'{}' stop b --json > orphan.tmp 2>&1\nmv orphan.tmp orphan\n",
            agent.dir.display(),
            program()
        ),
    );
    agent.does("(setsid sh -c './inner.sh < /dev/null > /dev/null 2>&1 &' &)\nwhile [ ! -s inner.pid ]; do sleep 0.02; done");
    let keeper = agent.host.session("puppet-a").unwrap()["keeper"]["pid"].as_i64().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    agent.host.until("its remains are collected", || agent.host.session("puppet-a").is_none());
    std::fs::write(agent.dir.join("go"), "").unwrap();
    let inner_pid = agent.file("inner.pid").trim().to_string();
    agent.host.until("the orphan has ended or spoken", || !Path::new(&format!("/proc/{inner_pid}")).exists() || agent.dir.join("orphan").exists());
    let said = agent.file("orphan");
    assert!(said.is_empty() || said.contains("not_allowed") || said.contains("unauthorized"), "an orphan acted as the operator: {said}");
    assert_eq!(agent.host.presence("b")["state"], "live");
}

/// Names of the environment that a peer may see, and the shell's own.
const ALLOWED: &[&str] = &[
    "IAPEER_TOKEN",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LC_TIME",
    "PATH",
    "TERM",
    "IAPEER_ROOT",
    "IAPEER_SOCK_DIR",
    "IAPEER_SESSION",
];

fn environment(pid: i64) -> BTreeSet<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    bytes.split(|b| *b == 0).filter(|e| !e.is_empty()).map(|e| String::from_utf8_lossy(e).into_owned()).collect()
}

#[test]
fn an_agents_environment_is_on_the_allow_list_and_the_tmux_server_has_no_secret() {
    let mut agent = Agent::prepare(&[]);
    let dirty = [
        ("MY_API_TOKEN", "planted-in-the-daemon"),
        ("AWS_SECRET_ACCESS_KEY", "planted-in-the-daemon"),
        ("CLAUDECODE", "1"),
        ("CLAUDE_CODE_ENTRYPOINT", "cli"),
        ("CODEX_HOME", "/nowhere"),
        ("TMUX", "/tmp/x,1,0"),
        ("TMUX_PANE", "%9"),
        ("LD_LIBRARY_PATH", "/nowhere"),
        ("IAPEER_CRASHLOOP_MAX", "3"),
        ("LANG", "C.UTF-8"),
        ("LC_TIME", "C"),
        ("PASSED_ON", "yes"),
        ("STAYS", "no"),
    ];
    agent.host.env.extend(dirty.map(|(k, v)| (k.to_string(), v.to_string())));
    let profile = agent.host.root().join("peers/a/.iapeer/peer.yaml");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, format!("{text}env_passthrough: [PASSED_ON]\nenv:\n  OF_THE_PROFILE: \"x-${{LANG}}\"\n")).unwrap();
    agent.host.start();
    let child = agent.does("env; echo \"tmux: $(tmux ls 2>&1)\"");

    let start: Value = serde_json::from_slice(&std::fs::read(agent.host.state_dir("puppet-a").join("exits/1.start.json")).unwrap()).unwrap();
    let seen = environment(start["agent"]["pid"].as_i64().unwrap());
    let names: BTreeSet<&str> = seen.iter().map(|e| e.split('=').next().unwrap()).collect();
    let extra: Vec<_> = names.iter().filter(|n| !ALLOWED.contains(n) && !["PASSED_ON", "OF_THE_PROFILE"].contains(n)).collect();
    assert!(extra.is_empty(), "not on the list: {extra:?}");
    for wanted in ["PASSED_ON=yes", "OF_THE_PROFILE=x-C.UTF-8", "LANG=C.UTF-8", "IAPEER_SESSION=puppet-a@1"] {
        assert!(seen.contains(wanted), "{wanted} is missing: {seen:?}");
    }
    assert!(!child.contains("planted-in-the-daemon") && !child.contains("TMUX") && !child.contains("STAYS"), "{child}");
    let listed = child.split("tmux: ").nth(1).unwrap();
    assert!(!listed.contains("puppet-a") && !listed.contains("echo-"), "an agent sees our sessions: {listed}");

    let record = agent.host.session("puppet-a").unwrap();
    for process in ["server", "keeper"] {
        let environ = environment(record[process]["pid"].as_i64().unwrap()).into_iter().collect::<Vec<_>>().join("\n");
        assert!(!environ.contains("planted-in-the-daemon") && !environ.contains("CLAUDECODE") && !environ.contains("PASSED_ON"), "{process}: {environ}");
    }
    let global = String::from_utf8(agent.host.tmux("puppet-a", &["show-environment", "-g"]).stdout).unwrap();
    assert!(!global.contains("planted") && !global.contains("CLAUDECODE") && !global.contains("OF_THE_PROFILE"), "{global}");
}

#[test]
fn secrets_of_the_host_are_in_no_argument_and_in_no_file_but_their_own() {
    let mut agent = Agent::prepare(&["b"]);
    let secret = "planted-8f3a1c-secret";
    let env_file = agent.host.root().join("env");
    std::fs::write(&env_file, format!("PLANTED_KEY={secret}\n")).unwrap();
    std::fs::set_permissions(&env_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let watching = Arc::new(AtomicBool::new(true));
    let watcher = std::thread::spawn({
        let watching = watching.clone();
        move || {
            let mut seen = Vec::new();
            let mut looks = 0u32;
            while watching.load(Ordering::SeqCst) {
                for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                    let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                    if String::from_utf8_lossy(&line).contains(secret) {
                        seen.push(String::from_utf8_lossy(&line).into_owned());
                    }
                }
                looks += 1;
            }
            (seen, looks)
        }
    });
    agent.host.start();
    for _ in 0..3 {
        agent.host.deliver("a", "hello");
        agent.host.deliver("b", "hello");
        agent.host.run(&["new", "a"]).ok();
        agent.host.run(&["new", "b"]).ok();
    }
    let inside = agent.does("echo \"$PLANTED_KEY\"");
    assert!(inside.contains(secret), "the agent has its key: {inside}");
    agent.host.run(&["stop", "a"]).ok();
    watching.store(false, Ordering::SeqCst);
    let (seen, looks) = watcher.join().unwrap();
    assert!(seen.is_empty() && looks > 20, "in the arguments of a process ({looks} looks): {seen:?}");

    let bytes = secret.as_bytes();
    for path in tree(agent.host.dir.path()) {
        let told = path.is_file() && std::fs::read(&path).unwrap_or_default().windows(bytes.len()).any(|w| w == bytes);
        let expected = path == env_file || path.starts_with(&agent.dir);
        assert!(!told || expected, "the secret stands in {}", path.display());
        assert!(!path.file_name().unwrap().to_string_lossy().starts_with("launch-"), "a launch file stayed: {}", path.display());
    }
    for out in [agent.host.run(&["list", "--json"]), agent.host.run(&["status", "--json"]), agent.host.run(&["logs"])] {
        assert!(!out.out.contains(secret) && !out.err.contains(secret), "{out:?}");
    }
}

#[test]
fn nothing_of_ours_is_open_to_others() {
    let mut host = Host::with_peers(&["a", "b"]);
    let project = host.dir.path().join("project");
    std::fs::create_dir(&project).unwrap();
    std::fs::set_permissions(&project, std::fs::Permissions::from_mode(0o755)).unwrap();
    host.run(&["init", project.to_str().unwrap(), "--runtime", "echo"]).ok();
    host.deliver("a", "relay: b,project 2");
    host.until("the relay is over", || !std::fs::read_dir(project.join(".iapeer/echo")).map(|d| d.count()).unwrap_or(0).eq(&0));
    host.deliver("a", &"large ".repeat(30_000));
    host.deliver("b", "reply: mail for the operator");
    host.until("the answer is there", || host.run(&["inbox", "--keep"]).ok().out.contains("mail for the operator"));
    host.run(&["inbox"]).ok();
    host.run(&["stop", "b"]).ok();
    host.kill_daemon();
    host.start();
    let open = |dir: &Path| -> Vec<String> {
        tree(dir)
            .into_iter()
            .filter_map(|p| p.symlink_metadata().ok().map(|m| (p, m)))
            .filter(|(_, m)| !m.file_type().is_symlink() && m.mode() & 0o077 != 0)
            .map(|(p, m)| format!("{:o} {}", m.mode() & 0o7777, p.display()))
            .collect()
    };
    let found = [open(&host.root()), open(&project.join(".iapeer"))].concat();
    assert!(found.is_empty(), "open to others:\n{}", found.join("\n"));
    assert_eq!(std::fs::metadata(&project).unwrap().mode() & 0o777, 0o755, "a user's own folder keeps its mode");
}

fn hostile() -> Vec<String> {
    let plain = [
        "../x",
        "..",
        ".",
        "/etc/passwd",
        "a/b",
        "a;b",
        "a b",
        "#(touch pwned)",
        "#{pane_id}",
        "$(touch pwned)",
        "`touch pwned`",
        "%0",
        "=a",
        "-rf",
        "--all-peers",
        "a\nb",
        "\u{1b}[31m",
        "é",
        "",
        "a\u{202e}b",
        "echo-../x",
        "operator/../a",
    ];
    plain.iter().map(|s| s.to_string()).chain(["n".repeat(300), format!("echo-{}", "n".repeat(300))]).collect()
}

#[test]
fn hostile_names_create_nothing_and_reach_nothing() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let socket = host.root().join("run/iapeer.sock");
    // The end of a delivery is written after it is told.
    host.until("the mailbox has come to rest", || std::fs::read_dir(host.state_dir("echo-a").join("queue/done")).unwrap().count() == 2);
    host.until("its screen is kept", || host.state_dir("echo-a").join("exits/1.screen.txt").exists());
    let files = || tree(host.dir.path()).into_iter().filter(|p| !p.to_string_lossy().contains("/.")).collect::<Vec<_>>();
    let before = files();
    for name in hostile() {
        for args in [
            &["create", "--", &name][..],
            &["create", "--runtime", "echo", "--", &name],
            &["init", "--runtime", "echo", &format!("--name={name}"), host.dir.path().join("home").to_str().unwrap()],
        ] {
            let ran = host.run(args);
            assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        }
        for args in [&["send", "--", &name, "x"][..], &["stop", "--", &name], &["screen", "--", &name], &["start", "--", &name]] {
            let ran = host.run(args);
            assert!(matches!(ran.code, 2 | 3), "{args:?}: {ran:?}");
            assert!(!ran.err.contains('\u{1b}'), "{args:?}: an escape reaches the terminal: {ran:?}");
        }
        let body = serde_json::json!({ "to": name, "text": "x" }).to_string();
        let answer = raw_post(&socket, "/v1/messages", &body);
        assert!(answer.contains("\"peer_unknown\""), "{name:?}: {answer}");
    }
    for name in ["a\\u0000", "\\u0000", "..\\u0000/a", "a\\u0000b"] {
        let answer = raw_post(&socket, "/v1/messages", &format!(r#"{{"to":"{name}","text":"x"}}"#));
        assert!(answer.contains("\"peer_unknown\""), "{name}: {answer}");
    }
    for path in ["..%2f..%2fx", "%00", "a%00", "%2e%2e", "%23(touch%20pwned)"] {
        for (method, verb) in [("GET", "screen"), ("POST", "stop"), ("POST", "start"), ("POST", "new")] {
            let answer = request(&socket, &format!("{method} /v1/peers/{path}/{verb} HTTP/1.1"), "{}");
            assert!(answer.starts_with("HTTP/1.1 4"), "{method} {path}/{verb}: {answer}");
        }
        assert!(get(&socket, &format!("/v1/messages/{path}")).starts_with("HTTP/1.1 4"));
    }
    let made: Vec<_> = files().into_iter().filter(|p| !before.contains(p)).collect();
    assert!(made.is_empty(), "hostile names made {made:?}");
    host.deliver("a", "and it goes on");
}

#[test]
fn what_a_client_tells_about_itself_stays_small_and_on_its_line() {
    let host = Host::with_peers(&["a"]);
    let socket = host.root().join("run/iapeer.sock");
    host.deliver("a", "hello");
    for via in ["x\nts=1 ev=death identity=echo-a", "system", &"v".repeat(100_000)] {
        let body = serde_json::json!({ "to": "a", "text": "x", "via": via }).to_string();
        raw_post(&socket, "/v1/messages", &body);
    }
    host.deliver("a", "afterwards");
    let log = std::fs::read_to_string(host.root().join("logs/delivery.log")).unwrap();
    assert!(log.lines().all(|l| l.starts_with("ts=20") && l.len() < 2000), "a line of the log was forged or grew without bound");
    assert!(!log.contains("via=system"), "a caller signs as the system itself");
}

#[test]
fn a_folder_with_a_hostile_name_works_and_executes_nothing() {
    let host = Host::with_peers(&[]);
    for (n, name) in
        ["#(touch pwned)", "#{pane_id} '$(touch pwned)' \"`touch pwned`\"", "two words; touch pwned #", "-rf", "a%sb\\c", "é 🦀"].iter().enumerate()
    {
        let folder = host.dir.path().join("projects").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let peer = format!("odd{n}");
        host.run(&["init", "--runtime", "echo", "--name", &peer, "--", folder.to_str().unwrap()]).ok();
        let sent = host.deliver(&peer, "reply: done");
        host.until("it answers", || message(&host, sent["id"].as_str().unwrap())["state"] == "answered");
        assert!(folder.join(".iapeer/echo").is_dir(), "the agent runs in {name:?}");
        let identity = format!("echo-{peer}");
        let start: Value = serde_json::from_slice(&std::fs::read(host.state_dir(&identity).join("exits/1.start.json")).unwrap()).unwrap();
        assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", start["agent"]["pid"])).unwrap(), folder.canonicalize().unwrap());
    }
    let pwned: Vec<_> = tree(host.dir.path()).into_iter().filter(|p| p.ends_with("pwned")).collect();
    assert!(pwned.is_empty() && !Path::new("/pwned").exists(), "something was executed: {pwned:?}");
    assert!(host.run(&["list"]).ok().err.is_empty());
}

#[test]
fn text_of_others_shows_no_control_character_on_a_terminal() {
    let host = Host::with_peers(&["a"]);
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31mred\u{8}";
    let profile = host.root().join("peers/a/.iapeer/peer.yaml");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, format!("{text}description: {}\n\"bad\\e[2Jkey\": 1\n", serde_json::to_string(evil).unwrap().replace('\u{9b}', "\\x9b"))).unwrap();
    host.deliver("a", &format!("reply: {evil}"));
    host.until("the answer is there", || host.run(&["inbox", "--keep"]).ok().out.contains("red"));
    host.run(&["send", "a", "x", "--topic", "fine"]).ok();
    for args in [&["list"][..], &["status"], &["inbox", "--keep"], &["logs"], &["screen", "a"], &["send", evil, "x"], &["stop", evil]] {
        let ran = host.run(args);
        let shown = format!("{}{}", ran.out, ran.err);
        let bad: Vec<char> = shown.chars().filter(|c| *c != '\n' && *c != '\t' && iapeer::core::sanitize::is_control(*c)).collect();
        assert!(bad.is_empty(), "{args:?} shows {bad:?}: {shown:?}");
    }
}

/// Connects as another user. Credentials of a unix socket are those of the connecting thread, so one
/// thread of this test changes its own.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "only the raw call changes the user of one thread")]
fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    const NOBODY: nix::libc::uid_t = 65534;
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // The raw call changes this thread alone; the thread ends with it.
                let changed = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, -1i64, i64::from(NOBODY), -1i64) };
                assert_eq!(changed, 0, "setresuid");
                act()
            })
            .join()
            .unwrap()
    })
}

#[cfg(target_os = "linux")]
#[test]
fn another_user_is_nobody_even_where_the_files_let_it_in() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can become another user; not tested here");
        return;
    }
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let socket = host.root().join("run/iapeer.sock");
    let closed = as_nobody(|| UnixStream::connect(&socket).map(drop));
    assert_eq!(closed.map_err(|e| e.kind()), Err(std::io::ErrorKind::PermissionDenied), "the modes alone keep it out");
    for (path, mode) in [(host.dir.path().to_path_buf(), 0o755), (host.root(), 0o755), (host.root().join("run"), 0o755), (socket.clone(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let posts = [
        ("/v1/messages", r#"{"to":"a","text":"x"}"#),
        ("/v1/peers/a/stop", "{}"),
        ("/v1/peers/a/wake", r#"{"cause":"start"}"#),
        ("/v1/hook", r#"{"event":"Stop"}"#),
        ("/v1/shutdown", "{}"),
    ];
    let gets = ["/v1/whoami", "/v1/inbox", "/v1/peers/a/screen", "/v1/peers", "/v1/status"];
    let mut open = Vec::new();
    as_nobody(|| {
        for (path, body) in posts {
            let answer = exchange(UnixStream::connect(&socket).unwrap(), &format!("POST {path} HTTP/1.1"), body);
            if !answer.contains("\"unauthorized\"") {
                open.push(path);
            }
        }
        for path in gets {
            let answer = exchange(UnixStream::connect(&socket).unwrap(), &format!("GET {path} HTTP/1.1"), "");
            if !answer.contains("\"unauthorized\"") {
                open.push(path);
            }
        }
    });
    assert!(open.is_empty(), "another user is served by {open:?}");
    assert_eq!(host.turns("a").len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_served_by_another_user_gets_no_message() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can become another user; not tested here");
        return;
    }
    let mut host = Host::new();
    let trap = tempfile::Builder::new().prefix("iap").permissions(std::fs::Permissions::from_mode(0o777)).tempdir().unwrap();
    std::fs::set_permissions(trap.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let socket = trap.path().join("iapeer.sock");
    let listener = as_nobody(|| std::os::unix::net::UnixListener::bind(&socket).unwrap());
    listener.set_nonblocking(true).unwrap();
    host.env.insert("IAPEER_SOCK_DIR".into(), trap.path().to_str().unwrap().into());
    let ran = host.run(&["send", "a", "a secret", "--json"]);
    assert_eq!((ran.code, ran.json()["error"]["code"].as_str()), (3, Some("unauthorized")), "{ran:?}");
    let mut got = Vec::new();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = stream.read_to_end(&mut got);
    assert!(got.is_empty(), "the squatter was told {:?}", String::from_utf8_lossy(&got));
}

#[test]
fn the_tmux_of_a_session_takes_neither_clipboard_nor_titles_nor_keys_from_its_agent() {
    let host = Host::with_peers(&["a"]);
    host.deliver("a", "hello");
    let option = |args: &[&str]| String::from_utf8(host.tmux("echo-a", args).stdout).unwrap().trim().to_string();
    for (name, want) in
        [("set-clipboard", "off"), ("remain-on-exit", "on"), ("status", "off"), ("prefix", "None"), ("automatic-rename", "off"), ("allow-rename", "off")]
    {
        let told = [option(&["show-options", "-sv", name]), option(&["show-options", "-gv", name]), option(&["show-options", "-gwv", name])];
        assert!(told.iter().any(|v| v == want), "{name}: {told:?}");
    }
    let root_keys = option(&["list-keys", "-T", "root"]);
    assert!(root_keys.lines().any(|l| l.contains("C-]") && l.contains("detach-client")), "{root_keys}");
    let out = Command::new(tmux()).arg("ls").env_remove("TMUX").output().unwrap();
    assert!(!String::from_utf8_lossy(&out.stdout).contains("echo-a"), "the user's own tmux shows our sessions");
}
