//! The gateways that a client knows: one link and one channel each, made when first needed.

use crate::mux::{Answer, Failure, Link, LinkOptions, Service, innermost};
use crate::unary;
use crate::{ClientOptions, Error};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tonic::transport::{Channel, Endpoint};
use wire::v1::Operation;

/// One or more gateways of one cluster. Targets are numbered from 0 in the order given.
#[derive(Debug)]
pub(crate) struct Servers {
    servers: Vec<Server>,
    targets: Vec<u64>,
    /// Answered last: tried first.
    current: AtomicUsize,
    link: LinkOptions,
}

#[derive(Debug)]
struct Server {
    endpoint: Endpoint,
    link: OnceLock<Link>,
    channel: Mutex<Option<Channel>>,
}

impl Servers {
    pub(crate) fn new(endpoints: Vec<String>, options: &ClientOptions) -> Result<Servers, Error> {
        let mut servers = Vec::new();
        for address in endpoints {
            servers.push(Server { endpoint: parse(&address)?, link: OnceLock::new(), channel: Mutex::new(None) });
        }
        if servers.is_empty() {
            return Err(Error::invalid("no endpoint given: name at least one gateway as host:port"));
        }
        let targets = (0..servers.len() as u64).collect();
        let link = LinkOptions {
            queue_ops_max: options.queue_ops_max.max(1),
            connect_timeout: options.connect_timeout,
            ..LinkOptions::new(Service::Locks)
        };
        Ok(Servers { servers, targets, current: AtomicUsize::new(0), link })
    }

    pub(crate) fn targets(&self) -> &[u64] {
        &self.targets
    }

    pub(crate) fn first(&self) -> u64 {
        self.current.load(Ordering::Relaxed) as u64
    }

    pub(crate) fn answered(&self, target: u64) {
        if self.first() != target {
            self.current.store(target as usize, Ordering::Relaxed);
        }
    }

    /// Over the stream.
    pub(crate) async fn call(&self, target: u64, operation: Operation, timeout_ms: u64) -> Result<Answer, Failure> {
        let server = &self.servers[target as usize];
        let link = server.link.get_or_init(|| Link::start(server.endpoint.clone(), self.link.clone()));
        link.call(operation, timeout_ms).await
    }

    /// As an RPC of its own.
    pub(crate) async fn call_unary(
        &self,
        target: u64,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        let wait_ms = operation.op.as_ref().map_or(0, |op| op.wait_ms());
        let channel = self.channel(target, timeout).await?;
        let outcome = unary::call(channel, operation, timeout + Duration::from_millis(wait_ms.into())).await;
        if matches!(outcome, Err(Failure::Lost(_))) {
            self.forget_channel(target).await;
        }
        outcome
    }

    /// A channel for unary RPCs, connected.
    pub(crate) async fn channel(&self, target: u64, timeout: Duration) -> Result<Channel, Failure> {
        let server = &self.servers[target as usize];
        let mut channel = server.channel.lock().await;
        if let Some(channel) = &*channel {
            return Ok(channel.clone());
        }
        let endpoint = server
            .endpoint
            .clone()
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.link.keepalive_interval)
            .keep_alive_timeout(self.link.keepalive_timeout);
        let within = timeout.min(self.link.connect_timeout);
        let connected = match tokio::time::timeout(within, endpoint.connect()).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                let why = format!("cannot connect to {}: {}", server.endpoint.uri(), innermost(&error));
                return Err(Failure::NotSent(why.into()));
            }
            Err(_) => {
                let why =
                    format!("cannot connect to {}: no answer in {} ms", server.endpoint.uri(), within.as_millis());
                return Err(Failure::NotSent(why.into()));
            }
        };
        Ok(channel.insert(connected).clone())
    }

    pub(crate) async fn forget_channel(&self, target: u64) {
        *self.servers[target as usize].channel.lock().await = None;
    }
}

fn parse(address: &str) -> Result<Endpoint, Error> {
    let address = address.trim();
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url).ok().filter(|endpoint| endpoint.uri().port_u16().is_some());
    endpoint
        .ok_or_else(|| Error::invalid(format!("{address:?} is not an endpoint: write host:port, as in 127.0.0.1:7400")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        let options = ClientOptions::default();
        for good in ["127.0.0.1:7400", "http://localhost:1", " [::1]:7400 "] {
            assert!(Servers::new(vec![good.into()], &options).is_ok(), "{good}");
        }
        for bad in ["", "localhost", "host:port", "a b:1"] {
            assert!(Servers::new(vec![bad.into()], &options).unwrap_err().is_invalid(), "{bad}");
        }
        assert!(Servers::new(vec![], &options).unwrap_err().is_invalid());
    }
}
