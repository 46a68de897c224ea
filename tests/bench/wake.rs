//! Wake: from the order to a sleeping echo peer until it is ready, against the same program started by
//! `tmux new-session` until its ready row is on the screen.

use crate::Plan;
use crate::host::{Host, names, program};
use crate::report::{Report, Row};
use crate::stats::Series;
use crate::tmux::Server;
use serde_json::json;

/// On the last row of the echo program while it waits for input.
const READY: &str = "echo · ready";

/// A host with echo peers, some of them awake.
pub fn measure(plan: &Plan, report: &mut Report) -> Host {
    let mut host = Host::new(&plan.dir);
    let samples = plan.pick(20, 60).min(plan.idle_peers);
    let (mut ours, mut bare, mut create) = (Series::default(), Series::default(), Series::default());
    let peers = names("e", plan.idle_peers);
    for name in &peers {
        create.time(|| host.create(std::slice::from_ref(name), "echo"));
    }
    host.start();
    let mut api = host.connect();
    for (n, name) in peers.iter().take(samples).enumerate() {
        bare.time(|| bare_start(&host, n));
        ours.time(|| api.wake(name));
    }
    let more = ours.p50() - bare.p50();
    let details = json!({ "ours": ours.json(), "bare": bare.json(), "more_ms": more, "create_command": create.json() });
    report.add(
        Row::new("wake", "order to READY, echo, p50, against tmux new-session")
            .value(format!("{:.0} ms", ours.p50()))
            .baseline(format!("{:.0} ms", bare.p50()))
            .ratio(ours.p50() / bare.p50())
            .at_most(more, 60.0, "≤ +60 ms")
            .details(details.clone()),
    );
    report.add(
        Row::new("wake", "order to READY, echo, p90")
            .value(format!("{:.0} ms", ours.p90()))
            .baseline(format!("{:.0} ms", bare.p90()))
            .ratio(ours.p90() / bare.p90())
            .details(details),
    );
    host
}

/// Starts, waits for the ready row, ends.
fn bare_start(host: &Host, n: usize) -> Server {
    let dir = host.dir.path();
    let transcripts = dir.join(format!("bare{n}"));
    let argv = [program(), "echo-agent", "--session-id", &format!("bare-{n}"), "--transcripts", &transcripts.to_string_lossy()].map(String::from);
    let server = Server::start(dir, &format!("bare{n}"), &argv);
    server.until_screen_shows(READY);
    server
}

/// The other peers, for the rows about many of them.
pub fn bring_up_the_rest(plan: &Plan, host: &Host) {
    host.wake(&names("e", plan.idle_peers));
}
