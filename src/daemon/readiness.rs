//! What the service manager hears: ready once this daemon serves, a sign of life for as long as it proves
//! itself alive.
//!
//! A sign of life needs a whole turn: this task runs (the runtime), the store thread has done a job behind
//! all that were waiting, and the API has answered on its own socket. A part that hangs ends the signs, and
//! the manager replaces the daemon; a disk that only refuses is no hang, another daemon would fare no better.

use super::host::Host;
use crate::api::client::Client;
use crate::sys::notify::Notify;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two turns, where the manager names no time.
const TURN: Duration = Duration::from_secs(5);

/// Tells until the shutdown; returns at once when there is nobody to tell, and once the readiness is told
/// when nobody waits for more.
pub async fn tell(host: &Arc<Host>, manager: &Notify, shutdown: &CancellationToken) {
    if manager.is_there() {
        tokio::select! {
            () = turns(host, manager) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn turns(host: &Arc<Host>, manager: &Notify) {
    let turn = manager.watchdog().map_or(TURN, |limit| limit / 2);
    let mut next = tokio::time::interval(turn);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ready = false;
    let mut status = String::new();
    let mut silent = 0u32;
    loop {
        next.tick().await;
        match proven_alive(host, turn).await {
            Ok(()) => {
                silent = 0;
                let said = summary(host);
                let news = if said == status { String::new() } else { format!("\nSTATUS={said}") };
                if ready {
                    manager.tell(&format!("WATCHDOG=1{news}"));
                } else {
                    ready = manager.tell(&format!("READY=1{news}"));
                }
                status = said;
            }
            Err(part) => {
                silent += 1;
                tracing::error!(turns = silent, "no sign of life for the service manager: {part}");
                status = format!("no sign of life ({silent}): {part}");
                manager.tell(&format!("STATUS={status}"));
            }
        }
        if ready && manager.watchdog().is_none() {
            return;
        }
    }
}

/// One line for `systemctl status`.
fn summary(host: &Host) -> String {
    let (peers, degraded) = (host.handles().len(), host.degraded().len());
    let amiss = if degraded > 0 { format!(", degraded: {degraded} (iapeer status)") } else { String::new() };
    format!("serving, peers: {peers}{amiss}")
}

/// # Errors
/// The part that has not done its work by then.
async fn proven_alive(host: &Arc<Host>, limit: Duration) -> Result<(), String> {
    let by = tokio::time::Instant::now() + limit;
    let store = tokio::time::timeout_at(by, host.store.run(|_| Ok(()))).await;
    store.map_err(|_| "the store does not answer")?.map_err(|e| e.to_string())?;
    let api = async { Client::connect(&host.root).await?.get::<String>("/v1/healthz", limit).await };
    tokio::time::timeout_at(by, api).await.map_err(|_| "the API does not answer")?.map_err(|fault| fault.message)?;
    Ok(())
}
