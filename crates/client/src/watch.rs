//! Watches: the present state of locks, and then each change of them once.

use crate::servers::Servers;
use crate::{Client, Error, ErrorCode, unary};
use futures_util::{Stream, stream};
use std::time::Duration;
use tonic::{Code, Status, Streaming};
use wire::ErrorClass;
use wire::v1::{self, EventKind, WatchFilter, WatchRequest, WatchResponse};

/// First and longest pause between two tries to go on.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Longest pause while the gateways have no room for the watch. Many clients may be in that state.
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(15);

/// Which locks to watch, and which of their events. All that is set must match. The default is all
/// events of all locks.
///
/// ```
/// use palisade_client::{EventKind, WatchOptions};
///
/// let options = WatchOptions::new().prefix("orders:").kinds([EventKind::Broken]);
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    filter: WatchFilter,
    position: String,
}

impl WatchOptions {
    /// All events of all locks.
    pub fn new() -> WatchOptions {
        WatchOptions::default()
    }

    /// Watches one lock.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.filter.name = name.into();
        self
    }

    /// Watches the locks with names that begin with a prefix.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.filter.prefix = prefix.into();
        self
    }

    /// Watches the locks and waits of a session.
    pub fn session(mut self, id: impl Into<String>) -> Self {
        self.filter.session_id = id.into();
        self
    }

    /// Watches the locks and waits of an owner.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.filter.owner = owner.into();
        self
    }

    /// Tells only these kinds of events. The present state is told as well.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        self.filter.kinds = kinds.into_iter().map(i32::from).collect();
        self
    }

    /// Goes on after the position of an earlier watch with the same options, by any gateway of the
    /// cluster.
    pub fn position(mut self, position: impl Into<String>) -> Self {
        self.position = position.into();
        self
    }
}

/// An answer of a watch: a part of the state of one shard, or events, and the position after them.
///
/// * `state` comes before `events`. The first part of a state replaces all that was told of its
///   shard before, and `resync` says that events were lost.
/// * The events of one lock are in order.
pub type Told = WatchResponse;

/// A watch of locks. It begins with the present state, and then tells each change once.
///
/// If its gateway fails, it goes on through another, from where it was. If the cluster does not
/// remember the events since then, it tells the state again, and says `resync`.
///
/// The answers of a watch are a moment old. So a watch never proves that a lock is held: a fencing
/// token does.
///
/// ```no_run
/// # async fn example(client: palisade_client::Client) -> Result<(), palisade_client::Error> {
/// use palisade_client::WatchOptions;
///
/// let mut watch = client.watch(WatchOptions::new().prefix("orders:"));
/// loop {
///     let told = watch.next().await?;
///     for event in &told.events {
///         println!("{:?} {}", event.kind(), event.resource_name);
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    client: Client,
    filter: WatchFilter,
    position: String,
    responses: Option<Streaming<WatchResponse>>,
    /// The gateway that is asked, as a number from 0.
    target: Option<u64>,
    /// Failures since the last response.
    failures: u32,
    /// Gateways in a row that do not know watches.
    unserved: usize,
}

impl Client {
    /// Watches locks. It connects with the first call of [`Watch::next`].
    pub fn watch(&self, options: WatchOptions) -> Watch {
        let WatchOptions { filter, position } = options;
        Watch {
            client: self.clone(),
            filter,
            position,
            responses: None,
            target: None,
            failures: 0,
            unserved: 0,
        }
    }
}

impl Watch {
    /// The next answer. If the connection fails, the watch tries to go on, for as long as that
    /// takes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::is_invalid`] for a wrong filter or position. An error of class
    /// [`Denied`](wire::ErrorClass::Denied) if the client may not watch this, or not any more. Code
    /// INTERNAL if no gateway knows watches.
    pub async fn next(&mut self) -> Result<Told, Error> {
        loop {
            self.open().await?;
            let Some(responses) = &mut self.responses else { continue };
            let failed = match responses.message().await {
                Ok(Some(told)) => {
                    (self.failures, self.unserved) = (0, 0);
                    self.position.clone_from(&told.position);
                    return Ok(told);
                }
                Ok(None) => None,
                Err(status) => Some(status),
            };
            self.responses = None;
            self.after_failure(failed).await?;
        }
    }

    /// Connects, unless that is done. It tries for as long as that takes.
    ///
    /// # Errors
    /// As of [`next`](Self::next).
    pub async fn open(&mut self) -> Result<(), Error> {
        while self.responses.is_none() {
            match self.try_open().await? {
                Ok(responses) => self.responses = Some(responses),
                Err(status) => self.after_failure(Some(status)).await?,
            }
        }
        Ok(())
    }

    /// The position after all that was told. A later watch with the same options goes on after it.
    pub fn position(&self) -> &str {
        &self.position
    }

    /// The watch as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Told, Error>> + Send {
        stream::unfold(Some(self), |watch| async move {
            let mut watch = watch?;
            let told = watch.next().await;
            let rest = told.is_ok().then_some(watch);
            Some((told, rest))
        })
    }

    /// Asks the present gateway once.
    async fn try_open(&mut self) -> Result<Result<Streaming<WatchResponse>, Status>, Error> {
        let servers = self.client.servers()?;
        let target = *self.target.get_or_insert_with(|| servers.first());
        let timeout = self.client.options().timeout;
        let request =
            WatchRequest { filter: Some(self.filter.clone()), position: self.position.clone() };
        let asked = async {
            let channel = servers.channel(target, timeout).await;
            let channel = channel.map_err(|why| Status::unavailable(format!("{why:?}")))?;
            unary::service(channel).watch(request).await.map(|response| response.into_inner())
        };
        let unanswered = || Err(Status::deadline_exceeded("no answer"));
        Ok(tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| unanswered()))
    }

    /// Turns to the next gateway, after a pause that grows with each failure in a row.
    ///
    /// # Errors
    /// If no gateway would serve the watch.
    async fn after_failure(&mut self, failed: Option<Status>) -> Result<(), Error> {
        let servers = self.client.servers()?;
        let error = failed.as_ref().and_then(v1::Error::from_status);
        if let Some(error) = &error
            && matches!(error.class(), ErrorClass::FixInput | ErrorClass::Denied)
        {
            return Err(error.clone().into());
        }
        if failed.as_ref().is_some_and(|status| status.code() == Code::Unimplemented) {
            self.unserved += 1;
            if self.unserved >= servers.targets().len() {
                let message = "the gateways know no watches: use gateways of a newer version";
                return Err(Error::new(ErrorCode::Internal, message));
            }
        }
        tracing::debug!(?failed, "a watch goes on through the next gateway");
        if let Some(target) = self.target {
            // Calls share the channel. It is good if an older gateway answers, and a gateway that
            // gives this watch no answer in time may serve others.
            let is_lost = |status: &Status| {
                !matches!(status.code(), Code::Unimplemented | Code::DeadlineExceeded)
            };
            if error.is_none() && failed.as_ref().is_some_and(is_lost) {
                servers.forget_channel(target);
            }
            self.target = Some(next_of(servers, target));
        }
        let is_busy = error.as_ref().is_some_and(|error| error.code() == ErrorCode::Busy);
        let (first, longest) = (PAUSE.0, if is_busy { BUSY_PAUSE_MAX } else { PAUSE.1 });
        let pause = match self.failures {
            // All watches of a gateway that ends come to the others.
            0 => first.mul_f64(rand::random_range(0.0..4.0)),
            failures => (first * (1 << failures.min(8))).min(longest),
        };
        self.failures += 1;
        let asked = error.map_or(0, |error| error.retry_after_ms);
        let pause = pause.max(Duration::from_millis(asked.into()).min(longest));
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
        Ok(())
    }
}

/// The gateway after this one.
fn next_of(servers: &Servers, target: u64) -> u64 {
    (target + 1) % servers.targets().len().max(1) as u64
}
