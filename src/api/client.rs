//! A small HTTP client over the unix socket, for the command line, hooks and the MCP bridge.

use super::shapes::ErrorBody;
use crate::core::fault::{Code, Fault};
use crate::store::layout::Root;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Longest time to reach the daemon; waiting for a state has its own, longer one.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest answer, when the call does not wait for something.
pub const ANSWER: Duration = Duration::from_secs(30);

/// One connection, used for one call after the other.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
}

fn unreachable(socket: &Path, why: &str) -> Fault {
    Fault::new(Code::DaemonUnreachable, format!("no daemon answers on {} ({why})", socket.display()))
        .hint("start one with `iapeer daemon`, or look at `iapeer status`")
}

impl Client {
    pub async fn connect(root: &Root) -> Result<Self, Fault> {
        Self::connect_to(root.api_socket()).await
    }

    pub async fn connect_to(socket: PathBuf) -> Result<Self, Fault> {
        let open = async {
            let stream = UnixStream::connect(&socket).await.map_err(|e| unreachable(&socket, &e.kind().to_string()))?;
            let server = stream.peer_cred().map(|c| c.uid()).ok();
            if server != Some(nix::unistd::getuid().as_raw()) {
                return Err(Fault::new(Code::Unauthorized, format!("{} is served by another user; nothing was sent", socket.display())));
            }
            let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&socket, &e.to_string()))?;
            tokio::spawn(connection);
            Ok(Client { sender })
        };
        tokio::time::timeout(CONNECT, open).await.map_err(|_| unreachable(&socket, "no answer"))?
    }

    pub async fn get<T: DeserializeOwned>(&mut self, path: &str, limit: Duration) -> Result<T, Fault> {
        self.call(Method::GET, path, Bytes::new(), limit).await
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(&mut self, path: &str, body: &B, limit: Duration) -> Result<T, Fault> {
        let bytes = serde_json::to_vec(body).map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
        self.call(Method::POST, path, bytes.into(), limit).await
    }

    async fn call<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: Bytes, limit: Duration) -> Result<T, Fault> {
        let lost = |e: hyper::Error| {
            Fault::new(Code::DaemonUnreachable, format!("the daemon went away during the call ({e})"))
                .hint("try again; a repeated send with the same id is not doubled")
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "iapeer")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
        let exchange = async {
            let response = self.sender.send_request(request).await.map_err(lost)?;
            let status = response.status();
            let bytes = response.into_body().collect().await.map_err(lost)?.to_bytes();
            Ok::<_, Fault>((status, bytes))
        };
        let (status, bytes) =
            tokio::time::timeout(limit, exchange).await.map_err(|_| Fault::new(Code::Timeout, format!("no answer within {} s", limit.as_secs())))??;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|e| {
                Fault::new(Code::VersionSkew, format!("the daemon's answer was not understood: {e}"))
                    .hint("is the running daemon of another version? `iapeer status` tells")
            });
        }
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Err(body.error),
            Err(_) => Err(Fault::new(
                Code::Internal,
                format!("the daemon answered {status}: {}", String::from_utf8_lossy(&bytes).chars().take(200).collect::<String>()),
            )),
        }
    }
}
