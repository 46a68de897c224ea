//! `iapeer refresh`, `interrupt`, `compact`, `wait`, `self-done`, `self-fresh`.

use super::link::segment;
use super::{Done, Outcome, PeersArgs, json, out, peers};
use crate::api::client::{ANSWER, Client};
use crate::api::shapes::{InterruptRequest, MessageView, WaitedView};
use crate::core::names::Identity;
use crate::store::layout::Root;
use clap::{Args, Subcommand};
use std::time::Duration;

/// An interrupt and, when that is of no use, the end of the session.
const INTERRUPT: Duration = Duration::from_secs(120);

#[derive(Subcommand)]
pub enum ControlVerb {
    /// Let the next session of a peer begin a fresh conversation; one that runs goes on.
    Refresh(PeersArgs),
    /// End the running turn of a peer.
    Interrupt(InterruptArgs),
    /// Let the program shorten its conversation.
    Compact(PeersArgs),
    /// Wait until a peer is in a state (for scripts).
    Wait(WaitArgs),
    /// Say that this session has nothing left to do (called by agents).
    SelfDone,
    /// Ask for a fresh session of oneself when the turn is over (called by agents).
    SelfFresh,
}

#[derive(Args)]
pub struct InterruptArgs {
    #[command(flatten)]
    peers: PeersArgs,
    /// When the turn does not end, end its session.
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub struct WaitArgs {
    /// Personality or identity.
    peer: String,
    /// live, starting, stopping, asleep, stopped, held, absent; or of a turn: idle, working, waiting.
    #[arg(long, value_name = "STATE")]
    until: String,
    /// How long, in seconds; then exit code 5.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

pub async fn run(root: &Root, verb: ControlVerb, as_json: bool) -> Outcome {
    let mut client = Client::connect(root).await?;
    let nothing = serde_json::json!({});
    match verb {
        ControlVerb::Refresh(args) => {
            for peer in peers::chosen(&mut client, &args).await? {
                let identity: Identity = client.post(&format!("/v1/peers/{}/refresh", segment(&peer)), &nothing, ANSWER).await?;
                told(&identity, "its next session begins a fresh conversation", as_json);
            }
        }
        ControlVerb::Interrupt(args) => {
            let request = InterruptRequest { force: args.force };
            for peer in peers::chosen(&mut client, &args.peers).await? {
                let identity: Identity = client.post(&format!("/v1/peers/{}/interrupt", segment(&peer)), &request, INTERRUPT).await?;
                told(&identity, "its turn is over", as_json);
            }
        }
        ControlVerb::Compact(args) => {
            for peer in peers::chosen(&mut client, &args).await? {
                let sent: Vec<MessageView> = client.post(&format!("/v1/peers/{}/compact", segment(&peer)), &nothing, ANSWER).await?;
                for view in sent {
                    if as_json {
                        json(&view);
                    } else {
                        out(&format!("{}: asked for ({}); `iapeer explain {}` tells how far it came\n", view.to, view.state.word(), view.id));
                    }
                }
            }
        }
        ControlVerb::Wait(args) => {
            let path = format!("/v1/peers/{}/wait?until={}&timeout_secs={}", segment(&args.peer), segment(&args.until), args.timeout);
            let seen: WaitedView = client.get(&path, Duration::from_secs(args.timeout) + ANSWER).await?;
            if as_json {
                json(&seen);
            } else {
                let more: Vec<&str> = [seen.turn.as_deref(), seen.reason.as_deref()].into_iter().flatten().collect();
                out(&format!("{} is {}{}\n", seen.identity, seen.state, if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) }));
            }
        }
        ControlVerb::SelfDone => {
            let identity: Identity = client.post("/v1/self/done", &nothing, ANSWER).await?;
            told(&identity, "has said that it is done", as_json);
        }
        ControlVerb::SelfFresh => {
            let identity: Identity = client.post("/v1/self/fresh", &nothing, ANSWER).await?;
            told(&identity, "a fresh session begins when this turn is over", as_json);
        }
    }
    Ok(Done::Ok)
}

fn told(identity: &Identity, what: &str, as_json: bool) {
    if as_json {
        json(&serde_json::json!({ "identity": identity }));
    } else {
        out(&format!("{identity}: {what}\n"));
    }
}
