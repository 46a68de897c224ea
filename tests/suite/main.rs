//! The suites that look at the program from outside; one module each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and see the program from outside"
)]

mod attach;
mod delivery;
mod directions;
mod disk;
mod docs;
mod golden;
mod harness;
mod live_list;
mod mail;
mod person;
mod recovery;
mod refusals;
mod schedules;
mod screens;
mod security;
mod terminal;
