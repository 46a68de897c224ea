//! Foreign things of every kind in every folder of a mailbox, on the real disk: a start neither hangs nor
//! fails, healthy neighbours go on, and what lies in `new/` or `cur/` is put aside once.

use crate::workload::{claim_of, message};
use iapeer::core::message::Key;
use iapeer::core::record;
use iapeer::store::disk::OsDisk;
use iapeer::store::mailbox::{Mailbox, Scan};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Longest time a start may take among them; a hang takes for ever.
const PATIENCE: Duration = Duration::from_secs(20);
const FOLDERS: [&str; 6] = ["new", "cur", "held", "done", "dead", "tmp"];
const CANARY: &[u8] = b"do not touch\n";

/// Plants one thing at a path; false when only root, or not even root, can here.
type Make = Box<dyn Fn(&Path) -> bool>;

fn write(bytes: Vec<u8>) -> Make {
    Box::new(move |p| fs::write(p, &bytes).is_ok())
}

/// Names that no record has, each with a whole record inside, so that only the name speaks against it.
fn odd_names() -> Vec<OsString> {
    let id = message(500, 1, false).id;
    let texts = [
        "readme.txt".into(),
        ".hidden".into(),
        ".msg".into(),
        "..msg".into(),
        ".claim".into(),
        "new".into(),
        "cur".into(),
        "corrupt".into(),
        "-rf".into(),
        "#(touch pwned).msg".into(),
        "line\nev=death.msg".into(),
        "backup of a message.msg~".into(),
        "🦀.msg".into(),
        format!("1-00000000000000000007-{}.msg", id.as_str().to_uppercase()),
        format!("1-7-{id}.msg"),
        format!("1-99999999999999999999-{id}.msg"),
        format!("2-00000000000000000007-{id}.msg"),
        format!("1-00000000000000000007-{id}.msg.why"),
        format!("1-00000000000000000007-{id}.msg.end"),
        format!("1-00000000000000000007-{id}.MSG"),
        "x".repeat(255),
    ];
    let mut names: Vec<OsString> = texts.into_iter().map(OsString::from).collect();
    names.push(OsString::from_vec(b"\xff\xfe.msg".to_vec()));
    names.push(OsString::from_vec([b"\xff".repeat(200), b".msg".to_vec()].concat()));
    names
}

/// Things that lie under a name that a record could have.
fn odd_things(canary: &Path) -> Vec<(&'static str, Make)> {
    let whole = record::encode(&message(501, 7, false));
    let cut = |n: usize| write(whole[..n].to_vec());
    let text = |s: &str| write(s.as_bytes().to_vec());
    let bent = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        write(bytes)
    };
    let link = |to: PathBuf| -> Make { Box::new(move |p| symlink(&to, p).is_ok()) };
    let to_itself: Make = Box::new(|p| symlink(p, p).is_ok());
    let hard_link = canary.to_path_buf();
    let device: Make = Box::new(|p| mknod(p, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).is_ok());
    let of_another = |bytes: Vec<u8>| -> Make { Box::new(move |p| fs::write(p, &bytes).is_ok() && given_away(p)) };
    vec![
        ("a FIFO", Box::new(|p| nix::unistd::mkfifo(p, Mode::S_IRWXU).is_ok())),
        ("a socket", Box::new(socket)),
        ("a directory", Box::new(|p| fs::create_dir(p).is_ok())),
        ("a full directory", Box::new(|p| fs::create_dir_all(p.join("a/b")).is_ok() && fs::write(p.join("a/x"), "x").is_ok())),
        ("a link to a file", link(canary.to_path_buf())),
        ("a link to a directory", link(canary.parent().unwrap().to_path_buf())),
        ("a link to nowhere", link("/nowhere/at/all".into())),
        ("a link to itself", to_itself),
        ("a link to an endless device", link("/dev/zero".into())),
        ("a hard link to another file", Box::new(move |p| fs::hard_link(&hard_link, p).is_ok())),
        ("a device", device),
        ("an empty file", write(Vec::new())),
        ("a sparse file larger than any record", Box::new(|p| fs::File::create(p).unwrap().set_len(1 << 40).is_ok())),
        ("a sparse file of zeros", Box::new(|p| fs::File::create(p).unwrap().set_len(1 << 20).is_ok())),
        ("an unreadable file", Box::new(|p| fs::write(p, "x").is_ok() && fs::set_permissions(p, fs::Permissions::from_mode(0o000)).is_ok())),
        ("a record of another user", of_another(whole.clone())),
        ("another message's record", write(record::encode(&message(502, 8, false)))),
        ("a record cut in its first line", cut(5)),
        ("a record cut in its header", cut(60)),
        ("a record cut in its body", cut(whole.len() - 80)),
        ("a record cut in its end mark", cut(whole.len() - 1)),
        ("a record with a bent body", bent(whole.len() - 75)),
        ("a record with a bent checksum", bent(whole.len() - 10)),
        ("a record with more behind it", write([whole.clone(), b"more".to_vec()].concat())),
        ("a record of a newer version", text("iapeer-message 2\n{}\n\n")),
        ("a record of an absurd version", text(&format!("iapeer-message {}\n{{}}\n\n", "9".repeat(5000)))),
        ("a header that is no JSON", text("iapeer-message 1\n{{{\n\n")),
        ("a header of an absurd length", text("iapeer-message 1\n{\"len\":18446744073709551615}\n\n")),
        ("a deep header", text(&format!("iapeer-message 1\n{}\n\n", "[".repeat(100_000)))),
        ("Windows line ends", text("iapeer-message 1\r\n{}\r\n\r\n")),
        ("binary noise", write((0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect())),
    ]
}

/// What could not be given to another user must not stay.
fn given_away(path: &Path) -> bool {
    let given = chown(path, Some(65_534), None).is_ok();
    if !given {
        let _ = fs::remove_file(path);
    }
    given
}

fn socket(path: &Path) -> bool {
    let short = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(short.path().join("s")).unwrap());
    // Renamed there: the path may be too long to bind to.
    fs::rename(short.path().join("s"), path).is_ok()
}

struct Queue {
    dir: tempfile::TempDir,
    queue: PathBuf,
    next: u64,
}

impl Queue {
    /// Three healthy messages, the first one claimed.
    fn new() -> Queue {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue");
        let mut mailbox = Mailbox::open(&OsDisk, queue.clone()).unwrap();
        for n in 1..=3 {
            let seq = mailbox.take_seq(&OsDisk).unwrap();
            mailbox.enqueue(&OsDisk, &message(n, seq, false)).unwrap();
        }
        let first = message(1, 1, false);
        mailbox.claim(&OsDisk, &first.entry().key, claim_of(&first.id)).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/canary"), CANARY).unwrap();
        Queue { dir, queue, next: 1000 }
    }

    fn canary(&self) -> PathBuf {
        self.dir.path().join("outside/canary")
    }

    /// A key that no message has.
    fn free_key(&mut self) -> Key {
        self.next += 1;
        message(self.next as usize, self.next, false).entry().key
    }

    fn names(&self, folder: &str) -> Vec<OsString> {
        let mut names: Vec<OsString> = fs::read_dir(self.queue.join(folder)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    }

    /// Opens and looks, as a start does, within its time.
    #[track_caller]
    fn start(&self) -> Scan {
        let (done, answer) = mpsc::channel();
        let queue = self.queue.clone();
        std::thread::spawn(move || done.send(Mailbox::open(&OsDisk, queue).and_then(|m| m.scan(&OsDisk))).is_ok());
        let scan = answer.recv_timeout(PATIENCE).expect("a start hangs").expect("a start fails");
        let waiting: Vec<u64> = scan.waiting.iter().map(|e| e.key.seq).collect();
        assert_eq!((waiting, scan.claim.as_ref().map(|(_, e)| e.key.seq)), (vec![2, 3], Some(1)), "the healthy ones go on");
        assert_eq!(fs::read(self.canary()).unwrap(), CANARY, "what is outside is not touched");
        scan
    }
}

#[test]
fn forty_kinds_of_foreign_entries_in_each_folder_stop_no_start_and_no_neighbour() {
    for folder in FOLDERS {
        let mut queue = Queue::new();
        let own = queue.names(folder);
        let dir = queue.queue.join(folder);
        let mut planted: Vec<OsString> = Vec::new();
        let whole = record::encode(&message(503, 9, false));
        for name in odd_names() {
            fs::write(dir.join(&name), &whole).unwrap();
            planted.push(name);
        }
        for (what, make) in odd_things(&queue.canary()) {
            let name = OsString::from(queue.free_key().file_name());
            if make(&dir.join(&name)) {
                planted.push(name);
            } else {
                eprintln!("{what} cannot be made here");
            }
        }
        assert!(planted.len() >= 50, "{}", planted.len());
        planted.sort();
        let scan = queue.start();
        match folder {
            "new" | "cur" => {
                assert_eq!(queue.names(folder), own, "{folder}: only what is healthy stays");
                assert_eq!(queue.names("corrupt"), planted, "{folder}: nothing is deleted");
                assert_eq!(scan.quarantined.len(), planted.len(), "{folder}: each is told of");
            }
            "tmp" => assert_eq!(queue.names("tmp"), own, "emptied"),
            _ => {
                let there = queue.names(folder);
                assert!(planted.iter().all(|name| there.contains(name)), "{folder}: what has ended is not looked at");
            }
        }
        let again = queue.start();
        assert!(again.quarantined.is_empty(), "{folder}: told of once: {:?}", again.quarantined);
    }
}

#[test]
fn foreign_claims_lead_to_no_message_and_hide_none() {
    let mut queue = Queue::new();
    let cur = queue.queue.join("cur");
    let (orphan, other, torn, pipe) = (queue.free_key(), queue.free_key(), queue.free_key(), queue.free_key());
    let claim = |key: &Key| cur.join(format!("{}.claim", key.file_name()));
    let json = |key: &Key| serde_json::to_vec(&claim_of(&key.id)).unwrap();
    fs::write(claim(&orphan), json(&orphan)).unwrap();
    // Its name speaks of one message, its text of another that waits.
    fs::write(claim(&other), json(&message(2, 2, false).entry().key)).unwrap();
    fs::write(claim(&torn), &json(&torn)[..20]).unwrap();
    nix::unistd::mkfifo(&claim(&pipe), Mode::S_IRWXU).unwrap();
    let scan = queue.start();
    assert_eq!(scan.quarantined.len(), 3, "a claim whose record has gone is ours, the others are not: {:?}", scan.quarantined);
    let names = queue.names("cur");
    assert_eq!(names.len(), 2, "the one that is claimed, with its claim: {names:?}");
    assert!(queue.start().quarantined.is_empty());
}

#[test]
fn two_messages_of_one_number_are_both_kept() {
    let queue = Queue::new();
    let twin = message(77, 3, false);
    fs::write(queue.queue.join("new").join(twin.entry().key.file_name()), record::encode(&twin)).unwrap();
    let scan = Mailbox::open(&OsDisk, queue.queue.clone()).unwrap().scan(&OsDisk).unwrap();
    let seqs: Vec<u64> = scan.waiting.iter().map(|e| e.key.seq).collect();
    assert_eq!(seqs, [2, 3, 3]);
}

#[test]
fn a_name_of_the_greatest_length_is_put_aside_again_and_again() {
    let queue = Queue::new();
    let name = OsStr::from_bytes(&[b'x'; 255]).to_os_string();
    for round in 1..=12 {
        fs::write(queue.queue.join("new").join(&name), "x").unwrap();
        assert_eq!(queue.start().quarantined.len(), 1);
        assert_eq!(queue.names("corrupt").len(), round);
    }
}
