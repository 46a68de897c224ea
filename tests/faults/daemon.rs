//! The real daemon, killed or failed at its own durable operations while a client sends and waits.
//!
//! The client repeats a send under the same id until it has an answer, as the bridges do. Whatever it was
//! told, in the end each message is one turn of the agent, and no session that stood was restarted.

use crate::harness::{Host, PATIENCE, body_of, id_of};
use iapeer::api::client::{ANSWER, Client};
use iapeer::api::shapes::{MessageView, Recipients, SendRequest, Via};
use iapeer::core::fault::{Code, Fault};
use iapeer::store::layout::Root;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const FAULT: &str = "IAPEER_TEST_FAULT";
/// Hosts at a time.
const HOSTS: usize = 3;

fn uuid(n: usize) -> String {
    format!("0199a0b0-0000-7000-8000-{n:012}")
}

/// A host whose first daemon has a fault; the second one has none.
struct Faulty {
    fault: String,
    host: Host,
    first: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

impl Faulty {
    fn start(fault: &str) -> Faulty {
        let mut host = Host::new();
        host.run(&["create", "a", "--runtime", "echo"]).ok();
        host.env.insert(FAULT.into(), fault.into());
        let log = std::fs::OpenOptions::new().create(true).append(true).open(host.dir.path().join("daemon.log")).unwrap();
        let first = host.command(&["daemon"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        host.env.remove(FAULT);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut faulty = Faulty { fault: fault.into(), host, first: Some(first), runtime };
        let began = Instant::now();
        while faulty.is_up() && UnixStream::connect(faulty.host.root().join("run/iapeer.sock")).is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "{}", faulty.host.evidence());
            std::thread::sleep(Duration::from_millis(5));
        }
        faulty
    }

    fn is_up(&mut self) -> bool {
        self.first.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Starts a daemon without a fault in the place of one that is gone.
    fn follow(&mut self) {
        let ended = self.first.take().expect("it follows once").wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{ended:?}\n{}", self.host.evidence());
        let stood = self.host.session("echo-a").map(|s| s["keeper"].clone());
        self.host.start();
        // A session that was recorded goes on under the next daemon.
        let stands = self.host.session("echo-a").map(|s| s["keeper"].clone());
        assert!(stood.is_none() || stood == stands, "{stood:?} became {stands:?}\n{}", self.host.evidence());
    }

    fn call(&self, n: usize, text: &str) -> Result<MessageView, Fault> {
        let root = Root::at(self.host.root());
        let request = SendRequest { id: Some(uuid(n).parse().unwrap()), ..SendRequest::new(Recipients::One("a".into()), text.into(), Via::Api) };
        self.runtime.block_on(async { Client::connect(&root).await?.post("/v1/messages", &request, ANSWER).await })
    }

    fn wait(&self, n: usize) -> Result<MessageView, Fault> {
        let root = Root::at(self.host.root());
        let path = format!("/v1/messages/{}?wait=submitted&timeout_secs=30", uuid(n));
        self.runtime.block_on(async { Client::connect(&root).await?.get(&path, Duration::from_secs(60)).await })
    }

    /// Sends and waits for the evidence; begins again when the daemon dies under it.
    fn deliver(&mut self, n: usize, text: &str) {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "{}: {text}\n{}", self.fault, self.host.evidence());
            let told = self.call(n, text).and_then(|_| self.wait(n));
            match told {
                Ok(view) if view.submitted.is_some() => return,
                Ok(view) => panic!("{}: {view:?}\n{}", self.fault, self.host.evidence()),
                Err(fault) if fault.code == Code::DaemonUnreachable => {
                    if self.first.is_some() && !self.is_up() {
                        self.follow();
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(fault) => panic!("{}: {fault:?}\n{}", self.fault, self.host.evidence()),
            }
        }
    }

    /// Each of these messages is exactly one turn, in this order.
    #[track_caller]
    fn has_turns(&self, want: &[(usize, &str)], fault: &str) {
        let turns = self.host.turns("a");
        let got: Vec<(String, &str)> = turns.iter().map(|t| (id_of(t).to_string(), body_of(t))).collect();
        let want: Vec<(String, &str)> = want.iter().map(|(n, text)| (uuid(*n), *text)).collect();
        assert_eq!(got, want, "{fault}\n{}", self.host.evidence());
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if self.is_up() {
            let _ = self.host.run(&["daemon", "stop", "--all-peers"]);
        }
        if let Some(mut child) = self.first.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Two messages through a daemon that dies at operation `n`; false when it never came so far.
fn delivers_although_killed(fault: &str) -> bool {
    let mut faulty = Faulty::start(fault);
    faulty.deliver(1, "first");
    faulty.deliver(2, "second");
    let want = [(1, "first"), (2, "second")];
    faulty.has_turns(&want, fault);
    let killed = !faulty.is_up();
    if killed {
        if faulty.first.is_some() {
            // It died after the last answer.
            faulty.follow();
        }
        faulty.host.until("nothing waits", || faulty.host.presence("a")["queue"]["waiting"] == 0);
        // What the second start finds makes nobody type again.
        faulty.host.deliver("a", "third");
        let turns = faulty.host.turns("a");
        let bodies: Vec<&str> = turns.iter().map(|t| body_of(t)).collect();
        assert_eq!(bodies, ["first", "second", "third"], "{fault}\n{}", faulty.host.evidence());
    }
    killed
}

/// Runs one thing for 1, 2, 3 … on a few threads, until it says that it is enough.
fn until_enough(once: impl Fn(usize) -> bool + Sync) -> usize {
    let (next, end) = (AtomicUsize::new(1), AtomicUsize::new(usize::MAX));
    std::thread::scope(|threads| {
        for _ in 0..HOSTS {
            threads.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= end.load(Ordering::SeqCst) {
                        return;
                    }
                    if !once(n) {
                        end.fetch_min(n, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    end.load(Ordering::SeqCst)
}

#[test]
fn a_daemon_killed_at_every_durable_operation_delivers_each_message_once() {
    let began = Instant::now();
    let end = until_enough(|n| delivers_although_killed(&format!("kill@{n}")));
    eprintln!("{} kills, {:?}", end - 1, began.elapsed());
    assert!(end > 30, "the run has {end} durable operations: is the fault in force?");
}

/// Sends one after the other to a daemon whose disk fails at some operations: refused with these codes or
/// kept, and what was kept is delivered, once, also over a restart.
fn delivers_what_it_did_not_refuse(fault: &str, codes: &[Code], refused_at_most: usize) {
    let mut faulty = Faulty::start(fault);
    let texts: Vec<String> = (1..=6).map(|n| format!("message {n}")).collect();
    let mut kept = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        match faulty.call(n + 1, text) {
            Ok(_) => kept.push((n + 1, text.as_str())),
            Err(refusal) => {
                assert!(codes.contains(&refusal.code) && refusal.retryable, "{fault}: {refusal:?}\n{}", faulty.host.evidence());
                assert!(!refusal.hint.is_empty(), "{fault}: {refusal:?}");
            }
        }
        assert!(faulty.is_up(), "{fault}: the daemon ended\n{}", faulty.host.evidence());
    }
    assert!(texts.len() - kept.len() <= refused_at_most, "{fault}: only {kept:?} were kept\n{}", faulty.host.evidence());
    faulty.host.until(&format!("{fault}: what was kept is delivered"), || faulty.host.turns("a").len() >= kept.len());
    faulty.has_turns(&kept, fault);
    let mut first = faulty.first.take().unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    faulty.host.start();
    faulty.host.deliver("a", "last");
    let turns = faulty.host.turns("a");
    let bodies: Vec<&str> = turns.iter().map(|t| body_of(t)).collect();
    let want: Vec<&str> = kept.iter().map(|(_, text)| *text).chain(["last"]).collect();
    assert_eq!(bodies, want, "{fault}\n{}", faulty.host.evidence());
}

#[test]
fn a_disk_that_fails_once_refuses_one_message_at_most_and_doubles_none() {
    let last = until_enough(|n| {
        // Every fourth operation, each kind in turn.
        let (kind, code) = [("eio", Code::StoreDegraded), ("enospc", Code::DiskFull), ("short", Code::DiskFull)][n % 3];
        delivers_what_it_did_not_refuse(&format!("{kind}@{}", 4 * n - 3), &[code], 1);
        n < 12
    });
    assert_eq!(last, 12);
}

#[test]
fn a_disk_that_is_full_for_a_while_refuses_until_it_is_over() {
    // The first block of sequence numbers takes three operations; none of them gets through.
    delivers_what_it_did_not_refuse("enospc@1-6", &[Code::DiskFull], 4);
    delivers_what_it_did_not_refuse("eio@1-4", &[Code::StoreDegraded], 3);
}

#[test]
fn a_disk_without_free_space_refuses_all_mail_and_the_daemon_stays_up() {
    for (fault, code) in [("floor", "disk_full"), ("enospc@1-100000", "disk_full"), ("eio@1-100000", "store_degraded")] {
        let mut faulty = Faulty::start(fault);
        for n in 1..=3 {
            let refusal = faulty.call(n, "x").unwrap_err();
            assert_eq!(refusal.code.word(), code, "{fault}: {refusal:?}");
        }
        assert!(faulty.is_up() && faulty.host.run(&["status"]).code == 0, "{fault}");
        assert!(faulty.host.turns("a").is_empty(), "{fault}");
    }
}
