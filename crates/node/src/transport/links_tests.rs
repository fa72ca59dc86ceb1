//! Peers that come, go and move while a node runs: nodes without replicas, over loopback sockets.

use super::links::{keep_links, take_view};
use super::tests::{hello, knock, message, serve_as, usual};
use super::*;
use crate::context::Context;
use crate::host::{HostMessage, InboxEnd};
use crate::lifecycle::Phase;
use crate::mailbox::Received;
use crate::testing::context;
use crate::view::{Later, View};
use routing::{AddressVersion, Member, NodeId, ShardId};
use shard::Input;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Code;
use wire::internal::v1::Hello;

/// No step takes this long unless it hangs.
const HANGS: Duration = Duration::from_secs(60);

/// A node with its links.
struct Linked {
    context: Arc<Context>,
    inbox: Option<InboxEnd>,
    outboxes: Arc<Outboxes>,
    address: String,
    links: JoinHandle<()>,
}

impl Linked {
    async fn start(id: u64) -> Linked {
        let (context, inbox) = context(NodeId(id), 10);
        let outboxes = Arc::new(Outboxes::new(context.view.now().peers(context.id)));
        let address = serve_as(&context, &outboxes).await;
        let greeter = Arc::new(Greeter::new(context.clone()));
        let links = tokio::spawn(keep_links(context.clone(), greeter, outboxes.clone()));
        Linked { context, inbox: Some(inbox), outboxes, address, links }
    }

    /// The next message that its shard thread gets and `wanted` takes.
    async fn hears<T: Send + 'static>(
        &mut self,
        wanted: impl Fn(HostMessage) -> Option<T> + Send + 'static,
    ) -> T {
        let inbox = self.inbox.take().unwrap();
        let (mut messages, until) = (Vec::new(), Instant::now() + HANGS);
        let heard = tokio::task::spawn_blocking(move || {
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let got = inbox.receiver.take_all(&mut messages, Some(left));
                assert_eq!(got, Received::Some, "it does not hear this");
                if let Some(found) = messages.drain(..).find_map(&wanted) {
                    return (found, inbox);
                }
            }
        });
        let (found, inbox) = heard.await.unwrap();
        self.inbox = Some(inbox);
        found
    }

    /// Sends to a peer until the peer's shard thread gets it: messages may be lost.
    async fn reaches(&self, peer: &mut Linked) {
        let (outboxes, to) = (self.outboxes.clone(), peer.context.id);
        let sends = tokio::spawn(async move {
            loop {
                outboxes.push(to, usual(vec![message(0, 3)]));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        peer.hears(|told| matches!(told, HostMessage::Peers(_)).then_some(())).await;
        sends.abort();
    }

    async fn end(self) {
        self.context.lifecycle.enter(Phase::Stopped);
        self.links.await.unwrap();
    }
}

/// The file's view with these addresses of nodes.
fn view(version: u64, of: &Context, addresses: &[(u64, &str)]) -> View {
    let mut view = View { version, ..(*of.view.now()).clone() };
    for (node, address) in addresses {
        let address_version = AddressVersion { incarnation: 0, starts: version };
        let member = Member { address: (*address).to_owned(), address_version, zone: None };
        view.nodes.insert(NodeId(*node), member);
    }
    view
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(HANGS, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_the_file_does_not_name_is_dialled_and_answered() {
    let (mut second, mut third) = (Linked::start(2).await, Linked::start(3).await);
    let stranger =
        Hello { node: 3, topology_version: 5, address: third.address.clone(), ..hello(0, 33) };
    let refused = knock(&second.address, Some(stranger.clone())).await;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("once it knows version 5"), "{refused}");
    // It knows now where a later view is to be had.
    let later = Later { version: 5, node: NodeId(3), address: third.address.clone() };
    assert_eq!(second.context.view.later(), Some(later));
    let lost = || second.outboxes.push(NodeId(3), usual(vec![message(0, 1), message(0, 2)]));
    assert_eq!(lost(), [ShardId(0)], "a replica may have a member that its node does not know");

    let addresses = [(2, &*second.address.clone()), (3, &*third.address.clone())];
    for node in [&second.context, &third.context] {
        assert!(take_view(node, view(5, node, &addresses)).await);
        assert!(!take_view(node, view(5, node, &[])).await, "not later");
    }
    second.reaches(&mut third).await;
    third.reaches(&mut second).await;
    let known = second.context.identities.known();
    assert_eq!(known[&NodeId(3)], third.context.identities.own());
    assert!(crate::server::metrics_text(&second.context).contains(r#"peer_connected{peer="3"} 1"#));
    let impostor = knock(&second.address, Some(Hello { store: 34, ..stranger.clone() })).await;
    assert!(impostor.message().contains("another data directory"), "{impostor}");
    // Regression: the version that a refused directory told was followed, as if it was of this life of
    // the cluster.
    let ahead = Hello { store: 34, topology_version: 9, ..stranger.clone() };
    let impostor = knock(&second.address, Some(ahead)).await;
    assert!(impostor.message().contains("another data directory"), "{impostor}");
    assert_eq!(second.context.view.later(), None);

    let mut without = view(6, &second.context, &[]);
    without.nodes.remove(&NodeId(3));
    assert!(take_view(&second.context, without).await);
    second
        .hears(|told| match told {
            HostMessage::All(Input::Unreachable { node: NodeId(3) }) => Some(()),
            _ => None,
        })
        .await;
    assert!(second.outboxes.of(NodeId(3)).is_none());
    let gone = knock(&second.address, Some(Hello { topology_version: 6, ..stranger })).await;
    assert!(gone.message().contains("give both the same cluster file"), "{gone}");
    // Its open stream ends as well, and its frames until then count for nothing.
    let metrics = third.context.metrics.peer(NodeId(2));
    until("the stream of the node that left ends", || metrics.connected.get() == 0).await;
    assert!(!crate::server::metrics_text(&second.context).contains(r#"peer="3""#));
    for node in [second, third] {
        node.end().await;
    }
}

/// Forwards connections, and tells of each as it begins and ends.
async fn forward_to(address: String) -> (String, mpsc::UnboundedReceiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (address, tell) = (address.clone(), tell.clone());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(address).await.unwrap();
                let _ = tell.send(true);
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                let _ = tell.send(false);
            });
        }
    });
    (own, told)
}

/// The former address works on, as that of a machine which is taken down later does.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_change_moves_the_connection() {
    let (first, mut second) = (Linked::start(1).await, Linked::start(2).await);
    let (former, mut connections) = forward_to(second.address.clone()).await;
    assert!(take_view(&first.context, view(2, &first.context, &[(2, &former)])).await);
    first.reaches(&mut second).await;
    // One connection for the greeting, which ends, and one for the messages.
    let mut open = 0;
    while let Ok(begins) = connections.try_recv() {
        open += if begins { 1 } else { -1 };
    }
    assert!(open > 0, "{open} connections to the former address");
    let address = second.address.clone();
    assert!(take_view(&first.context, view(3, &first.context, &[(2, &address)])).await);
    while open > 0 {
        let told = tokio::time::timeout(HANGS, connections.recv()).await;
        let begins = told.expect("it stays at the former address").expect("the listener is there");
        open += if begins { 1 } else { -1 };
    }
    first.reaches(&mut second).await;
    assert!(connections.try_recv().is_err(), "it came back to the former address");
    for node in [first, second] {
        node.end().await;
    }
}
