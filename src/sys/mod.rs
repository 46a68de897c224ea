//! The kernel: clocks, processes, terminals. The only place with `unsafe`, and the only place that
//! knows Linux from macOS.
//!
//! A pid is trusted only together with its start time: [`ProcessRef`] tells a reused pid apart.

#![allow(clippy::disallowed_methods, reason = "this is where the kernel is asked")]
#![allow(unsafe_code)]

pub mod alarm;
pub mod clock;
pub mod marks;
#[cfg(target_os = "linux")]
pub mod mount;
pub mod notify;
pub mod process;
pub mod spawn;
pub mod wait;
