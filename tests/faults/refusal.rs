//! A disk that fails once at any operation: a typed error, nothing refused is ever delivered, nothing
//! accepted is lost, and the next operation works.

use crate::sim::{Crash, Fault, SimDisk};
use crate::workload::{Story, WAYS, script_log};
use nix::libc::{EIO, ENOSPC};

/// Fails every operation in turn.
fn every_operation_may_fail_with(fault: Fault, code: i32) {
    for (way, resend) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let operations = script_log(way);
        for n in 1..=operations.len() {
            let disk = SimDisk::new(Default::default());
            disk.arm([(n, fault)]);
            let story = Story::tell(way, disk, resend);
            let what = format!("{way:?}, {fault:?} at operation {n} ({}), resend {resend}", operations[n - 1]);
            assert!(!story.disk().is_stopped(), "{what}");
            assert!(story.errors.len() <= 1, "{what}: one fault, several failures: {:?}", story.errors);
            assert!(story.errors.iter().all(|e| e.raw_os_error() == Some(code)), "{what}: {:?}", story.errors);
            for crash in [Crash::Everything, Crash::Nothing, Crash::Ordered(n as u64), Crash::Ordered(n as u64 + 1000)] {
                story.keeps(crash).unwrap_or_else(|e| panic!("{what}, {crash:?}: {e}"));
            }
        }
    }
}

#[test]
fn a_bad_sector_at_any_operation_refuses_that_one_and_loses_nothing() {
    every_operation_may_fail_with(Fault::Error(EIO), EIO);
}

#[test]
fn a_full_disk_at_any_operation_refuses_that_one_and_loses_nothing() {
    every_operation_may_fail_with(Fault::Error(ENOSPC), ENOSPC);
}

#[test]
fn a_short_write_at_any_operation_refuses_that_one_and_loses_nothing() {
    every_operation_may_fail_with(Fault::Short(ENOSPC), ENOSPC);
}
