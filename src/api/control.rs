//! The routes about sessions that run.

use super::caller::Caller;
use super::routes::{Answer, App, Body, Params, WAIT_LIMIT_SECS, body};
use super::shapes::{AttachedRequest, InterruptRequest, MessageView, WaitedView};
use crate::core::fault::{Code, Fault};
use crate::core::names::Identity;
use crate::daemon::control::{self, OfItself};
use crate::daemon::router;
use axum::extract::{ConnectInfo, Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use std::time::Duration;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/peers/{peer}/refresh", post(refresh))
        .route("/v1/peers/{peer}/interrupt", post(interrupt))
        .route("/v1/peers/{peer}/compact", post(compact))
        .route("/v1/peers/{peer}/wait", get(wait))
        .route("/v1/peers/{peer}/attached", post(attached))
        .route("/v1/self/done", post(done))
        .route("/v1/self/fresh", post(fresh))
}

async fn refresh(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>) -> Answer<Identity> {
    app.operator(&caller, "refresh peers")?;
    Ok(Json(control::refresh(&app.host, &router::resolve(&app.host, &peer)?).await?))
}

async fn interrupt(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>, bytes: Body) -> Answer<Identity> {
    app.operator(&caller, "interrupt peers")?;
    let request: InterruptRequest = body(&bytes)?;
    Ok(Json(control::interrupt(&router::resolve(&app.host, &peer)?, request.force).await?))
}

async fn compact(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>) -> Answer<Vec<MessageView>> {
    app.operator(&caller, "compact the conversation of peers")?;
    let who = app.who(&caller);
    Ok(Json(control::compact(&app.host, &who, &router::resolve(&app.host, &peer)?).await?))
}

#[derive(Deserialize)]
struct WaitQuery {
    until: String,
    timeout_secs: Option<u64>,
}

async fn wait(
    State(app): State<App>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(peer): Path<String>,
    Params(query): Params<WaitQuery>,
) -> Answer<WaitedView> {
    app.somebody(&caller)?;
    let handle = router::resolve(&app.host, &peer)?;
    let limit = Duration::from_secs(query.timeout_secs.unwrap_or(60).min(WAIT_LIMIT_SECS));
    let seen = tokio::select! {
        seen = control::wait(&handle, &query.until, limit) => seen?,
        () = app.shutdown.cancelled() => return Err(Fault::new(Code::Draining, "the daemon ends").into()),
    };
    Ok(Json(WaitedView { identity: handle.identity.clone(), state: seen.state.into(), turn: seen.turn.map(String::from), reason: seen.reason }))
}

async fn attached(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>, Path(peer): Path<String>, bytes: Body) -> Answer<Identity> {
    app.operator(&caller, "attach to peers")?;
    let request: AttachedRequest = body(&bytes)?;
    let handle = router::resolve(&app.host, &peer)?;
    control::attached(&app.host, &handle, caller.process(), &request);
    Ok(Json(handle.identity.clone()))
}

async fn done(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>) -> Answer<Identity> {
    Ok(Json(control::of_itself(&app.host, &app.who(&caller), OfItself::Done).await?))
}

async fn fresh(State(app): State<App>, ConnectInfo(caller): ConnectInfo<Caller>) -> Answer<Identity> {
    Ok(Json(control::of_itself(&app.host, &app.who(&caller), OfItself::Fresh).await?))
}
