//! Which data directory each node comes with: this node's own, and what its peers were last accepted with.
//!
//! A replica that lost its directory, or got an older copy of it back, has forgotten votes and acknowledgements, and must
//! not go on as if it had not. So every directory has a random name and an incarnation, and remembers its runs; and every
//! node remembers of its peers which directory they have and how far it was (`lineage`). It promises:
//!
//! * What it accepts of a peer is on disk before the peer is listened to.
//! * How far a peer is, it knows up to the last frame that arrived, and on disk up to a few seconds before.
//! * A node whose directory may have forgotten something takes part only once the peers that could tell have greeted it
//!   ([`Standing`]).
//!
//! It knows nothing of sockets and Raft.

mod own;
mod peers;

use crate::error::NodeError;
use crate::guard::Guard;
use crate::lineage::{Claim, Known, StoreId, explain, judge};
use own::Own;
pub(crate) use own::check_empty;
pub(crate) use peers::Live;
use peers::Peer;
use routing::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::{Engine, Identity, StorageError};
use tokio::sync::watch;

/// A peer that was heard of within this time, in milliseconds, is alive. A living one says something every second.
pub(crate) const ALIVE_MS: u64 = 4_000;

/// What a node does about a data directory that may have forgotten something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstStart {
    /// An empty one takes part only once every other node that shares a shard with it has confirmed that it knows no other
    /// directory of it. A copy takes part only once enough others that are no copies have accepted it.
    #[default]
    AskPeers,
    /// The whole cluster has never run, so there is nothing that could have been lost: takes part at once.
    NewCluster,
    /// Goes on with a copy, also if the guard file knows of a newer state: what was acknowledged since is given up, and tokens
    /// may be issued again. Peers that know better still refuse it.
    AcceptCopy {
        /// The directories of all nodes are copies of one moment. Otherwise some know newer states of the others than those
        /// have, so this node gives up what it knows of its peers' progress, and its replicas go on in new terms.
        at_one_moment: bool,
    },
    /// The directory that this node had is lost: it comes back as a new member of its shards. Refused if this one is not
    /// empty.
    Reseed {
        /// Also if peers have just heard of the node with its former directory.
        force: bool,
    },
}

impl FirstStart {
    /// Whether this node's directory, or those of its peers, may be older than what other nodes' directories know of them.
    pub(crate) fn puts_back(self) -> bool {
        self == FirstStart::AcceptCopy { at_one_moment: false }
    }
}

/// Whose greeting a node awaits before it takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The directory is new. All peers: each could know that it is not the first.
    New,
    /// The directory was copied here. Of each shard as many peers as are a quorum, and they must be no copies: if all
    /// directories were put back together, their nodes know only what is in the copies.
    Copied,
    /// All peers, but not for long: see [`Stores::greeted_by_all`].
    Usual,
}

/// See the module.
///
/// * `own` is on disk before this exists.
/// * A peer's incarnation never falls, and within one incarnation its store never changes.
/// * Of one run of a peer, the known record never falls.
pub(crate) struct Stores {
    engine: Arc<dyn Engine>,
    own: Own,
    guard: Option<Guard>,
    /// For each shard here, the other nodes that have it.
    groups: Vec<BTreeSet<NodeId>>,
    /// Never held while the disk is waited for: the tasks of all streams look here.
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Held while peers are written down, one at a time.
    writes: Mutex<()>,
    /// Peers that have accepted this node's store, and whether they are no copies themselves.
    greeted: watch::Sender<BTreeMap<NodeId, bool>>,
    takes_part: AtomicBool,
}

/// Why a peer's store is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAccepted {
    /// It is not fit; for people.
    #[error("{0}")]
    Unfit(String),
    /// It could not be written down. The node must stop.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Stores {
    /// Claims `engine` for this node, and settles which store it is. Returns the boot count too. `incarnation` is that of a
    /// re-seed. On disk, and in the guard file, when this returns.
    ///
    /// # Errors
    /// [`NodeError`] if the store is another's or damaged, is not empty but to be re-seeded, or is older than the guard file.
    pub(crate) fn open(
        engine: Arc<dyn Engine>,
        identity: &Identity,
        groups: Vec<BTreeSet<NodeId>>,
        first_start: FirstStart,
        incarnation: u32,
        guard: Option<Guard>,
    ) -> Result<(Stores, u64), NodeError> {
        let boot = engine.claim(identity)?;
        let peers: BTreeSet<NodeId> = groups.iter().flatten().copied().collect();
        let own = Own::open(&*engine, boot, first_start, incarnation, peers.is_empty())?;
        if let Some(guard) = &guard {
            match guard.check(&own.claim(&*engine)) {
                Err(refused) if matches!(first_start, FirstStart::AcceptCopy { .. }) => {
                    tracing::warn!("this was overruled by --accept-copy: {refused}");
                }
                checked => checked?,
            }
        }
        own.keep(&*engine)?;
        if let Some(guard) = &guard {
            guard.write(&own.claim(&*engine).known()).map_err(NodeError::Config)?;
        }
        let mut known = BTreeMap::new();
        for peer in &peers {
            if let Some(bytes) = engine.node_record(&peers::record_name(*peer))? {
                let found = peers::decode(&bytes)?;
                let peer_of = if first_start.puts_back() { Peer::put_back } else { Peer::found };
                known.insert(*peer, peer_of(found));
            }
        }
        let stores = Stores {
            engine,
            own,
            guard,
            groups,
            peers: Mutex::new(known),
            writes: Mutex::new(()),
            greeted: watch::Sender::default(),
            takes_part: AtomicBool::new(false),
        };
        Ok((stores, boot))
    }

    pub(crate) fn own(&self) -> StoreId {
        self.own.id
    }

    /// What this node says of its directory.
    pub(crate) fn claim(&self) -> Claim {
        self.own.claim(&*self.engine)
    }

    /// Whether this directory is a copy that has yet to be accepted.
    pub(crate) fn is_copy(&self) -> bool {
        self.standing() == Standing::Copied && !self.takes_part()
    }

    /// Whether it was declared that a former directory does not count, whoever has heard of it.
    pub(crate) fn is_forced(&self) -> bool {
        self.own.forced
    }

    /// The directory that each peer was last accepted with.
    pub(crate) fn known(&self) -> BTreeMap<NodeId, StoreId> {
        self.lock().iter().map(|(node, peer)| (*node, peer.live.known().id)).collect()
    }

    /// Whether `peer` comes with the directory that it is known by and with all that this had, or with its first or next one.
    /// That is then on disk, and nothing else is listened to under its name. `forced`: also while the one before is alive.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`NotAccepted`].
    pub(crate) fn accept(
        &self,
        peer: NodeId,
        claim: &Claim,
        forced: bool,
        now_ms: u64,
    ) -> Result<Arc<Live>, NotAccepted> {
        // Of two claims to one peer's name, one comes second.
        let _one_at_a_time = self.writes();
        let known = claim.known();
        let (live, stored) = {
            let peers = self.lock();
            let former = peers.get(&peer);
            fit(former, peer, claim, forced, now_ms).map_err(NotAccepted::Unfit)?;
            let same = former.filter(|former| former.live.known().is_same_run(&known));
            let live = same.map_or_else(|| Arc::new(Live::new(known)), |former| former.live.clone());
            (live, former.map(|former| former.stored))
        };
        live.heard(known.record, now_ms);
        let known = live.known();
        if stored != Some(known) {
            self.engine.put_node_records(&[(peers::record_name(peer), peers::encode(&known))])?;
        }
        let former = self.lock().insert(peer, Peer { stored: known, live: live.clone(), told: None });
        if let Some(former) = former
            && !Arc::ptr_eq(&former.live, &live)
        {
            former.live.end();
            if former.stored.id != known.id {
                tracing::info!(%peer, incarnation = known.id.incarnation, "peer has been re-seeded");
            }
        }
        Ok(live)
    }

    /// Whether `peer` would be accepted, if it comes with the directory that it is known by. Nothing is remembered of it.
    /// `false`: it is its first or next directory, and must be accepted.
    ///
    /// # Errors
    /// For people: it is not fit.
    pub(crate) fn judge(&self, peer: NodeId, claim: &Claim, forced: bool, now_ms: u64) -> Result<bool, String> {
        let peers = self.lock();
        let known = peers.get(&peer);
        fit(known, peer, claim, forced, now_ms)?;
        Ok(known.is_some_and(|known| known.live.known().id == claim.id))
    }

    /// The highest incarnation that is known of `peer`, which asks for it because its directory is lost.
    ///
    /// # Errors
    /// For people: it is alive with the directory that is known.
    pub(crate) fn lost_by(&self, peer: NodeId, forced: bool, now_ms: u64) -> Result<u32, String> {
        let Some(live) = self.lock().get(&peer).map(|known| known.live.clone()) else { return Ok(0) };
        live.check_silent(peer, forced, now_ms)?;
        Ok(live.known().id.incarnation)
    }

    /// What a peer has heard of other peers: how far their directories were. It counts beside what was heard here, never in
    /// place of it: the peer may have accepted what it could not judge.
    pub(crate) fn hear_of(&self, seen: impl IntoIterator<Item = (NodeId, Known)>) {
        let mut peers = self.lock();
        for (node, seen) in seen {
            let Some(peer) = peers.get_mut(&node) else { continue };
            let known = peer.live.known();
            if seen.is_same_run(&known) {
                peer.live.raise(seen.record);
            } else if seen.id == known.id && seen.boot > known.boot {
                let further = |told: &Known| (seen.boot, seen.record) > (told.boot, told.record);
                if peer.told.as_ref().is_none_or(further) {
                    peer.told = Some(seen);
                }
            }
        }
    }

    /// What this node knows of its peers, to tell others.
    pub(crate) fn seen(&self) -> Vec<(NodeId, Known)> {
        self.lock().iter().map(|(node, peer)| (*node, peer.live.known())).collect()
    }

    /// Writes down how far the peers' directories are, and its own to the guard file. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub(crate) fn keep(&self) -> Result<(), StorageError> {
        if let Some(guard) = &self.guard {
            guard.follow(&self.claim().known());
        }
        let _one_at_a_time = self.writes();
        let changed: Vec<(NodeId, Known)> = {
            let peers = self.lock();
            let known = peers.iter().map(|(node, peer)| (*node, peer.live.known(), peer.stored));
            known.filter(|(_, known, stored)| known != stored).map(|(node, known, _)| (node, known)).collect()
        };
        if changed.is_empty() {
            return Ok(());
        }
        let record = |(node, known): &(NodeId, Known)| (peers::record_name(*node), peers::encode(known));
        self.engine.put_node_records(&changed.iter().map(record).collect::<Vec<_>>())?;
        let mut peers = self.lock();
        for (node, known) in changed {
            peers.get_mut(&node).expect("none is taken out").stored = known;
        }
        Ok(())
    }

    /// `peer` has accepted this node's store, and its own is a copy or none.
    pub(crate) fn confirmed_by(&self, peer: NodeId, is_copy: bool) {
        self.greeted.send_if_modified(|greeted| greeted.insert(peer, !is_copy) != Some(!is_copy));
    }

    pub(crate) fn standing(&self) -> Standing {
        self.own.standing
    }

    /// Peers that could still make the difference. Empty: none has to be awaited.
    pub(crate) fn awaited(&self) -> BTreeSet<NodeId> {
        awaited(self.own.standing, &self.groups, &self.greeted.borrow())
    }

    /// Returns once nobody is awaited. Where no peer could vouch for a copy, that is never.
    pub(crate) async fn greeted_by_all(&self) {
        let done = |greeted: &BTreeMap<NodeId, bool>| {
            awaited(self.own.standing, &self.groups, greeted).is_empty() && !self.lacks_vouchers(greeted)
        };
        // The sender lives in `self`, so this can only end by the condition.
        let _ = self.greeted.subscribe().wait_for(done).await;
    }

    fn lacks_vouchers(&self, greeted: &BTreeMap<NodeId, bool>) -> bool {
        self.own.standing == Standing::Copied && !self.groups.iter().all(|group| is_vouched(group, greeted))
    }

    /// The directory is as good as any from here on. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub(crate) fn take_part(&self) -> Result<(), StorageError> {
        if self.own.standing != Standing::Usual {
            self.own.confirm(&*self.engine)?;
        }
        self.takes_part.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn takes_part(&self) -> bool {
        self.takes_part.load(Ordering::Acquire)
    }

    fn writes(&self) -> MutexGuard<'_, ()> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a peer's directory has all that it is known to have had, by what was heard here and by others.
fn fit(former: Option<&Peer>, peer: NodeId, claim: &Claim, forced: bool, now_ms: u64) -> Result<(), String> {
    let Some(former) = former else { return Ok(()) };
    for known in [former.live.known()].into_iter().chain(former.told) {
        judge(&known, claim).map_err(|unfit| explain(peer, "this cluster", &known, claim, unfit))?;
    }
    match former.live.known().id == claim.id {
        true => Ok(()),
        false => former.live.check_silent(peer, forced, now_ms),
    }
}

/// How many of a shard's other replicas are asked where a majority has to be. All of them, where there are no more.
pub(crate) fn quorum_of_others(others: usize) -> usize {
    // With this node they are `others + 1`.
    (others.div_ceil(2) + 1).min(others)
}

/// Whether enough peers that are no copies have accepted this node's copy. Without peers nobody can.
fn is_vouched(group: &BTreeSet<NodeId>, greeted: &BTreeMap<NodeId, bool>) -> bool {
    let vouchers = group.iter().filter(|peer| greeted.get(peer) == Some(&true)).count();
    vouchers >= quorum_of_others(group.len()).max(1)
}

fn awaited(standing: Standing, groups: &[BTreeSet<NodeId>], greeted: &BTreeMap<NodeId, bool>) -> BTreeSet<NodeId> {
    let peers =
        |groups: &mut dyn Iterator<Item = &BTreeSet<NodeId>>| groups.flatten().copied().collect::<BTreeSet<_>>();
    let mut awaited = match standing {
        Standing::New | Standing::Usual => peers(&mut groups.iter()),
        Standing::Copied => peers(&mut groups.iter().filter(|group| !is_vouched(group, greeted))),
    };
    awaited.retain(|peer| match (standing, greeted.get(peer)) {
        (_, None) => true,
        (Standing::Copied, Some(is_original)) => !is_original,
        (_, Some(_)) => false,
    });
    awaited
}

#[cfg(test)]
mod tests;
