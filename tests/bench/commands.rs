//! Commands: wall time of `iapeer send`, `list` and `status` as a script sees it, against the start of a
//! tmux client that only asks.

use crate::Plan;
use crate::delivery::Bed;
use crate::report::{Report, Row};
use crate::stats::Series;
use crate::tmux::Server;
use serde_json::json;

pub fn measure(plan: &Plan, bed: &Bed, report: &mut Report) {
    let server = Server::with_raw_agent(bed.host.dir.path(), "ask", &bed.arrivals);
    let verbs: [(&str, &[&str]); 4] = [("send", &["send", &bed.peers[0], "hello"]), ("list", &["list"]), ("status", &["status"]), ("version", &["version"])];
    let mut plain = Series::default();
    let mut ours = verbs.map(|_| Series::default());
    for _ in 0..plan.pick(40, 200) {
        plain.time(|| server.has_session());
        for ((name, args), series) in verbs.iter().zip(&mut ours) {
            series.time(|| bed.host.run(args));
            if *name == "send" {
                // What follows the answer is not the command's.
                std::thread::sleep(std::time::Duration::from_millis(15));
            }
        }
    }
    for ((name, _), series) in verbs.iter().zip(&ours) {
        let ratio = series.p50() / plain.p50();
        let row = Row::new("commands", format!("iapeer {name}, {} peers, p50, against tmux has-session", bed.peers.len()))
            .value(format!("{:.2} ms", series.p50()))
            .baseline(format!("{:.2} ms", plain.p50()))
            .ratio(ratio)
            .details(json!({ "ours": series.json(), "has_session": plain.json() }));
        // `version` asks nobody: what starting the program costs by itself.
        report.add(if *name == "version" { row } else { row.at_most(ratio, 2.0, "≤ 2×") });
    }
}
