//! The single writer of mailboxes and state files: one thread, jobs in order.
//!
//! Because the order is kept, an effect that is posted without waiting (an acknowledgement, a marker) is
//! on disk before anything that was asked for after it.

use crate::core::names::Party;
use crate::ports::disk::Disk;
use crate::store::layout::Root;
use crate::store::mailbox::Mailbox;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; a sender beyond that waits with its job.
const BACKLOG: usize = 1024;

type Job = Box<dyn FnOnce(&mut Store) + Send>;

/// What the thread owns.
pub struct Store {
    pub disk: Arc<dyn Disk>,
    pub root: Root,
    mailboxes: HashMap<Party, Mailbox>,
}

impl Store {
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
}

#[derive(Clone)]
pub struct StoreHandle {
    jobs: mpsc::Sender<Job>,
}

impl StoreHandle {
    pub fn start(disk: Arc<dyn Disk>, root: Root) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, mut inbox) = mpsc::channel::<Job>(BACKLOG);
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            let mut store = Store { disk, root, mailboxes: HashMap::new() };
            while let Some(job) = inbox.blocking_recv() {
                // One bad job must not end the only writer.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&mut store))).is_err() {
                    tracing::error!("a store job panicked");
                }
            }
        })?;
        Ok((StoreHandle { jobs }, thread))
    }

    /// Runs a job and waits for its result.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Store) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (done, result) = oneshot::channel();
        let boxed: Job = Box::new(move |store| {
            let outcome = job(store);
            // Whoever asked may have gone.
            let _ = done.send(outcome);
        });
        self.jobs.send(boxed).await.map_err(|_| io::Error::other("the store has ended"))?;
        result.await.map_err(|_| io::Error::other("the store dropped the job"))?
    }

    /// Runs a job after all that were asked for before; a failure is logged.
    pub async fn post(&self, what: &'static str, job: impl FnOnce(&mut Store) -> io::Result<()> + Send + 'static) {
        let boxed: Job = Box::new(move |store| {
            if let Err(error) = job(store) {
                tracing::error!(%error, what, "the store could not be written");
            }
        });
        if self.jobs.send(boxed).await.is_err() {
            tracing::error!(what, "the store has ended");
        }
    }
}
