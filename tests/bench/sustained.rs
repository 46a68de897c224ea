//! Sustained: durable messages per second until the programs have read them, into one peer and into many,
//! against one chained tmux client per message with nothing durable.

use crate::Plan;
use crate::arrivals::Arrivals;
use crate::delivery::Bed;
use crate::host::{body, request};
use crate::machine::cores;
use crate::raw_agent::monotonic_ns;
use crate::report::{Report, Row};
use crate::tmux::Server;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

const BYTES: usize = 1024;
/// Messages under way per peer.
const WINDOW: usize = 16;

pub fn measure(plan: &Plan, beds: &mut [Bed], report: &mut Report) {
    let all = beds[0].peers.clone();
    let counts = plan.pick([(1, 300), (all.len(), 1_000)], [(1, 3_000), (all.len(), 10_000)]);
    for (peers, messages) in counts {
        let peers = &all[..peers];
        let plain = baseline(&beds[0], peers.len(), messages);
        for bed in &*beds {
            let ours = rate(&bed.arrivals, messages, || drive(bed, peers, messages));
            let ratio = ours / plain;
            let (driver, plural) = (bed.driver.name(), if peers.len() == 1 { "" } else { "s" });
            let least = bed.driver.pick(0.25, 2.5);
            report.add(
                Row::new("sustained", format!("{driver}, {messages} messages of 1 KiB into {} peer{plural}", peers.len()))
                    .value(format!("{ours:.0}/s"))
                    .baseline(format!("{plain:.0}/s"))
                    .ratio(ratio)
                    .at_least(ratio, least, format!("≥ {least}×"))
                    .details(json!({ "per_second": ours, "baseline_per_second": plain, "window_per_peer": WINDOW })),
            );
        }
    }
}

/// Messages per second, from the start of the drive to the last arrival.
fn rate(arrivals: &Arrivals, messages: usize, drive: impl FnOnce()) -> f64 {
    arrivals.forget();
    let began = monotonic_ns();
    drive();
    arrivals.wait_count(messages);
    messages as f64 / ((arrivals.last() - began) as f64 / 1e9)
}

/// A few connections send in turn to all peers; a window keeps the waiting mail short.
fn drive(bed: &Bed, peers: &[String], messages: usize) {
    let text = body(BYTES);
    let requests: Vec<Vec<u8>> = peers.iter().map(|p| request(p, &text, false)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..(4 * peers.len()).min(8) {
            scope.spawn(|| {
                let mut api = bed.host.connect();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= messages {
                        return;
                    }
                    bed.arrivals.wait_count(n.saturating_sub(WINDOW * peers.len()));
                    api.send(&requests[n % requests.len()]);
                }
            });
        }
    });
}

/// As many clients at once as there are cores and peers, each into panes of its own.
fn baseline(bed: &Bed, peers: usize, messages: usize) -> f64 {
    let dir = bed.host.dir.path();
    let mut servers: Vec<Server> = (0..peers).map(|n| Server::with_raw_agent(dir, &format!("chain{peers}-{n}"), &bed.arrivals)).collect();
    let text = body(BYTES);
    let workers = cores().min(peers);
    let share = peers.div_ceil(workers);
    rate(&bed.arrivals, messages / peers * peers, || {
        std::thread::scope(|scope| {
            for part in servers.chunks_mut(share) {
                scope.spawn(|| {
                    for _ in 0..messages / peers {
                        part.iter_mut().for_each(|s| drop(s.deliver_chained(&text)));
                    }
                });
            }
        });
    })
}
