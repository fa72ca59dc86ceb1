//! A copy of the cluster's topology with its last changes: to be read, awaited, and followed by
//! other copies.
//!
//! A node has two. META's replica here feeds one, if there is a replica. The other is what the node
//! acts on and has on its disk (`following.rs`). The module knows nothing of the ways by which
//! changes come.

use shard::TopologyNews;
use std::sync::Arc;
use tokio::sync::watch;
use topology::{Delta, Gap, Recent, Since, Topology, Version};

/// The topology as it was told last.
///
/// * The version only rises, until all is forgotten.
/// * `recent` ends with the version of `topology`, or is empty.
#[derive(Debug, Default)]
struct State {
    topology: Arc<Topology>,
    recent: Recent,
}

/// A copy of the topology. It is changed by one thread or task.
#[derive(Debug, Default)]
pub(crate) struct TopologyCopy(watch::Sender<State>);

/// News that cannot be taken: ask for the whole topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error(transparent)]
    Gap(#[from] Gap),
    #[error("the changes up to version {0} make no topology: {1}")]
    Unsound(Version, &'static str),
}

impl TopologyCopy {
    pub(crate) fn new(topology: Topology) -> TopologyCopy {
        let topology = Arc::new(topology);
        TopologyCopy(watch::Sender::new(State { topology, recent: Recent::default() }))
    }

    /// Version 0, which is empty, if nothing was told yet.
    pub(crate) fn now(&self) -> Arc<Topology> {
        self.0.borrow().topology.clone()
    }

    /// Returns the topology once it is like that.
    pub(crate) async fn once(&self, is_like_that: impl Fn(&Topology) -> bool) -> Arc<Topology> {
        let mut told = self.0.subscribe();
        let found = told.wait_for(|state| is_like_that(&state.topology)).await;
        // The sender lives in `self`, so only the condition ends the wait.
        found.expect("the sender is alive").topology.clone()
    }

    /// Returns the topology once it is later than this version.
    pub(crate) async fn later_than(&self, known: Version) -> Arc<Topology> {
        self.once(|topology| topology.version() > known).await
    }

    /// What a copy of this version lacks. `None` if it is not the older one. A copy that knows nothing
    /// gets the whole topology in one piece, so a caller that looks once need not know where to stop.
    pub(crate) fn since(&self, known: Version) -> Option<TopologyNews> {
        let state = self.0.borrow();
        let now = state.topology.version();
        if known >= now {
            return None;
        }
        Some(match state.recent.since(known, now) {
            Since::Deltas(deltas) if known > Version(0) => {
                TopologyNews::Deltas(deltas.into_iter().cloned().collect())
            }
            _ => TopologyNews::All(Box::new(Topology::clone(&state.topology))),
        })
    }

    /// The topology after these news. `None` if they have nothing later.
    ///
    /// # Errors
    /// [`Unfit`]: changes before the news are missing, or they break a rule of the topology.
    pub(crate) fn after(&self, news: &TopologyNews) -> Result<Option<Topology>, Unfit> {
        let now = self.now();
        let next = match news {
            TopologyNews::All(all) => Topology::clone(all),
            TopologyNews::Deltas(deltas) => {
                let mut next = Topology::clone(&now);
                for delta in deltas {
                    next.follow(delta)?;
                }
                next
            }
        };
        // A group that was given up may go on counting versions where nobody hears it.
        let is_former = next.cluster().generation < now.cluster().generation;
        if is_former || next.version() <= now.version() {
            return Ok(None);
        }
        next.check().map_err(|why| Unfit::Unsound(next.version(), why))?;
        Ok(Some(next))
    }

    /// Sets the topology to `next`, which is the present one [`after`](Self::after) these news.
    pub(crate) fn put(&self, next: Topology, news: TopologyNews) {
        self.0.send_modify(|state| {
            let known = state.topology.version();
            assert!(next.version() > known, "version {} after {known}", next.version());
            match news {
                TopologyNews::All(_) => state.recent = Recent::default(),
                TopologyNews::Deltas(deltas) => {
                    let later = deltas.into_iter().filter(|delta: &Delta| delta.version > known);
                    later.for_each(|delta| state.recent.push(delta));
                }
            }
            state.topology = Arc::new(next);
        });
    }

    /// Takes news, and tells whether they had anything later.
    ///
    /// # Errors
    /// [`Unfit`], as for [`after`](Self::after). Then nothing has changed.
    pub(crate) fn take(&self, news: TopologyNews) -> Result<bool, Unfit> {
        let Some(next) = self.after(&news)? else { return Ok(false) };
        self.put(next, news);
        Ok(true)
    }

    /// Begins anew, because the replica that told it has left this node. The next one tells from its
    /// own beginning.
    pub(crate) fn forget(&self) {
        self.0.send_replace(State::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{founded, preferring};
    use futures_util::FutureExt;
    use topology::DELTAS_KEPT;

    /// Brings `copy` up to date with `source`, as a watcher does.
    fn catch_up(copy: &TopologyCopy, source: &TopologyCopy) -> bool {
        let news = source.since(copy.now().version());
        news.is_some_and(|news| copy.take(news).expect("they fit"))
    }

    fn all(topology: &Topology) -> TopologyNews {
        TopologyNews::All(Box::new(topology.clone()))
    }

    #[test]
    fn a_copy_follows_another_one_by_deltas_and_takes_nothing_older() {
        let (source, copy) = (TopologyCopy::default(), TopologyCopy::default());
        assert!(!catch_up(&copy, &source), "nothing was founded");
        let mut topology = founded();
        assert!(source.take(all(&topology)).unwrap());
        assert!(catch_up(&copy, &source));
        let first = topology.clone();
        for _ in 0..3 {
            let delta = preferring(&mut topology);
            assert!(source.take(TopologyNews::Deltas(vec![delta])).unwrap());
        }
        let Some(TopologyNews::Deltas(deltas)) = source.since(first.version()) else {
            panic!("the last changes are kept")
        };
        assert_eq!(deltas.len(), 3);
        assert!(copy.take(TopologyNews::Deltas(deltas.clone())).unwrap());
        assert_eq!((copy.now(), source.since(topology.version())), (source.now(), None));
        // It can pass on what it was told.
        assert_eq!(copy.since(first.version()), source.since(first.version()));
        // A replica of META that was restarted from an older checkpoint.
        assert!(!copy.take(all(&first)).unwrap());
        assert!(!copy.take(TopologyNews::Deltas(deltas)).unwrap());
        assert_eq!(copy.since(Version(99)), None, "of a watcher that knows more");
        assert_eq!(*copy.now(), topology);
    }

    #[test]
    fn a_delta_that_does_not_follow_changes_nothing() {
        let mut topology = founded();
        let copy = TopologyCopy::new(topology.clone());
        let missed = preferring(&mut topology);
        let delta = preferring(&mut topology);
        let gap = copy.take(TopologyNews::Deltas(vec![delta.clone()])).unwrap_err();
        assert!(gap.to_string().contains("ask for the whole topology"), "{gap}");
        assert_eq!(copy.now().version(), Version(1));
        assert!(copy.take(TopologyNews::Deltas(vec![missed, delta])).unwrap());
        assert_eq!(*copy.now(), topology);
    }

    #[test]
    fn a_copy_that_was_away_for_long_gets_all() {
        let mut topology = founded();
        let source = TopologyCopy::new(topology.clone());
        for _ in 0..=DELTAS_KEPT {
            source.take(TopologyNews::Deltas(vec![preferring(&mut topology)])).unwrap();
        }
        assert!(
            matches!(source.since(Version(1)), Some(TopologyNews::All(all)) if *all == topology)
        );
        let news = source.since(Version(2));
        assert!(matches!(news, Some(TopologyNews::Deltas(kept)) if kept.len() == DELTAS_KEPT));
    }

    /// A gateway that asked once was told the first change of all, and no topology.
    #[test]
    fn a_copy_that_knows_nothing_gets_all_though_each_change_is_kept() {
        let mut topology = Topology::default();
        let config = routing::ClusterConfig::dev(1, 3, 20_000).unwrap();
        let seed = topology::Command::Bootstrap { seed: topology::Seed::of(&config) };
        let founding = topology.apply(&topology::Proposal::new(7, seed)).unwrap().unwrap();
        let source = TopologyCopy::default();
        source.take(TopologyNews::Deltas(vec![founding])).unwrap();
        source.take(TopologyNews::Deltas(vec![preferring(&mut topology)])).unwrap();
        let news = source.since(Version(0));
        assert!(matches!(&news, Some(TopologyNews::All(all)) if **all == topology), "{news:?}");
        assert!(matches!(source.since(Version(1)), Some(TopologyNews::Deltas(_))));
    }

    #[test]
    fn a_later_topology_is_awaited() {
        let mut topology = founded();
        let copy = TopologyCopy::new(topology.clone());
        assert_eq!(*copy.later_than(Version(0)).now_or_never().expect("it is there"), topology);
        assert!(copy.later_than(Version(1)).now_or_never().is_none());
        copy.take(TopologyNews::Deltas(vec![preferring(&mut topology)])).unwrap();
        assert_eq!(*copy.later_than(Version(1)).now_or_never().expect("it came"), topology);
    }
}
