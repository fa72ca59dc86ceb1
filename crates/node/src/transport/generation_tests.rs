//! Greetings of peers that know another generation of the topology.

use super::tests::{hello, knock, serve_as};
use super::*;
use crate::following::learn;
use crate::lifecycle::Phase;
use crate::testing::{built_again, context, founded};
use routing::NodeId;
use shard::TopologyNews;
use std::sync::Arc;
use tonic::Code;
use wire::internal::v1::peer_service_client::PeerServiceClient;
use wire::internal::v1::{GreetRequest, Hello};

/// A survivor of a group that was given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_a_former_generation_is_refused_until_it_has_learnt_the_present_one() {
    let (context, _inbox) = context(NodeId(2), 10);
    let address = serve_as(&context, &Arc::new(Outboxes::new([NodeId(1)]))).await;
    let greet = async |hello: Hello| {
        let mut client = PeerServiceClient::connect(format!("http://{address}")).await.unwrap();
        client.greet(GreetRequest { hello: Some(hello) }).await.map(|answer| answer.into_inner())
    };
    let of = |topology_generation| Hello { topology_generation, ..hello(0, 11) };
    for generation in [0, 1] {
        let answer = greet(of(generation)).await.expect("the first generation");
        assert_eq!(answer.hello.unwrap().topology_generation, 1);
    }
    assert_eq!(context.later_generation(), None);
    greet(of(2)).await.expect("a later one is listened to");
    assert_eq!(context.later_generation(), Some(2), "what is led here is over");
    // Regression: any number was taken, also that of another directory.
    greet(of(u64::MAX)).await.expect("a number that cannot be");
    let other = Hello { topology_generation: 3, ..hello(0, 12) };
    assert!(!greet(other).await.expect("an answer").refused_store.is_empty());
    assert_eq!(context.later_generation(), Some(2));

    let second = built_again(&founded(), 2);
    learn(&context, TopologyNews::All(Box::new(second))).await.unwrap();
    assert_eq!(context.later_generation(), None);
    for generation in [0, 1] {
        let refused = greet(of(generation)).await.expect_err("a former generation");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("built again as generation 2"), "{refused}");
        let refused = knock(&address, Some(of(generation))).await;
        assert!(refused.message().contains("built again as generation 2"), "{refused}");
    }
    let answer = greet(of(2)).await.expect("it has learnt it");
    assert_eq!(answer.hello.unwrap().topology_generation, 2);
    let lost = Hello { is_lost: true, ..of(0) };
    greet(lost).await.expect("a lost directory has no replica of the former group");
    context.lifecycle.enter(Phase::Stopped);
}
