//! The task of a link: connects, sends, receives, connects again.

use super::dial::dial;
use super::options::LinkOptions;
use super::pending::{Pending, Submission};
use super::protocol::Protocol;
use super::stream::{Step, Stream};
use net::dial::Target;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use wire::v1::Error;

/// Operations taken off the queue at a time.
const TAKEN_AT_ONCE: usize = 1_024;
/// With fewer operations to send, the tasks that are ready may add theirs.
const GATHERED_OPS_MAX: usize = 8;
/// First and longest pause before an eager link connects again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long after the soonest deadline a sweep runs, so that sweeps are no more frequent than this.
const SWEEP: Duration = Duration::from_millis(5);

/// The owner of one connection.
pub(super) struct Driver<P: Protocol> {
    target: Arc<Mutex<Target>>,
    options: LinkOptions,
    submissions: mpsc::Receiver<Submission<P>>,
    connected: Arc<AtomicBool>,
    pending: Pending<P>,
    taken: Vec<Submission<P>>,
    /// The reason why there is no connection.
    lost: String,
}

/// The reason why a connection ended.
enum End {
    /// The connection was lost, or could not be made.
    Lost(String),
    /// The server takes no operations of this caller. Another server of the same kind would not
    /// either.
    Refused(Box<Error>),
    /// The last handle to the link is gone.
    Unused,
}

impl<P: Protocol> Driver<P> {
    pub(super) fn new(
        target: Arc<Mutex<Target>>,
        options: LinkOptions,
        submissions: mpsc::Receiver<Submission<P>>,
        connected: Arc<AtomicBool>,
    ) -> Driver<P> {
        let (pending, taken) = (Pending::default(), Vec::new());
        Driver {
            target,
            options,
            submissions,
            connected,
            pending,
            taken,
            lost: "still connecting".into(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut pause = RECONNECT.0;
        loop {
            if !self.options.eager && !self.wait_for_work().await {
                return;
            }
            let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let server = target.address().to_owned();
            let end = match self.connect(target).await {
                Ok(stream) => {
                    tracing::debug!(%server, "connected");
                    pause = RECONNECT.0;
                    self.connected.store(true, Ordering::Relaxed);
                    let end = self.serve(stream).await;
                    self.connected.store(false, Ordering::Relaxed);
                    end
                }
                Err(end) => end,
            };
            let why = match end {
                End::Lost(why) => why,
                End::Refused(error) => {
                    self.pending.refuse_queued(&error);
                    error.message
                }
                End::Unused => {
                    self.pending.fail_all("this connection is not used any more");
                    return;
                }
            };
            tracing::debug!(%server, why, "not connected");
            self.pending.fail_all(&why);
            self.lost.clone_from(&why);
            if self.options.eager {
                if !self.refuse_until(Instant::now() + pause, &why).await {
                    return;
                }
                pause = (pause * 2).min(RECONNECT.1);
            }
        }
    }

    /// Waits until there is something to send. `false` if all handles are gone.
    async fn wait_for_work(&mut self) -> bool {
        if self.pending.queued() > 0 {
            return true;
        }
        match self.submissions.recv().await {
            Some(submission) => self.pending.push(submission),
            None => return false,
        }
        true
    }

    /// Refuses operations while there is no connection, because the caller may have another server
    /// to ask. `false` if all handles are gone.
    async fn refuse_until(&mut self, until: Instant, why: &str) -> bool {
        loop {
            match tokio::time::timeout_at(until, self.submissions.recv()).await {
                Ok(Some(submission)) => {
                    self.pending.push(submission);
                    self.pending.fail_all(why);
                }
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    async fn connect(&mut self, target: Target) -> Result<Stream<P>, End> {
        let dialled = dial(target, self.options.clone());
        tokio::pin!(dialled);
        loop {
            let sweep = sweep_at(self.pending.soonest());
            tokio::select! {
                result = &mut dialled => return result.map_err(|error| match error.denial() {
                    Some(denial) => End::Refused(Box::new(denial)),
                    None => End::Lost(error.to_string()),
                }),
                submission = self.submissions.recv(), if self.pending.queued() < self.options.queue_ops_max => {
                    let Some(submission) = submission else { return Err(End::Unused) };
                    self.pending.push(submission);
                    if self.options.eager {
                        self.pending.fail_all(&self.lost);
                    }
                }
                () = tokio::time::sleep_until(sweep.unwrap_or_else(Instant::now)), if sweep.is_some() => {
                    self.pending.expire(Instant::now());
                }
            }
        }
    }

    /// Lets the tasks that are ready run, and takes the operations that they submit. The runtime runs
    /// this task right after the first of them, so a frame would otherwise hold one operation.
    async fn gather(&mut self) {
        yield_to_ready_tasks().await;
        while self.pending.queued() < self.options.queue_ops_max
            && let Ok(submission) = self.submissions.try_recv()
        {
            self.pending.push(submission);
        }
    }

    async fn serve(&mut self, mut stream: Stream<P>) -> End {
        let began = Instant::now();
        let sweep = tokio::time::sleep_until(began);
        tokio::pin!(sweep);
        loop {
            while self.pending.queued() > 0 && stream.has_room() {
                let now = Instant::now();
                let sent_ms = (now - began).as_millis() as u64 + 1;
                if let Some(frame) = self.pending.pack(now, sent_ms, self.options.frame_bytes) {
                    stream.send(frame);
                }
            }
            let due = sweep_at(self.pending.soonest());
            if let Some(due) = due
                && sweep.deadline() != due
            {
                sweep.as_mut().reset(due);
            }
            tokio::select! {
                step = stream.step() => match step {
                    Step::Results(results) => {
                        P::unpack(results).for_each(|(id, outcome)| self.pending.settle(id, outcome));
                    }
                    Step::Room => {}
                    Step::Ended(why) => return End::Lost(why),
                },
                count = self.submissions.recv_many(&mut self.taken, TAKEN_AT_ONCE),
                    if self.pending.queued() < self.options.queue_ops_max =>
                {
                    // A caller that waits for an answer holds a handle. Without handles there are
                    // no callers left.
                    if count == 0 {
                        return End::Unused;
                    }
                    self.taken.drain(..).for_each(|submission| self.pending.push(submission));
                    if self.pending.queued() < GATHERED_OPS_MAX {
                        self.gather().await;
                    }
                }
                () = &mut sweep, if due.is_some() => self.pending.expire(Instant::now()),
            }
        }
    }
}

/// Returns after the tasks that are ready have run. Unlike `tokio::task::yield_now`, it does not
/// ask the system for events before, which costs a system call.
async fn yield_to_ready_tasks() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A little after the soonest deadline, so that deadlines close together are swept together.
fn sweep_at(soonest: Option<Instant>) -> Option<Instant> {
    soonest.map(|soonest| soonest + SWEEP)
}
