//! The single writer of mailboxes and state files: one thread, jobs in order.
//!
//! Because the order is kept, an effect that is posted without waiting (an acknowledgement, a marker) is
//! on disk before anything that was asked for after it; one that the disk refused is tried again, before
//! any that was posted later. Messages that come in at the same time are kept
//! together and share their syncs.

use crate::core::message::Message;
use crate::core::names::Party;
use crate::ports::disk::Disk;
use crate::store::layout::Root;
use crate::store::mailbox::{Mailbox, Placed, keep};
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
    /// Messages of one request: all are kept, or none.
    Keep(Vec<Message>, Kept),
}

struct Posted {
    what: &'static str,
    tries: u32,
    job: Box<dyn FnMut(&mut Store) -> io::Result<()> + Send>,
}

type Kept = oneshot::Sender<io::Result<Vec<Message>>>;

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
        keep(&*self.disk, &placed)
    }

    fn place(&mut self, messages: &mut [Message]) -> io::Result<Vec<Placed>> {
        let place = |message: &mut Message| {
            let (mailbox, disk) = self.mailbox(&message.to)?;
            message.seq = mailbox.take_seq(&*disk)?;
            Ok(mailbox.place_for(message))
        };
        messages.iter_mut().map(place).collect()
    }

    fn keep_together(&mut self, mut requests: Vec<(Vec<Message>, Kept)>) {
        if requests.len() > 1 {
            let placed: io::Result<Vec<Vec<Placed>>> = requests.iter_mut().map(|(m, _)| self.place(m)).collect();
            let all: Vec<Placed> = placed.into_iter().flatten().flatten().collect();
            let complete = all.len() == requests.iter().map(|(m, _)| m.len()).sum::<usize>();
            if complete && keep(&*self.disk, &all).is_ok() {
                for (messages, done) in requests {
                    // Whoever asked may have gone.
                    let _ = done.send(Ok(messages));
                }
                return;
            }
        }
        // One alone, or one of them failed: each for itself, so that only the bad one is refused.
        for (mut messages, done) in requests {
            let kept = self.keep(&mut messages);
            let _ = done.send(kept.map(|()| messages));
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
                let mut requests = Vec::new();
                let mut after = None;
                let mut job = Some(first);
                while let Some(next) = job.take() {
                    match next {
                        Job::Keep(messages, done) => {
                            requests.push((messages, done));
                            job = if requests.len() < TOGETHER { inbox.try_recv().ok() } else { None };
                        }
                        other => after = Some(other),
                    }
                }
                // One bad job must not end the only writer.
                let work = std::panic::AssertUnwindSafe(|| {
                    if !requests.is_empty() {
                        store.keep_together(requests);
                    }
                    match after {
                        Some(Job::Do(job)) => {
                            store.settle();
                            job(&mut store);
                        }
                        Some(Job::Post(posted)) => store.post(posted),
                        _ => {}
                    }
                });
                if std::panic::catch_unwind(work).is_err() {
                    tracing::error!("a store job panicked");
                }
            }
        })?;
        Ok((StoreHandle { jobs }, thread))
    }

    /// Keeps messages of one request; they come back with their places in the order.
    pub async fn keep(&self, messages: Vec<Message>) -> io::Result<Vec<Message>> {
        let (done, result) = oneshot::channel();
        self.jobs.send(Job::Keep(messages, done)).await.map_err(|_| io::Error::other("the store has ended"))?;
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
    use crate::store::disk::OsDisk;
    use std::sync::Mutex;

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
