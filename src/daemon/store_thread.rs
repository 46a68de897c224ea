//! The single writer of mailboxes and state files: one thread, jobs in order.
//!
//! Because the order is kept, an effect that is posted without waiting (an acknowledgement, a marker) is
//! on disk before anything that was asked for after it; one that the disk refused is tried again, before
//! any that was posted later. Messages and claims that come in at the same time are kept together and share
//! their syncs.

use crate::core::message::{Claim, Key, Message};
use crate::core::names::Party;
use crate::ports::disk::{Disk, Placed};
use crate::store::layout::Root;
use crate::store::mailbox::Mailbox;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; a sender beyond that waits with its job.
const BACKLOG: usize = 1024;
/// Requests that are kept together, at most.
const TOGETHER: usize = 64;

/// Between two tries of what the disk refused.
const AGAIN: Duration = Duration::from_millis(250);
/// After so many tries (some five minutes) what was posted later may go.
const TRIES: u32 = 1200;

/// Whether an error speaks of the disk, not of the thing that was to be done.
fn may_pass(error: &io::Error) -> bool {
    let kind = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem);
    kind || matches!(error.raw_os_error(), Some(nix::libc::EIO | nix::libc::EMFILE | nix::libc::ENFILE | nix::libc::ENOMEM))
}

enum Job {
    Do(Box<dyn FnOnce(&mut Store) + Send>),
    /// Done until it succeeds; nobody waits for it.
    Post(Posted),
    /// Durable together with others.
    Keep(Wish),
}

struct Posted {
    what: &'static str,
    tries: u32,
    job: Box<dyn FnMut(&mut Store) -> io::Result<()> + Send>,
}

type Answer<T> = oneshot::Sender<io::Result<T>>;

/// What is to be kept; whoever asked may have gone when it is.
enum Wish {
    /// Messages of one request: all of them, or none.
    Messages(Vec<Message>, Answer<Vec<Message>>),
    Claim(Box<Claiming>, Answer<Claim>),
    /// A message, claimed at once; without the claim while older changes are still to be written.
    Claimed(Box<(Message, Option<Claim>)>, Answer<(Message, Option<Claim>)>),
}

struct Claiming {
    party: Party,
    key: Key,
    claim: Claim,
    counted: bool,
}

impl Wish {
    /// Where its files are written, and where they are kept.
    fn place(&mut self, store: &mut Store) -> io::Result<Vec<Placed>> {
        match self {
            Wish::Messages(messages, _) => store.place(messages),
            Wish::Claim(claiming, _) => {
                // A release, say, that is still to be written must not take this one back.
                if !store.is_settled() {
                    return Err(io::Error::other("what was to be written before is not on disk yet"));
                }
                let (mailbox, disk) = store.mailbox(&claiming.party)?;
                // Once, should it be tried again.
                if !std::mem::replace(&mut claiming.counted, true) {
                    claiming.claim = mailbox.counted(&*disk, &claiming.key, claiming.claim.clone());
                }
                Ok(vec![mailbox.place_for_claim(&claiming.key, &claiming.claim)?])
            }
            Wish::Claimed(both, _) => {
                let settled = store.is_settled();
                let (message, claim) = &mut **both;
                let (mailbox, disk) = store.mailbox(&message.to)?;
                message.seq = mailbox.take_seq(&*disk)?;
                *claim = claim.take().filter(|_| settled).map(|claim| Claim { attempt: 1, ..claim });
                Ok(match claim {
                    Some(claim) => mailbox.place_claimed(message, claim)?.into(),
                    None => vec![mailbox.place_for(message)],
                })
            }
        }
    }

    fn answer(self, store: &mut Store, kept: io::Result<()>) {
        match self {
            Wish::Messages(messages, answer) => drop(answer.send(kept.map(|()| messages))),
            Wish::Claimed(both, answer) => drop(answer.send(kept.map(|()| *both))),
            Wish::Claim(claiming, answer) => {
                let moved = kept.and_then(|()| {
                    let (mailbox, disk) = store.mailbox(&claiming.party)?;
                    mailbox.claimed(&*disk, &claiming.key)
                });
                drop(answer.send(moved.map(|()| claiming.claim)));
            }
        }
    }
}

/// What the thread owns.
pub struct Store {
    pub disk: Arc<dyn Disk>,
    pub root: Root,
    mailboxes: HashMap<Party, Mailbox>,
    /// What was posted and refused by the disk, in order.
    refused: VecDeque<Posted>,
}

impl Store {
    pub fn new(disk: Arc<dyn Disk>, root: Root) -> Self {
        Store { disk, root, mailboxes: HashMap::new(), refused: VecDeque::new() }
    }

    fn post(&mut self, posted: Posted) {
        self.refused.push_back(posted);
        self.settle();
    }

    /// Does what was posted, in order, until the disk refuses.
    fn settle(&mut self) {
        while let Some(mut posted) = self.refused.pop_front() {
            match (posted.job)(self) {
                Ok(()) => {}
                Err(error) if may_pass(&error) && posted.tries < TRIES => {
                    if posted.tries == 0 {
                        tracing::error!(%error, what = posted.what, "the store could not be written; it is tried again");
                    }
                    posted.tries += 1;
                    self.refused.push_front(posted);
                    return;
                }
                Err(error) => tracing::error!(%error, what = posted.what, "the store could not be written"),
            }
        }
    }

    /// The mailbox of a party, opened on first use.
    pub fn mailbox(&mut self, party: &Party) -> io::Result<(&mut Mailbox, Arc<dyn Disk>)> {
        if !self.mailboxes.contains_key(party) {
            let opened = Mailbox::open(&*self.disk, self.root.party_state(party).join("queue"))?;
            self.mailboxes.insert(party.clone(), opened);
        }
        match self.mailboxes.get_mut(party) {
            Some(mailbox) => Ok((mailbox, self.disk.clone())),
            None => Err(io::Error::other("the mailbox vanished")),
        }
    }

    /// Whether everything that was posted is on disk; else the files say what was true before.
    pub fn is_settled(&self) -> bool {
        self.refused.is_empty()
    }

    /// The party is no more: what is kept under its name from now on is another's.
    pub fn forget(&mut self, party: &Party) {
        self.mailboxes.remove(party);
    }

    /// Gives each message its place and keeps them all, or none.
    pub fn keep(&mut self, messages: &mut [Message]) -> io::Result<()> {
        let placed = self.place(messages)?;
        self.disk.keep(&placed)
    }

    fn place(&mut self, messages: &mut [Message]) -> io::Result<Vec<Placed>> {
        let place = |message: &mut Message| {
            let (mailbox, disk) = self.mailbox(&message.to)?;
            message.seq = mailbox.take_seq(&*disk)?;
            Ok(mailbox.place_for(message))
        };
        messages.iter_mut().map(place).collect()
    }

    /// Does a job; what is to be kept, with all that waits to be kept. What was posted meanwhile need not wait for
    /// them: who asked for those has had no answer yet, and posts nothing that rests on it.
    fn work(&mut self, first: Job, inbox: &mut mpsc::Receiver<Job>) {
        let mut wishes = Vec::new();
        let mut next = Some(first);
        let mut last = None;
        while let Some(job) = next.take() {
            match job {
                Job::Keep(wish) => wishes.push(wish),
                Job::Post(posted) => self.post(posted),
                Job::Do(job) => last = Some(job),
            }
            if !wishes.is_empty() && wishes.len() < TOGETHER && last.is_none() {
                next = inbox.try_recv().ok();
            }
        }
        if !wishes.is_empty() {
            self.settle();
            self.keep_together(wishes);
        }
        if let Some(job) = last {
            self.settle();
            job(self);
        }
    }

    fn keep_together(&mut self, mut wishes: Vec<Wish>) {
        if wishes.len() > 1 {
            let placed: io::Result<Vec<Vec<Placed>>> = wishes.iter_mut().map(|wish| wish.place(self)).collect();
            let all = placed.map(|placed| placed.into_iter().flatten().collect::<Vec<Placed>>());
            if all.and_then(|all| self.disk.keep(&all)).is_ok() {
                wishes.into_iter().for_each(|wish| wish.answer(self, Ok(())));
                return;
            }
        }
        // One alone, or one of them failed: each for itself, so that only the bad one is refused.
        for mut wish in wishes {
            let kept = wish.place(self).and_then(|placed| self.disk.keep(&placed));
            wish.answer(self, kept);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "there is no state to wait for: only the disk knows when it takes writes again")]
/// The next job; while the disk refuses something, that is tried again in between.
fn next_job(inbox: &mut mpsc::Receiver<Job>, store: &mut Store) -> Option<Job> {
    while !store.refused.is_empty() {
        match inbox.try_recv() {
            Ok(job) => return Some(job),
            Err(mpsc::error::TryRecvError::Disconnected) => return None,
            Err(mpsc::error::TryRecvError::Empty) => {
                std::thread::sleep(AGAIN);
                store.settle();
            }
        }
    }
    inbox.blocking_recv()
}

#[derive(Clone)]
pub struct StoreHandle {
    jobs: mpsc::Sender<Job>,
}

impl StoreHandle {
    pub fn start(disk: Arc<dyn Disk>, root: Root) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, mut inbox) = mpsc::channel::<Job>(BACKLOG);
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            let mut store = Store::new(disk, root);
            while let Some(first) = next_job(&mut inbox, &mut store) {
                // One bad job must not end the only writer.
                let work = std::panic::AssertUnwindSafe(|| store.work(first, &mut inbox));
                if std::panic::catch_unwind(work).is_err() {
                    tracing::error!("a store job panicked");
                }
            }
        })?;
        Ok((StoreHandle { jobs }, thread))
    }

    /// Keeps messages of one request; they come back with their places in the order.
    pub async fn keep(&self, messages: Vec<Message>) -> io::Result<Vec<Message>> {
        self.wish(|answer| Wish::Messages(messages, answer)).await
    }

    /// Keeps a message with its first claim, if that may be; it comes back with its place in the order.
    pub async fn keep_claimed(&self, message: Message, claim: Claim) -> io::Result<(Message, Option<Claim>)> {
        self.wish(|answer| Wish::Claimed(Box::new((message, Some(claim))), answer)).await
    }

    /// Claims a record (see [`Mailbox::claim`]).
    pub async fn claim(&self, party: Party, key: Key, claim: Claim) -> io::Result<Claim> {
        let claiming = Box::new(Claiming { party, key, claim, counted: false });
        self.wish(|answer| Wish::Claim(claiming, answer)).await
    }

    async fn wish<T>(&self, wish: impl FnOnce(Answer<T>) -> Wish) -> io::Result<T> {
        let (answer, result) = oneshot::channel();
        self.jobs.send(Job::Keep(wish(answer))).await.map_err(|_| io::Error::other("the store has ended"))?;
        result.await.map_err(|_| io::Error::other("the store dropped the job"))?
    }

    /// Runs a job and waits for its result.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Store) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (done, result) = oneshot::channel();
        let boxed = Job::Do(Box::new(move |store| {
            let outcome = job(store);
            // Whoever asked may have gone.
            let _ = done.send(outcome);
        }));
        self.jobs.send(boxed).await.map_err(|_| io::Error::other("the store has ended"))?;
        result.await.map_err(|_| io::Error::other("the store dropped the job"))?
    }

    /// Runs a job after all that were asked for before; one that the disk refuses is tried again until it
    /// succeeds, so repeating it must do no harm.
    pub async fn post(&self, what: &'static str, job: impl FnMut(&mut Store) -> io::Result<()> + Send + 'static) {
        if self.jobs.send(Job::Post(Posted { what, tries: 0, job: Box::new(job) })).await.is_err() {
            tracing::error!(what, "the store has ended");
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write the files they read")]
mod tests {
    use super::*;
    use crate::core::message::ProcessRef;
    use crate::core::record::tests::sample;
    use crate::store::disk::OsDisk;
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// The real disk; it writes down how many files it was given at once, and refuses those of `echo-bad`.
    #[derive(Default)]
    struct Watched(Mutex<Vec<usize>>);

    impl Disk for Watched {
        fn create_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            OsDisk.create_synced(path, bytes)
        }
        fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            OsDisk.create(path, bytes)
        }
        fn create_all_synced(&self, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
            self.0.lock().unwrap().push(files.len());
            let bad = files.iter().any(|(path, _)| path.components().any(|c| c.as_os_str() == "echo-bad"));
            if bad { Err(io::Error::from_raw_os_error(nix::libc::EIO)) } else { OsDisk.create_all_synced(files) }
        }
        fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            OsDisk.append(path, bytes)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            OsDisk.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            OsDisk.remove(path)
        }
        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            OsDisk.sync_dir(dir)
        }
        fn overwrite_synced(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
            OsDisk.overwrite_synced(path, at, bytes)
        }
        fn sync_all(&self, dir: &Path) -> io::Result<()> {
            OsDisk.sync_all(dir)
        }
        fn read(&self, path: &Path, cap: u64) -> io::Result<Vec<u8>> {
            OsDisk.read(path, cap)
        }
        fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
            OsDisk.list(dir)
        }
        fn create_dir(&self, dir: &Path) -> io::Result<()> {
            OsDisk.create_dir(dir)
        }
        fn free_bytes(&self, path: &Path) -> io::Result<u64> {
            OsDisk.free_bytes(path)
        }
    }

    fn letter(n: u64, to: &str) -> Message {
        Message { id: format!("0199a0b0-0000-7000-8000-{n:012}").parse().unwrap(), seq: n, to: to.parse().unwrap(), ..sample(b"x") }
    }

    fn claim(message: &Message) -> Claim {
        let nobody = ProcessRef { pid: i32::MAX, start: 1 };
        let identity = message.to.peer().unwrap().clone();
        let (id, boot_id, pane) = (message.id.clone(), "a-boot".into(), "%0".into());
        let (server, keeper) = (nobody.clone(), nobody);
        Claim { v: 1, id, attempt: 0, deaths: 0, identity, incarnation: 1, boot_id, transcript: None, server, keeper, pane, taken: None, released: false }
    }

    #[tokio::test]
    async fn messages_and_claims_that_wait_together_are_kept_together_and_a_bad_one_is_refused_alone() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Watched::default());
        let (store, _thread) = StoreHandle::start(disk.clone(), Root::at(dir.path())).unwrap();
        let first = store.keep(vec![letter(1, "echo-a")]).await.unwrap().remove(0);
        for bad in [false, true] {
            disk.0.lock().unwrap().clear();
            // The thread is held up until all of them wait.
            let (open, gate) = std::sync::mpsc::channel::<()>();
            store.post("gate", move |_| gate.recv().map_err(io::Error::other)).await;
            let kept = async { store.keep(vec![letter(2 + u64::from(bad), "echo-b")]).await };
            let claimed = async { store.claim(first.to.clone(), first.key(), claim(&first)).await };
            let third = async { store.keep(vec![letter(9, if bad { "echo-bad" } else { "echo-c" })]).await };
            let opened = async {
                store.post("between", |_| Ok(())).await;
                open.send(()).unwrap();
            };
            let (kept, claimed, third, ()) = tokio::join!(kept, claimed, third, opened);
            let sizes = disk.0.lock().unwrap().clone();
            let queue = |party: &str, folder: &str| dir.path().join("state/peers").join(party).join("queue").join(folder);
            assert_eq!(sizes, if bad { vec![3, 1, 1, 1] } else { vec![3] });
            assert_eq!(claimed.unwrap().attempt, 1 + u32::from(bad), "counted once, however often it is tried");
            assert!(queue("echo-a", "cur").join(first.key().file_name()).exists());
            assert_eq!(third.is_err(), bad);
            assert!(queue("echo-b", "new").join(kept.unwrap()[0].key().file_name()).exists());
            assert_eq!(std::fs::read_dir(queue("echo-bad", "new")).map_or(0, Iterator::count), 0, "nothing of the refused one");
        }
    }

    #[tokio::test]
    async fn nothing_is_claimed_while_older_changes_are_still_to_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _thread) = StoreHandle::start(Arc::new(OsDisk), Root::at(dir.path())).unwrap();
        let message = store.keep(vec![letter(1, "echo-a")]).await.unwrap().remove(0);
        let full = Arc::new(AtomicBool::new(true));
        let disk = full.clone();
        let refuses = move |_: &mut Store| if disk.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(nix::libc::ENOSPC)) } else { Ok(()) };
        store.post("release", refuses).await;
        let claimed = || store.claim(message.to.clone(), message.key(), claim(&message));
        assert!(claimed().await.unwrap_err().to_string().contains("not on disk yet"));
        full.store(false, Ordering::SeqCst);
        assert_eq!(claimed().await.unwrap().attempt, 1);
    }

    #[tokio::test]
    async fn what_the_disk_refuses_is_done_later_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _thread) = StoreHandle::start(Arc::new(OsDisk), Root::at(dir.path())).unwrap();
        let done: Arc<Mutex<Vec<u32>>> = Arc::default();
        let full = |left: u32, n: u32| {
            let (done, mut left) = (done.clone(), left);
            move |_: &mut Store| {
                left = left.saturating_sub(1);
                if left > 0 {
                    return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC));
                }
                done.lock().unwrap().push(n);
                Ok(())
            }
        };
        store.post("first", full(3, 1)).await;
        store.post("second", full(0, 2)).await;
        // What is impossible stands in nobody's way.
        store.post("impossible", |_| Err(io::ErrorKind::NotFound.into())).await;
        store.post("third", full(0, 3)).await;
        while done.lock().unwrap().len() < 3 {
            store.run(|_| Ok(())).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(*done.lock().unwrap(), [1, 2, 3]);
    }
}
