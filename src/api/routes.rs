//! The routes of `/v1`. Operator verbs are refused to agents; every error has a code of the closed list.

use super::caller::{Caller, Who};
use super::shapes::{
    AttachView, ErrorBody, FreezeRequest, HistoryView, HookRequest, Mail, MessageView, PeerView, QueueRequest, Recipients, ScheduleView, ScreenView,
    SendRequest, StatusView, WakeRequest,
};
use crate::core::fault::{Code, Fault};
use crate::core::message::{MessageId, State as MessageState};
use crate::core::names::Identity;
use crate::daemon::host::Host;
use crate::daemon::mail::{self, WaitFor};
use crate::daemon::{accept, orders, router, schedules};
use crate::store::history::{self, Search};
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest request body: a message of any allowed size, escaped as JSON at worst.
const BODY_LIMIT: usize = 16 * 1024 * 1024;
/// Longest wait that one request may ask for.
pub(super) const WAIT_LIMIT_SECS: u64 = 24 * 3600;

#[derive(Clone)]
pub struct App {
    pub host: Arc<Host>,
    pub shutdown: CancellationToken,
    /// Whether the shutdown ends the sessions, too.
    pub end_sessions: Arc<std::sync::atomic::AtomicBool>,
}

pub struct Failed(Fault);

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Failed(fault)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

pub(super) type Answer<T> = Result<Json<T>, Failed>;

pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/healthz", get(healthz))
        .route("/v1/status", get(status))
        .route("/v1/whoami", get(whoami))
        .route("/v1/peers", get(peers))
        .route("/v1/peers/{peer}/screen", get(screen))
        .route("/v1/peers/{peer}/wake", post(wake))
        .route("/v1/peers/{peer}/stop", post(stop))
        .route("/v1/peers/{peer}/start", post(start))
        .route("/v1/peers/{peer}/new", post(new))
        .route("/v1/peers/{peer}/remove", post(remove))
        .route("/v1/peers/{peer}/inbox", get(peer_inbox))
        .route("/v1/peers/{peer}/queue", get(queue))
        .route("/v1/messages", post(send).get(messages))
        .route("/v1/messages/{id}/queue", post(queue_act))
        .route("/v1/schedules", get(all_schedules))
        .route("/v1/peers/{peer}/schedules", get(peer_schedules))
        .route("/v1/freeze", post(freeze))
        .route("/v1/unfreeze", post(unfreeze))
        .route("/v1/messages/{id}", get(message))
        .route("/v1/messages/{id}/ack", post(ack))
        .route("/v1/inbox", get(inbox))
        .route("/v1/hook", post(hook))
        .route("/v1/shutdown", post(shutdown))
        .merge(super::control::routes())
        .fallback(async || Failed(Fault::new(Code::Invalid, "no such route")))
        .method_not_allowed_fallback(async || Failed(Fault::new(Code::Invalid, "this route does not take this method")))
        .layer(axum::middleware::from_fn(to_its_end))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(app)
}

/// What changes something is carried to its end, also when whoever asked is gone meanwhile: their connection takes
/// only the answer with it.
async fn to_its_end(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let answer = tokio::spawn(next.run(request)).await;
    answer.unwrap_or_else(|error| Failed(Fault::new(Code::Internal, format!("the request broke: {error}"))).into_response())
}

impl App {
    pub(super) fn who(&self, caller: &Caller) -> Who {
        caller.identify(&self.host.root, |process| self.host.keeper_of(process))
    }

    pub(super) fn somebody(&self, caller: &Caller) -> Result<(), Failed> {
        match self.who(caller) {
            Who::Nobody(why) => Err(Fault::from(why).into()),
            _ => Ok(()),
        }
    }

    pub(super) fn operator(&self, caller: &Caller, what: &str) -> Result<(), Failed> {
        match self.who(caller) {
            Who::Operator => Ok(()),
            Who::Peer(identity, _) => Err(Fault::new(Code::NotAllowed, format!("{identity} may not {what}: that is the operator's")).into()),
            Who::Nobody(why) => Err(Fault::from(why).into()),
        }
    }
}

/// A request body; one that is too large or cut short is refused like everything else, in an envelope.
pub(super) struct Body(Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Failed;
    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        Bytes::from_request(request, state).await.map(Body).map_err(|e| {
            let code = if e.status() == StatusCode::PAYLOAD_TOO_LARGE { Code::TooLarge } else { Code::Invalid };
            Fault::new(code, format!("the request body: {}", e.body_text())).into()
        })
    }
}

/// Query parameters, refused in an envelope, too.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failed;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(q)| Params(q)).map_err(|e| Fault::new(Code::Invalid, format!("the query: {}", e.body_text())).into())
    }
}

pub(super) fn body<T: DeserializeOwned>(Body(bytes): &Body) -> Result<T, Failed> {
    serde_json::from_slice(bytes).map_err(|e| Fault::new(Code::Invalid, format!("the request body: {e}")).into())
}

fn message_id(text: &str) -> Result<MessageId, Failed> {
    text.parse().map_err(|e: String| Fault::new(Code::Invalid, e).into())
}

async fn healthz() -> &'static str {
    "\"ok\""
}

async fn status(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>) -> Answer<StatusView> {
    app.somebody(&caller)?;
    Ok(Json(orders::status(&app.host)))
}

async fn whoami(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>) -> Answer<String> {
    match app.who(&caller) {
        Who::Nobody(why) => Err(Fault::from(why).into()),
        who => Ok(Json(who.party().map(|p| p.to_string()).unwrap_or_default())),
    }
}

async fn peers(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>) -> Answer<Vec<PeerView>> {
    app.somebody(&caller)?;
    Ok(Json(orders::list(&app.host)))
}

async fn screen(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>) -> Answer<ScreenView> {
    app.operator(&caller, "read another terminal")?;
    let handle = router::resolve(&app.host, &peer)?;
    Ok(Json(orders::screen(&app.host, &handle).await?))
}

async fn wake(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>, bytes: Body) -> Answer<AttachView> {
    app.operator(&caller, "wake peers")?;
    let request: WakeRequest = body(&bytes)?;
    let handle = router::resolve(&app.host, &peer)?;
    if request.fresh && !request.cut_turn {
        orders::refuse_running_turn(&handle).await?;
    }
    Ok(Json(orders::wake(&app.host, &handle, request.cause, request.fresh).await?))
}

async fn stop(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>) -> Answer<Identity> {
    app.operator(&caller, "stop peers")?;
    let handle = router::resolve(&app.host, &peer)?;
    orders::stop(&app.host, &handle, "operator").await?;
    Ok(Json(handle.identity))
}

async fn start(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>) -> Answer<AttachView> {
    app.operator(&caller, "start peers")?;
    let handle = router::resolve(&app.host, &peer)?;
    Ok(Json(orders::start(&app.host, &handle, "operator").await?))
}

async fn new(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>) -> Answer<AttachView> {
    app.operator(&caller, "renew peers")?;
    let handle = router::resolve(&app.host, &peer)?;
    Ok(Json(orders::new(&app.host, &handle).await?))
}

/// One recipient: one object. Several, or a group: an array with one object for each copy.
async fn send(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, bytes: Body) -> Answer<serde_json::Value> {
    let request: SendRequest = body(&bytes)?;
    let one = matches!(&request.to, Recipients::One(name) if !app.host.settings.groups.contains_key(name));
    let mut views = accept::send(&app.host, &app.who(&caller), request).await?;
    let answer = if one && views.len() == 1 { serde_json::to_value(views.remove(0)) } else { serde_json::to_value(views) };
    answer.map(Json).map_err(|e| Fault::new(Code::Internal, e.to_string()).into())
}

#[derive(Deserialize)]
struct HistoryQuery {
    peer: Option<String>,
    topic: Option<String>,
    state: Option<MessageState>,
    text: Option<String>,
    limit: Option<usize>,
}

async fn messages(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Params(query): Params<HistoryQuery>) -> Answer<Vec<HistoryView>> {
    app.operator(&caller, "read the mail of others")?;
    let limit = query.limit.unwrap_or(50).min(10_000);
    // States that only this daemon knows are looked for in what it knows.
    let on_disk = query.state.filter(|s| (s.is_end() && *s != MessageState::Answered) || *s == MessageState::Parked);
    let search =
        Search { peer: query.peer, topic: query.topic, state: on_disk, text: query.text, limit: if on_disk == query.state { limit } else { usize::MAX } };
    let host = app.host.clone();
    let found = tokio::task::spawn_blocking(move || history::search(&*host.disk, &host.root, &search)).await;
    let found = found.map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
    let told = found.into_iter().map(|f| mail::history_view(f, |id| mail::message(&app.host, id).ok()));
    Ok(Json(told.filter(|v| query.state.is_none_or(|s| v.view.state == s)).take(limit).collect()))
}

async fn queue(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>) -> Answer<Vec<MessageView>> {
    app.operator(&caller, "look into the queue of a peer")?;
    let handle = router::resolve_kept(&app.host, &peer)?;
    Ok(Json(mail::queue(&app.host, &handle)))
}

async fn queue_act(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(id): Path<String>, bytes: Body) -> Answer<MessageView> {
    app.operator(&caller, "decide about mail")?;
    let request: QueueRequest = body(&bytes)?;
    Ok(Json(mail::queue_act(&app.host, &message_id(&id)?, request.act).await?))
}

async fn all_schedules(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>) -> Answer<Vec<ScheduleView>> {
    app.somebody(&caller)?;
    Ok(Json(schedules::views(&app.host, None)))
}

async fn peer_schedules(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>) -> Answer<Vec<ScheduleView>> {
    app.somebody(&caller)?;
    let handle = router::resolve(&app.host, &peer)?;
    Ok(Json(schedules::views(&app.host, Some(&handle.identity.personality))))
}

async fn freeze(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, bytes: Body) -> Answer<&'static str> {
    app.operator(&caller, "freeze")?;
    let request: FreezeRequest = body(&bytes)?;
    orders::freeze(&app.host, request.peer.as_deref(), Some(&request.reason)).await?;
    Ok(Json("frozen"))
}

async fn unfreeze(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, bytes: Body) -> Answer<&'static str> {
    app.operator(&caller, "unfreeze")?;
    let request: FreezeRequest = body(&bytes)?;
    orders::freeze(&app.host, request.peer.as_deref(), None).await?;
    Ok(Json("unfrozen"))
}

async fn remove(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>) -> Answer<Vec<Identity>> {
    app.operator(&caller, "remove peers")?;
    Ok(Json(orders::remove(&app.host, &peer).await?))
}

#[derive(Deserialize)]
struct MessageQuery {
    wait: Option<WaitFor>,
    timeout_secs: Option<u64>,
}

async fn message(
    State(app): State<App>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(id): Path<String>,
    Params(query): Params<MessageQuery>,
) -> Answer<MessageView> {
    let id = message_id(&id)?;
    let view = mail::message(&app.host, &id)?;
    match app.who(&caller) {
        Who::Operator => {}
        // Agents may ask about mail of their own.
        Who::Peer(me, _) if [&view.from, &view.to].iter().any(|p| p.peer() == Some(&me)) => {}
        Who::Peer(..) => return Err(Fault::new(Code::MessageUnknown, format!("no message of yours has the id {id}")).into()),
        Who::Nobody(why) => return Err(Fault::from(why).into()),
    }
    match query.wait {
        None => Ok(Json(view)),
        Some(what) => {
            let limit = Duration::from_secs(query.timeout_secs.unwrap_or(60).min(WAIT_LIMIT_SECS));
            tokio::select! {
                view = mail::wait(&app.host, &id, what, limit) => Ok(Json(view?)),
                () = app.shutdown.cancelled() => Ok(Json(mail::message(&app.host, &id)?)),
            }
        }
    }
}

async fn ack(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(id): Path<String>) -> Answer<MessageView> {
    app.operator(&caller, "acknowledge the operator's mail")?;
    Ok(Json(mail::acknowledge(&app.host, &message_id(&id)?).await?))
}

#[derive(Deserialize)]
struct InboxQuery {
    #[serde(default)]
    all: bool,
    /// Seconds to wait for some mail.
    #[serde(default)]
    wait: u64,
}

async fn inbox(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Params(query): Params<InboxQuery>) -> Answer<Vec<Mail>> {
    read_mail(app, &caller, crate::core::names::OPERATOR, &query).await
}

async fn peer_inbox(
    State(app): State<App>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(peer): Path<String>,
    Params(query): Params<InboxQuery>,
) -> Answer<Vec<Mail>> {
    read_mail(app, &caller, &peer, &query).await
}

async fn read_mail(app: App, caller: &Caller, peer: &str, query: &InboxQuery) -> Answer<Vec<Mail>> {
    app.operator(caller, "read the mail of others")?;
    let party = mail::reader(&app.host, peer)?;
    let limit = Duration::from_secs(query.wait.min(WAIT_LIMIT_SECS));
    tokio::select! {
        mail = mail::inbox(&app.host, &party, query.all, limit) => Ok(Json(mail)),
        () = app.shutdown.cancelled() => Ok(Json(Vec::new())),
    }
}

async fn hook(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, bytes: Body) -> Answer<&'static str> {
    let request: HookRequest = body(&bytes)?;
    match app.who(&caller) {
        Who::Peer(identity, inc) => {
            orders::hook(&app.host, &identity, inc, &request.event, &request.payload).await;
            Ok(Json("ok"))
        }
        Who::Operator => Err(Fault::new(Code::NotAllowed, "a hook report comes from inside a peer's session").into()),
        Who::Nobody(why) => Err(Fault::from(why).into()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShutdownRequest {
    #[serde(default)]
    all_peers: bool,
}

async fn shutdown(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, bytes: Body) -> Answer<i32> {
    app.operator(&caller, "stop the daemon")?;
    let request: ShutdownRequest = body(&bytes)?;
    app.end_sessions.store(request.all_peers, std::sync::atomic::Ordering::SeqCst);
    app.shutdown.cancel();
    Ok(Json(std::process::id() as i32))
}
