//! `iapeer hook EVENT`: run by an agent program's hooks, with the program's JSON on standard input.
//!
//! Programs wait for their hooks, so it answers in milliseconds and never fails them: when no daemon
//! answers, the report is left in the spool, which the next daemon reads at its start.

use super::{Done, Outcome};
use crate::api::client::Client;
use crate::api::shapes::HookRequest;
use crate::core::names::{Identity, Incarnation};
use crate::daemon::accept;
use crate::store::layout::Root;
use crate::store::spool::{self, HookReport};
use std::io::Read;
use std::time::Duration;

/// Longest time the daemon gets; then the spool has it.
const LIMIT: Duration = Duration::from_secs(3);
/// A prompt of 1 MiB, escaped, with room.
const INPUT_CAP: u64 = 16 * 1024 * 1024;

pub async fn hook(root: &Root, event: &str) -> Outcome {
    let mut input = Vec::new();
    let _ = std::io::stdin().lock().take(INPUT_CAP).read_to_end(&mut input);
    let payload = serde_json::from_slice(&input).unwrap_or_default();
    report(root, event, payload).await;
    Ok(Done::Ok)
}

/// Tells the daemon, or leaves it for the next one.
pub async fn report(root: &Root, event: &str, payload: serde_json::Value) {
    let request = HookRequest { event: event.into(), payload };
    let told = async {
        let mut client = Client::connect(root).await?;
        client.post::<_, String>("/v1/hook", &request, LIMIT).await
    };
    if told.await.is_ok() {
        return;
    }
    let Some((identity, incarnation)) = session() else { return };
    let left = HookReport { v: 1, identity, incarnation, secret: secret(), event: request.event, payload: request.payload };
    // There is nobody to tell of a failure; the transcript is the other evidence.
    let _ = spool::leave(&root.hook_spool(), &left, accept::new_id().as_str());
}

/// The secret that this session was given.
pub fn secret() -> Option<String> {
    std::env::var("IAPEER_TOKEN").ok().filter(|t| t.len() == 64)
}

/// The session this process belongs to, by the mark in its environment.
pub fn session() -> Option<(Identity, Incarnation)> {
    let mark = std::env::var("IAPEER_SESSION").ok()?;
    let (identity, incarnation) = mark.rsplit_once('@')?;
    Some((identity.parse().ok()?, incarnation.parse().ok()?))
}
