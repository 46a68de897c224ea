//! Accept: from the request on a kept-open connection until its answer, which says that the message is
//! durable.

use crate::Plan;
use crate::delivery::Bed;
use crate::floor::Journal;
use crate::host::{body, request};
use crate::report::{Report, Row};
use crate::stats::Series;
use serde_json::json;

const BYTES: usize = 1024;

pub fn measure(plan: &Plan, bed: &mut Bed, report: &mut Report) {
    // Nobody takes what a stopped peer is sent: only the accept itself runs.
    let quiet = "quiet".to_string();
    bed.host.create(std::slice::from_ref(&quiet), "echo");
    bed.host.run(&["stop", &quiet]);
    let mut journal = Journal::open(bed.host.dir.path());
    let text = body(BYTES);
    let (stopped, live) = (request(&quiet, &text, true), request(&bed.peers[0], &text, false));
    let [mut alone, mut delivering, mut append, mut kept]: [Series; 4] = Default::default();
    for _ in 0..plan.pick(20, 60) {
        for _ in 0..20 {
            alone.time(|| bed.api.send(&stopped));
            append.time(|| journal.append(text.as_bytes()));
            kept.time(|| journal.keep(text.as_bytes()));
        }
        for _ in 0..10 {
            let id = delivering.time(|| bed.api.send(&live));
            bed.arrivals.wait(&id);
            bed.api.wait_entered(&id);
        }
    }
    let details = json!({ "to_a_stopped_peer": alone.json(), "to_a_live_peer": delivering.json(), "append_and_sync": append.json(), "kept_file": kept.json() });
    for (name, ours) in [("to a stopped peer", &alone), ("to a live peer", &delivering)] {
        let ratio = ours.p50() / append.p50();
        report.add(
            Row::new("accept", format!("1 KiB {name}, p50, against one write and sync"))
                .value(format!("{:.2} ms", ours.p50()))
                .baseline(format!("{:.2} ms", append.p50()))
                .ratio(ratio)
                .at_most(ratio, 4.0, "≤ 4×")
                .details(details.clone()),
        );
    }
    report.add(
        Row::new("accept", "1 KiB to a stopped peer, p50, against one kept file (two syncs, a rename)")
            .value(format!("{:.2} ms", alone.p50()))
            .baseline(format!("{:.2} ms", kept.p50()))
            .ratio(alone.p50() / kept.p50())
            .details(details),
    );
}
