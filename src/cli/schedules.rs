//! `schedules`: what the profiles have on schedule, from the daemon or, without one, from the files.

use super::link::segment;
use super::{Done, Outcome, json, out, say};
use crate::api::client::{ANSWER, Client};
use crate::api::shapes::ScheduleView;
use crate::core::fault::{Code, Fault};
use crate::core::names::{Identity, Personality, near};
use crate::core::sanitize;
use crate::daemon::schedules::Looker;
use crate::store::disk::OsDisk;
use crate::store::layout::Root;
use crate::store::registry;
use crate::sys::clock;
use comfy_table::{Table, presets};

pub async fn schedules(root: &Root, peer: Option<&str>, as_json: bool) -> Outcome {
    let views: Vec<ScheduleView> = match Client::connect(root).await {
        Ok(mut client) => {
            let path = peer.map_or("/v1/schedules".into(), |p| format!("/v1/peers/{}/schedules", segment(p)));
            client.get(&path, ANSWER).await?
        }
        Err(fault) if fault.code == Code::DaemonUnreachable => {
            let views = from_files(root, peer)?;
            say("iapeer: no daemon runs; nothing fires until one does");
            views
        }
        Err(fault) => return Err(fault),
    };
    if as_json {
        json(&views);
        return Ok(Done::Ok);
    }
    if views.is_empty() {
        let whose = peer.map_or("no peer has".to_string(), |p| format!("{p} has no"));
        out(&format!("{whose} schedules; they stand under `schedules:` in a peer's .iapeer/peer.yaml\n"));
        return Ok(Done::Ok);
    }
    out(&format!("{}\n", table(&views)));
    for error in views.iter().filter_map(|v| v.error.as_ref()) {
        say(&format!("warning: {}", sanitize::line(error)));
    }
    Ok(Done::Ok)
}

fn table(views: &[ScheduleView]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["peer", "name", "trigger", "next", "last", "missed", "state"]);
    for view in views {
        let trigger = match (&view.cron, &view.watch) {
            (Some(cron), _) => format!("cron {cron} ({})", view.time_zone.as_deref().unwrap_or("UTC")),
            (_, Some(path)) => format!("watch {path}"),
            _ => String::new(),
        };
        let state = view.reason.as_ref().map_or(view.state.clone(), |reason| format!("{} ({reason})", view.state));
        let time = |t: &Option<String>| t.clone().unwrap_or_else(|| "-".into());
        table.add_row([
            view.peer.to_string(),
            sanitize::line(&view.name),
            sanitize::line(&trigger),
            time(&view.next),
            time(&view.last),
            view.missed.to_string(),
            sanitize::line(&state),
        ]);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn from_files(root: &Root, peer: Option<&str>) -> Result<Vec<ScheduleView>, Fault> {
    let known = registry::load(root);
    let wanted: Option<Personality> = match peer {
        None => None,
        Some(address) => {
            let name = known.peers.keys().find(|p| p.as_str() == address).cloned();
            let by_identity = || address.parse::<Identity>().ok().map(|i| i.personality).filter(|p| known.peers.contains_key(p));
            let found = name.or_else(by_identity).ok_or_else(|| {
                let close = near(address, known.peers.keys().map(Personality::as_str));
                let hint = if close.is_empty() { "`iapeer list` shows what is known".into() } else { format!("did you mean {}?", close.join(" or ")) };
                Fault::new(Code::PeerUnknown, format!("no peer is named {address:?}")).hint(hint)
            })?;
            Some(found)
        }
    };
    let looker = Looker { disk: &OsDisk, root, now: chrono::Utc::now(), zone: clock::zone() };
    let chosen = known.peers.iter().filter(|(name, _)| wanted.as_ref().is_none_or(|w| w == *name));
    Ok(chosen.flat_map(|(name, place)| looker.views(name, place)).collect())
}
