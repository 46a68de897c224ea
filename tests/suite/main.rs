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
mod by_hand;
mod control;
mod deaths;
mod delivery;
mod directions;
mod disk;
mod docs;
mod ephemeral;
mod golden;
mod harness;
mod live_list;
mod mail;
mod night;
mod pane_log;
mod person;
mod readiness;
mod recovery;
mod refusals;
mod schedules;
mod screens;
mod security;
mod service;
mod sleep;
mod terminal;
