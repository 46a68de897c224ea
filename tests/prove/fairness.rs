//! One sender floods a peer; another sender's messages to another peer stay quick.

use crate::api::Api;
use crate::harness::Host;
use crate::report::Verdict;
use crate::waiting::with_high_limits;
use crate::{Plan, tally};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 4;
const PER_SECOND: usize = 1_000;

pub fn run(plan: &Plan) -> Verdict {
    let (seconds, limit) = plan.pick((5, Duration::from_secs(1)), (30, Duration::from_millis(100)));
    let names = tally::names("p", 2);
    let host = tally::warm(with_high_limits(), &names);
    // The flood waits for a person, so that the figure is about sending, not about the cost of typing.
    host.run(&["stop", "p1"]).ok();
    let (alone, mut faults) = calm(&host, || false, 50);
    let over = AtomicBool::new(false);
    let accepted = AtomicUsize::new(0);
    let began = Instant::now();
    let beside = std::thread::scope(|scope| {
        let floods: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| flood(&host, Duration::from_secs(seconds), &accepted))).collect();
        let other = scope.spawn(|| calm(&host, || over.load(Ordering::SeqCst), usize::MAX));
        floods.into_iter().for_each(|f| f.join().unwrap());
        over.store(true, Ordering::SeqCst);
        other.join().unwrap()
    });
    let rate = accepted.load(Ordering::SeqCst) as f64 / began.elapsed().as_secs_f64();
    faults.extend(beside.1);
    let p99 = percentile(&beside.0, 99);
    faults.extend((p99 >= limit).then(|| format!("p99 {} ms, wanted below {} ms", p99.as_millis(), limit.as_millis())));
    Verdict::new(
        format!(
            "flood {rate:.0}/s; the other one's {} sends: p50 {} ms, p99 {} ms (alone {} and {} ms)",
            beside.0.len(),
            percentile(&beside.0, 50).as_millis(),
            p99.as_millis(),
            percentile(&alone, 50).as_millis(),
            percentile(&alone, 99).as_millis()
        ),
        faults,
    )
}

/// Its share of the rate, or less when the daemon takes no more.
fn flood(host: &Host, lasts: Duration, accepted: &AtomicUsize) {
    let mut api = Api::connect(host);
    let gap = Duration::from_secs(1) / (PER_SECOND / CONNECTIONS) as u32;
    let began = Instant::now();
    let mut next = Duration::ZERO;
    while began.elapsed() < lasts {
        // A rate, not a wait.
        std::thread::sleep(next.saturating_sub(began.elapsed()));
        next += gap;
        api.send("p1", "one of many");
        accepted.fetch_add(1, Ordering::SeqCst);
    }
}

/// One message after the other until their turns are proven; how long each took.
fn calm(host: &Host, over: impl Fn() -> bool, most: usize) -> (Vec<Duration>, Vec<String>) {
    let mut api = Api::connect(host);
    let (mut took, mut faults) = (Vec::new(), Vec::new());
    while took.len() < most && !over() {
        let began = Instant::now();
        let id = api.send("p2", "calm");
        faults.extend(api.wait_submitted(&id).err());
        took.push(began.elapsed());
    }
    (took, faults)
}

fn percentile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}
