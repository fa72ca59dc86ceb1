//! Watches each node: asks for its report every half second, finds the node again after a move, and
//! logs its loss.

use crate::limits::{
    NODE_CONNECT_TIMEOUT, NODE_KEEPALIVE, WATCH_EVERY, WATCH_KEENLY_EVERY, WATCH_SAYS_EVERY,
};
use crate::router::Router;
use link::mux::{NotMeant, is_meant};
use net::dial::{DialError, NotAnAddress};
use routing::{Edition, MapVersion, NodeId, RouteTable, RouteTableError};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use wire::internal::v1::shard_service_client::ShardServiceClient;
use wire::internal::v1::{
    ClusterIdentity, ClusterRequest, ClusterResponse, RoutesRequest, RoutesResponse,
};
use wire::{reason, root_cause};

/// The state of a node that was logged last.
#[derive(PartialEq)]
enum Seen {
    Nothing,
    Reached(String),
    Lost { why: String, at: Instant },
}

/// Watches all nodes of the route table, as they come and go. Returns when the gateway ends.
pub(crate) async fn keep(router: Arc<Router>, mut ending: watch::Receiver<bool>) {
    let mut nodes = router.known.nodes();
    let (mut looks, mut watched) = (JoinSet::new(), BTreeMap::<u64, AbortHandle>::new());
    loop {
        let now = nodes.borrow_and_update().clone();
        watched.retain(|node, look| {
            let stays = now.contains(node);
            if !stays {
                look.abort();
            }
            stays
        });
        for node in now {
            watched.entry(node).or_insert_with(|| {
                let router = router.clone();
                looks.spawn(async move { look(&router, node).await })
            });
        }
        tokio::select! {
            _ = ending.wait_for(|ending| *ending) => return,
            // Its sender lives as long as the router.
            Ok(()) = nodes.changed() => {}
            Some(_) = looks.join_next() => {}
        }
    }
}

/// Asks the nodes at these addresses for the route table, one after the other, while no node of the
/// table is reached. So a gateway whose cluster file has none of the present nodes finds them.
pub(crate) async fn ask_seeds(router: Arc<Router>, seeds: Vec<String>) {
    let any = ClusterIdentity { node: 0, ..router.identity.clone() };
    let mut failures: BTreeMap<&str, String> = BTreeMap::new();
    loop {
        for seed in &seeds {
            if router.nodes.connected().iter().any(|(_, is_connected)| *is_connected) {
                break;
            }
            match ask_seed(&router, seed, &any).await {
                Ok(node) => {
                    tracing::info!(node, address = %seed, "a seed has told the nodes of the cluster");
                    failures.remove(seed.as_str());
                }
                Err(why) => {
                    let why = why.to_string();
                    if failures.get(seed.as_str()) != Some(&why) {
                        tracing::warn!(address = %seed, reason = %why, "a seed cannot be used; trying on");
                        failures.insert(seed, why);
                    }
                }
            }
        }
        tokio::time::sleep(WATCH_EVERY.mul_f64(rand::random_range(0.8..1.2))).await;
    }
}

/// Takes the route table of the node at this address, whichever that is.
async fn ask_seed(router: &Router, address: &str, any: &ClusterIdentity) -> Result<u64, Unusable> {
    let asked = async {
        let channel = connect(router, any.node, address).await?;
        let mut client = ShardServiceClient::new(channel);
        let response = client.routes(RoutesRequest {}).await.map_err(Box::new)?.into_inner();
        let node = response.identity.as_ref().map_or(0, |found| found.node);
        let meant = ClusterIdentity { node, ..any.clone() };
        Ok((node, routes_of(&response, &meant)?))
    };
    let answered = tokio::time::timeout(NODE_CONNECT_TIMEOUT, asked).await;
    let (node, routes) = answered.unwrap_or(Err(Unusable::Silent))?;
    router.take_routes(&routes);
    Ok(node)
}

async fn look(router: &Router, node: u64) {
    let meant = ClusterIdentity { node, ..router.identity.clone() };
    let mut connection: Option<(String, Channel)> = None;
    let mut seen = Seen::Nothing;
    let mut turn = 0;
    loop {
        let addresses = router.known.addresses(node);
        let address = match (&connection, addresses.get(turn % addresses.len().max(1))) {
            (Some((address, _)), _) | (None, Some(address)) => address.clone(),
            (None, None) => return, // it has left the cluster
        };
        let channel = connection.take().map(|(_, channel)| channel);
        match ask(router, &address, channel, &meant).await {
            Ok((channel, response)) => {
                turn = 0;
                router.heard(node, &address, &response);
                let told = Edition {
                    topology: response.topology_version,
                    map: MapVersion(response.map_version),
                };
                if told > router.directory.edition() {
                    fetch_routes(router, channel.clone(), &meant).await;
                }
                connection = Some((address.clone(), channel));
                if seen != Seen::Reached(address.clone()) {
                    let configured = router.known.configured(NodeId(node));
                    match configured.is_empty() || address == configured {
                        true => tracing::info!(node, %address, "node reached"),
                        false => tracing::warn!(
                            node, %address, %configured,
                            "node reached at another address than the cluster file says, by the word of its peers: correct the file"
                        ),
                    }
                    seen = Seen::Reached(address);
                }
            }
            Err(why) => {
                turn += 1;
                let why = format!("node {node} at {address} cannot be used: {why}");
                router.known.lost(node, why.clone());
                let news = match &seen {
                    Seen::Lost { why: before, at } => {
                        *before != why && at.elapsed() >= WATCH_SAYS_EVERY
                    }
                    _ => true,
                };
                if news {
                    tracing::warn!(reason = %why, "node lost; trying on, and asking the others where it is");
                    seen = Seen::Lost { why, at: Instant::now() };
                }
            }
        }
        let keenly = connection.is_some() && !router.serves_now();
        let pause = if keenly { WATCH_KEENLY_EVERY } else { WATCH_EVERY };
        tokio::select! {
            () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))) => {}
            () = router.known.is_stale_by(node) => {}
        }
    }
}

/// Fetches the route table of a node with a newer map. After a failure the next report asks again.
async fn fetch_routes(router: &Router, channel: Channel, meant: &ClusterIdentity) {
    let mut client = ShardServiceClient::new(channel);
    let asked = tokio::time::timeout(NODE_CONNECT_TIMEOUT, client.routes(RoutesRequest {}));
    let fetched = match asked.await {
        Ok(Ok(response)) => routes_of(&response.into_inner(), meant),
        Ok(Err(status)) => Err(Unusable::Status(Box::new(status))),
        Err(_) => Err(Unusable::Silent),
    };
    match fetched {
        Ok(routes) => router.take_routes(&routes),
        Err(why) => {
            tracing::warn!(node = meant.node, reason = %why, "the route table of a node cannot be used");
        }
    }
}

fn routes_of(response: &RoutesResponse, meant: &ClusterIdentity) -> Result<RouteTable, Unusable> {
    is_meant(meant, response.identity.as_ref())?;
    let routes = response.routes.as_ref().ok_or(Unusable::NoRoutes)?;
    Ok(RouteTable::try_from(routes)?)
}

/// Asks for a report, over the given connection or a new one.
async fn ask(
    router: &Router,
    address: &str,
    channel: Option<Channel>,
    meant: &ClusterIdentity,
) -> Result<(Channel, ClusterResponse), Unusable> {
    let asked = async {
        let channel = match channel {
            Some(channel) => channel,
            None => connect(router, meant.node, address).await?,
        };
        let answer = ShardServiceClient::new(channel.clone()).cluster(ClusterRequest {}).await;
        let response = answer.map_err(Box::new)?.into_inner();
        is_meant(meant, response.identity.as_ref())?;
        Ok((channel, response))
    };
    let answered = tokio::time::timeout(NODE_CONNECT_TIMEOUT, asked).await;
    answered.unwrap_or(Err(Unusable::Silent))
}

async fn connect(router: &Router, node: u64, address: &str) -> Result<Channel, Unusable> {
    let target = router.nodes.target(node, address)?;
    let configure = |endpoint: Endpoint| {
        endpoint.http2_keep_alive_interval(NODE_KEEPALIVE.0).keep_alive_timeout(NODE_KEEPALIVE.1)
    };
    Ok(target.connect(NODE_CONNECT_TIMEOUT, configure).await?)
}

/// Why a node, or its answer, cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Address(#[from] NotAnAddress),
    #[error("{}", root_cause(.0))]
    Dial(#[from] DialError),
    #[error("it does not answer: {}", reason(.0))]
    Status(#[from] Box<Status>),
    #[error("no answer in {} ms", NODE_CONNECT_TIMEOUT.as_millis())]
    Silent,
    #[error(transparent)]
    NotMeant(#[from] NotMeant),
    #[error("its route table is empty")]
    NoRoutes,
    #[error("its route table is wrong: {0}")]
    WrongRoutes(#[from] RouteTableError),
}
