//! `iapeer daemon` and `iapeer daemon stop`.

use super::link::below_a_keeper;
use super::{Done, Outcome, out};
use crate::api::client::{ANSWER, Client};
use crate::core::fault::{Code, Fault};
use crate::store::layout::Root;
use crate::sys::process;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// How long a daemon may take to end.
const END_LIMIT: Duration = Duration::from_secs(60);

pub async fn run(root: Root) -> Outcome {
    if below_a_keeper() {
        return Err(Fault::new(Code::DaemonUnreachable, "an agent's child must not become the daemon").hint("the operator runs `iapeer daemon`"));
    }
    let filter = EnvFilter::try_from_env("IAPEER_LOG").unwrap_or_else(|_| EnvFilter::new("warn,iapeer=info"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), root = %root.base().display(), "starting");
    crate::daemon::run(root).await?;
    Ok(Done::Ok)
}

pub async fn stop(root: &Root, all_peers: bool) -> Outcome {
    let mut client = Client::connect(root).await?;
    let status: crate::api::shapes::StatusView = client.get("/v1/status", ANSWER).await?;
    let running = process::reference(status.pid);
    let _: i32 = client.post("/v1/shutdown", &serde_json::json!({ "all_peers": all_peers }), ANSWER).await?;
    drop(client);
    if let Some(running) = running {
        if !crate::tmux::driver::gone_within(&running, END_LIMIT).await {
            return Err(Fault::new(Code::Timeout, format!("the daemon (pid {}) has not ended within {} s", status.pid, END_LIMIT.as_secs())));
        }
    }
    out(if all_peers { "daemon and sessions ended\n" } else { "daemon ended; sessions go on\n" });
    Ok(Done::Ok)
}
