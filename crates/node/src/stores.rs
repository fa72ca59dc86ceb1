//! Which data directory each node comes with: this node's own, and what its peers were last accepted with.
//!
//! A replica that lost its directory has forgotten its votes and acknowledgements, and must not go on as if it had not. So
//! every directory has a random name and an incarnation, and every node remembers those of its peers. It promises that what
//! it accepts of a peer is on disk before the peer is listened to, and that a node whose directory is new and was not
//! declared a re-seed takes no part before every peer has said that it knows no other. It knows nothing of sockets and Raft.

use crate::error::NodeError;
use routing::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::{Engine, Identity, StorageError};
use tokio::sync::watch;

/// What a node does if its store is empty. A store that is not empty says itself what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstStart {
    /// Takes part only once every other node that shares a shard with it has confirmed that it knows no other store of it.
    #[default]
    AskPeers,
    /// The whole cluster has never run, so there is nothing that could have been lost: takes part at once.
    NewCluster,
    /// The store that this node had is lost: it comes back as a new member of its shards. Refused if the store is not empty.
    Reseed,
}

/// Names one data directory of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreId {
    /// 0 at the cluster's start, higher after each re-seed.
    pub(crate) incarnation: u32,
    /// Random.
    pub(crate) store: u64,
}

/// See the module.
///
/// * `own` is on disk before this exists.
/// * `peers` is what is on disk.
/// * A peer's incarnation never falls, and within one incarnation its store never changes.
pub(crate) struct Stores {
    engine: Arc<dyn Engine>,
    own: StoreId,
    peers: Mutex<BTreeMap<NodeId, StoreId>>,
    /// Peers that have yet to confirm that they know no other store of this node. Empty once it takes part.
    awaited: watch::Sender<BTreeSet<NodeId>>,
}

/// Why a peer's store is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAccepted {
    /// It is not the one that is known; for people.
    #[error("{0}")]
    Other(String),
    /// It could not be written down. The node must stop.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Under this name stands `incarnation u32 LE | store u64 LE | 1 if confirmed, else 0`.
const OWN: &[u8] = b"own store";

impl Stores {
    /// Claims `engine` for this node, and settles which store it is. Returns the boot count too.
    ///
    /// # Errors
    /// [`NodeError`] if the store is another's or damaged, or is not empty but to be re-seeded.
    pub(crate) fn open(
        engine: Arc<dyn Engine>,
        identity: &Identity,
        peers: impl IntoIterator<Item = NodeId>,
        first_start: FirstStart,
        unix_s: u64,
    ) -> Result<(Stores, u64), NodeError> {
        let boot = engine.claim(identity)?;
        let found = engine.node_record(OWN)?.map(|bytes| decode_own(&bytes)).transpose()?;
        let (own, mut confirmed) = match (found, first_start) {
            (Some((own, _)), FirstStart::Reseed) => return Err(not_empty(own)),
            (Some(found), _) => found,
            // Higher than any before: they are moments, too. Never 0, whatever the clock shows.
            (None, FirstStart::Reseed) => {
                let incarnation = u32::try_from(unix_s).unwrap_or(u32::MAX).max(1);
                (StoreId { incarnation, store: rand::random() }, true)
            }
            (None, _) => (StoreId { incarnation: 0, store: rand::random() }, false),
        };
        let peers: BTreeSet<NodeId> = peers.into_iter().collect();
        confirmed |= first_start == FirstStart::NewCluster || peers.is_empty();
        if found != Some((own, confirmed)) {
            engine.put_node_records(&[(OWN.to_vec(), encode_own(own, confirmed))])?;
        }
        let mut known = BTreeMap::new();
        for peer in &peers {
            if let Some(bytes) = engine.node_record(&peer_record(*peer))? {
                known.insert(*peer, decode(&bytes)?);
            }
        }
        let awaited = if confirmed { BTreeSet::new() } else { peers };
        let stores = Stores { engine, own, peers: Mutex::new(known), awaited: watch::Sender::new(awaited) };
        Ok((stores, boot))
    }

    pub(crate) fn own(&self) -> StoreId {
        self.own
    }

    /// What each peer was last accepted with.
    pub(crate) fn known(&self) -> BTreeMap<NodeId, StoreId> {
        self.lock().clone()
    }

    /// Whether this is the store that `peer` is known by, or its first or next one, which is then on disk. Blocks on the disk.
    ///
    /// # Errors
    /// [`NotAccepted`].
    pub(crate) fn accept(&self, peer: NodeId, came_with: StoreId) -> Result<(), NotAccepted> {
        // Held while it is written: of two claims to one peer's name, one comes second.
        let mut peers = self.lock();
        match peers.get(&peer) {
            Some(known) if *known == came_with => return Ok(()),
            Some(known) if came_with.incarnation <= known.incarnation => {
                return Err(NotAccepted::Other(unknown_store(peer, *known, came_with)));
            }
            _ => {}
        }
        self.engine.put_node_records(&[(peer_record(peer), encode(came_with))])?;
        peers.insert(peer, came_with);
        if came_with.incarnation > 0 {
            tracing::info!(%peer, incarnation = came_with.incarnation, "peer has been re-seeded");
        }
        Ok(())
    }

    /// `peer` has accepted this node's store.
    pub(crate) fn confirmed_by(&self, peer: NodeId) {
        self.awaited.send_if_modified(|awaited| awaited.remove(&peer));
    }

    /// Those who have yet to confirm.
    pub(crate) fn awaited(&self) -> BTreeSet<NodeId> {
        self.awaited.borrow().clone()
    }

    /// Returns once all peers have confirmed.
    pub(crate) async fn all_confirmed(&self) {
        // The sender lives in `self`, so this can only end by the set becoming empty.
        let _ = self.awaited.subscribe().wait_for(BTreeSet::is_empty).await;
    }

    /// Never asks again. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub(crate) fn keep_confirmation(&self) -> Result<(), StorageError> {
        assert!(self.awaited.borrow().is_empty(), "a store is confirmed by all peers or not at all");
        self.engine.put_node_records(&[(OWN.to_vec(), encode_own(self.own, true))])
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, StoreId>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_empty(own: StoreId) -> NodeError {
    NodeError::Config(match own.incarnation {
        0 => "this data directory is not empty: it holds what this node has voted for and acknowledged. Start without \
              --reseed; only if the directory is damaged, or the peers refuse it, move it away and start with --reseed once"
            .into(),
        incarnation => {
            format!("this data directory is already re-seeded (as incarnation {incarnation}): start without --reseed")
        }
    })
}

fn unknown_store(peer: NodeId, known: StoreId, came_with: StoreId) -> String {
    let hint = if came_with.incarnation < known.incarnation {
        "it has been replaced by a re-seed since, and must not be used any more (if it was just re-seeded, its machine's clock \
         is behind: correct it, and re-seed it again with an empty directory)"
    } else {
        "if it was started with the wrong --data-dir, start it with the right one; if the node's data was lost or damaged, move \
         this directory away and start it with --reseed once"
    };
    let incarnations = match (came_with.incarnation, known.incarnation) {
        (came_with, known) if came_with == known => String::new(),
        (came_with, known) => format!(" (incarnation {came_with}, where {known} is known)"),
    };
    format!(
        "node {peer} comes with another data directory than this cluster knows{incarnations}: {hint}. See `palisade node --help`"
    )
}

fn peer_record(peer: NodeId) -> Vec<u8> {
    format!("peer {peer}").into_bytes()
}

/// `incarnation u32 LE | store u64 LE`
fn encode(id: StoreId) -> Vec<u8> {
    let mut bytes = id.incarnation.to_le_bytes().to_vec();
    bytes.extend_from_slice(&id.store.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<StoreId, StorageError> {
    let parts =
        bytes.split_first_chunk::<4>().and_then(|(incarnation, rest)| Some((incarnation, rest.try_into().ok()?)));
    let (incarnation, store) =
        parts.ok_or_else(|| StorageError::Damaged(format!("{} bytes do not name a store", bytes.len())))?;
    Ok(StoreId { incarnation: u32::from_le_bytes(*incarnation), store: u64::from_le_bytes(store) })
}

fn encode_own(own: StoreId, confirmed: bool) -> Vec<u8> {
    let mut bytes = encode(own);
    bytes.push(u8::from(confirmed));
    bytes
}

fn decode_own(bytes: &[u8]) -> Result<(StoreId, bool), StorageError> {
    match bytes.split_last() {
        Some((confirmed @ (0 | 1), id)) => Ok((decode(id)?, *confirmed == 1)),
        _ => Err(StorageError::Damaged("the record of this node's own store is not one".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::MemoryEngine;

    const PEER: NodeId = NodeId(2);
    const NOW_S: u64 = 1_700_000_000;

    fn id(incarnation: u32, store: u64) -> StoreId {
        StoreId { incarnation, store }
    }

    fn try_open(engine: &Arc<MemoryEngine>, first_start: FirstStart) -> Result<Stores, NodeError> {
        engine.crash();
        let identity = Identity { fingerprint: [7; 16], node: 1 };
        Stores::open(engine.clone(), &identity, [PEER, NodeId(3)], first_start, NOW_S).map(|(stores, _)| stores)
    }

    fn open(engine: &Arc<MemoryEngine>, first_start: FirstStart) -> Stores {
        try_open(engine, first_start).expect("open")
    }

    #[test]
    fn a_store_keeps_its_name_and_two_have_different_ones() {
        let (engine, other) = (Arc::new(MemoryEngine::new()), Arc::new(MemoryEngine::new()));
        let own = open(&engine, FirstStart::AskPeers).own();
        assert_eq!(own.incarnation, 0);
        assert_eq!(open(&engine, FirstStart::AskPeers).own(), own);
        assert_ne!(open(&other, FirstStart::AskPeers).own().store, own.store);
    }

    #[test]
    fn only_an_empty_store_can_be_a_re_seeded_one() {
        let engine = Arc::new(MemoryEngine::new());
        let reseeded = open(&engine, FirstStart::Reseed);
        assert_eq!(u64::from(reseeded.own().incarnation), NOW_S);
        assert!(reseeded.awaited().is_empty(), "it is no member, so it need not wait");
        let again = try_open(&engine, FirstStart::Reseed).err().expect("refused").to_string();
        assert!(again.contains("already re-seeded") && again.contains("without --reseed"), "{again}");
        assert_eq!(open(&engine, FirstStart::AskPeers).own(), reseeded.own());

        let ordinary = Arc::new(MemoryEngine::new());
        open(&ordinary, FirstStart::AskPeers);
        let refused = try_open(&ordinary, FirstStart::Reseed).err().expect("refused").to_string();
        assert!(refused.contains("not empty") && refused.contains("move it away"), "{refused}");
    }

    #[test]
    fn a_new_store_waits_for_all_peers_and_asks_once_in_its_life() {
        let engine = Arc::new(MemoryEngine::new());
        let stores = open(&engine, FirstStart::AskPeers);
        stores.confirmed_by(PEER);
        assert_eq!(stores.awaited(), BTreeSet::from([NodeId(3)]));
        assert_eq!(open(&engine, FirstStart::AskPeers).awaited().len(), 2, "half an answer is none");
        let stores = open(&engine, FirstStart::AskPeers);
        stores.confirmed_by(PEER);
        stores.confirmed_by(NodeId(3));
        stores.keep_confirmation().expect("written");
        assert!(open(&engine, FirstStart::AskPeers).awaited().is_empty());
    }

    #[test]
    fn a_new_cluster_waits_for_nobody() {
        let engine = Arc::new(MemoryEngine::new());
        open(&engine, FirstStart::AskPeers);
        assert!(open(&engine, FirstStart::NewCluster).awaited().is_empty(), "also if it was started without it before");
        assert!(open(&engine, FirstStart::AskPeers).awaited().is_empty(), "and for good");
    }

    #[test]
    fn a_peer_is_known_by_its_first_store_until_it_is_re_seeded() {
        let engine = Arc::new(MemoryEngine::new());
        let stores = open(&engine, FirstStart::NewCluster);
        stores.accept(PEER, id(0, 11)).expect("first contact");
        for came_with in [id(0, 11), id(5, 12), id(5, 12), id(9, 13)] {
            stores.accept(PEER, came_with).expect("the same, or a higher incarnation");
        }
        stores.accept(NodeId(3), id(0, 11)).expect("another peer is another matter");
        let stores = open(&engine, FirstStart::AskPeers);
        assert_eq!(stores.known(), BTreeMap::from([(PEER, id(9, 13)), (NodeId(3), id(0, 11))]));
        for (came_with, hint) in [
            (id(9, 14), "start it with --reseed once"),
            (id(5, 12), "has been replaced"),
            (id(0, 11), "has been replaced"),
            (id(0, 99), "has been replaced"),
        ] {
            let refused = stores.accept(PEER, came_with).expect_err("another directory").to_string();
            assert!(refused.contains("node 2 comes with another data directory"), "{refused}");
            assert!(refused.contains(hint) && refused.contains("palisade node --help"), "{refused}");
        }
        assert_eq!(stores.known()[&PEER], id(9, 13));
    }

    #[test]
    fn what_could_not_be_written_is_not_accepted() {
        let engine = Arc::new(MemoryEngine::new());
        let stores = open(&engine, FirstStart::NewCluster);
        engine.fail_next_write();
        assert!(matches!(stores.accept(PEER, id(0, 1)), Err(NotAccepted::Storage(_))));
        assert!(stores.known().is_empty());
    }

    #[test]
    fn records_that_are_none_are_damage() {
        for bytes in [&[][..], &[0; 11], &[0; 13]] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(decode(&encode(id(3, u64::MAX))).expect("own bytes"), id(3, u64::MAX));
        assert!(decode_own(&[0; 12]).is_err() && decode_own(&[2; 13]).is_err() && decode_own(&[]).is_err());
        assert_eq!(decode_own(&encode_own(id(3, 4), true)).expect("own bytes"), (id(3, 4), true));
    }
}
