//! The golden state tree, `state/v1`: what this format version writes, byte for byte, and what every later
//! version must read.
//!
//! `IAPEER_WRITE_GOLDEN=1` writes it anew, which is right only before a release of the format.

use crate::harness::{Host, body_of};
use iapeer::core::message::{Attachment, Claim, Ending, Evidence, Message, MessageId, ProcessRef, Stamp, State};
use iapeer::core::names::{Identity, Party};
use iapeer::core::peer::{Armed, Death, Markers, Resumable};
use iapeer::keeper::record::StartRecord;
use iapeer::store::disk::OsDisk;
use iapeer::store::journal::JournalDisk;
use iapeer::store::layout::Root;
use iapeer::store::mailbox::Mailbox;
use iapeer::store::outbox::{self, Spooled};
use iapeer::store::peer_state::{PeerState, SessionRecord};
use iapeer::store::shelf;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Far in the future, so that nothing expires or is forgotten while the tree is read.
const LATER: i64 = 4_000_000_000;
/// No boot of any host.
const BOOT: &str = "00000000-0000-4000-8000-000000000000";
/// A journal small enough for a tree that is kept for ever.
const JOURNAL_BYTES: usize = 64 * 1024;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("state/v1")
}

fn id(n: u64) -> MessageId {
    format!("0199a0b0-0000-7000-8000-{n:012}").parse().unwrap()
}

fn message(mailbox: &mut Mailbox, n: u64, urgent: bool) -> Message {
    Message {
        id: id(n),
        seq: mailbox.take_seq(&OsDisk).unwrap(),
        from: Party::Operator,
        intelligence: Default::default(),
        via: "cli".into(),
        to: "echo-a".parse().unwrap(),
        topic: (n == 1).then(|| "release \"1\"".into()),
        in_reply_to: (n == 2).then(|| id(1)),
        hops: 2,
        urgent,
        sent: "2026-11-21T10:02:03+01:00".into(),
        expires: Some(LATER + 3600),
        fence: "k3v9q2".into(),
        stamp: Some(Stamp { boot_id: BOOT.into(), boot_ms: 1234, unix: LATER }),
        idempotency_key: (n == 3).then(|| "a key".into()),
        raw: false,
        attachments: if n == 4 { vec![Attachment { path: "/p/.iapeer/inbox/x.txt".into(), sha256: "ab".repeat(32), bytes: 7 }] } else { Vec::new() },
        body: format!("message {n} é 🦀\nend of it").into_bytes(),
    }
}

/// The tree as this version writes it.
fn write(base: &Path) {
    let root = Root::at(base);
    let queue = root.peer_state(&"echo-a".parse().unwrap()).join("queue");
    let mut mailbox = Mailbox::open(&OsDisk, queue.clone()).unwrap();
    let keep = |mailbox: &mut Mailbox, n, urgent| {
        let message = message(mailbox, n, urgent);
        mailbox.enqueue(&OsDisk, &message).unwrap();
        message.key()
    };
    let mut keys: Vec<_> = (1..=6).map(|n| keep(&mut mailbox, n, n == 6)).collect();
    keys.push(keep(&mut mailbox, 8, false));
    shelf::tie_key(&OsDisk, &queue, &Party::Operator, "a key", "payload", &id(3), LATER).unwrap();
    let ended = |state, reason: Option<&str>| Ending {
        state,
        evidence: (state == State::Submitted).then_some(Evidence::Hook),
        reason: reason.map(String::from),
        at: "2026-11-21T10:02:04+01:00".into(),
        attempt: 1,
        incarnation: 3,
    };
    mailbox.finish(&OsDisk, &keys[0], &ended(State::Submitted, None)).unwrap();
    mailbox.finish(&OsDisk, &keys[1], &ended(State::Dead, Some("killed_worker"))).unwrap();
    mailbox.finish(&OsDisk, &keys[2], &ended(State::Parked, Some("by-operator"))).unwrap();
    let gone = ProcessRef { pid: 1, start: 1 };
    let claim = |n, deaths| Claim {
        v: 1,
        id: id(n),
        attempt: 0,
        deaths,
        identity: "echo-a".parse().unwrap(),
        incarnation: 3,
        boot_id: BOOT.into(),
        server: gone.clone(),
        keeper: gone.clone(),
        pane: "%0".into(),
        transcript: None,
        taken: None,
        released: false,
    };
    mailbox.claim(&OsDisk, &keys[3], claim(4, 1)).unwrap();
    // The end of a claimed one stands behind its claim.
    mailbox.claim(&OsDisk, &keys[6], claim(8, 0)).unwrap();
    mailbox.finish(&OsDisk, &keys[6], &ended(State::Submitted, None)).unwrap();
    // One that only the journal has: the power went before its file was on the disk.
    let journal = JournalDisk::inline(Arc::new(OsDisk), base, &format!("{BOOT} 1"), JOURNAL_BYTES).unwrap();
    let lost = message(&mut mailbox, 9, false);
    mailbox.enqueue(&journal, &lost).unwrap();
    drop(journal);
    std::fs::remove_file(queue.join("new").join(lost.key().file_name())).unwrap();
    let dir = root.peer_state(&"echo-a".parse().unwrap());
    let state = PeerState::open(&OsDisk, dir).unwrap();
    let (path, bytes) = state.incarnation_file(3);
    iapeer::store::disk::replace(&OsDisk, &path, &bytes).unwrap();
    state.write_resumable(&Resumable { session_id: "0199a0b0-0000-7000-8000-0000000000ff".into(), transcript: None, proven: false }).unwrap();
    state.write_deaths(BOOT, &[]).unwrap();
    // Another one, so that the first is not stopped.
    let marked = PeerState::open(&OsDisk, root.peer_state(&"echo-b".parse().unwrap())).unwrap();
    let markers = Markers {
        stopped: true,
        idle_reaped: true,
        new_eager: true,
        fresh_next: true,
        frozen: true,
        ephemeral_armed: Some(Armed { inc: Some(3) }),
        topics: vec!["release \"1\"".into(), "é".into()],
    };
    marked.set_markers(&Markers::default(), &markers, "2026-11-21T10:02:04+01:00").unwrap();
    // A session of an earlier boot, and how its agent had ended before.
    let identity: Identity = "echo-c".parse().unwrap();
    let dir = root.peer_state(&identity);
    let state = PeerState::open(&OsDisk, dir.clone()).unwrap();
    let record = SessionRecord {
        v: 1,
        identity: identity.clone(),
        incarnation: 5,
        socket: "/tmp/iap/tmux-iap-echo-c.sock".into(),
        server: gone.clone(),
        pane: "%0".into(),
        tty: "/dev/pts/0".into(),
        keeper: gone.clone(),
        session_id: Some("0199a0b0-0000-7000-8000-0000000000fe".into()),
        transcript: None,
        woke_at: "2026-11-21T10:02:03+01:00".into(),
        woke_ms: 1234,
        boot_id: BOOT.into(),
        ready: true,
        reported: true,
        seed_due: false,
        resumed: None,
        asked: vec![id(4)],
        trouble: None,
        keeper_protocol: 1,
    };
    state.write_session(&record).unwrap();
    let (path, bytes) = state.incarnation_file(5);
    iapeer::store::disk::replace(&OsDisk, &path, &bytes).unwrap();
    let start = StartRecord { protocol: 1, identity, incarnation: 5, keeper: gone.clone(), agent: Some(gone), at: record.woke_at, boot_id: BOOT.into() };
    start.write(&dir.join("exits")).unwrap();
    let death = Death { at: 1000, cause: "signal-9".into(), age_ms: 700, incarnation: 4, claimed: Some(id(4)) };
    state.write_deaths(BOOT, &[death]).unwrap();
    let spooled = Spooled {
        v: 1,
        id: id(7),
        sent: "2026-11-21T10:02:03+01:00".into(),
        token: None,
        request: serde_json::json!({"to": "a", "text": "", "via": "cli"}),
        text: b"message 7 from the spool".to_vec(),
    };
    outbox::leave(&OsDisk, &root, &spooled).unwrap();
}

/// Path below the tree to content.
fn files(base: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![base.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(base).unwrap().to_path_buf(), std::fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_golden_tree_is_what_this_version_writes() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let written = files(dir.path());
    if std::env::var_os("IAPEER_WRITE_GOLDEN").is_some() {
        for (path, content) in &written {
            let path = golden().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
    let kept = files(&golden());
    assert_eq!(written.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
    for (path, content) in &written {
        assert_eq!(String::from_utf8_lossy(content), String::from_utf8_lossy(&kept[path]), "{}", path.display());
    }
}

#[test]
fn a_daemon_goes_on_with_the_golden_tree() {
    let mut host = Host::new();
    for name in ["a", "c"] {
        host.run(&["create", name, "--runtime", "echo"]).ok();
    }
    for (path, content) in files(&golden()) {
        let path = host.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    std::fs::set_permissions(host.root(), std::fs::Permissions::from_mode(0o700)).unwrap();
    host.start();
    host.until("what waited is taken", || host.turns("a").len() == 5);
    let turns = host.turns("a");
    let bodies: Vec<&str> = turns.iter().map(|t| body_of(t).lines().next().unwrap()).collect();
    assert_eq!(bodies, ["message 6 é 🦀", "message 4 é 🦀", "message 5 é 🦀", "message 9 é 🦀", "message 7 from the spool"], "urgent first, then in order");
    assert!(turns[1].contains("redelivered=\"2\"") && turns[1].contains("attachments=\"/p/.iapeer/inbox/x.txt\""), "{}", turns[1]);
    let state = |n| host.message(id(n).as_str())["state"].clone();
    assert_eq!((state(1), state(2), state(3), state(8)), ("submitted".into(), "dead".into(), "parked".into(), "submitted".into()));
    assert_eq!(host.message(id(8).as_str())["evidence"], "hook");
    assert!(host.lifecycle().contains("ev=death identity=echo-c inc=5 cause=host-reboot"), "{}", host.lifecycle());
    host.run(&["start", "c"]).ok();
    host.until("its next session runs", || host.presence("c")["incarnation"] == 6);
    assert_eq!(host.presence("a")["incarnation"], 4, "the count of sessions goes on");
    let conflict = host.run(&["send", "a", "other content", "--key", "a key", "--json"]);
    assert_eq!(conflict.json()["error"]["code"], "key_conflict");
}
