//! `list`, `status`, `screen`.

use super::link::segment;
use super::{Done, Outcome, json, out, say};
use crate::api::client::{ANSWER, Client};
use crate::api::shapes::{PeerView, ScreenView, StatusView};
use crate::core::fault::{Code, Fault};
use crate::core::profile::ApprovalMode;
use crate::core::sanitize;
use crate::store::disk::read_own;
use crate::store::layout::Root;
use comfy_table::{Table, presets};
use serde::de::DeserializeOwned;

/// From the daemon, or from the file that the last one left.
pub(super) async fn ask<T: DeserializeOwned>(root: &Root, path: &str, key: &str) -> Result<(T, bool), Fault> {
    match Client::connect(root).await {
        Ok(mut client) => Ok((client.get(path, ANSWER).await?, true)),
        Err(fault) if fault.code == Code::DaemonUnreachable => {
            let left = read_own(&root.daemon_state(), 256 * 1024 * 1024).map_err(|_| fault.clone())?;
            let mut state: serde_json::Value =
                serde_json::from_slice(&left).map_err(|e| Fault::new(Code::Internal, format!("{}: {e}", root.daemon_state().display())))?;
            let updated = state["status"]["updated"].as_str().unwrap_or("an unknown time").to_string();
            say(&format!("iapeer: no daemon runs; this is what the last one wrote at {updated}"));
            if let Some(status) = state["status"].as_object_mut() {
                status.insert("running".into(), false.into());
                status.insert("healthy".into(), false.into());
            }
            let value = serde_json::from_value(state[key].take()).map_err(|_| fault)?;
            Ok((value, false))
        }
        Err(fault) => Err(fault),
    }
}

pub fn sign(state: &str, turn: Option<&str>) -> &'static str {
    match (state, turn) {
        ("live", Some("working")) => "◐",
        ("live", _) => "●",
        ("stopped", _) => "✕",
        ("held", _) => "⚠",
        ("starting" | "stopping", _) => "◌",
        _ => "○",
    }
}

pub async fn list(root: &Root, as_json: bool) -> Outcome {
    let (peers, _): (Vec<PeerView>, bool) = ask(root, "/v1/peers", "peers").await?;
    if as_json {
        json(&peers);
        return Ok(Done::Ok);
    }
    if peers.is_empty() {
        out("no peers yet; `iapeer claude` in a project folder makes one, `iapeer create NAME` another\n");
        return Ok(Done::Ok);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "peer", "runtime", "state", "mail", "description"]);
    for peer in &peers {
        for presence in &peer.runtimes {
            let mut state = presence.state.clone();
            if let Some(turn) = &presence.turn {
                state = format!("{state} {turn}");
            }
            if let Some(reason) = &presence.reason {
                state = format!("{state} ({reason})");
            }
            let yolo = if peer.approval_mode == ApprovalMode::Yolo { "  [yolo]" } else { "" };
            table.add_row([
                sign(&presence.state, presence.turn.as_deref()).to_string(),
                peer.personality.to_string(),
                presence.runtime.to_string(),
                sanitize::line(&state),
                presence.queue.waiting.to_string(),
                format!("{}{yolo}", sanitize::line(&peer.description)),
            ]);
        }
    }
    out(&format!("{}\n", table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")));
    for warning in peers.iter().flat_map(|p| &p.warnings) {
        say(&format!("warning: {}", sanitize::line(warning)));
    }
    Ok(Done::Ok)
}

pub async fn status(root: &Root, as_json: bool) -> Outcome {
    let (status, live): (StatusView, bool) = ask(root, "/v1/status", "status").await?;
    if as_json {
        json(&status);
    } else {
        let health = match (live, status.healthy) {
            (false, _) => "not running",
            (true, true) => "healthy",
            (true, false) => "degraded",
        };
        let (p, m) = (&status.peers, &status.mail);
        out(&format!(
            "daemon  {health}, version {}, pid {}, since {}\nroot    {}\nsocket  {}\ntmux    {}\npeers   {} live, {} starting, {} asleep, {} stopped, {} held\nmail    {} waiting, {} held, {} dead\n",
            status.version,
            status.pid,
            status.started,
            status.root.display(),
            status.socket.display(),
            status.tmux,
            p.live,
            p.starting,
            p.asleep,
            p.stopped,
            p.held,
            m.waiting,
            m.held,
            m.dead
        ));
        for part in &status.degraded {
            out(&format!("degraded  {}\n", sanitize::line(part)));
        }
    }
    Ok(if live { Done::Ok } else { Done::Code(4) })
}

pub async fn screen(root: &Root, peer: &str, as_json: bool) -> Outcome {
    let mut client = Client::connect(root).await?;
    let view: ScreenView = client.get(&format!("/v1/peers/{}/screen", segment(peer)), ANSWER).await?;
    if as_json {
        json(&view);
        return Ok(Done::Ok);
    }
    if !view.live {
        say(&format!("{} is not live; this is its last screen", view.identity));
    }
    out(&format!("{}\n", sanitize::body(view.text.as_bytes())));
    Ok(Done::Ok)
}
