//! Messages at random moments around a dialog in which Enter is consent: opened by a turn, and by a
//! person's own line that the daemon cannot foresee.

use crate::api::Api;
use crate::harness::Host;
use crate::report::Verdict;
use crate::{Plan, Random, tally};
use serde_json::Value;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub fn run(plan: &Plan) -> Verdict {
    let names = tally::names("p", 5);
    let tries = plan.pick(300, 3_000) / names.len();
    let host = tally::live_host(&names);
    let (sent, faults) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let eaten = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (n, name) in names.iter().enumerate() {
            let random = plan.random(400 + n as u64);
            let (host, sent, faults, eaten) = (&host, &sent, &faults, &eaten);
            scope.spawn(move || {
                let mut person = Person { host, name, identity: format!("echo-{name}"), api: Api::connect(host), random, eaten: 0 };
                for n in 0..tries {
                    let (ids, failed) = person.try_once(n);
                    sent.lock().unwrap().extend(ids);
                    faults.lock().unwrap().extend(failed);
                }
                eaten.fetch_add(person.eaten, Ordering::SeqCst);
            });
        }
    });
    let (sent, mut faults) = (sent.into_inner().unwrap(), faults.into_inner().unwrap());
    faults.extend(tally::faults(&host, &names, &sent));
    let notes: Vec<_> = names.iter().flat_map(|n| tally::records(&host, n)).filter_map(|r| r["text"].as_str().map(String::from)).collect();
    let answered = |word: &str| notes.iter().filter(|n| *n == word).count();
    let (yes, no) = (answered("answer: yes"), answered("answer: no"));
    faults.extend((yes > 0).then(|| format!("{yes} dialogs were answered by a message")));
    let eaten = eaten.into_inner();
    Verdict::new(
        format!("{} dialogs, {yes} answered by a message; {} messages, {eaten} pastes eaten by a dialog, told and sent anew", yes + no, sent.len()),
        faults,
    )
}

/// The one who answers, and sometimes asks.
struct Person<'a> {
    host: &'a Host,
    name: &'a str,
    identity: String,
    api: Api,
    random: Random,
    /// Messages that a dialog took away between their paste and their submit.
    eaten: usize,
}

impl Person<'_> {
    /// One dialog and one message around its appearance; the ids that must arrive, and what went wrong.
    fn try_once(&mut self, n: usize) -> (Vec<String>, Option<String>) {
        let mut ids = Vec::new();
        let by_a_turn = n.is_multiple_of(2);
        let who = if by_a_turn { "a turn" } else { "a person" };
        let question = format!("{who} asks {n}");
        if by_a_turn {
            ids.push(self.api.send(self.name, &format!("work: {}ms\nask: {question}", self.random.below(60))));
        } else {
            self.until_idle();
        }
        let innocent = std::thread::scope(|scope| {
            let (host, name, mut random) = (self.host, self.name, Random(self.random.below(u64::MAX)));
            let sender = scope.spawn(move || {
                random.pause(Duration::from_millis(120));
                Api::connect(host).send(name, "an innocent message")
            });
            if !by_a_turn {
                self.random.pause(Duration::from_millis(120));
                self.ask_by_hand(&question);
            }
            sender.join().unwrap()
        });
        // A line typed behind our text takes it along; then there is no dialog.
        let taken_along = || tally::turns(self.host, self.name).iter().any(|t| t.text.contains(&innocent) && t.text.contains(&question));
        self.host.until("the dialog stands, or the line was no question", || self.shows(&format!("? {question}")) || taken_along());
        // However long the person thinks, nothing else may answer.
        self.random.pause(Duration::from_millis(100));
        if self.shows(&format!("? {question}")) {
            self.host.type_keys(&self.identity, &["n"]);
        }
        let failed = self.until_delivered(&innocent).err().map(|why| format!("try {n} ({who} asks): {why}"));
        ids.push(innocent);
        (ids, failed)
    }

    /// A paste that a dialog has eaten is put aside, and the operator, who is told, sends it again.
    fn until_delivered(&mut self, id: &str) -> Result<(), String> {
        let mut view = Value::Null;
        self.host.until("the message is delivered or told", || {
            view = self.api.get(&format!("/v1/messages/{id}"));
            view["submitted"].is_string() || view["state"] == "parked"
        });
        if view["state"] == "parked" {
            self.eaten += 1;
            let told = self.host.run(&["inbox", "--keep"]).ok().out;
            self.host.run(&["queue", self.name, "release", id]).ok();
            self.api.wait_submitted(id)?;
            if !told.contains(id) {
                return Err(format!("{id} was eaten by a dialog, and the operator is not told"));
            }
        }
        Ok(())
    }

    fn ask_by_hand(&self, question: &str) {
        let session = self.host.session(&self.identity).unwrap();
        let pane = session["pane"].as_str().unwrap();
        let line = format!("ask: {question}");
        // One list: nothing comes between the line and its Enter.
        let list = ["send-keys", "-t", pane, "-l", &line, ";", "send-keys", "-t", pane, "Enter"];
        assert!(self.host.tmux(&self.identity, &list).status.success());
    }

    fn until_idle(&self) {
        self.host.until("the peer is idle", || self.shows("echo · ready"));
    }

    fn shows(&self, text: &str) -> bool {
        let pane = self.host.session(&self.identity).unwrap()["pane"].as_str().unwrap().to_string();
        String::from_utf8_lossy(&self.host.tmux(&self.identity, &["capture-pane", "-p", "-t", &pane]).stdout).contains(text)
    }
}
