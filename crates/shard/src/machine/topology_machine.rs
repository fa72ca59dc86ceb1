//! The topology as the machine of a shard: the state, its last changes, and what the host was not
//! told yet.
//!
//! All rules of the topology are in the crate `topology`. This module keeps a state with what a
//! replica and its copies need beside it, and knows nothing of what a command does.

use locks::Change;
use topology::{DecodeError, Delta, Proposal, Recent, Refusal, Since, Topology, Version};

/// The key of the only record of a checkpoint: the whole state. A topology is small and changes
/// seldom. A key may be retired but never used for something else.
const STATE: &[u8] = &[1];

/// What the owner of a copy of the topology lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopologyNews {
    /// These changes, in order. None if the copy is up to date.
    Deltas(Vec<Delta>),
    /// The whole state, because not all changes that the copy lacks are known.
    All(Box<Topology>),
}

/// The topology of one replica.
///
/// - `recent` ends with the version of `topology`, or is empty.
pub(crate) struct TopologyMachine {
    topology: Topology,
    recent: Recent,
    /// The version that the last checkpoint has.
    saved: Option<Version>,
    /// The version that the host knows. `None`: it is to be told the whole state.
    told: Option<Version>,
}

impl TopologyMachine {
    /// The state with these records, or the empty one if there are none.
    ///
    /// # Errors
    /// If the records are damaged, or others than a checkpoint has.
    pub(crate) fn load(records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<TopologyMachine, DecodeError> {
        let topology = match records.as_slice() {
            [] => Topology::default(),
            [(key, value)] if key == STATE => Topology::decode(value)?,
            _ => return Err(DecodeError("records that no checkpoint has")),
        };
        let saved = Some(topology.version());
        Ok(TopologyMachine { saved, ..TopologyMachine::new(topology) })
    }

    /// The state with these bytes.
    ///
    /// # Errors
    /// If any byte is wrong.
    pub(crate) fn restore(bytes: &[u8]) -> Result<TopologyMachine, DecodeError> {
        Ok(TopologyMachine::new(Topology::decode(bytes)?))
    }

    fn new(topology: Topology) -> TopologyMachine {
        let told = (!topology.is_founded()).then_some(topology.version());
        TopologyMachine { topology, recent: Recent::default(), saved: None, told }
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Applies a proposal. Returns the version of the topology after it.
    ///
    /// # Errors
    /// [`Refusal`]. Then nothing has changed.
    pub(crate) fn apply(&mut self, proposal: &Proposal) -> Result<Version, Refusal> {
        if let Some(delta) = self.topology.apply(proposal)? {
            self.recent.push(delta);
        }
        Ok(self.topology.version())
    }

    /// What a copy of this version lacks.
    pub(crate) fn since(&self, known: Version) -> TopologyNews {
        match self.recent.since(known, self.topology.version()) {
            Since::Deltas(deltas) => TopologyNews::Deltas(deltas.into_iter().cloned().collect()),
            Since::All => TopologyNews::All(Box::new(self.topology.clone())),
        }
    }

    /// What the host was not told yet, if there is anything.
    pub(crate) fn take_news(&mut self) -> Option<TopologyNews> {
        let now = self.topology.version();
        match self.told.replace(now) {
            Some(told) if told == now => None,
            Some(told) => Some(self.since(told)),
            None => Some(TopologyNews::All(Box::new(self.topology.clone()))),
        }
    }

    pub(crate) fn checkpoint(&mut self) -> Vec<Change> {
        if self.dirty_len() == 0 {
            return Vec::new();
        }
        self.saved = Some(self.topology.version());
        vec![Change { key: STATE.to_vec(), value: Some(self.topology.encode()) }]
    }

    pub(crate) fn dirty_len(&self) -> usize {
        usize::from(self.saved != Some(self.topology.version()))
    }

    /// The rows of the state, about.
    pub(crate) fn rows(&self) -> usize {
        let topology = &self.topology;
        topology.nodes().len() + topology.shards().len() + topology.jobs().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::{ClusterConfig, NodeId, ShardId};
    use topology::{Command, Seed};

    fn founded() -> TopologyMachine {
        let mut machine = TopologyMachine::load(Vec::new()).expect("an empty one");
        let seed = Seed::of(&ClusterConfig::dev(2, 3, 7400).unwrap());
        machine.apply(&Proposal::new(7, Command::Bootstrap { seed })).expect("founded");
        machine
    }

    fn records(changes: Vec<Change>) -> Vec<(Vec<u8>, Vec<u8>)> {
        changes.into_iter().map(|change| (change.key, change.value.expect("a value"))).collect()
    }

    /// Brings a copy up to date.
    fn follow(copy: &mut Topology, news: TopologyNews) {
        match news {
            TopologyNews::Deltas(deltas) => {
                deltas.iter().for_each(|delta| copy.follow(delta).expect("it follows"));
            }
            TopologyNews::All(all) => *copy = *all,
        }
    }

    #[test]
    fn a_checkpoint_and_a_snapshot_have_the_whole_state() {
        let mut machine = founded();
        let checkpoint = records(machine.checkpoint());
        assert_eq!((machine.dirty_len(), machine.checkpoint()), (0, Vec::new()));
        let loaded = TopologyMachine::load(checkpoint.clone()).expect("own records");
        assert_eq!((loaded.topology(), loaded.dirty_len()), (machine.topology(), 0));
        let mut restored = TopologyMachine::restore(&machine.topology().encode()).expect("own");
        assert_eq!(restored.topology(), machine.topology());
        assert_eq!(records(restored.checkpoint()), checkpoint, "all of it, for a store without");
        let mut more = checkpoint;
        more.push((vec![2], Vec::new()));
        assert!(TopologyMachine::load(more).is_err());
    }

    #[test]
    fn a_host_is_told_each_change_once_and_all_after_a_start() {
        let (mut machine, mut copy) = (founded(), Topology::default());
        follow(&mut copy, machine.take_news().expect("it was founded"));
        assert_eq!((&copy, machine.take_news()), (machine.topology(), None));
        let prefer = Command::Prefer { shard: ShardId(0), node: NodeId(2) };
        machine.apply(&Proposal::new(8, prefer.clone())).expect("a member");
        machine.apply(&Proposal::new(9, prefer)).expect("it changes nothing");
        let news = machine.take_news().expect("a change");
        assert!(matches!(&news, TopologyNews::Deltas(deltas) if deltas.len() == 1), "{news:?}");
        follow(&mut copy, news);
        assert_eq!(&copy, machine.topology());

        let mut loaded = TopologyMachine::load(records(machine.checkpoint())).expect("own records");
        assert!(matches!(loaded.take_news(), Some(TopologyNews::All(all)) if *all == copy));
        assert_eq!(loaded.take_news(), None);
        let mut empty = TopologyMachine::load(Vec::new()).expect("an empty one");
        assert_eq!(empty.take_news(), None, "nothing was founded");
    }
}
