//! What a terminal has shown is written down, whether a daemon runs or not.

use crate::harness::Host;
use std::fs::File;
use std::path::{Path, PathBuf};

fn log(host: &Host) -> PathBuf {
    host.root().join("logs/panes/echo-a.log")
}

fn shown(host: &Host) -> String {
    host.run(&["logs", "a", "--pane"]).ok().out
}

#[test]
fn the_output_of_a_terminal_is_kept_beyond_its_daemon_and_its_end() {
    let mut host = Host::with_peers(&["a"]);
    let ran = host.run(&["logs", "a", "--pane"]);
    assert!(ran.code == 3 && ran.err.contains("nothing is written down"), "{ran:?}");
    host.deliver("a", "the first words");
    host.until("the log has them", || shown(&host).contains("the first words"));
    assert!(!shown(&host).contains('\u{1b}'), "plain text: {:?}", shown(&host));
    host.kill_daemon();
    host.type_keys("echo-a", &["-l", "typed without a daemon"]);
    host.until("the log has what was typed", || shown(&host).contains("typed without a daemon"));
    host.start();
    host.type_keys("echo-a", &["C-u"]);
    host.run(&["send", "a", "crash: 7"]).ok();
    host.until("it has ended", || !host.exits("echo-a").is_empty());
    let line = host.exits("echo-a").remove(0);
    let tail = line.split(" tail=").nth(1).unwrap_or_else(|| panic!("no tail: {line}")).split(' ').next().unwrap();
    let kept = std::fs::read_to_string(tail).unwrap();
    assert!(kept.contains("the first words") && kept.contains("crash: 7") && !kept.contains('\u{1b}'), "{kept}");
    assert!(host.run(&["explain", "a"]).ok().out.contains(&format!("its last output: {tail}")));
    assert!(File::open(log(&host)).unwrap().try_lock().is_ok(), "its writer has ended");
    host.deliver("a", "the next session");
    host.until("it goes on in the same log", || shown(&host).contains("the next session") && shown(&host).contains("the first words"));
    host.run(&["remove", "a"]).ok();
    assert!(!log(&host).exists(), "a removed peer leaves none");
}

#[test]
fn a_pane_log_has_its_bounds_and_can_be_switched_off() {
    let host = Host::with_config("pane_log_max_bytes: 2000\n", &["a"]);
    for n in 0..5 {
        host.deliver("a", &format!("message {n} {}", "words ".repeat(100)));
    }
    let rotated = log(&host).with_extension("log.1");
    host.until("it was rotated", || rotated.is_file() && shown(&host).contains("message 4"));
    // Its writer may be rotating it again at this moment.
    let size = |file: &Path| file.metadata().map_or(0, |meta| meta.len());
    host.until("both files are there", || size(&log(&host)) > 0 && size(&rotated) > 0);
    for file in [log(&host), rotated] {
        assert!(size(&file) <= 2000 + 16 * 1024, "{}", file.display());
    }
    let host = Host::with_config("pane_log_max_bytes: 0\n", &["a"]);
    host.deliver("a", "hello");
    host.run(&["stop", "a"]).ok();
    assert!(!log(&host).exists() && !host.exits("echo-a")[0].contains(" tail="));
}
