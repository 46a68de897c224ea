//! Slow connections, broken requests and very many requests: the daemon goes on answering and keeps
//! nothing of them.

use crate::api::Api;
use crate::harness::Host;
use crate::report::Verdict;
use crate::{Plan, proc, tally};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SLOW: usize = 200;
const GROWTH_LIMIT_KIB: u64 = 1024;
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

const BROKEN_HTTP: &[&[u8]] = &[
    b"",
    b"\r\n\r\n",
    b"\0\0\0\0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /v1/status\r\n\r\n",
    b"GET /v1/status HTTP/9.9\r\nhost: x\r\n\r\n",
    b"BREW /v1/status HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /v1/peers/%00%ff%2e%2e HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /v1/messages/not-an-id?wait=never&timeout_secs=-1 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /v1/status HTTP/1.1\r\nno colon here\r\n\r\n",
    b"GET /v1/status HTTP/1.1\r\nhost: \x01\x02\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\ncut short",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff0\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
];

const BROKEN_JSON: &[&str] = &[
    "",
    " ",
    "null",
    "0",
    "true",
    "[]",
    "{",
    "}",
    "{}",
    "\"text\"",
    "{\"to\":\"p1\"}",
    "{\"text\":\"x\"}",
    "{\"to\":1,\"text\":\"x\"}",
    "{\"to\":\"p1\",\"text\":null}",
    "{\"to\":\"p1\",\"text\":[\"x\"]}",
    "{\"to\":\"p1\",\"text\":\"x\",\"unknown\":1}",
    "{\"to\":\"p1\",\"text\":\"x\",\"id\":\"1\"}",
    "{\"to\":\"p1\",\"text\":\"x\",\"urgent\":\"yes\"}",
    "{\"to\":\"p1\",\"to\":\"p1\",\"text\":\"x\"}",
    "{\"to\":\"p1\",\"text\":\"\\ud800\"}",
    "{\"to\":\"p1\",\"text\":\"\"}",
    "{\"to\":\"\",\"text\":\"x\"}",
    "{\"to\":\"../p1\",\"text\":\"x\"}",
    "{\"to\":\"nobody\",\"text\":\"x\"}",
    "{\"to\":\"p1\",\"text\":\"x\",\"via\":\"smoke\"}",
    "{\"to\":\"p1\",\"text\":\"x\",\"topic\":\"a\\nb\"}",
    "{\"to\":\"p1\",\"text\":\"x\"} {}",
    "NaN",
    "'x'",
];

pub fn run(plan: &Plan) -> Verdict {
    let requests = plan.pick(2_000, 100_000);
    let names = tally::names("p", 1);
    let host = tally::live_host(&names);
    let pid = host.daemon_pid();
    let mut faults = broken(&host);
    let slow: Vec<UnixStream> = (0..SLOW).map(|n| half_a_request(&host, n)).collect();
    let began = Instant::now();
    let mut api = Api::connect(&host);
    api.get("/v1/status");
    let id = api.send("p1", "beside slow ones");
    faults.extend(api.wait_submitted(&id).err());
    let beside = began.elapsed();
    faults.extend((beside > ANSWER_LIMIT).then(|| format!("beside slow connections a delivery took {} ms", beside.as_millis())));
    drop(slow);
    // As many before the first measure, so that what is kept for reuse is not taken for growth.
    drive(&host, requests.min(5_000), &mut faults);
    let before = settled(&host, pid);
    drive(&host, requests, &mut faults);
    let after = settled(&host, pid);
    let growth = after.1.saturating_sub(before.1);
    faults.extend((after.0 > before.0).then(|| format!("descriptors: {} before, {} after", before.0, after.0)));
    faults.extend((growth >= GROWTH_LIMIT_KIB).then(|| format!("{growth} KiB more")));
    host.deliver("p1", "still there");
    let turns = tally::turns(&host, "p1").len();
    faults.extend((turns != 3).then(|| format!("{turns} turns instead of 3: something broken was taken for a message")));
    Verdict::new(
        format!(
            "{} broken requests refused; beside {SLOW} slow ones a delivery took {} ms; {requests} requests: descriptors {} to {}, {growth} KiB more",
            BROKEN_HTTP.len() + BROKEN_JSON.len(),
            beside.as_millis(),
            before.0,
            after.0
        ),
        faults,
    )
}

fn connect(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.root().join("run/iapeer.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn half_a_request(host: &Host, n: usize) -> UnixStream {
    let mut stream = connect(host);
    let texts: [&[u8]; 4] = [b"", b"G", b"GET /v1/status HTTP/1.1\r\nhost:", b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"to\":"];
    stream.write_all(texts[n % 4]).unwrap();
    stream
}

/// Every broken request is refused as the caller's mistake, or its connection is closed.
fn broken(host: &Host) -> Vec<String> {
    let mut faults = Vec::new();
    for (n, text) in BROKEN_HTTP.iter().enumerate() {
        let mut stream = connect(host);
        stream.write_all(text).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        if stream.read_to_end(&mut answer).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock) {
            faults.push(format!("broken HTTP {n}: neither answered nor closed"));
        }
        let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_string();
        let refused = answer.is_empty() || line.contains(" 4") || line.contains(" 505 ") || line.contains(" 100 ");
        faults.extend((!refused).then(|| format!("broken HTTP {n}: {line}")));
    }
    for text in BROKEN_JSON {
        match Api::connect(host).call("POST", "/v1/messages", text) {
            Ok((400..500, body)) if body["error"]["code"].is_string() => {}
            other => faults.push(format!("broken JSON {text}: {other:?}")),
        }
    }
    faults
}

/// Requests over a few kept connections and some new ones, good and bad.
fn drive(host: &Host, requests: usize, faults: &mut Vec<String>) {
    let wrong: usize = std::thread::scope(|scope| {
        let some: Vec<_> = (0..4).map(|_| scope.spawn(|| drive_one(host, requests / 4))).collect();
        some.into_iter().map(|t| t.join().unwrap()).sum()
    });
    faults.extend((wrong > 0).then(|| format!("{wrong} unexpected answers")));
}

fn drive_one(host: &Host, requests: usize) -> usize {
    let mut api = Api::connect(host);
    let mut wrong = 0;
    for n in 0..requests {
        if n % 20 == 0 {
            api = Api::connect(host);
        }
        let (method, path, body, want) = match n % 4 {
            0 => ("GET", "/v1/status", "", 200),
            1 => ("GET", "/v1/peers", "", 200),
            2 => ("POST", "/v1/messages", BROKEN_JSON[n % 11], 400),
            _ => ("GET", "/v1/nowhere", "", 400),
        };
        wrong += usize::from(!matches!(api.call(method, path, body), Ok((status, _)) if status == want));
    }
    wrong
}

/// Descriptors and memory once closed connections are really closed.
fn settled(host: &Host, pid: i32) -> (usize, u64) {
    let mut last = usize::MAX;
    host.until("the connections are closed", || {
        let now = proc::descriptors(pid);
        std::thread::sleep(Duration::from_millis(50));
        std::mem::replace(&mut last, now) == now
    });
    (last, proc::rss_kib(pid))
}
