//! Series of samples, and their medians and tails.

use crate::raw_agent::monotonic_ns;

/// Samples in nanoseconds.
#[derive(Default, Clone)]
pub struct Series(Vec<u64>);

impl Series {
    pub fn add(&mut self, ns: u64) {
        self.0.push(ns);
    }

    /// Runs something and adds how long it took.
    pub fn time<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let began = monotonic_ns();
        let out = act();
        self.add(monotonic_ns() - began);
        out
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nearest rank, in milliseconds.
    fn percentile(&self, p: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (p * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
    }

    pub fn p50(&self) -> f64 {
        self.percentile(0.50)
    }

    pub fn p90(&self) -> f64 {
        self.percentile(0.90)
    }

    pub fn p99(&self) -> f64 {
        self.percentile(0.99)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "n": self.len(), "p50_ms": self.p50(), "p90_ms": self.p90(), "p99_ms": self.p99() })
    }
}
