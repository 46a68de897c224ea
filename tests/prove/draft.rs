//! A half typed text of a person: fifty messages leave it as it is, byte for byte, and come in order after it.

use crate::Plan;
use crate::api::Api;
use crate::report::Verdict;
use crate::tally;
use iapeer::core::peer::QUIET_MS;
use std::time::Duration;

const DRAFT: &str = "half typed dra";

pub fn run(plan: &Plan) -> Verdict {
    let sends = plan.pick(50, 500);
    let names = tally::names("p", 1);
    let host = tally::live_host(&names);
    host.type_keys("echo-p1", &["-l", DRAFT]);
    host.until("the draft shows", || host.screen("p1").contains(&format!("› {DRAFT}\n")));
    let pane = host.session("echo-p1").unwrap()["pane"].as_str().unwrap().to_string();
    let composer = || {
        let screen = host.tmux("echo-p1", &["capture-pane", "-e", "-p", "-t", &pane]).stdout;
        let row = screen.split(|b| *b == b'\n').find(|row| row.windows(3).any(|w| w == "›".as_bytes())).map(<[u8]>::to_vec);
        (row, host.pane("echo-p1", "#{cursor_x} #{cursor_y}"))
    };
    let before = composer();
    let held = |api: &mut Api| api.get("/v1/peers")[0]["runtimes"][0]["reason"] == "draft";
    let mut faults = Vec::new();
    let mut api = Api::connect(&host);
    let mut sent = Vec::new();
    for n in 0..sends {
        sent.push(api.send("p1", &format!("message {n}")));
        if n == 0 {
            host.until("the first is held for the draft", || held(&mut api));
        }
        // A key without effect makes the program draw, which makes the daemon look and try again when it
        // has been quiet for a moment. That it did leaves no trace: this is a time, not a wait for a state.
        host.type_keys("echo-p1", &["Down"]);
        std::thread::sleep(Duration::from_millis(QUIET_MS + 50));
        let now = composer();
        if now != before || !held(&mut api) {
            faults.push(format!("after message {n}: {now:?} instead of {before:?}, or not held"));
        }
    }
    let early = tally::turns(&host, "p1").len() - 1;
    faults.extend((early > 0).then(|| format!("{early} turns under the draft")));
    let held = sends - early;
    host.type_keys("echo-p1", &["C-u"]);
    faults.extend(sent.iter().filter_map(|id| api.wait_submitted(id).err()));
    faults.extend(tally::faults(&host, &names, &sent));
    let order: Vec<String> = tally::turns(&host, "p1").iter().skip(1).flat_map(|t| t.ids().map(String::from).collect::<Vec<_>>()).collect();
    faults.extend((order != sent).then(|| "out of order".to_string()));
    Verdict::new(
        format!("{held} held, the draft {}; then {} turns", if faults.is_empty() { "byte-identical" } else { "or the order wrong" }, order.len()),
        faults,
    )
}
