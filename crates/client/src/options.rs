//! The options of clients, acquires and sessions.

use crate::clock::SuspendClock;
use crate::{Error, Security};
use std::time::Duration;
use tokio::time::Instant;
use wire::limits::{DEFAULT_TIMEOUT_MS, REQUEST_ID_BYTES};
use wire::v1::{AcquireRequest, Mode};

/// Identifies one acquire through all its retries.
pub type RequestId = [u8; REQUEST_ID_BYTES];

/// First lease of a grant out of the queue, until the client claims it.
const CLAIM_TTL: Duration = Duration::from_secs(10);

/// The settings of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Time for an operation with all its retries, to which an acquire adds its wait. Default: 5 s.
    pub timeout: Duration,
    /// Owner of acquires that name none. It is shown to others and must not be empty. Default:
    /// `host/pid`.
    pub owner: String,
    /// Whether to use a unary RPC for each operation instead of one stream for many. This is
    /// simpler and slower, and meant for comparison. Default: no.
    pub unary: bool,
    /// Most operations that wait to be sent on one connection. The excess is refused as busy.
    /// Default: 16,384.
    pub queue_ops_max: usize,
    /// Time to connect to a gateway. Default: 2 s.
    pub connect_timeout: Duration,
    /// TLS and the bearer token towards gateways. Default: neither.
    pub security: Security,
    /// Longest time between two renewals. Guards and sessions renew after a third of their TTL, or
    /// after this time if it is shorter. A TTL can be long, but a renewal is how they hear that a
    /// lock was broken. Default: 10 s.
    pub renew_interval_max: Duration,
    /// Whether guards and sessions watch their locks, so that they hear at once of a break or
    /// another end. Without a watch, or without the permission `watch`, they hear with their next
    /// renewal. A lock that is held for a moment is not watched. At most 64 guards and 16 sessions
    /// of one client have a watch at the same time; others wait for a place. Default: yes.
    pub watch_held: bool,
    /// The clock that tells how long this machine has been suspended. Default: the machine's own.
    pub suspend_clock: SuspendClock,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            timeout: Duration::from_millis(DEFAULT_TIMEOUT_MS.into()),
            owner: default_owner(),
            unary: false,
            queue_ops_max: 16_384,
            connect_timeout: Duration::from_secs(2),
            security: Security::default(),
            renew_interval_max: Duration::from_secs(10),
            watch_held: true,
            suspend_clock: SuspendClock::system(),
        }
    }
}

impl ClientOptions {
    /// Options with all the defaults.
    pub fn new() -> ClientOptions {
        ClientOptions::default()
    }

    /// Sets the time for an operation with all its retries.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the owner of acquires that name none.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }

    /// Chooses a unary RPC for each operation.
    pub fn unary(mut self, unary: bool) -> Self {
        self.unary = unary;
        self
    }

    /// Sets the time within which guards and sessions hear of a broken lock. A lower value costs
    /// more renewals.
    pub fn renew_interval_max(mut self, interval: Duration) -> Self {
        self.renew_interval_max = interval;
        self
    }

    /// Chooses whether guards and sessions watch their locks.
    pub fn watch_held(mut self, watch: bool) -> Self {
        self.watch_held = watch;
        self
    }

    /// Sets TLS and the bearer token towards gateways.
    pub fn security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// Sets another clock of suspends, for tests.
    pub fn suspend_clock(mut self, clock: SuspendClock) -> Self {
        self.suspend_clock = clock;
        self
    }
}

/// `host/pid`, as far as the system tells them.
fn default_owner() -> String {
    let host = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .into_iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.as_deref().map(str::trim).filter(|host| !host.is_empty()).unwrap_or("unknown");
    format!("{host}/{}", std::process::id())
}

/// The name to acquire, and how. A name alone is enough: exclusive, TTL 30 s, no waiting.
///
/// ```
/// use palisade_client::AcquireOptions;
/// use std::time::Duration;
///
/// let options = AcquireOptions::new("jobs/nightly").ttl(Duration::from_secs(10)).wait(Duration::from_secs(60));
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct AcquireOptions {
    pub(crate) name: String,
    pub(crate) owner: Option<String>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) wait: Duration,
    pub(crate) mode: Mode,
    pub(crate) permits: u32,
    pub(crate) permit_limit: u32,
    pub(crate) session_id: String,
    pub(crate) metadata: String,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) claim_ttl: Option<Duration>,
}

impl AcquireOptions {
    /// An acquire of this resource, with the defaults.
    pub fn new(name: impl Into<String>) -> AcquireOptions {
        AcquireOptions { name: name.into(), ..AcquireOptions::default() }
    }

    /// Sets the owner. It is shown to others and kept in history, and must not be empty. It is not
    /// an identity: the token is.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Sets the time to live without renewal, 100 ms to 24 h.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Queues for at most this long if another holds the lock.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sets the mode, exclusive or shared. For a semaphore see [`permits`](Self::permits).
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Holds the lock together with other shared holders.
    pub fn shared(self) -> Self {
        self.mode(Mode::Shared)
    }

    /// Takes `count` permits of a semaphore that has `limit` of them.
    pub fn permits(mut self, count: u32, limit: u32) -> Self {
        (self.mode, self.permits, self.permit_limit) = (Mode::Semaphore, count, limit);
        self
    }

    /// Hangs the grant on an open session instead of a private lease.
    /// [`Session::acquire`](crate::Session::acquire) does this.
    pub fn session(mut self, session_id: impl Into<String>) -> Self {
        self.session_id = session_id.into();
        self
    }

    /// Sets a free text that is shown with the grant.
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// Sets the request id, so that the caller itself can retry after an unknown outcome, or
    /// cancel. Without it a fresh id is chosen, and a grant that the caller did not see is
    /// released.
    ///
    /// An id is used up by any answer except [`Error::is_outcome_unknown`], because a try in flight
    /// is cancelled with the id before the answer. Choose a fresh id for the next acquire.
    ///
    /// The id must be hard to guess: choose it at random. Another identity that uses it first keeps
    /// this acquire from being done, for as long as it waits or holds a lock with it.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// Sets the TTL that a grant out of the queue has until this client claims it, which it does at
    /// once. It only counts if it is shorter than the TTL. 100 ms to 60 s.
    ///
    /// A client that died in the queue then blocks the name for this time instead of its TTL.
    /// Guards and sessions set 10 s by themselves.
    pub fn claim_ttl(mut self, ttl: Duration) -> Self {
        self.claim_ttl = Some(ttl);
        self
    }

    /// Sets the default claim TTL, if the acquire may wait and has none.
    pub(crate) fn claimed(mut self) -> Self {
        if !self.wait.is_zero() {
            self.claim_ttl.get_or_insert(CLAIM_TTL);
        }
        self
    }

    /// When the time of an operation with these options is up, its wait included.
    pub(crate) fn until(&self, timeout: Duration) -> Instant {
        Instant::now()
            + Duration::from_millis(whole_ms(self.wait).into())
            + Duration::from_millis(whole_ms(timeout).into())
    }

    pub(crate) fn into_request(
        self,
        default_owner: &str,
        request_id: RequestId,
    ) -> Result<AcquireRequest, Error> {
        Ok(AcquireRequest {
            name: self.name,
            owner: said_owner(self.owner, default_owner)?,
            ttl_ms: ttl_ms(self.ttl)?,
            request_id: request_id.to_vec(),
            wait_ms: whole_ms(self.wait),
            mode: self.mode.into(),
            permits: self.permits,
            permit_limit: self.permit_limit,
            session_id: self.session_id,
            metadata: self.metadata,
            claim_ttl_ms: self.claim_ttl.map_or(0, |ttl| whole_ms(ttl).max(1)),
        })
    }
}

impl From<&str> for AcquireOptions {
    fn from(name: &str) -> Self {
        AcquireOptions::new(name)
    }
}

impl From<String> for AcquireOptions {
    fn from(name: String) -> Self {
        AcquireOptions::new(name)
    }
}

/// The settings of a new session.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    pub(crate) owner: Option<String>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) metadata: String,
}

impl SessionOptions {
    /// Options with the client's owner and a TTL of 30 s.
    pub fn new() -> SessionOptions {
        SessionOptions::default()
    }

    /// Sets the owner of the session's locks, which must not be empty.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Sets the time to live without a heartbeat, 100 ms to 24 h.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets a free text that is shown with the session's grants.
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }
}

/// The owner of a request. On the wire an empty owner means that none was given. Here it is a
/// mistake, such as an unset variable, and others could not tell the owner of the lock.
pub(crate) fn said_owner(chosen: Option<String>, default: &str) -> Result<String, Error> {
    let owner = chosen.unwrap_or_else(|| default.to_owned());
    if owner.trim().is_empty() {
        return Err(Error::invalid(
            "the owner is empty: say who asks, or leave it out for the default",
        ));
    }
    Ok(owner)
}

/// A TTL in milliseconds. A TTL of zero is refused, because 0 stands for the default on the wire.
pub(crate) fn ttl_ms(ttl: Option<Duration>) -> Result<u32, Error> {
    match ttl {
        None => Ok(0),
        Some(ttl) if ttl < Duration::from_millis(1) => {
            Err(Error::invalid("the TTL is shorter than 1 ms: use 100 ms to 24 h"))
        }
        Some(ttl) => Ok(whole_ms(ttl)),
    }
}

/// Milliseconds, rounded up. A duration that does not fit becomes the longest, which its limit then
/// refuses.
pub(crate) fn whole_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_never_turn_into_the_default_by_rounding() {
        assert_eq!(ttl_ms(None).unwrap(), 0);
        assert!(ttl_ms(Some(Duration::ZERO)).unwrap_err().is_invalid());
        assert!(ttl_ms(Some(Duration::from_micros(900))).unwrap_err().is_invalid());
        assert_eq!(ttl_ms(Some(Duration::from_secs(30))).unwrap(), 30_000);
        assert_eq!(whole_ms(Duration::from_micros(1)), 1);
        assert_eq!(whole_ms(Duration::MAX), u32::MAX);
    }

    #[test]
    fn an_empty_owner_is_refused_and_one_left_out_is_the_default() {
        let owner = |options: AcquireOptions, default| {
            options.into_request(default, [7; 16]).map(|request| request.owner)
        };
        assert_eq!(owner(AcquireOptions::new("n"), "me").unwrap(), "me");
        for (options, default) in [
            (AcquireOptions::new("n").owner(""), "me"),
            (AcquireOptions::new("n").owner(" "), "me"),
            (AcquireOptions::new("n"), ""),
        ] {
            let refused = owner(options, default).unwrap_err();
            assert!(refused.is_invalid() && refused.message.contains("owner"), "{refused}");
        }
        assert!(said_owner(SessionOptions::new().owner("").owner, "me").unwrap_err().is_invalid());
    }

    #[test]
    fn a_request_says_what_was_chosen() {
        let options =
            AcquireOptions::new("n").ttl(Duration::from_secs(1)).permits(2, 5).metadata("m");
        let request = options.into_request("me", [7; 16]).unwrap();
        assert_eq!(
            (request.owner.as_str(), request.ttl_ms, request.permits, request.permit_limit),
            ("me", 1_000, 2, 5)
        );
        assert_eq!(request.request_id, vec![7; 16]);
        assert!(default_owner().contains('/'));
    }
}
