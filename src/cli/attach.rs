//! `iapeer attach`: opens a peer's terminal in this one. `Ctrl-]` detaches; no other key is taken from
//! the agent. Works inside another tmux: the session has a server and a socket of its own.

use super::link::{connect_or_start, segment};
use super::{AttachArgs, Done, Outcome, say};
use crate::api::client::{ANSWER, Client};
use crate::api::shapes::{AttachView, AttachedRequest, WakeRequest};
use crate::core::fault::{Code, Fault};
use crate::core::names::Identity;
use crate::core::peer::WantedBy;
use crate::store::layout::Root;
use std::io::{BufRead, IsTerminal};
use std::process::Command;
use std::time::Duration;

const WAKE: Duration = Duration::from_secs(330);

pub async fn attach(root: &Root, args: AttachArgs) -> Outcome {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Fault::new(Code::Invalid, "attach needs a terminal").hint(format!("`iapeer screen {}` prints what its terminal shows", args.peer)));
    }
    let mut client = connect_or_start(root).await?;
    let path = format!("/v1/peers/{}/wake", segment(&args.peer));
    let view = wake(&mut client, &path, WakeRequest { cause: WantedBy::Attach, fresh: args.fresh, cut_turn: args.yes }).await?;
    drop(client);
    open(root, &view, args.read_only).await
}

/// Asks for a session; a fresh one in the place of one whose turn runs only when the person here says so.
pub async fn wake(client: &mut Client, path: &str, request: WakeRequest) -> Result<AttachView, Fault> {
    match client.post(path, &request, WAKE).await {
        Err(fault) if fault.code == Code::Conflict && request.fresh && !request.cut_turn && std::io::stdin().is_terminal() => {
            say(&format!("{} Replace it? [y/N]", fault.message));
            let mut answer = String::new();
            let _ = std::io::stdin().lock().read_line(&mut answer);
            if !matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
                return Err(fault);
            }
            client.post(path, &WakeRequest { cut_turn: true, ..request }, WAKE).await
        }
        answer => answer,
    }
}

/// Hands this terminal to the session's own tmux, with the server's own program.
pub async fn open(root: &Root, view: &AttachView, read_only: bool) -> Outcome {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).map(|s| format!("{}x{}", s.ws_col, s.ws_row)).unwrap_or_default();
    let told = AttachedRequest { size, read_only };
    if let Ok(mut client) = Client::connect(root).await {
        // For the log, and so that the session counts as in use: without it the terminal opens all the same.
        let _: Result<Identity, Fault> = client.post(&format!("/v1/peers/{}/attached", view.identity), &told, ANSWER).await;
    }
    let mut command = Command::new(&view.tmux);
    command.arg("-u").arg("-S").arg(&view.socket).arg("attach-session");
    if read_only {
        command.arg("-r");
    }
    command.args(["-t", &format!("={}", view.identity)]).env_remove("TMUX").env_remove("TMUX_PANE");
    let status = command.status().map_err(|e| Fault::new(Code::Internal, format!("{}: {e}", view.tmux.display())))?;
    if status.success() {
        say(&format!("detached; {} goes on (`iapeer attach {}` comes back)", view.identity, view.identity.personality));
        Ok(Done::Ok)
    } else {
        Err(Fault::new(Code::Conflict, format!("the terminal of {} could not be opened, or ended", view.identity))
            .hint(format!("`iapeer logs {}` shows what happened", view.identity)))
    }
}
