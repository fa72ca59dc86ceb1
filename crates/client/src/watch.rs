//! Watches: the present state of locks, and then each change of them once.

use crate::pauses::Pauses;
use crate::servers::{Connected, Servers};
use crate::{Client, Error, ErrorCode, unary};
use futures_util::{Stream, stream};
use rand::seq::SliceRandom;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};
use wire::ErrorClass;
use wire::v1::{self, EventKind, WatchFilter, WatchRequest, WatchResponse};

/// A watch waits for an answer at most this many doublings of its client's timeout.
const SLOW_DOUBLINGS_MAX: u32 = 3;
/// How long a client waits before it shows its token again. A token in a file is read again after a
/// second.
const TOKEN_PAUSE: Duration = Duration::from_secs(1);

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
    open: Option<Open>,
    /// The gateways in the order in which they are asked, as numbers from 0. The order after the
    /// first is random, so that the watches of a gateway that ends spread over the others. Empty
    /// before the first try.
    order: Vec<u64>,
    /// Gateways that were asked before the present one.
    turns: usize,
    pauses: Pauses,
    /// When the next try may be made. It stands here because a caller may drop the future that
    /// waits for it.
    resume_at: Instant,
    /// Gateways in a row that do not know watches.
    unserved: usize,
    /// Tries in a row that got no answer in time.
    slow: u32,
    /// The token was good, so that it may be good again once its file is read anew.
    proven: bool,
}

/// An open call.
#[derive(Debug)]
struct Open {
    responses: Streaming<WatchResponse>,
    since: Instant,
    /// The channel of the call: see [`Connected`].
    generation: u64,
}

/// A call that failed, or ended.
#[derive(Debug)]
struct Failed {
    /// `None` if the gateway ended the call without an error.
    status: Option<Status>,
    /// The channel of the call. `None` if there is none.
    generation: Option<u64>,
}

impl Client {
    /// Watches locks. It connects with the first call of [`Watch::next`].
    pub fn watch(&self, options: WatchOptions) -> Watch {
        let WatchOptions { filter, position } = options;
        Watch {
            client: self.clone(),
            filter,
            position,
            open: None,
            order: Vec::new(),
            turns: 0,
            pauses: Pauses::default(),
            resume_at: Instant::now(),
            unserved: 0,
            slow: 0,
            proven: false,
        }
    }
}

impl Watch {
    /// The next answer. If the connection fails, the watch tries to go on, for as long as that
    /// takes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::is_invalid`] for a wrong filter or position. An error of class
    /// [`Denied`](wire::ErrorClass::Denied) if the client may not watch this, or not any more. A
    /// token that was good and is not any more is read and shown again once before that. Code
    /// INTERNAL if no gateway knows watches. After an error, the next call tries anew.
    pub async fn next(&mut self) -> Result<Told, Error> {
        loop {
            self.open().await?;
            let Some(open) = &mut self.open else { continue };
            let status = match open.responses.message().await {
                Ok(Some(told)) => {
                    (self.unserved, self.slow, self.proven) = (0, 0, true);
                    self.position.clone_from(&told.position);
                    return Ok(told);
                }
                Ok(None) => None,
                Err(status) => Some(status),
            };
            let generation = Some(open.generation);
            self.pauses.ran_for(open.since.elapsed());
            self.open = None;
            self.after_failure(Failed { status, generation })?;
        }
    }

    /// Connects, unless that is done. It tries for as long as that takes.
    ///
    /// # Errors
    /// As of [`next`](Self::next).
    pub async fn open(&mut self) -> Result<(), Error> {
        while self.open.is_none() {
            tokio::time::sleep_until(self.resume_at).await;
            match self.try_open().await? {
                Ok(open) => self.open = Some(open),
                Err(failed) => self.after_failure(failed)?,
            }
        }
        Ok(())
    }

    /// Whether a gateway has taken the watch, as far as this client knows. A watch that is not open
    /// connects with the next call of [`open`](Self::open) or [`next`](Self::next).
    pub fn is_open(&self) -> bool {
        self.open.is_some()
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

    /// Delays the next try as if the gateway had no room.
    pub(crate) fn back_off(&mut self) {
        self.resume_at = Instant::now() + self.pauses.next(true, Duration::ZERO);
    }

    /// The gateway that is asked now, as a number from 0.
    fn target(&mut self, servers: &Servers) -> u64 {
        if self.order.is_empty() {
            self.order = order(servers.first(), servers.targets());
        }
        self.order[self.turns % self.order.len()]
    }

    /// Asks the present gateway once.
    async fn try_open(&mut self) -> Result<Result<Open, Failed>, Error> {
        let client = self.client.clone();
        let (servers, timeout) = (client.servers()?, client.options().timeout);
        // Thousands of watches that move at once wait for each other. If all gave up after the same
        // time, a gateway that needs longer for them would serve none, again and again.
        let timeout = timeout.saturating_mul(1 << self.slow.min(SLOW_DOUBLINGS_MAX));
        let target = self.target(servers);
        let request =
            WatchRequest { filter: Some(self.filter.clone()), position: self.position.clone() };
        let until = Instant::now() + timeout;
        let (channel, generation) = match servers.channel(target, timeout).await {
            Ok(Connected { channel, generation }) => (channel, generation),
            Err(why) => {
                let status = Some(Status::unavailable(format!("{why:?}")));
                return Ok(Err(Failed { status, generation: None }));
            }
        };
        let mut service = unary::service(channel);
        let status = match tokio::time::timeout_at(until, service.watch(request)).await {
            Ok(Ok(response)) => {
                let (responses, since) = (response.into_inner(), Instant::now());
                return Ok(Ok(Open { responses, since, generation }));
            }
            Ok(Err(status)) => status,
            Err(_) => {
                self.slow += 1;
                Status::deadline_exceeded("no answer")
            }
        };
        Ok(Err(Failed { status: Some(status), generation: Some(generation) }))
    }

    /// Turns to the next gateway, and delays the next try by a pause that grows with each failure in
    /// a row.
    ///
    /// # Errors
    /// If no gateway would serve the watch.
    fn after_failure(&mut self, failed: Failed) -> Result<(), Error> {
        let client = self.client.clone();
        let servers = client.servers()?;
        let Failed { status, generation } = failed;
        let error = status.as_ref().and_then(v1::Error::from_status);
        if let Some(error) = &error {
            if error.code() == ErrorCode::Unauthenticated && std::mem::take(&mut self.proven) {
                tracing::debug!(%error, "a watch shows its token again");
                self.resume_at = Instant::now() + TOKEN_PAUSE.mul_f64(rand::random_range(1.0..2.0));
                return Ok(());
            }
            if matches!(error.class(), ErrorClass::FixInput | ErrorClass::Denied) {
                return Err(error.clone().into());
            }
        }
        if status.as_ref().is_some_and(|status| status.code() == Code::Unimplemented) {
            self.unserved += 1;
            if self.unserved >= servers.targets().len() {
                self.unserved = 0;
                let message = "the gateways know no watches: use gateways of a newer version";
                return Err(Error::new(ErrorCode::Internal, message));
            }
        }
        tracing::debug!(?status, "a watch goes on through the next gateway");
        // Calls share the channel. It is good if an older gateway answers, and a gateway that gives
        // this watch no answer in time may serve others.
        let is_lost = error.is_none()
            && status.is_some_and(|status| {
                !matches!(status.code(), Code::Unimplemented | Code::DeadlineExceeded)
            });
        if let Some(generation) = generation.filter(|_| is_lost) {
            servers.forget_channel(self.target(servers), generation);
        }
        self.turns += 1;
        let is_busy = error.as_ref().is_some_and(|error| error.code() == ErrorCode::Busy);
        let asked_ms = error.map_or(0, |error| error.retry_after_ms);
        let pause = self.pauses.next(is_busy, Duration::from_millis(asked_ms.into()));
        self.resume_at = Instant::now() + pause;
        Ok(())
    }
}

/// All gateways once, the first at the front and the others at random.
fn order(first: u64, targets: &[u64]) -> Vec<u64> {
    let mut order = targets.to_vec();
    order.shuffle(&mut rand::rng());
    if let Some(at) = order.iter().position(|target| *target == first) {
        order.swap(0, at);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn a_pause_holds_though_the_future_that_waits_is_dropped() {
        let mut watch = Client::connect(["127.0.0.1:1"]).watch(WatchOptions::new());
        let busy = v1::Error::new(ErrorCode::Busy, "no room");
        let busy = v1::Error { retry_after_ms: 60_000, ..busy };
        watch.after_failure(Failed { status: Some(busy.into()), generation: None }).unwrap();
        for _ in 0..3 {
            let opened = tokio::time::timeout(Duration::from_millis(200), watch.open()).await;
            assert!(opened.is_err());
        }
        assert_eq!(watch.turns, 1, "no gateway was asked within the minute");
    }

    #[test]
    fn a_watch_turns_to_each_gateway_once_in_a_random_order() {
        let targets = [0, 1, 2, 3];
        let drawn: BTreeSet<Vec<u64>> = (0..200).map(|_| order(2, &targets)).collect();
        for order in &drawn {
            assert_eq!(order[0], 2, "the gateway that answered last comes first");
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 4);
        }
        let next: BTreeSet<u64> = drawn.iter().map(|order| order[1]).collect();
        assert_eq!(next, BTreeSet::from([0, 1, 3]));
    }
}
