//! What the mailbox and the daemon survive: power cuts, kills and failing disks at every durable
//! operation, and foreign things in every folder.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and see the program from outside"
)]

#[allow(dead_code, reason = "shared with the other suite")]
#[path = "../suite/harness.rs"]
mod harness;

mod daemon;
mod foreign;
mod power;
mod refusal;
mod seccomp;
mod sim;
mod stuck;
mod syscalls;
mod workload;
