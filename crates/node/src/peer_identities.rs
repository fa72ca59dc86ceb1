//! The data directory of each node: this node's own, and the one that each peer was last accepted
//! with.
//!
//! A replica that lost its directory has forgotten votes and acknowledgements. So has a replica
//! that got an older copy of its directory back. Neither may continue as if nothing was lost. So
//! every directory has a random name and an incarnation, and remembers its runs. Every node
//! remembers the directory of each peer, and how far that directory was (`lineage`). The module
//! promises:
//!
//! * A peer's accepted directory is on disk before this node listens to the peer.
//! * A peer's progress is known in memory up to the last frame that arrived. On disk it lags by at
//!   most a few seconds.
//! * A node with a directory that may have forgotten something takes part only once the peers that
//!   could tell have greeted it ([`Standing`]).
//!
//! The module knows nothing of sockets and Raft.

mod own;
mod peers;
mod standing;

use crate::error::NodeError;
use crate::guard::Guard;
use crate::lineage::{Claim, Known, StoreId, UnfitDirectory, judge};
use own::Own;
pub(crate) use own::{begins, check_empty};
use peers::Peer;
pub(crate) use peers::{PeerRun, StillAlive};
use routing::NodeId;
pub use standing::FirstStart;
pub(crate) use standing::{Beginning, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::{Engine, Identity, StorageError};
use tokio::sync::watch;

/// The identities of this node and of its peers, as far as this node knows them.
///
/// * `own` is on disk before this value exists.
/// * A peer's incarnation never falls, and within one incarnation its store never changes.
/// * Within one run of a peer, the known record never falls.
pub(crate) struct PeerIdentities {
    engine: Arc<dyn Engine>,
    own: Own,
    guard: Option<Guard>,
    /// For each shard on this node, the other nodes that have a replica of it. Of a node without
    /// replicas, all its peers.
    groups: Vec<BTreeSet<NodeId>>,
    /// The other nodes at the start.
    others: BTreeSet<NodeId>,
    /// The directories of peers may be older ones on purpose.
    puts_back: bool,
    /// Never held during a wait for the disk, because the tasks of all streams lock it.
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Held while peers are written to disk, so that only one write runs at a time.
    writes: Mutex<()>,
    /// Peers that have accepted this node's store. The value is true if the peer's own store is no
    /// copy.
    greeted: watch::Sender<BTreeMap<NodeId, bool>>,
    takes_part: AtomicBool,
}

/// The reason why a peer's directory is not fit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnfitPeer {
    /// The directory lacks data that it is known to have had, or is another one.
    #[error(transparent)]
    Directory(#[from] UnfitDirectory),
    /// The former directory is in use.
    #[error(transparent)]
    Alive(#[from] StillAlive),
}

/// The reason why a peer is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAccepted {
    /// The peer's directory is not fit.
    #[error(transparent)]
    Unfit(#[from] UnfitPeer),
    /// The directory could not be written down here. The node must stop.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl PeerIdentities {
    /// Claims `engine` for this node and settles which store it is. Returns the boot count too.
    /// `beginning` counts if this start is a re-seed. `groups` has the other nodes of each shard on this
    /// node, and `peers` all other nodes. The result is on disk, and in the guard file, when this
    /// returns.
    ///
    /// # Errors
    /// [`NodeError`] if the store is damaged or belongs to another node, is not empty but to be
    /// re-seeded, or is older than the guard file.
    pub(crate) fn open(
        engine: Arc<dyn Engine>,
        identity: &Identity,
        peers: &BTreeSet<NodeId>,
        groups: Vec<BTreeSet<NodeId>>,
        first_start: FirstStart,
        beginning: &Beginning,
        guard: Option<Guard>,
    ) -> Result<(PeerIdentities, u64), NodeError> {
        let boot = engine.claim(identity)?;
        // A node without replicas votes nowhere, and gets none that it may have had before
        // (`hosting.rs`).
        let is_alone = peers.is_empty() || groups.is_empty();
        let own = Own::open(&*engine, boot, first_start, beginning, is_alone)?;
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
            guard.write(&own.claim(&*engine).known())?;
        }
        let mut identities = PeerIdentities {
            engine,
            own,
            guard,
            groups: Vec::new(),
            others: peers.clone(),
            puts_back: first_start.puts_back(),
            peers: Mutex::default(),
            writes: Mutex::new(()),
            greeted: watch::Sender::default(),
            takes_part: AtomicBool::new(false),
        };
        identities.set_groups(groups);
        identities.admit(peers.iter().copied())?;
        Ok((identities, boot))
    }

    /// Sets the other nodes of each shard on this node. A node without replicas has nothing to
    /// forget yet. But one that has lost its directory must hear so from any peer, before it is
    /// given a replica that it had already.
    pub(crate) fn set_groups(&mut self, groups: Vec<BTreeSet<NodeId>>) {
        self.groups = match groups.is_empty() && !self.others.is_empty() {
            true => vec![self.others.clone()],
            false => groups,
        };
    }

    /// Reads what is on disk of the directories of these nodes, before they become peers. Nothing is
    /// read of a node that was a peer before in this run. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub(crate) fn admit(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> Result<(), StorageError> {
        // No peer is accepted meanwhile, so nothing that is read is older than what is known.
        let _one_at_a_time = self.writes();
        for node in nodes {
            if self.lock().contains_key(&node) {
                continue;
            }
            if let Some(bytes) = self.engine.node_record(&peers::record_name(node))? {
                let found = peers::decode(&bytes)?;
                let peer_of = if self.puts_back { Peer::put_back } else { Peer::found };
                self.lock().insert(node, peer_of(found));
            }
        }
        Ok(())
    }

    pub(crate) fn own(&self) -> StoreId {
        self.own.id
    }

    /// The claim about its directory that this node sends to peers.
    pub(crate) fn claim(&self) -> Claim {
        self.own.claim(&*self.engine)
    }

    /// Whether this directory is a copy that has yet to be accepted.
    pub(crate) fn is_copy(&self) -> bool {
        self.standing() == Standing::Copied && !self.takes_part()
    }

    /// Whether the operator declared that a former directory does not count, even if peers have
    /// heard of it.
    pub(crate) fn is_forced(&self) -> bool {
        self.own.forced
    }

    /// The directory that each peer was last accepted with.
    pub(crate) fn known(&self) -> BTreeMap<NodeId, StoreId> {
        self.lock().iter().map(|(node, peer)| (*node, peer.live.known().id)).collect()
    }

    /// Accepts `peer` if it comes with its known directory and all the data that this directory
    /// had, or with its first or next directory. The accepted directory is then on disk, and this
    /// node listens to no other directory under that name. `forced` accepts a new directory while
    /// the former one is alive. Blocks on the disk.
    ///
    /// # Errors
    /// [`NotAccepted`] if the directory is not fit, or cannot be written down.
    pub(crate) fn accept(
        &self,
        peer: NodeId,
        claim: &Claim,
        forced: bool,
        now_ms: u64,
    ) -> Result<Arc<PeerRun>, NotAccepted> {
        // Two claims to one peer's name must be judged one after the other.
        let _one_at_a_time = self.writes();
        let known = claim.known();
        let (live, stored) = {
            let peers = self.lock();
            let former = peers.get(&peer);
            fit(former, peer, claim, forced, now_ms)?;
            let same = former.filter(|former| former.live.known().is_same_run(&known));
            let live =
                same.map_or_else(|| Arc::new(PeerRun::new(known)), |former| former.live.clone());
            (live, former.map(|former| former.stored))
        };
        live.heard(known.record, now_ms);
        let known = live.known();
        if stored != Some(known) {
            self.engine.put_node_records(&[(peers::record_name(peer), peers::encode(&known))])?;
        }
        let former =
            self.lock().insert(peer, Peer { stored: known, live: live.clone(), told: None });
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

    /// Whether `peer` would be accepted with the directory that it is known by. The call remembers
    /// nothing of the peer. `false` means that the directory is the peer's first or next one, and
    /// must be accepted.
    ///
    /// # Errors
    /// [`UnfitPeer`], if the directory is not fit.
    pub(crate) fn judge(
        &self,
        peer: NodeId,
        claim: &Claim,
        forced: bool,
        now_ms: u64,
    ) -> Result<bool, UnfitPeer> {
        let peers = self.lock();
        let known = peers.get(&peer);
        fit(known, peer, claim, forced, now_ms)?;
        Ok(known.is_some_and(|known| known.live.known().id == claim.id))
    }

    /// The highest known incarnation of `peer`, which asks for it because its directory is lost.
    ///
    /// # Errors
    /// [`StillAlive`], if the peer is alive with the known directory.
    pub(crate) fn lost_by(
        &self,
        peer: NodeId,
        forced: bool,
        now_ms: u64,
    ) -> Result<u32, StillAlive> {
        let Some(live) = self.lock().get(&peer).map(|known| known.live.clone()) else {
            return Ok(0);
        };
        live.check_silent(peer, forced, now_ms)?;
        Ok(live.known().id.incarnation)
    }

    /// Notes how far other peers' directories were, as a peer has heard it. This knowledge counts
    /// beside this node's own, and never replaces it: the peer may have accepted a directory that
    /// it could not judge.
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

    /// The progress of the peers that this node knows of, to tell other nodes.
    pub(crate) fn seen(&self) -> Vec<(NodeId, Known)> {
        self.lock().iter().map(|(node, peer)| (*node, peer.live.known())).collect()
    }

    /// Writes the progress of the peers' directories to disk, and of this node's own to the guard
    /// file. Blocks on the disk.
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
            known
                .filter(|(_, known, stored)| known != stored)
                .map(|(node, known, _)| (node, known))
                .collect()
        };
        if changed.is_empty() {
            return Ok(());
        }
        let record =
            |(node, known): &(NodeId, Known)| (peers::record_name(*node), peers::encode(known));
        self.engine.put_node_records(&changed.iter().map(record).collect::<Vec<_>>())?;
        let mut peers = self.lock();
        for (node, known) in changed {
            peers.get_mut(&node).expect("none is taken out").stored = known;
        }
        Ok(())
    }

    /// Notes that `peer` has accepted this node's store. `is_copy` tells whether the peer's own
    /// store is a copy.
    pub(crate) fn confirmed_by(&self, peer: NodeId, is_copy: bool) {
        self.greeted.send_if_modified(|greeted| greeted.insert(peer, !is_copy) != Some(!is_copy));
    }

    pub(crate) fn standing(&self) -> Standing {
        self.own.standing
    }

    /// The peers that could still change the outcome. If the set is empty, no peer has to be
    /// awaited.
    pub(crate) fn awaited(&self) -> BTreeSet<NodeId> {
        self.awaited_after(&self.greeted.borrow())
    }

    /// Returns once no peer is awaited. If no peer could vouch for a copy, it never returns.
    pub(crate) async fn greeted_by_all(&self) {
        let done = |greeted: &BTreeMap<NodeId, bool>| {
            self.awaited_after(greeted).is_empty() && !self.lacks_vouchers(greeted)
        };
        // The sender lives in `self`, so only the condition can end the wait.
        let _ = self.greeted.subscribe().wait_for(done).await;
    }

    fn awaited_after(&self, greeted: &BTreeMap<NodeId, bool>) -> BTreeSet<NodeId> {
        let is_sole = self.groups.iter().all(BTreeSet::is_empty);
        match self.own.standing {
            Standing::New if is_sole => {
                awaited(Standing::New, std::slice::from_ref(&self.others), greeted)
            }
            standing => awaited(standing, &self.groups, greeted),
        }
    }

    fn lacks_vouchers(&self, greeted: &BTreeMap<NodeId, bool>) -> bool {
        self.own.standing == Standing::Copied
            && !self.groups.iter().all(|group| is_vouched(group, greeted))
    }

    /// From here on this directory is as good as any other. Blocks on the disk.
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

/// Checks that a peer's directory has all the data that this node or its peers have heard it had.
fn fit(
    former: Option<&Peer>,
    peer: NodeId,
    claim: &Claim,
    forced: bool,
    now_ms: u64,
) -> Result<(), UnfitPeer> {
    let Some(former) = former else { return Ok(()) };
    for known in [former.live.known()].into_iter().chain(former.told) {
        judge(&known, claim)
            .map_err(|unfit| UnfitDirectory::new(peer, "this cluster", &known, claim, unfit))?;
    }
    match former.live.known().id == claim.id {
        true => Ok(()),
        false => Ok(former.live.check_silent(peer, forced, now_ms)?),
    }
}

/// The number of a shard's other replicas to ask when a majority is needed. It is at most `others`.
fn quorum_of_others(others: usize) -> usize {
    // With this node, the shard has `others + 1` replicas.
    (others.div_ceil(2) + 1).min(others)
}

/// Whether enough peers that have no copies have accepted this node's copy. Without peers, no copy
/// can be vouched for.
fn is_vouched(group: &BTreeSet<NodeId>, greeted: &BTreeMap<NodeId, bool>) -> bool {
    let vouchers = group.iter().filter(|peer| greeted.get(peer) == Some(&true)).count();
    vouchers >= quorum_of_others(group.len()).max(1)
}

fn awaited(
    standing: Standing,
    groups: &[BTreeSet<NodeId>],
    greeted: &BTreeMap<NodeId, bool>,
) -> BTreeSet<NodeId> {
    let peers = |groups: &mut dyn Iterator<Item = &BTreeSet<NodeId>>| {
        groups.flatten().copied().collect::<BTreeSet<_>>()
    };
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
