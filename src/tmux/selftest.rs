//! Whether this tmux speaks as the direct client does: tried on a server of its own, once, at the start of
//! the daemon.
//!
//! It types what real mail is made of into a raw program and compares what came out byte for byte; a
//! client that vanishes with half a text, a guard that does not hold and a command that does not exist
//! must leave nothing behind. One call that has to be handed to a spawned client fails it.

use super::argv;
use super::direct;
use super::driver::Driver;
use super::wire::Exchange;
use crate::core::guard::{Fact, Guard};
use crate::core::message::MessageId;
use crate::core::runtime::{CR, KeyName};
use crate::ports::terminal::{Acted, PaneRef, Paste, StartSpec, Submit, Terminal, TerminalError};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// It takes about 50 ms.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);
/// A raw program that keeps what it reads.
const PROGRAM: &str = "stty raw -echo && printf '\\033[?2004hready' && exec cat >\"$1\"";
const WORDS: &str = "-n é 🦀 漢字 #{pane_id} $(x) `y` 'q' \"q\"\tend;";

/// `Err`: what did not hold.
pub async fn run(driver: &Driver, dir: &Path) -> Result<(), String> {
    let (socket, typed) = (dir.join("selftest.sock"), dir.join("selftest.typed"));
    let _ = std::fs::remove_file(&typed);
    let tried = tokio::time::timeout(LIMIT, all(driver, &socket, &typed)).await;
    // Also of a run that failed, or of a daemon that was killed in the middle of it and started again.
    let ended = driver.kill(socket).await;
    let _ = std::fs::remove_file(&typed);
    tried.unwrap_or_else(|_| Err(format!("it took longer than {} s", LIMIT.as_secs())))?;
    ended.map_err(|e| e.to_string())
}

fn id(n: u8) -> Result<MessageId, String> {
    format!("00000000-0000-7000-8000-0000000000{n:02x}").parse().map_err(|_| "no message id".into())
}

fn must(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}

async fn all(driver: &Driver, socket: &Path, typed: &Path) -> Result<(), String> {
    let failed = |e: TerminalError| e.to_string();
    let argv = ["/bin/sh", "-c", PROGRAM, "sh", &typed.to_string_lossy()].map(String::from).to_vec();
    let identity = "self-test".parse().map_err(|_| "no identity")?;
    let spec = StartSpec { identity, socket: socket.into(), cwd: "/".into(), argv, columns: 80, rows: 24, pipe: None };
    let started = driver.start(spec).await.map_err(failed)?;
    let pane = PaneRef { socket: socket.into(), pane: started.pane, keeper_pid: started.keeper_pid, incarnation: 1 };
    must(direct::server_of(socket).await.map_err(failed)? == Some(started.server.pid), "the socket names another server")?;
    while !driver.look(pane.clone()).await.map_err(failed)?.screen.starts_with("ready") {
        tokio::time::sleep(PAUSE).await;
    }

    let large = "0123456789abcde\n".repeat(6_400);
    let paste =
        |n: u8, text: &str, facts: Vec<Fact>| Ok::<_, String>(Paste { id: id(n)?, text: text.into(), guard: Guard { facts }, leave_mode: false, submit: None });
    vanish(&pane, &paste(1, &large, vec![])?).await.map_err(|e| format!("breaking off: {e}"))?;

    let said = driver.say(socket, &argv::say("one; two;")).await.map_err(failed)?;
    must(said.code == 0 && said.out == "one; two;\n", "an argument that ends in `;` was changed")?;
    let unknown = driver.say(socket, &argv::unknown()).await.map_err(failed)?;
    must(unknown.code == 1 && unknown.err.contains("unknown command"), "an unknown command was not refused")?;

    match driver.paste(pane.clone(), paste(2, "x", vec![Fact::Shows("^nowhere$".into())])?).await.map_err(failed)? {
        Acted::Refused(seen) => must(seen.screen.starts_with("ready") && seen.pane_pid == pane.keeper_pid, "a refusal shows another screen")?,
        Acted::Done { .. } => return Err("a guard that does not hold let a paste through".into()),
    }
    for (n, text) in [(3, WORDS), (4, &large)] {
        let acted = driver.paste(pane.clone(), paste(n, text, vec![Fact::Shows("^ready".into())])?).await.map_err(failed)?;
        must(matches!(acted, Acted::Done { .. }), "a guard that holds refused a paste")?;
    }
    let submit = Submit { id: id(4)?, attempt: 1, guard: Guard::default(), key: KeyName(CR.into()) };
    must(matches!(driver.submit(pane.clone(), submit).await.map_err(failed)?, Acted::Done { .. }), "the submit was refused")?;

    let want = format!("\x1b[200~{WORDS}\x1b[201~\x1b[200~{large}\x1b[201~\r").into_bytes();
    let mut got = Vec::new();
    while got.len() < want.len() {
        tokio::time::sleep(PAUSE).await;
        got = std::fs::read(typed).unwrap_or_default();
    }
    must(got == want, "what arrived is not what was sent")?;
    must(!driver.fell_back(), "an unexpected answer")
}

/// Hands over the beginning of a text and is gone, as a killed daemon.
async fn vanish(pane: &PaneRef, paste: &Paste) -> Result<(), String> {
    let list = argv::paste(pane, paste);
    let mut exchange = Exchange::new(std::process::id(), list.words(), Some(&paste.text)).map_err(|e| e.to_string())?;
    let mut stream = UnixStream::connect(&pane.socket).await.map_err(|e| e.to_string())?;
    let mut asked = [0; 1024];
    for _ in ["the list", "a part of the text"] {
        let part = exchange.pending();
        stream.write_all(part).await.map_err(|e| e.to_string())?;
        let sent = part.len();
        exchange.sent(sent);
        if asked[0] == 0 {
            let n = stream.read(&mut asked).await.map_err(|e| e.to_string())?;
            exchange.received(&asked[..n]).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}
