//! The thread that commits and the thread that answers.
//!
//! The committer takes what waits, writes it with one sync, and passes the results on; while the other thread hands
//! them out, the next group is under way. Whoever submits during a sync is in the next group.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Instant,
};

use hearth_ports::{Batch, CommitError, Committed, Done, Unavailable};

use crate::{
    OpenError, Options, Shared,
    group::Group,
    queue::{Queue, Submitted, Ticket},
};

/// The results of a group, in commit order.
type Answers = Vec<(Ticket, Result<Committed, CommitError>)>;

/// Calls [`Options::on_fatal`].
type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Both threads.
pub(crate) struct Committer {
    queue: Arc<Queue>,
    /// For what is refused at once. Taken when the threads are to end.
    answers: Option<mpsc::Sender<Answers>>,
    /// The committer, then the one that answers, which ends after it.
    threads: Vec<JoinHandle<()>>,
}

impl Committer {
    pub(crate) fn start(shared: &Arc<Shared>, options: Options) -> Result<Self, OpenError> {
        let queue = Arc::<Queue>::default();
        let on_fatal: OnFatal = options.on_fatal.into();
        // Its length is bounded by the queue, which counts a batch until it is answered.
        let (answers, to_answer) = mpsc::channel::<Answers>();
        let mut committer = Self { queue: queue.clone(), answers: Some(answers.clone()), threads: Vec::new() };
        let commits = {
            let thread =
                CommitThread { shared: shared.clone(), queue: queue.clone(), answers, on_fatal: on_fatal.clone() };
            move || thread.run()
        };
        committer.spawn("store-commit", commits)?;
        committer.spawn("store-answer", move || run_answers(&to_answer, &queue, &*on_fatal))?;
        Ok(committer)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(|error| OpenError::failed(Path::new(name), &error))?);
        Ok(())
    }

    pub(crate) fn submit(&self, batch: Batch, done: Done) {
        let Err((ticket, reason)) = self.queue.push(batch, done) else { return };
        metrics::counter!("hearth_store_refused_total").increment(1);
        let answers = self.answers.as_ref().expect("it is taken when nobody can call this any more");
        // Not from here: whoever submits may hold what its `done` waits for.
        if let Err(mpsc::SendError(answers)) = answers.send(vec![(ticket, Err(reason.into()))]) {
            answers.into_iter().for_each(|(ticket, result)| (ticket.done)(result));
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue.close();
        self.answers = None;
        for thread in self.threads.drain(..) {
            // A result may hold the last reference to the engine; the thread that hands it out can't wait for itself.
            if thread.thread().id() == thread::current().id() {
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a thread of the storage engine panicked");
            }
        }
    }
}

/// What the committing thread holds. However the thread ends, what still waits then is answered.
struct CommitThread {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    answers: mpsc::Sender<Answers>,
    on_fatal: OnFatal,
}

impl CommitThread {
    fn run(&self) {
        let mut failure = None;
        loop {
            let group = self.queue.take_group();
            if group.is_empty() {
                return;
            }
            let failed_before = failure.is_some();
            let results = match &failure {
                None => commit_group(&self.shared, group, &mut failure),
                Some(reason) => refuse(group, reason),
            };
            self.answers.send(results).expect("the answering thread ends after this one");
            if let (false, Some(reason)) = (failed_before, &failure) {
                (self.on_fatal)(&reason.0);
            }
        }
    }
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        self.queue.close();
        let reason = Unavailable("the committing thread has ended".to_owned());
        loop {
            let group = self.queue.take_group();
            if group.is_empty() {
                break;
            }
            refuse(group, &reason).into_iter().for_each(|(ticket, result)| (ticket.done)(result));
        }
        (self.on_fatal)(&reason.0);
    }
}

/// Commits what can be; sets `failure` if the write fails.
fn commit_group(shared: &Shared, submitted: Vec<Submitted>, failure: &mut Option<Unavailable>) -> Answers {
    let begun = Instant::now();
    let mut group = Group::new(&shared.db, shared.heads.lock().clone());
    let mut answers: Answers = Vec::with_capacity(submitted.len());
    for Submitted { batch, ticket } in submitted {
        let result = group.add(&batch);
        if matches!(result, Err(CommitError::Conflict)) {
            metrics::counter!("hearth_store_conflicts_total").increment(1);
        }
        answers.push((ticket, result));
    }
    match group.commit() {
        Ok(heads) => *shared.heads.lock() = heads,
        Err(error) => {
            tracing::error!(%error, "a write to the store failed");
            let reason = Unavailable(format!("a write failed: {error}"));
            for (_, result) in
                answers.iter_mut().filter(|(_, result)| !matches!(result, Err(CommitError::Malformed(_))))
            {
                *result = Err(reason.clone().into());
            }
            *failure = Some(reason);
        }
    }
    metrics::histogram!("hearth_store_group_batches").record(answers.len() as f64);
    metrics::histogram!("hearth_store_write_seconds").record(begun.elapsed().as_secs_f64());
    answers
}

fn refuse(group: Vec<Submitted>, reason: &Unavailable) -> Answers {
    group.into_iter().map(|submitted| (submitted.ticket, Err(reason.clone().into()))).collect()
}

fn run_answers(to_answer: &mpsc::Receiver<Answers>, queue: &Queue, on_fatal: &dyn Fn(&str)) {
    for group in to_answer {
        for (ticket, result) in group {
            metrics::histogram!("hearth_store_commit_seconds").record(ticket.since.elapsed().as_secs_f64());
            let bytes = ticket.bytes;
            if catch_unwind(AssertUnwindSafe(|| (ticket.done)(result))).is_err() {
                // What it would have applied to memory is missing there, and nobody knows what it has left half done.
                on_fatal("the receiver of a commit's result panicked");
            }
            queue.release(bytes);
        }
    }
}
