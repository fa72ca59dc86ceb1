//! The cases of records that concern the whole node.

use crate::store::*;
use palisade_storage::*;

pub fn boots_count_up<S: Store>() {
    let mut store = S::new();
    let identity = Identity { fingerprint: [7; 16], node: 3 };
    for boot in 1..=4 {
        assert_eq!(store.engine().claim(&identity).expect("own store"), boot);
        store.reopen();
    }
}

pub fn the_nodes_own_records_stay<S: Store>() {
    let mut store = S::new();
    assert_eq!(store.engine().node_record(b"a").expect("read"), None);
    let records = |pairs: &[(&str, &str)]| -> Vec<(Vec<u8>, Vec<u8>)> {
        pairs
            .iter()
            .map(|(name, bytes)| (name.as_bytes().to_vec(), bytes.as_bytes().to_vec()))
            .collect()
    };
    store.engine().put_node_records(&records(&[("a", "1"), ("b", "2")])).expect("put");
    store.engine().put_node_records(&records(&[("a", "3")])).expect("put");
    write(&store, ShardWrite { shard: A, reset: true, ..Default::default() });
    store.reopen();
    for (name, expected) in [("a", Some("3")), ("b", Some("2")), ("", None), ("ab", None)] {
        let found = store.engine().node_record(name.as_bytes()).expect("read");
        assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{name:?}");
    }
}

pub fn a_stranger_is_refused<S: Store>() {
    let mut store = S::new();
    let identity = Identity { fingerprint: [7; 16], node: 3 };
    store.engine().claim(&identity).expect("claim");
    store.reopen();
    let other_node =
        store.engine().claim(&Identity { node: 4, ..identity.clone() }).expect_err("another node");
    assert!(
        matches!(&other_node, StorageError::Identity(what) if what.contains("node 3") && what.contains("--id 3")),
        "{other_node}"
    );
    let other_cluster = store
        .engine()
        .claim(&Identity { fingerprint: [8; 16], ..identity.clone() })
        .expect_err("another cluster");
    assert!(
        matches!(&other_cluster, StorageError::Identity(what) if what.contains(&"07".repeat(16))),
        "{other_cluster}"
    );
    assert_eq!(
        store.engine().claim(&identity).expect("own store"),
        2,
        "a refusal counts as no boot"
    );
}

/// The build before reads formats up to its own, so a store must not leave the first one by itself.
pub fn a_format_is_raised_on_demand_and_never_falls<S: Store>() {
    let (first, last) = FORMATS.into_inner();
    let mut store = S::new();
    let identity = Identity { fingerprint: [7; 16], node: 3 };
    store.engine().claim(&identity).expect("claim");
    store.reopen();
    store.engine().claim(&identity).expect("own store");
    assert_eq!(store.engine().raise_format(first).expect("no change"), first);
    assert_eq!(store.engine().raise_format(last).expect("raised"), last);
    store.reopen();
    assert_eq!(store.engine().claim(&identity).expect("own store"), 3);
    assert_eq!(store.engine().raise_format(first).expect("no change"), last);
}
