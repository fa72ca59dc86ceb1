//! What the caller can choose.

use crate::Error;
use crate::clock::SuspendClock;
use std::time::Duration;
use tokio::time::Instant;
use wire::limits::{DEFAULT_TIMEOUT_MS, REQUEST_ID_BYTES};
use wire::v1::{AcquireRequest, Mode};

/// Identifies one acquire through all its retries.
pub type RequestId = [u8; REQUEST_ID_BYTES];

/// First lease of a grant out of the queue, until it is claimed.
const CLAIM_TTL: Duration = Duration::from_secs(10);

/// How a [`Client`](crate::Client) behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How long an operation may take, its retries included; a wait comes on top. Default: 5 s.
    pub timeout: Duration,
    /// Who acquires, if an acquire does not say; shown to others, not empty. Default: `host/pid`.
    pub owner: String,
    /// Uses a unary RPC for each operation instead of one stream for many: simpler, slower. For comparison.
    pub unary: bool,
    /// Operations that wait to be sent on one connection; above, they are refused as busy. Default: 16,384.
    pub queue_ops_max: usize,
    /// A gateway must be connected to within this time. Default: 2 s.
    pub connect_timeout: Duration,
    /// Guards and sessions renew after a third of their TTL, and after this time at the latest, because a renewal is how they
    /// hear that a lock was broken. Default: 10 s.
    pub renew_interval_max: Duration,
    /// Tells how long this machine has been suspended. Default: the machine's own.
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
            renew_interval_max: Duration::from_secs(10),
            suspend_clock: SuspendClock::system(),
        }
    }
}

impl ClientOptions {
    /// The defaults.
    pub fn new() -> ClientOptions {
        ClientOptions::default()
    }

    /// How long an operation may take, its retries included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Who acquires, if an acquire does not say.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }

    /// A unary RPC for each operation.
    pub fn unary(mut self, unary: bool) -> Self {
        self.unary = unary;
        self
    }

    /// Guards and sessions hear of a broken lock within this time. A lower value costs more renewals.
    pub fn renew_interval_max(mut self, interval: Duration) -> Self {
        self.renew_interval_max = interval;
        self
    }

    /// Another clock of suspends, for tests.
    pub fn suspend_clock(mut self, clock: SuspendClock) -> Self {
        self.suspend_clock = clock;
        self
    }
}

/// `host/pid`, as far as the system tells.
fn default_owner() -> String {
    let host = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .into_iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.as_deref().map(str::trim).filter(|host| !host.is_empty()).unwrap_or("unknown");
    format!("{host}/{}", std::process::id())
}

/// What to acquire, and how. A name alone is enough: exclusive, TTL 30 s, no waiting.
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
    /// Of this resource.
    pub fn new(name: impl Into<String>) -> AcquireOptions {
        AcquireOptions { name: name.into(), ..AcquireOptions::default() }
    }

    /// Who acquires; shown to others and kept in history, not empty. Not an identity: the token is.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Time to live without renewal, 100 ms to 24 h.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Queues for at most so long if another holds it.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Exclusive or shared; for a semaphore see [`permits`](Self::permits).
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Together with other shared holders.
    pub fn shared(self) -> Self {
        self.mode(Mode::Shared)
    }

    /// `count` permits of a semaphore that has `limit` of them.
    pub fn permits(mut self, count: u32, limit: u32) -> Self {
        (self.mode, self.permits, self.permit_limit) = (Mode::Semaphore, count, limit);
        self
    }

    /// Hangs it on an open session instead of a private lease. [`Session::acquire`](crate::Session::acquire) does this.
    pub fn session(mut self, session_id: impl Into<String>) -> Self {
        self.session_id = session_id.into();
        self
    }

    /// Free text, shown to those who check.
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// The request id, so that the caller itself can try again after an unknown outcome, or cancel. Without it a fresh one
    /// is chosen, and a grant that nobody can know of is let go again.
    ///
    /// An id is used up by any other answer than [`Error::is_outcome_unknown`]: a try that may still be on
    /// its way is cancelled, with the id, before the answer. Choose a fresh id for the next acquire.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// A grant out of the queue begins with this TTL at most, until this client claims it, which it does at once. A client
    /// that died while it waited then blocks the name for this long, not for its TTL. From 100 ms to 60 s. Guards and sessions do
    /// so by themselves, with 10 s.
    pub fn claim_ttl(mut self, ttl: Duration) -> Self {
        self.claim_ttl = Some(ttl);
        self
    }

    /// With the default claim TTL, if it may wait and none was chosen.
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

    pub(crate) fn into_request(self, default_owner: &str, request_id: RequestId) -> Result<AcquireRequest, Error> {
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

/// What a session is opened with.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    pub(crate) owner: Option<String>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) metadata: String,
}

impl SessionOptions {
    /// The client's owner, TTL 30 s.
    pub fn new() -> SessionOptions {
        SessionOptions::default()
    }

    /// Who holds what the session acquires; not empty.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Time to live without a heartbeat, 100 ms to 24 h.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Free text, shown with the session's grants.
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }
}

/// Who asks. On the wire an empty owner is one that was not said; here it is a mistake, such as a variable that is not set, and
/// it would leave others to guess who holds their lock.
pub(crate) fn said_owner(chosen: Option<String>, default: &str) -> Result<String, Error> {
    let owner = chosen.unwrap_or_else(|| default.to_owned());
    if owner.trim().is_empty() {
        return Err(Error::invalid("the owner is empty: say who asks, or leave it out for the default"));
    }
    Ok(owner)
}

/// 0 stands for the default on the wire, so a TTL of zero must not get there.
pub(crate) fn ttl_ms(ttl: Option<Duration>) -> Result<u32, Error> {
    match ttl {
        None => Ok(0),
        Some(ttl) if ttl < Duration::from_millis(1) => {
            Err(Error::invalid("the TTL is shorter than 1 ms: use 100 ms to 24 h"))
        }
        Some(ttl) => Ok(whole_ms(ttl)),
    }
}

/// In milliseconds, rounded up; what does not fit is as long as possible, and refused by its limit.
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
        let owner =
            |options: AcquireOptions, default| options.into_request(default, [7; 16]).map(|request| request.owner);
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
        let options = AcquireOptions::new("n").ttl(Duration::from_secs(1)).permits(2, 5).metadata("m");
        let request = options.into_request("me", [7; 16]).unwrap();
        assert_eq!(
            (request.owner.as_str(), request.ttl_ms, request.permits, request.permit_limit),
            ("me", 1_000, 2, 5)
        );
        assert_eq!(request.request_id, vec![7; 16]);
        assert!(default_owner().contains('/'));
    }
}
