//! Power cuts and kills at every durable operation of the script; and disks that lie must be caught.

use crate::sim::{Crash, Fault, Lies, SimDisk};
use crate::workload::{Story, WAYS, Way, script_log};

/// Stops at every operation in turn and recovers from every variant of what is left; what was promised
/// and not kept.
fn broken_promises(way: Way, lies: Lies, crashes: &[Crash]) -> Vec<String> {
    let operations = Story::tell(way, SimDisk::new(lies), true).disk().log();
    let mut broken = Vec::new();
    for stop in 1..=operations.len() + 1 {
        let disk = SimDisk::new(lies);
        disk.arm([(stop, Fault::Stop)]);
        let story = Story::tell(way, disk, true);
        for crash in crashes {
            let at = operations.get(stop - 1).map_or("the end", String::as_str);
            broken.extend(story.keeps(*crash).err().map(|e| format!("{way:?}, stopped at operation {stop} ({at}), {crash:?}: {e}")));
        }
    }
    broken
}

#[track_caller]
fn survives(lies: Lies, crashes: &[Crash]) {
    let broken: Vec<String> = WAYS.into_iter().flat_map(|way| broken_promises(way, lies, crashes)).collect();
    assert!(broken.is_empty(), "{} of them:\n{}", broken.len(), broken[..broken.len().min(5)].join("\n"));
}

#[test]
fn a_power_cut_at_every_operation_loses_and_doubles_nothing() {
    let cuts = Crash::power_cuts(6);
    survives(Lies::default(), &cuts);
    for way in WAYS {
        eprintln!("{way:?}: {} operations, {} kinds of power cut at each", script_log(way).len(), cuts.len());
    }
}

#[test]
fn a_kill_at_every_operation_loses_and_doubles_nothing() {
    survives(Lies::default(), &[Crash::Everything]);
}

#[track_caller]
fn is_caught(lies: Lies) {
    for way in WAYS {
        let broken = broken_promises(way, lies, &Crash::power_cuts(2));
        // Gone, or torn and therefore put aside.
        let lost: Vec<&String> = broken.iter().filter(|b| b.contains("is lost") || b.contains("is Aside")).collect();
        assert!(!lost.is_empty(), "{way:?}: the suite believes a lying disk: {broken:?}");
        eprintln!("{} broken promises, {} lost messages, the first: {}", broken.len(), lost.len(), lost[0]);
    }
}

#[test]
fn a_disk_that_does_not_sync_files_is_caught() {
    is_caught(Lies { file_sync: true, dir_sync: false });
}

#[test]
fn a_disk_that_does_not_sync_directories_is_caught() {
    is_caught(Lies { file_sync: false, dir_sync: true });
}

#[test]
fn a_disk_that_syncs_nothing_is_caught() {
    is_caught(Lies { file_sync: true, dir_sync: true });
}

#[test]
fn an_honest_disk_is_believed_and_a_lie_does_no_harm_without_a_power_cut() {
    survives(Lies { file_sync: true, dir_sync: true }, &[Crash::Everything]);
}
