//! iapeer: coding agents as peers with an address, a durable mailbox and a supervised terminal.
//!
//! `ARCHITECTURE.md` has the map; each module begins with what it is for and what it leaves out.

#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod core;
pub mod daemon;
pub mod echo;
pub mod keeper;
pub mod ports;
pub mod runtime;
pub mod store;
pub mod sys;
pub mod tmux;
