//! `send` and `inbox`.

use super::link::below_a_keeper;
use super::{Done, InboxArgs, Outcome, SendArgs, WaitArg, json, out, say};
use crate::api::client::{ANSWER, Client};
use crate::api::shapes::{Mail, MessageView, SendRequest, Via};
use crate::core::fault::{Code, Fault};
use crate::core::message::State;
use crate::core::sanitize;
use crate::daemon::router;
use crate::store::disk::OsDisk;
use crate::store::layout::Root;
use std::io::Read;
use std::time::{Duration, Instant};

/// How long a send from inside a session goes on trying when the daemon is away: an upgrade or a crash
/// is over by then.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// More than this is not even offered to the daemon.
const TEXT_CAP: usize = 4 * 1024 * 1024;
const RETRY_PAUSE: Duration = Duration::from_millis(100);

pub async fn send(root: &Root, args: SendArgs, as_json: bool) -> Outcome {
    let text = text_of(&args)?;
    if text.len() > TEXT_CAP {
        return Err(Fault::new(Code::TooLarge, format!("the message has {} bytes, over every limit", text.len())).hint("write it to a file and send its path"));
    }
    let request = SendRequest {
        // Chosen here, so that a try after a lost answer is the same message.
        id: Some(router::new_id()),
        to: args.peer.clone(),
        text,
        topic: args.topic,
        in_reply_to: args.in_reply_to,
        urgent: args.urgent,
        queue: args.queue,
        via: Via::Cli,
    };
    let view = accept(root, &request).await?;
    let Some(wait) = args.wait else {
        print(&view, as_json);
        return Ok(Done::Ok);
    };
    let view = wait_for(root, view, wait, Duration::from_secs(args.timeout)).await?;
    let reached = match wait {
        WaitArg::Submitted => view.submitted.is_some(),
        WaitArg::Answered => view.answer.is_some(),
    };
    match (&view.answer, wait, as_json) {
        (Some(answer), WaitArg::Answered, false) => out(&format!("{}\n", sanitize::body(answer.text.as_bytes()))),
        _ => print(&view, as_json),
    }
    if let (Some(answer), WaitArg::Answered) = (&view.answer, wait) {
        // The script has read it; only the operator has an inbox to clear.
        if let Ok(mut client) = Client::connect(root).await {
            let _: Result<MessageView, Fault> = client.post(&format!("/v1/messages/{}/ack", answer.id), &serde_json::json!({}), ANSWER).await;
        }
    }
    match view.state {
        _ if reached => Ok(Done::Ok),
        State::Dead | State::Expired | State::Parked => Ok(Done::Code(1)),
        _ => Ok(Done::NotYet),
    }
}

fn text_of(args: &SendArgs) -> Result<String, Fault> {
    let invalid = |e: String| Fault::new(Code::Invalid, e);
    if let Some(text) = args.text.as_ref().or(args.message.as_ref()) {
        return Ok(text.clone());
    }
    let bytes = match args.message_file.as_deref() {
        None => {
            return Err(
                invalid("there is no message".into()).hint("give it as the last argument, with --message, or with --message-file (- is standard input)")
            );
        }
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| invalid(format!("standard input: {e}")))?;
            bytes
        }
        Some(path) => std::fs::read(path).map_err(|e| invalid(format!("{path}: {e}")))?,
    };
    // Invalid UTF-8 is replaced before it is kept: nothing else could be shown or typed.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn accept(root: &Root, request: &SendRequest) -> Result<MessageView, Fault> {
    let patient = below_a_keeper();
    let began = Instant::now();
    loop {
        let tried = match Client::connect(root).await {
            Ok(mut client) => client.post("/v1/messages", request, ANSWER).await,
            Err(fault) => Err(fault),
        };
        match tried {
            Err(fault) if patient && matches!(fault.code, Code::DaemonUnreachable | Code::Draining) && began.elapsed() < RETRY_FOR => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            other => return other,
        }
    }
}

async fn wait_for(root: &Root, mut view: MessageView, wait: WaitArg, limit: Duration) -> Result<MessageView, Fault> {
    let what = match wait {
        WaitArg::Submitted => "submitted",
        WaitArg::Answered => "answered",
    };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let path = format!("/v1/messages/{}?wait={what}&timeout_secs={}", view.id, left.as_secs());
        let tried: Result<MessageView, Fault> = match Client::connect(root).await {
            Ok(mut client) => client.get(&path, left + ANSWER).await,
            Err(fault) => Err(fault),
        };
        let reached = |v: &MessageView| match wait {
            WaitArg::Submitted => v.submitted.is_some() || v.state.is_end(),
            WaitArg::Answered => v.answer.is_some() || matches!(v.state, State::Dead | State::Expired),
        };
        match tried {
            Ok(now) if reached(&now) || left.is_zero() => return Ok(now),
            Ok(now) => view = now,
            // The message is kept; whoever waits for it waits on.
            Err(fault) if fault.code == Code::DaemonUnreachable && !left.is_zero() => tokio::time::sleep(RETRY_PAUSE).await,
            Err(fault) => return Err(fault),
        }
    }
}

fn print(view: &MessageView, as_json: bool) {
    if as_json {
        json(view);
        return;
    }
    let mut line = format!("{} {}", view.id, view.state.word());
    if let Some(evidence) = view.evidence {
        line += &format!(" evidence={}", evidence.word());
    }
    if let Some(reason) = &view.reason {
        line += &format!(" reason={reason}");
    }
    out(&format!("{line} to={}\n", view.to));
}

pub async fn inbox(root: &Root, args: InboxArgs, as_json: bool) -> Outcome {
    let (mail, client): (Vec<Mail>, Option<Client>) = match Client::connect(root).await {
        Ok(mut client) => (client.get(&format!("/v1/inbox?all={}", args.all), ANSWER).await?, Some(client)),
        Err(fault) if fault.code == Code::DaemonUnreachable => {
            say("iapeer: no daemon runs; this is read from the files, and stays unread");
            (router::read_inbox(&OsDisk, root, args.all), None)
        }
        Err(fault) => return Err(fault),
    };
    if as_json {
        json(&mail);
    } else if mail.is_empty() {
        out("no mail\n");
    }
    for m in mail.iter().filter(|_| !as_json) {
        let topic = m.topic.as_ref().map(|t| format!("  topic {}", sanitize::line(t))).unwrap_or_default();
        let answers = m.in_reply_to.as_ref().map(|id| format!("  answers {id}")).unwrap_or_default();
        out(&format!("{}  from {}  {}{topic}{answers}\n{}\n\n", m.id, m.from, m.sent, m.text));
    }
    if let (Some(mut client), false) = (client, args.keep) {
        for m in mail.iter().filter(|m| !m.acknowledged) {
            let _: MessageView = client.post(&format!("/v1/messages/{}/ack", m.id), &serde_json::json!({}), ANSWER).await?;
        }
    }
    Ok(Done::Ok)
}
