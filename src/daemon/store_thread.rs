//! The single writer of mailboxes and state files: one thread, jobs in order.
//!
//! Because the order is kept, an effect that is posted without waiting (an acknowledgement, a marker) is
//! on disk before anything that was asked for after it. Messages that come in at the same time are kept
//! together and share their syncs.

use crate::core::message::Message;
use crate::core::names::Party;
use crate::ports::disk::Disk;
use crate::store::layout::Root;
use crate::store::mailbox::{Mailbox, Placed, keep};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; a sender beyond that waits with its job.
const BACKLOG: usize = 1024;
/// Requests that are kept together, at most.
const TOGETHER: usize = 64;

enum Job {
    Do(Box<dyn FnOnce(&mut Store) + Send>),
    /// Messages of one request: all are kept, or none.
    Keep(Vec<Message>, Kept),
}

type Kept = oneshot::Sender<io::Result<Vec<Message>>>;

/// What the thread owns.
pub struct Store {
    pub disk: Arc<dyn Disk>,
    pub root: Root,
    mailboxes: HashMap<Party, Mailbox>,
}

impl Store {
    pub fn new(disk: Arc<dyn Disk>, root: Root) -> Self {
        Store { disk, root, mailboxes: HashMap::new() }
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

#[derive(Clone)]
pub struct StoreHandle {
    jobs: mpsc::Sender<Job>,
}

impl StoreHandle {
    pub fn start(disk: Arc<dyn Disk>, root: Root) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, mut inbox) = mpsc::channel::<Job>(BACKLOG);
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            let mut store = Store::new(disk, root);
            let mut next = inbox.blocking_recv();
            while let Some(job) = next {
                let mut requests = Vec::new();
                let mut after = None;
                match job {
                    Job::Do(job) => after = Some(job),
                    Job::Keep(messages, done) => requests.push((messages, done)),
                }
                while after.is_none() && requests.len() < TOGETHER {
                    match inbox.try_recv() {
                        Ok(Job::Keep(messages, done)) => requests.push((messages, done)),
                        Ok(Job::Do(job)) => after = Some(job),
                        Err(_) => break,
                    }
                }
                // One bad job must not end the only writer.
                let work = std::panic::AssertUnwindSafe(|| {
                    if !requests.is_empty() {
                        store.keep_together(requests);
                    }
                    if let Some(job) = after {
                        job(&mut store);
                    }
                });
                if std::panic::catch_unwind(work).is_err() {
                    tracing::error!("a store job panicked");
                }
                next = inbox.blocking_recv();
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

    /// Runs a job after all that were asked for before; a failure is logged.
    pub async fn post(&self, what: &'static str, job: impl FnOnce(&mut Store) -> io::Result<()> + Send + 'static) {
        let boxed = Job::Do(Box::new(move |store| {
            if let Err(error) = job(store) {
                tracing::error!(%error, what, "the store could not be written");
            }
        }));
        if self.jobs.send(boxed).await.is_err() {
            tracing::error!(what, "the store has ended");
        }
    }
}
