//! `state/daemon.json`: what a crashed daemon leaves for the post-mortem, and what `status` reads when
//! none runs. At most one write per 250 ms, one at start and one at the end; a failed write disturbs
//! nothing.

use super::host::Host;
use super::orders;
use crate::store::disk::{OsDisk, read_own, replace};
use crate::store::layout::Root;
use crate::sys::{clock, process};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const CAP: u64 = 64 * 1024 * 1024;
const PAUSE: Duration = Duration::from_millis(250);

pub async fn keep_written(host: Arc<Host>, shutdown: CancellationToken) {
    let mut told = false;
    loop {
        let mut changes = watch_all(&host);
        let written = write(&host).await;
        if let (Err(error), false) = (&written, told) {
            tracing::warn!(%error, "state/daemon.json could not be written; further failures in a row are not told");
        }
        told = written.is_err();
        let change = async {
            if changes.join_next().await.is_none() {
                // No peer yet: look again when there may be one.
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        };
        tokio::select! {
            () = change => {}
            () = shutdown.cancelled() => {
                let _ = write(&host).await;
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends with the first change of any peer's state after this call.
fn watch_all(host: &Arc<Host>) -> tokio::task::JoinSet<()> {
    let mut views = tokio::task::JoinSet::new();
    for handle in host.handles() {
        let mut view = handle.view.clone();
        view.mark_unchanged();
        views.spawn(async move {
            // An error means that the peer's actor has ended: that is a change, too.
            let _ = view.changed().await;
        });
    }
    views
}

/// The boot in which the last daemon wrote it.
pub fn boot_before(root: &Root) -> Option<String> {
    text_of(root, "boot_id")
}

/// The space of pids in which the last daemon ran, if it did so in this boot.
pub fn pid_namespace(root: &Root) -> Option<String> {
    text_of(root, "pid_namespace").filter(|_| boot_before(root) == Some(clock::boot_id()))
}

fn text_of(root: &Root, name: &str) -> Option<String> {
    let state: serde_json::Value = serde_json::from_slice(&read_own(&root.daemon_state(), CAP).ok()?).ok()?;
    state[name].as_str().map(String::from)
}

async fn write(host: &Arc<Host>) -> std::io::Result<()> {
    let path = host.root.daemon_state();
    let state = serde_json::json!({
        "v": 1,
        "status": orders::status(host),
        "peers": orders::list(host),
        "boot_id": host.boot_id,
        "pid_namespace": process::pid_namespace(),
    });
    let written = tokio::task::spawn_blocking(move || replace(&OsDisk, &path, state.to_string().as_bytes())).await;
    written.unwrap_or_else(|broken| Err(broken.into()))
}
