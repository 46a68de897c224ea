//! The rules of iapeer, pure: no I/O, no clock, no randomness, no environment.
//!
//! Everything here is a value or a function of values. Time comes in as [`Millis`], random words and
//! ids come in as arguments, the outside comes in as events. `tests/directions.rs` checks that nothing
//! here reaches for an adapter, and `clippy.toml` bans the clock and process calls outside them.

pub mod envelope;
pub mod fault;
pub mod guard;
pub mod limits;
pub mod message;
pub mod names;
pub mod pace;
pub mod peer;
pub mod profile;
pub mod record;
pub mod reset;
pub mod runtime;
pub mod sanitize;
pub mod schedule;
pub mod screen;
pub mod service;
pub mod settings;
pub mod template;
pub mod zone;

/// Milliseconds on the boot-time clock of this host (it goes on during suspend and knows no jumps).
pub type Millis = u64;
