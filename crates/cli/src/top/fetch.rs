//! The tasks that ask the cluster: one watch, and a few calls in each interval.
//!
//! * At most one call of a kind is under way. The next one comes an interval after its answer.
//! * Each interval has one status of the cluster, two calls about an open lock, and one page of
//!   each address of metrics. Nothing is listed: a watch tells the locks once, and then their
//!   changes.
//! * A refusal is asked about again after a minute, because each question is a denial in the audit
//!   log.

use super::gateways::{Answer, Counters};
use super::news::{LockAnswer, News, Watched};
use client::{Client, Consistency, Error, ErrorCode, WatchOptions};
use local_cluster::ClusterError;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

/// News that wait for the screen. A watch whose answers wait is read no further, so that its
/// gateway stops it for that time.
const NEWS_MAX: usize = 64;
/// Time between two questions that are refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// How often the connection of a watch is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Holders of an open lock that are shown.
const HOLDERS_MAX: u32 = 50;
/// Waiters of an open lock that are shown.
const WAITERS_MAX: u32 = 100;
/// Rows of the history of an open lock.
const TENURES_MAX: u32 = 50;

/// The tasks. They end when this is dropped.
#[derive(Debug)]
pub struct Fetch {
    client: Client,
    interval: Duration,
    metrics: Vec<String>,
    news: Sender<News>,
    watch: Option<Task>,
    lock: Option<Task>,
    /// About the cluster as a whole.
    others: Vec<Task>,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Task {
    fn start(work: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fetch {
    /// Begins to ask about the cluster, and about the `metrics` of these addresses.
    pub fn start(
        client: Client,
        interval: Duration,
        metrics: Vec<String>,
    ) -> (Fetch, Receiver<News>) {
        let (news, receiver) = channel(NEWS_MAX);
        let (watch, lock, others) = (None, None, Vec::new());
        let mut fetch = Fetch { client, interval, metrics, news, watch, lock, others };
        fetch.again();
        (fetch, receiver)
    }

    /// Asks about the cluster at once.
    pub fn again(&mut self) {
        self.others.clear();
        let (client, interval, news) = (self.client.clone(), self.interval, self.news.clone());
        self.others.push(Task::start(ask_status(client, interval, news)));
        if !self.metrics.is_empty() {
            let (addresses, news) = (self.metrics.clone(), self.news.clone());
            self.others.push(Task::start(read_metrics(addresses, interval, news)));
        }
    }

    /// Watches the names with this prefix, instead of those before. The news has the number.
    pub fn watch(&mut self, number: u64, prefix: &str) {
        let options = WatchOptions::new().prefix(prefix);
        let teller = Teller { number, news: self.news.clone() };
        self.watch = Some(Task::start(follow(self.client.clone(), options, teller)));
    }

    pub fn end_watch(&mut self) {
        self.watch = None;
    }

    /// Asks about this lock, instead of the one before.
    pub fn open(&mut self, name: &str) {
        let (client, interval, news) = (self.client.clone(), self.interval, self.news.clone());
        self.lock = Some(Task::start(ask_lock(client, name.to_owned(), interval, news)));
    }

    pub fn close(&mut self) {
        self.lock = None;
    }
}

/// Passes on the news of one watch.
struct Teller {
    number: u64,
    news: Sender<News>,
}

impl Teller {
    /// Says whether there is still a screen.
    async fn tell(&self, watched: Watched) -> bool {
        self.news.send(News::Watch { number: self.number, watched }).await.is_ok()
    }
}

/// Follows a watch over connections that break, until there is no screen any more.
async fn follow(client: Client, options: WatchOptions, teller: Teller) {
    let mut watch = client.watch(options);
    let (mut was_open, mut goes_on) = (false, true);
    while goes_on {
        let refused = if watch.is_open() {
            tokio::select! {
                told = watch.next() => match told {
                    Ok(told) => {
                        goes_on = teller.tell(Watched::Told(Box::new(told))).await;
                        None
                    }
                    Err(error) => Some(error),
                },
                // The watch may have lost its connection meanwhile.
                () = tokio::time::sleep(LOOK_EVERY) => None,
            }
        } else {
            if std::mem::take(&mut was_open) {
                goes_on = teller.tell(Watched::Lost).await;
            }
            // Not within a select: a dropped future would begin to connect anew.
            match watch.open().await {
                Ok(()) => {
                    was_open = true;
                    goes_on &= teller.tell(Watched::Open).await;
                    None
                }
                Err(error) => Some(error),
            }
        };
        if let Some(error) = refused {
            was_open = false;
            goes_on &= teller.tell(Watched::Refused(error)).await;
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}

async fn ask_status(client: Client, interval: Duration, news: Sender<News>) {
    loop {
        let status = client.cluster_status().await;
        let pause = status.as_ref().map_or_else(|error| pause_after(error, interval), |_| interval);
        if news.send(News::Status(status)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

fn pause_after(error: &Error, interval: Duration) -> Duration {
    match error.code {
        ErrorCode::PermissionDenied | ErrorCode::Unauthenticated => REFUSED_PAUSE.max(interval),
        _ => interval,
    }
}

async fn ask_lock(client: Client, name: String, interval: Duration, news: Sender<News>) {
    let consistency = Consistency::Linearizable;
    loop {
        let checked = client.check_queue(&name, consistency, HOLDERS_MAX, WAITERS_MAX).await;
        let pause =
            checked.as_ref().map_or_else(|error| pause_after(error, interval), |_| interval);
        let history = match &checked {
            // The same permission is needed for both.
            Err(error) => Err(error.clone()),
            Ok(_) => client.history(&name, TENURES_MAX).await,
        };
        let answer = Box::new(LockAnswer { checked, history });
        if news.send(News::Lock { name: name.clone(), answer }).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn read_metrics(addresses: Vec<String>, interval: Duration, news: Sender<News>) {
    loop {
        let read = |address: &String| {
            let read = address.clone();
            (address.clone(), tokio::task::spawn_blocking(move || counters_at(&read)))
        };
        let reads: Vec<(String, JoinHandle<Answer>)> = addresses.iter().map(read).collect();
        let mut answers = Vec::new();
        for (address, read) in reads {
            // A read panics for a defect of this program only, which then has ended already.
            answers.push((address, read.await.unwrap_or_else(|error| Err(error.to_string()))));
        }
        if news.send(News::Metrics(answers)).await.is_err() {
            return;
        }
        tokio::time::sleep(interval).await;
    }
}

fn counters_at(address: &str) -> Answer {
    let page = local_cluster::page(address, "/metrics").map_err(|error| match error {
        // The address is told beside the reason.
        ClusterError::Page { source, .. } => source.to_string(),
        error => error.to_string(),
    })?;
    Counters::on(&page).ok_or_else(|| {
        "this is no /metrics of a gateway: give the address that `metrics` of the gateway names in \
         the cluster file"
            .to_owned()
    })
}
