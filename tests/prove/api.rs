//! One kept-open connection to the daemon's socket.

use crate::harness::{Host, PATIENCE};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

pub struct Api(BufReader<UnixStream>);

impl Api {
    pub fn connect(host: &Host) -> Api {
        let stream = UnixStream::connect(host.root().join("run/iapeer.sock")).unwrap_or_else(|e| panic!("no daemon answers: {e}\n{}", host.evidence()));
        stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        Api(BufReader::new(stream))
    }

    pub fn call(&mut self, method: &str, path: &str, body: &str) -> io::Result<(u16, Value)> {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: prove\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut length = 0;
        loop {
            let mut header = String::new();
            self.0.read_line(&mut header)?;
            match header.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().unwrap_or(0),
                Some(_) => {}
                None => break,
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer)?;
        Ok((status, serde_json::from_slice(&answer).unwrap_or(Value::Null)))
    }

    fn must(&mut self, method: &str, path: &str, body: &str) -> Value {
        let (status, answer) = self.call(method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    pub fn get(&mut self, path: &str) -> Value {
        self.must("GET", path, "")
    }

    /// A durable send under an id of the caller's own.
    pub fn send_as(&mut self, id: &str, to: &str, text: &str) {
        self.must("POST", "/v1/messages", &json!({ "id": id, "to": to, "text": text, "queue": true }).to_string());
    }

    /// A durable send; its id.
    pub fn send(&mut self, to: &str, text: &str) -> String {
        let id = new_id();
        self.send_as(&id, to, text);
        id
    }

    pub fn wait_submitted(&mut self, id: &str) -> Result<(), String> {
        let path = format!("/v1/messages/{id}?wait=submitted&timeout_secs=60");
        match self.call("GET", &path, "") {
            Ok((200, view)) if view["state"] == "submitted" => Ok(()),
            Ok((_, view)) => Err(format!("{id} did not become a turn within 60 s: {view}")),
            Err(e) => Err(format!("{id}: {e}")),
        }
    }
}

pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
