//! A small client of the daemon's API: one kept-open connection.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

pub struct Api {
    socket: PathBuf,
    stream: UnixStream,
}

impl Api {
    pub fn connect(root: &Path) -> Api {
        let socket = root.join("run/iapeer.sock");
        let stream = UnixStream::connect(&socket).expect("the daemon listens");
        Api { socket, stream }
    }

    /// The id of the accepted message.
    pub fn send(&mut self, to: &str, text: &str) -> Result<String, String> {
        let view = self.call("POST", "/v1/messages", &json!({"to": to, "text": text}))?;
        view["id"].as_str().map(String::from).ok_or_else(|| format!("no id: {view}"))
    }

    /// State and reason of a message.
    pub fn message(&mut self, id: &str) -> Result<(String, String), String> {
        let view = self.call("GET", &format!("/v1/messages/{id}"), &Value::Null)?;
        let word = |name: &str| view[name].as_str().unwrap_or_default().to_string();
        Ok((word("state"), word("reason")))
    }

    /// Whether a live peer works on nothing.
    pub fn is_idle(&mut self, peer: &str) -> bool {
        let peers = self.call("GET", "/v1/peers", &Value::Null).unwrap_or_default();
        let found = peers.as_array().into_iter().flatten().find(|p| p["personality"] == peer);
        found.is_some_and(|p| p["runtimes"][0]["state"] == "live" && p["runtimes"][0]["turn"] == "idle")
    }

    pub fn order(&mut self, peer: &str, verb: &str) -> Result<Value, String> {
        self.call("POST", &format!("/v1/peers/{peer}/{verb}"), &json!({}))
    }

    /// An operator lets a message go on that was put aside.
    pub fn release(&mut self, id: &str) -> Result<Value, String> {
        self.call("POST", &format!("/v1/messages/{id}/queue"), &json!({"act": "release"}))
    }

    /// Asks, on a connection of its own, and does not wait for the answer, which comes when it is done.
    pub fn order_only(&self, peer: &str, verb: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).expect("the daemon listens");
        write(&mut stream, "POST", &format!("/v1/peers/{peer}/{verb}"), b"{}").expect("the daemon reads");
        stream
    }

    fn call(&mut self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (status, answer) = write(&mut self.stream, method, path, &body).and_then(|()| read(&mut self.stream)).map_err(|e| format!("{path}: {e}"))?;
        match status {
            200 => serde_json::from_slice(&answer).map_err(|e| format!("{path}: {e}")),
            _ => Err(format!("{path}: {status} {}", String::from_utf8_lossy(&answer))),
        }
    }
}

fn write(stream: &mut UnixStream, method: &str, path: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: matrix\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat())
}

fn read(stream: &mut UnixStream) -> std::io::Result<(u16, Vec<u8>)> {
    let mut got = Vec::new();
    let mut chunk = [0; 64 * 1024];
    loop {
        if let Some(end) = got.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 4) {
            let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
            let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
            let length: usize = head.split("content-length:").nth(1).and_then(|r| r.lines().next()?.trim().parse().ok()).unwrap_or(0);
            if got.len() >= end + length {
                return Ok((status, got[end..end + length].to_vec()));
            }
        }
        match stream.read(&mut chunk)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => got.extend_from_slice(&chunk[..n]),
        }
    }
}
