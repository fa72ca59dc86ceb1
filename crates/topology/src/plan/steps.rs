//! The steps by which a group gets from the members it has to those that are wanted.
//!
//! Each group changes itself, one member at a time. The steps here are those that it takes if no
//! node fails meanwhile. They show in advance whether every step on the way has a quorum of voters
//! that are heard of, and are the lines of a dry run. The module knows nothing of how a group
//! decides.

use crate::codec::tagged;
use crate::state::{Life, Members};
use crate::why::Why;
use routing::{NodeId, ShardId};
use std::collections::BTreeSet;

/// One change of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It comes as a learner.
    Add(Life),
    /// It gets its vote.
    Promote(Life),
    /// It goes.
    Remove(Life),
}

tagged!(Step { 1 => Add(life), 2 => Promote(life), 3 => Remove(life) });

/// The steps from `is` to exactly the `wanted` lives as voters.
///
/// A new voter comes before an old one goes, at most one voter more than wanted is there at a time,
/// and of the voters that go, those that are not heard of go first.
///
/// ```
/// use palisade_topology::plan::{Step, steps};
/// use palisade_topology::{Birth, Life, Members};
/// use routing::{NodeId, ShardId};
///
/// let life = |node| Life { node: NodeId(node), birth: Birth(7) };
/// let is = Members { voters: [1, 2, 3].map(life).into(), ..Members::default() };
/// let wanted = [1, 2, 9].map(life).into();
/// let is_heard = |node: NodeId| node != NodeId(3);
/// assert_eq!(
///     steps(ShardId(0), &is, &wanted, is_heard),
///     Ok(vec![Step::Add(life(9)), Step::Promote(life(9)), Step::Remove(life(3))])
/// );
/// ```
///
/// # Errors
/// [`Why`] the members are not reached: a step would leave fewer heard-of voters than a quorum, or
/// a node that has to come is not heard of.
pub fn steps(
    shard: ShardId,
    is: &Members,
    wanted: &BTreeSet<Life>,
    is_heard: impl Fn(NodeId) -> bool,
) -> Result<Vec<Step>, Why> {
    let mut conf = Conf { voters: is.voters.clone(), learners: is.learners.clone() };
    let heard = |voters: &BTreeSet<Life>| voters.iter().filter(|life| is_heard(life.node)).count();
    if heard(&conf.voters) < quorum(conf.voters.len()) {
        let (heard, voters) = (heard(&conf.voters) as u32, conf.voters.len() as u32);
        return Err(Why::NoQuorum { shard, heard, voters });
    }
    let mut steps = Vec::new();
    while let Some(step) = conf.next(wanted, &is_heard)? {
        conf.take(step);
        if heard(&conf.voters) < quorum(conf.voters.len()) {
            let (heard, voters) = (heard(&conf.voters) as u32, conf.voters.len() as u32);
            return Err(Why::LosesQuorum { shard, heard, voters });
        }
        steps.push(step);
    }
    Ok(steps)
}

/// How many of so many voters are a majority.
pub(super) fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

struct Conf {
    voters: BTreeSet<Life>,
    learners: BTreeSet<Life>,
}

impl Conf {
    /// The next step, or `None` if the members are those wanted.
    ///
    /// Every step brings the group nearer: it adds or promotes a wanted life, or removes another.
    fn next(
        &self,
        wanted: &BTreeSet<Life>,
        is_heard: &impl Fn(NodeId) -> bool,
    ) -> Result<Option<Step>, Why> {
        if let Some(life) = self.learners.difference(wanted).next() {
            return Ok(Some(Step::Remove(*life)));
        }
        // A life of a node never votes beside an older one of that node.
        let older = |life: &Life| self.voters.iter().find(|voter| voter.node == life.node);
        if let Some(life) = self.learners.iter().find(|life| is_heard(life.node)) {
            if let Some(older) = older(life) {
                return Ok(Some(Step::Remove(*older)));
            }
            if self.voters.len() <= wanted.len() {
                return Ok(Some(Step::Promote(*life)));
            }
        }
        let missing = || wanted.iter().filter(|life| !self.has(life));
        if self.learners.is_empty()
            && let Some(life) = missing().find(|life| is_heard(life.node))
        {
            return Ok(Some(Step::Add(*life)));
        }
        let unwanted = self.voters.difference(wanted);
        if let Some(life) = unwanted.min_by_key(|life| (is_heard(life.node), **life)) {
            let is_one_more = self.voters.len() > wanted.len();
            if is_one_more || !is_heard(life.node) {
                return Ok(Some(Step::Remove(*life)));
            }
        }
        match self.learners.iter().chain(missing()).next() {
            Some(life) => Err(Why::Silent { node: life.node }),
            None => Ok(None),
        }
    }

    fn has(&self, life: &Life) -> bool {
        self.voters.contains(life) || self.learners.contains(life)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Add(life) => {
                self.learners.insert(life);
            }
            Step::Promote(life) => {
                self.learners.remove(&life);
                self.voters.insert(life);
            }
            Step::Remove(life) => {
                self.learners.remove(&life);
                self.voters.remove(&life);
            }
        }
    }
}
