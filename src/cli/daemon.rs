//! `iapeer daemon` and `iapeer daemon stop`.

use super::link::below_a_keeper;
use super::manager::{Service, by_hand};
use super::{Done, Outcome, out, say};
use crate::api::client::{ANSWER, Client};
use crate::core::fault::{Code, Fault};
use crate::core::message::ProcessRef;
use crate::core::service::State;
use crate::store::layout::Root;
use crate::sys::notify::Notify;
use crate::sys::process;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// How long a daemon may take to end.
const END_LIMIT: Duration = Duration::from_secs(60);

pub async fn run(root: Root, notify: Notify) -> Outcome {
    if below_a_keeper(&root) {
        return Err(Fault::new(Code::DaemonUnreachable, "an agent's child must not become the daemon").hint("the operator runs `iapeer daemon`"));
    }
    let filter = EnvFilter::try_from_env("IAPEER_LOG").unwrap_or_else(|_| EnvFilter::new("warn,iapeer=info"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), root = %root.base().display(), "starting");
    crate::daemon::run(root, notify).await?;
    Ok(Done::Ok)
}

pub async fn stop(root: &Root, all_peers: bool) -> Outcome {
    let ending = ask_to_end(Client::connect(root).await?, all_peers).await?;
    let service = Service::installed(root);
    if let Some(service) = &service {
        // It would start the daemon again.
        if let Err(why) = service.tell(&service.place.stop()).await {
            say(&format!("iapeer: {} is installed and may start the daemon again: {why}", service.place.unit()));
        }
    }
    ending.gone().await?;
    out(if all_peers { "daemon and sessions ended\n" } else { "daemon ended; sessions go on\n" });
    if let Some(service) = service {
        let start = by_hand(&service.place.start(&State::Absent));
        say(&format!("iapeer: {} stays installed and runs again with `{start}` or the next login", service.place.unit()));
    }
    Ok(Done::Ok)
}

/// A daemon that has been asked to end.
pub struct Ending {
    pid: i32,
    process: Option<ProcessRef>,
}

pub async fn ask_to_end(mut client: Client, all_peers: bool) -> Result<Ending, Fault> {
    let status: crate::api::shapes::StatusView = client.get("/v1/status", ANSWER).await?;
    let process = process::reference(status.pid);
    let _: i32 = client.post("/v1/shutdown", &serde_json::json!({ "all_peers": all_peers }), ANSWER).await?;
    Ok(Ending { pid: status.pid, process })
}

impl Ending {
    /// Waits until it has ended; returns its pid.
    pub async fn gone(self) -> Result<i32, Fault> {
        if let Some(process) = self.process {
            if !crate::tmux::driver::gone_within(&process, END_LIMIT).await {
                return Err(Fault::new(Code::Timeout, format!("the daemon (pid {}) has not ended within {} s", self.pid, END_LIMIT.as_secs())));
            }
        }
        Ok(self.pid)
    }
}
