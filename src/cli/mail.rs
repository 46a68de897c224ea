//! `send` and `inbox`.

use super::link::segment;
use super::{Done, InboxArgs, Outcome, SendArgs, WaitArg, json, out, say};
use crate::api::client::{ANSWER, Client};
use crate::api::shapes::{Mail, MessageView, Recipients, SendRequest, Via};
use crate::core::fault::{Code, Fault};
use crate::core::message::State;
use crate::core::names::{OPERATOR, Party};
use crate::core::sanitize;
use crate::daemon::{accept, mail};
use crate::store::disk::OsDisk;
use crate::store::layout::Root;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// More than this is not even offered to the daemon.
const TEXT_CAP: usize = 4 * 1024 * 1024;
/// The reason of a message that waits for a daemon.
pub const DAEMON_DOWN: &str = "daemon down";
const RETRY_PAUSE: Duration = Duration::from_millis(100);

pub async fn send(root: &Root, args: SendArgs, as_json: bool) -> Outcome {
    let (peers, text) = text_of(&args)?;
    if text.len() > TEXT_CAP {
        return Err(Fault::new(Code::TooLarge, format!("the message has {} bytes, over every limit", text.len()))
            .hint("write it to a file and send it with --attachment"));
    }
    let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|e| Fault::new(Code::BadAttachment, format!("{}: {e}", path.display())));
    let to = if let [one] = peers.as_slice() { Recipients::One(one.clone()) } else { Recipients::Many(peers) };
    let request = SendRequest {
        // Chosen here, so that a try after a lost answer is the same message.
        id: Some(accept::new_id()),
        topic: args.topic,
        in_reply_to: args.in_reply_to,
        urgent: args.urgent,
        queue: args.queue,
        idempotency_key: args.key,
        attachments: args.attachment.iter().map(absolute).collect::<Result<_, _>>()?,
        raw: args.raw,
        from: args.from,
        ..SendRequest::new(to, text, Via::Cli)
    };
    let views = accept(root, &request).await?;
    let Some(wait) = args.wait else {
        print(&views, as_json);
        return Ok(Done::Ok);
    };
    let limit = Duration::from_secs(args.timeout);
    let began = Instant::now();
    let mut reached = Vec::new();
    for view in views {
        reached.push(wait_for(root, view, wait, limit.saturating_sub(began.elapsed())).await?);
    }
    let is = |view: &MessageView| match wait {
        WaitArg::Submitted => view.submitted.is_some(),
        WaitArg::Answered => view.answer.is_some(),
    };
    match (reached.as_slice(), wait, as_json) {
        ([MessageView { answer: Some(answer), .. }], WaitArg::Answered, false) => out(&format!("{}\n", sanitize::body(answer.text.as_bytes()))),
        _ => print(&reached, as_json),
    }
    for id in reached.iter().filter(|_| wait == WaitArg::Answered).filter_map(|v| v.answer.as_ref()?.id.as_ref()) {
        // The script has read it; only the operator has an inbox to clear.
        if let Ok(mut client) = Client::connect(root).await {
            let _: Result<MessageView, Fault> = client.post(&format!("/v1/messages/{id}/ack"), &serde_json::json!({}), ANSWER).await;
        }
    }
    match reached.iter().find(|v| !is(v)).map(|v| v.state) {
        None => Ok(Done::Ok),
        Some(State::Dead | State::Expired | State::Parked) => Ok(Done::Code(1)),
        Some(_) => Ok(Done::NotYet),
    }
}

/// The recipients, and the text: the last word, unless an option brings it.
fn text_of(args: &SendArgs) -> Result<(Vec<String>, String), Fault> {
    let invalid = |e: String| Fault::new(Code::Invalid, e);
    if let Some(text) = &args.message {
        return Ok((args.words.clone(), text.clone()));
    }
    if args.message_file.is_none() {
        if let [peers @ .., text] = args.words.as_slice() {
            if !peers.is_empty() {
                return Ok((peers.to_vec(), text.clone()));
            }
        }
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
    Ok((args.words.clone(), String::from_utf8_lossy(&bytes).into_owned()))
}

async fn accept(root: &Root, request: &SendRequest) -> Result<Vec<MessageView>, Fault> {
    let tried: Result<serde_json::Value, Fault> = match Client::connect(root).await {
        Ok(mut client) => client.post("/v1/messages", request, ANSWER).await,
        Err(fault) => Err(fault),
    };
    match tried {
        Ok(value) => views(value),
        // The next daemon takes it in; under the same id, should the one that went away have kept it.
        Err(fault) if fault.code == Code::DaemonUnreachable => super::offline::leave(root, request),
        Err(fault) => Err(fault),
    }
}

/// One object, or an array of them.
pub fn views(value: serde_json::Value) -> Result<Vec<MessageView>, Fault> {
    let many = if value.is_array() { serde_json::from_value(value) } else { serde_json::from_value(value).map(|one| vec![one]) };
    many.map_err(|e| Fault::new(Code::VersionSkew, format!("the daemon's answer was not understood: {e}")))
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
        let away = |fault: &Fault| match fault.code {
            Code::DaemonUnreachable => true,
            // It may still lie in the spool.
            Code::MessageUnknown => view.reason.as_deref() == Some(DAEMON_DOWN),
            _ => false,
        };
        let reached = |v: &MessageView| match wait {
            WaitArg::Submitted => v.submitted.is_some() || v.state.is_end(),
            WaitArg::Answered => v.answer.is_some() || matches!(v.state, State::Dead | State::Expired),
        };
        match tried {
            Ok(now) if reached(&now) || left.is_zero() => return Ok(now),
            Ok(now) => view = now,
            // The message is kept; whoever waits for it waits on.
            Err(fault) if away(&fault) && !left.is_zero() => tokio::time::sleep(RETRY_PAUSE).await,
            Err(fault) if away(&fault) => return Ok(view),
            Err(fault) => return Err(fault),
        }
    }
}

fn print(views: &[MessageView], as_json: bool) {
    match (views, as_json) {
        ([one], true) => json(one),
        (many, true) => json(&many),
        (many, false) => {
            for view in many {
                out(&format!("{}\n", line_of(view)));
                if let Some(wake) = view.wake.as_ref().filter(|_| view.submitted.is_none() && !view.state.is_end()) {
                    let how = if wake.mode == "resume" { "resumes its conversation" } else { "starts fresh" };
                    say(&format!("{} was asleep and {how}: {}", view.to, wake.why));
                }
            }
        }
    }
}

/// A message and where it stands, in one line.
pub fn line_of(view: &MessageView) -> String {
    let mut line = format!("{} {}", view.id, view.state.word());
    if let Some(evidence) = view.evidence {
        line += &format!(" evidence={}", evidence.word());
    }
    if let Some(reason) = &view.reason {
        line += &format!(" reason={}", if reason.contains(' ') { format!("\"{reason}\"") } else { reason.clone() });
    }
    if let Some(position) = view.position {
        line += &format!(" position={position}");
    }
    format!("{line} to={}", view.to)
}

pub async fn inbox(root: &Root, args: InboxArgs, as_json: bool) -> Outcome {
    let peer = args.peer.as_deref().unwrap_or(OPERATOR);
    let (mail, client): (Vec<Mail>, Option<Client>) = match Client::connect(root).await {
        Ok(mut client) => {
            let path = format!("/v1/peers/{}/inbox?all={}&wait={}", segment(peer), args.all, args.wait);
            (client.get(&path, ANSWER + Duration::from_secs(args.wait)).await?, Some(client))
        }
        Err(fault) if fault.code == Code::DaemonUnreachable => {
            say("iapeer: no daemon runs; this is read from the files, and stays unread");
            let party = peer.parse::<Party>().unwrap_or(Party::Operator);
            (mail::read_inbox(&OsDisk, root, &party, args.all), None)
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
        let answers = m.in_reply_to.as_ref().map(|id| format!("  about {id}")).unwrap_or_default();
        let files: String = m.attachments.iter().map(|path| format!("[file {}]\n", sanitize::line(path))).collect();
        out(&format!("{}  from {}  {}{topic}{answers}\n{}\n{files}\n", m.id, m.from, m.sent, m.text));
    }
    if let (Some(mut client), false) = (client, args.keep) {
        for m in mail.iter().filter(|m| !m.acknowledged) {
            let _: MessageView = client.post(&format!("/v1/messages/{}/ack", m.id), &serde_json::json!({}), ANSWER).await?;
        }
    }
    Ok(Done::Ok)
}
