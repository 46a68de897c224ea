//! The traits through which decisions meet the world. An adapter stands behind each, and a fake in the
//! tests; nothing else of the outside is reachable from the daemon's logic.

pub mod disk;
pub mod terminal;

use crate::core::Millis;
use chrono::{DateTime, Local, Utc};
use std::future::Future;
use std::pin::Pin;

/// A boxed future, so that ports can be trait objects.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub trait Clock: Send + Sync {
    /// Milliseconds since boot.
    fn boot_ms(&self) -> Millis;
    /// The same without the time in which the host was suspended.
    fn awake_ms(&self) -> Millis;
    fn utc(&self) -> DateTime<Utc>;
    fn local(&self) -> DateTime<Local>;
}
