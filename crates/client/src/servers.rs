//! The gateways of a client, with one link and one channel each, made when first needed.

use crate::unary::{Authorize, Authorized};
use crate::{ClientOptions, Error, endpoint, unary};
use link::mux::{Answer, Failure, Link, LinkOptions, Locks};
use net::dial::{DialError, Target};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use wire::ErrorClass;
use wire::v1::Operation;

/// One or more gateways of one cluster. Targets are numbered from 0 in the order given.
#[derive(Debug)]
pub(crate) struct Servers {
    servers: Vec<Server>,
    targets: Vec<u64>,
    /// The target that answered last, which is tried first.
    current: AtomicUsize,
    link: LinkOptions,
}

#[derive(Debug)]
struct Server {
    target: Target,
    link: OnceLock<Link<Locks>>,
    dialled: Mutex<Dialled>,
    /// Held while connecting, so that only one caller connects.
    connecting: tokio::sync::Mutex<()>,
}

/// The channel for unary RPCs and watches of one gateway.
///
/// * `generation` counts the channels that were dialled, and is that of the last one.
#[derive(Debug, Default)]
struct Dialled {
    generation: u64,
    channel: Option<Channel>,
}

/// A connected channel, and its number among the channels to its gateway. A caller that finds the
/// channel broken passes the number to [`Servers::forget_channel`].
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) channel: Authorized,
    pub(crate) generation: u64,
}

impl Server {
    fn dialled(&self) -> MutexGuard<'_, Dialled> {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Servers {
    pub(crate) fn new(endpoints: Vec<String>, options: &ClientOptions) -> Result<Servers, Error> {
        let mut servers = Vec::new();
        for address in endpoints {
            servers.push(Server {
                target: endpoint::target(&address, &options.security)?,
                link: OnceLock::new(),
                dialled: Mutex::default(),
                connecting: tokio::sync::Mutex::default(),
            });
        }
        if servers.is_empty() {
            return Err(Error::invalid(
                "no endpoint given: name at least one gateway as host:port",
            ));
        }
        let targets = (0..servers.len() as u64).collect();
        let link = LinkOptions {
            queue_ops_max: options.queue_ops_max.max(1),
            connect_timeout: options.connect_timeout,
            token: options.security.token.clone(),
            ..LinkOptions::default()
        };
        Ok(Servers { servers, targets, current: AtomicUsize::new(0), link })
    }

    pub(crate) fn targets(&self) -> &[u64] {
        &self.targets
    }

    /// The `host:port` of each gateway.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.target.address().to_owned()).collect()
    }

    /// Whether a connection to any gateway was up a moment ago.
    pub(crate) fn is_connected(&self) -> bool {
        let connected = |server: &Server| {
            server.link.get().is_some_and(Link::is_connected) || server.dialled().channel.is_some()
        };
        self.servers.iter().any(connected)
    }

    pub(crate) fn first(&self) -> u64 {
        self.current.load(Ordering::Relaxed) as u64
    }

    /// Notes a target that gave a final answer, a refusal included. The next operation begins
    /// there.
    pub(crate) fn heard<T>(&self, target: u64, outcome: &Result<T, Failure>) {
        let answered = match outcome {
            Ok(_) => true,
            Err(Failure::Refused(error)) => {
                !matches!(error.class(), ErrorClass::Retry | ErrorClass::Unknown)
            }
            Err(_) => false,
        };
        if answered && self.first() != target {
            self.current.store(target as usize, Ordering::Relaxed);
        }
    }

    /// Sends an operation over the stream.
    pub(crate) async fn call(
        &self,
        target: u64,
        operation: Operation,
        timeout_ms: u64,
    ) -> Result<Answer, Failure> {
        let server = &self.servers[target as usize];
        let link =
            server.link.get_or_init(|| Link::start(server.target.clone(), self.link.clone()));
        link.call(operation, timeout_ms).await
    }

    /// Sends an operation as an RPC of its own.
    pub(crate) async fn call_unary(
        &self,
        target: u64,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        let wait = Duration::from_millis(operation.op.as_ref().map_or(0, |op| op.wait_ms()).into());
        let began = Instant::now();
        let Connected { channel, generation } = self.channel(target, timeout).await?;
        // The time to connect is part of the time of the operation.
        let left = timeout.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        let outcome = unary::call(channel, operation, left + wait).await;
        if matches!(outcome, Err(Failure::Lost(_))) {
            self.forget_channel(target, generation);
        }
        outcome
    }

    /// A connected channel for unary RPCs, which puts the token on each.
    pub(crate) async fn channel(
        &self,
        target: u64,
        timeout: Duration,
    ) -> Result<Connected, Failure> {
        let server = &self.servers[target as usize];
        let within = timeout.min(self.link.connect_timeout);
        let configure = |endpoint: Endpoint| {
            endpoint
                .http2_keep_alive_interval(self.link.keepalive_interval)
                .keep_alive_timeout(self.link.keepalive_timeout)
        };
        let connect = async {
            let _turn = server.connecting.lock().await;
            let known = {
                let dialled = server.dialled();
                dialled.channel.clone().map(|channel| (channel, dialled.generation))
            };
            if let Some(known) = known {
                return Ok(known);
            }
            let channel = server.target.connect(within, configure).await?;
            let mut dialled = server.dialled();
            dialled.generation += 1;
            dialled.channel = Some(channel.clone());
            Ok::<(Channel, u64), DialError>((channel, dialled.generation))
        };
        let why = match tokio::time::timeout(within, connect).await {
            Ok(Ok((channel, generation))) => {
                let authorize = Authorize { token: self.link.token.clone() };
                let channel = InterceptedService::new(channel, authorize);
                return Ok(Connected { channel, generation });
            }
            Ok(Err(error)) => wire::root_cause(&error),
            Err(_) => format!("no answer in {} ms", within.as_millis()),
        };
        let address = server.target.address();
        Err(Failure::NotSent(format!("cannot connect to {address}: {why}").into()))
    }

    /// Drops a channel that failed, so that the next caller dials anew. A newer channel stays,
    /// because other calls may be in flight on it.
    pub(crate) fn forget_channel(&self, target: u64, generation: u64) {
        let mut dialled = self.servers[target as usize].dialled();
        if dialled.generation == generation {
            dialled.channel = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_endpoint_is_enough_and_none_is_wrong_too() {
        let options = ClientOptions::default();
        let of = |list: &[&str]| {
            Servers::new(list.iter().map(|text| (*text).to_owned()).collect(), &options)
        };
        assert!(of(&["127.0.0.1:7400", "http://localhost:1"]).is_ok());
        assert!(of(&["127.0.0.1:7400", "https://localhost"]).unwrap_err().is_invalid());
        assert!(Servers::new(vec![], &options).unwrap_err().is_invalid());
    }
}
