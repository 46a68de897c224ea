//! kill -9 of the daemon at random instants, while messages travel between five peers.

use crate::Plan;
use crate::report::Verdict;
use crate::tally;
use std::time::{Duration, Instant};

/// Messages of one round: each hop sends the next.
const HOPS: usize = 5;

pub fn run(plan: &Plan) -> Verdict {
    let (kills, most) = plan.pick((300, Duration::from_secs(40)), (20_000, Duration::MAX));
    let mut random = plan.random(2);
    let names = tally::names("p", 5);
    let mut host = tally::live_host(&names);
    let began = Instant::now();
    let mut done = 0;
    while done < kills && began.elapsed() < most {
        let ring: Vec<&str> = (1..=HOPS).map(|n| names[(done + n) % 5].as_str()).collect();
        host.run(&["send", &names[done % 5], &format!("relay: {} {}", ring.join(","), HOPS - 1)]).ok();
        random.pause(Duration::from_millis(90));
        host.kill_daemon();
        host.start();
        done += 1;
        // Relays that meet no daemon are tried again for a minute only: let them catch up.
        if done % 10 == 0 {
            host.until("the messages of these rounds have arrived", || arrived(&host, &names) >= done * HOPS);
        }
    }
    host.until("all messages have arrived", || arrived(&host, &names) >= done * HOPS);
    host.until("all mailboxes are empty", || names.iter().all(|n| host.presence(n)["queue"]["waiting"] == 0));
    let copies = tally::copies(&host, &names);
    let mut faults = tally::faults(&host, &names, &[]);
    let messages = copies.len() - names.len();
    if messages != done * HOPS {
        faults.push(format!("{messages} messages for {} sends", done * HOPS));
    }
    let restarted = names.iter().filter(|n| host.presence(n)["incarnation"] != 1).count();
    faults.extend((restarted > 0).then(|| format!("{restarted} sessions were restarted")));
    let doubled = copies.values().filter(|n| **n > 1).count();
    Verdict::new(
        format!("{done} kills, {messages} messages: {} lost, {doubled} doubled, {restarted} sessions restarted", (done * HOPS).saturating_sub(messages)),
        faults,
    )
}

fn arrived(host: &crate::harness::Host, names: &[String]) -> usize {
    tally::copies(host, names).len() - names.len()
}
