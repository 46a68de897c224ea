//! Sends at random instants around the end of a turn: none is stranded, none goes into the running turn.

use crate::Plan;
use crate::api::Api;
use crate::harness::Host;
use crate::report::Verdict;
use crate::{Random, tally};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// Longest time a message may wait for a peer that is idle.
const STRANDED_MS: i64 = 1_000;

pub fn run(plan: &Plan) -> Verdict {
    let names = tally::names("p", 6);
    let sends = plan.pick(1_000usize, 10_000).div_ceil(names.len());
    let host = tally::live_host(&names);
    let accepted = Mutex::new(HashMap::new());
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (n, name) in names.iter().enumerate() {
            let random = plan.random(300 + n as u64);
            let (host, accepted, faults) = (&host, &accepted, &faults);
            scope.spawn(move || {
                let sent = send_around_the_edge(host, name, sends, random, faults);
                accepted.lock().unwrap().extend(sent);
            });
        }
    });
    let (accepted, mut faults) = (accepted.into_inner().unwrap(), faults.into_inner().unwrap());
    faults.extend(tally::faults(&host, &names, &accepted.keys().cloned().collect::<Vec<_>>()));
    let waits: Vec<i64> = names.iter().flat_map(|n| idle_waits(&host, n, &accepted, &mut faults)).collect();
    let (longest, stranded) = (waits.iter().max().copied().unwrap_or(0), waits.iter().filter(|w| **w > STRANDED_MS).count());
    faults.extend((stranded > 0).then(|| format!("{stranded} messages waited over {STRANDED_MS} ms while their peer was idle")));
    Verdict::new(format!("{} sends, {} turns; the longest wait for an idle peer {longest} ms", accepted.len(), waits.len()), faults)
}

/// Each message makes its turn last a while; the next is sent around its end. Returns when each was sent.
fn send_around_the_edge(host: &Host, name: &str, sends: usize, mut random: Random, faults: &Mutex<Vec<String>>) -> HashMap<String, i64> {
    let mut api = Api::connect(host);
    let mut accepted = HashMap::new();
    for n in 0..sends {
        let work = 20 + random.below(40);
        let id = api.send(name, &format!("work: {work}ms\nmessage {n}"));
        accepted.insert(id.clone(), chrono::Utc::now().timestamp_millis());
        // Now and then two stand in line.
        if random.below(4) == 0 {
            continue;
        }
        if let Err(why) = api.wait_submitted(&id) {
            faults.lock().unwrap().push(why);
        }
        random.pause(Duration::from_millis(2 * work));
    }
    let last = accepted.keys().max().cloned();
    faults.lock().unwrap().extend(last.and_then(|id| api.wait_submitted(&id).err()));
    accepted
}

/// For each message, how long it waited after it was accepted and the turn before it was over.
fn idle_waits(host: &Host, name: &str, accepted: &HashMap<String, i64>, faults: &mut Vec<String>) -> Vec<i64> {
    let turns = tally::turns(host, name);
    let mut waits = Vec::new();
    let mut order = Vec::new();
    for pair in turns.windows(2) {
        let (before, turn) = (&pair[0], &pair[1]);
        let Some((id, sent)) = turn.ids().next().and_then(|id| accepted.get_key_value(id)) else { continue };
        match before.ended {
            Some(ended) if ended <= turn.began => waits.push(turn.began - ended.max(*sent)),
            _ => faults.push(format!("{id} began inside the turn before it")),
        }
        order.push(id);
    }
    // Ids are made in the order of sending.
    if !order.is_sorted() {
        faults.push(format!("out of order at {name}"));
    }
    waits
}
