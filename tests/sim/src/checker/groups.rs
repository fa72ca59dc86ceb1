//! Invariants 18 and 19: the lives of replicas, and the members of groups. They are judged from what
//! replicas say and from what stands in their logs.
//!
//! ```text
//! log of a replica      … | wish | learns | batch | votes | batch | leaves | …
//!                                                              ▲        ▲
//!                                                       committed    at most one change is after it
//! ```
//!
//! * The judge follows the committed entries of a group once, in order, to the members and the wish
//!   at each index. Every replica must have these at the index that it has applied.
//! * A change is proposed once the one before it is applied. So a leader that proposes one has no other
//!   in its log after the index that it had applied, and no log has two that its replica does not
//!   know as committed.
//!
//! The module does not know how a replica chooses a change. It takes no report of a leader: which
//! member was heard of, it is told by the network.

use routing::{NodeId, ShardId};
use shard::{Founders, GroupChange, GroupEntry, Member, Speaker, Status, Wanted, group_entry};
use std::collections::{BTreeMap, BTreeSet};
use storage::ShardWrite;

/// A replica's node, and its birth there.
pub(crate) type Id = (NodeId, u32);

/// The life that speaks under each peer id.
#[derive(Default)]
pub(crate) struct Speakers {
    lives: BTreeMap<(ShardId, NodeId, u32), u64>,
}

impl Speakers {
    /// The replica `by`, of this life, says something under an id. Returns the violation if the id is
    /// not its own, or if another life spoke under it before.
    pub(crate) fn says(
        &mut self,
        shard: ShardId,
        speaker: &Speaker,
        by: Id,
        life: u64,
    ) -> Option<String> {
        let Speaker { node, birth, .. } = *speaker;
        if (node, birth) != by {
            return Some(format!("shard {shard}: {by:?} speaks as node {node} of birth {birth}"));
        }
        let before = self.lives.insert((shard, node, birth), life)?;
        (before != life).then(|| {
            format!("shard {shard}: two replicas have spoken as node {node} of birth {birth}")
        })
    }
}

/// What the judge is told beside the logs.
pub(crate) struct Facts<'a> {
    /// Whether this life goes on, on a disk that has all its data.
    pub is_whole: &'a dyn Fn(Id) -> bool,
    /// The highest index of a log entry that was ever on the disk of this life. `None`: there was no
    /// such life.
    pub had_log: &'a dyn Fn(Id) -> Option<u64>,
}

/// Whether messages of a member have reached a leader, by the leader's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Lately,
    /// So long ago that it is at the edge.
    Perhaps,
    NotForLong,
}

/// The members and the wish of a group after one of its entries.
#[derive(Clone, Debug, Default)]
struct State {
    index: u64,
    voters: BTreeSet<Id>,
    /// Each with the index of the entry that made it one.
    learners: BTreeMap<Id, u64>,
    wish: Option<Wanted>,
}

impl State {
    fn members(&self) -> Vec<Member> {
        let member = |(node, incarnation), learner| Member { node, incarnation, learner };
        let voters = self.voters.iter().map(|id| member(*id, false));
        let mut members: Vec<Member> =
            voters.chain(self.learners.keys().map(|id| member(*id, true))).collect();
        members.sort_unstable();
        members
    }

    fn has(&self, id: &Id) -> bool {
        self.voters.contains(id) || self.learners.contains_key(id)
    }
}

/// The judge of one group.
///
/// * `states` has the founders at the index where the log begins, and one state for each committed group entry up to
///   `judged`.
pub(crate) struct GroupJudge {
    states: Vec<State>,
    judged: u64,
    /// The group entries in the log of each node's replica, by index.
    logs: BTreeMap<u64, BTreeMap<u64, GroupEntry>>,
    /// The replicas that were destroyed.
    destroyed: BTreeSet<Id>,
}

impl GroupJudge {
    pub(crate) fn new(founders: &[NodeId]) -> GroupJudge {
        let voters = founders.iter().map(|node| (*node, 0)).collect();
        let states = vec![State { voters, ..State::default() }];
        GroupJudge { states, judged: 0, logs: BTreeMap::new(), destroyed: BTreeSet::new() }
    }

    /// Of META, which begins at index 1, with its founders and the wish that they are the members.
    pub(crate) fn begun_by(founders: &Founders) -> GroupJudge {
        let voters: BTreeSet<Id> =
            founders.lives().iter().map(|(node, birth)| (*node, *birth)).collect();
        let wish = Wanted::new(0, voters.iter().copied()).expect("founders are members");
        let states = vec![State { index: 1, voters, wish: Some(wish), ..State::default() }];
        GroupJudge { states, judged: 1, logs: BTreeMap::new(), destroyed: BTreeSet::new() }
    }

    /// The replica on this node begins with this log.
    pub(crate) fn opened(&mut self, node: u64, entries: &[(u64, Vec<u8>)]) {
        let group = |(index, bytes): &(u64, Vec<u8>)| Some((*index, group_entry(bytes)?));
        self.logs.insert(node, entries.iter().filter_map(group).collect());
    }

    /// The replica on this node writes to its log. Returns the group entries among that.
    pub(crate) fn wrote(&mut self, node: u64, write: &ShardWrite) -> Vec<(u64, GroupEntry)> {
        let log = self.logs.entry(node).or_default();
        if write.reset {
            log.clear();
        }
        let first = write.entries.first().map(|(index, _)| *index);
        let cut = [first, write.delete_after.map(|after| after + 1)].into_iter().flatten().min();
        if let Some(from) = cut {
            log.split_off(&from);
        }
        let group = |(index, bytes): &(u64, Vec<u8>)| Some((*index, group_entry(bytes)?));
        let new: Vec<(u64, GroupEntry)> = write.entries.iter().filter_map(group).collect();
        log.extend(new.iter().cloned());
        new
    }

    /// A replica was destroyed.
    pub(crate) fn destroyed(&mut self, id: Id) -> Option<String> {
        self.destroyed.insert(id);
        let state = self.states.last().expect("the founders");
        state.has(&id).then(|| format!("{id:?} was destroyed, and is a member: {state:?}"))
    }

    /// Judges what the replica on this node has applied, and its log.
    pub(crate) fn applied(&mut self, node: u64, status: &Status, facts: &Facts<'_>) -> Vec<String> {
        let mut found = Vec::new();
        let log = self.logs.entry(node).or_default();
        let after = log.range(status.committed_index + 1..);
        let open: Vec<u64> =
            after.filter(|(_, entry)| is_change(entry)).map(|(index, _)| *index).collect();
        if open.len() > 1 {
            let committed = status.committed_index;
            found.push(format!("two changes at once, at {open:?}: it knows of {committed}"));
        }
        if status.applied_index > self.judged {
            let new = log.range(self.judged + 1..=status.applied_index);
            let new: Vec<(u64, GroupEntry)> = new.map(|(at, entry)| (*at, entry.clone())).collect();
            self.judged = status.applied_index;
            new.iter().for_each(|(index, entry)| self.follow(*index, entry, facts, &mut found));
        }
        let at = self.states.partition_point(|state| state.index <= status.applied_index);
        // A replica that waits for META's first snapshot is before the first state.
        let state = &self.states[at.max(1) - 1];
        // A replica that has applied nothing yet is a member of nothing, unless it is a founder.
        if status.applied_index > 0
            && (status.members != state.members() || status.wanted != state.wish)
        {
            let (index, members, wanted) = (status.applied_index, &status.members, &status.wanted);
            found.push(format!(
                "at {index} it has the members {members:?} and the wish {wanted:?}, and the log has \
                 {state:?}"
            ));
        }
        found
    }

    fn follow(
        &mut self,
        index: u64,
        entry: &GroupEntry,
        facts: &Facts<'_>,
        found: &mut Vec<String>,
    ) {
        let before = self.states.last().expect("the founders").clone();
        let mut state = State { index, ..before.clone() };
        match &entry.change {
            GroupChange::Wish(wish) => {
                let known = state.wish.as_ref().map_or(0, Wanted::version);
                if wish.version() > known {
                    state.wish = Some(wish.clone());
                }
            }
            GroupChange::Learns(node, birth) => {
                let id = (*node, *birth);
                if state.voters.remove(&id) {
                    found.push(format!("at {index} {id:?} loses its vote"));
                }
                state.learners.entry(id).or_insert(index);
            }
            GroupChange::Votes(node, birth) => {
                let id = (*node, *birth);
                let had = (facts.had_log)(id);
                match state.learners.remove(&id) {
                    Some(since) if had.is_none_or(|last| last < since) => found.push(format!(
                        "at {index} {id:?} votes without the log up to {since}: it had {had:?}"
                    )),
                    None if !before.voters.contains(&id) => {
                        found.push(format!("at {index} {id:?} votes, and was never a learner"));
                    }
                    _ => {}
                }
                state.voters.insert(id);
            }
            GroupChange::Leaves(node, birth) => {
                state.voters.remove(&(*node, *birth));
                state.learners.remove(&(*node, *birth));
            }
        }
        if state.members() != before.members() {
            let whole = state.voters.iter().filter(|id| (facts.is_whole)(**id)).count();
            if 2 * whole <= state.voters.len() {
                found.push(format!("at {index} {whole} of {:?} have their data", state.voters));
            }
            if let Some(id) = self.destroyed.iter().find(|id| state.has(id)) {
                found.push(format!("at {index} {id:?} is a member, and was destroyed: {state:?}"));
            }
        }
        self.states.push(state);
    }

    /// The violation if a leader proposes a change while another one is after the index that it had
    /// applied. Within a step it proposes before it applies, so that is the index before the step.
    fn at_once(&self, leader: &Status, entries: &[(u64, GroupEntry)]) -> Vec<String> {
        let is_own = |entry: &GroupEntry| is_change(entry) && entry.term == leader.term;
        if !entries.iter().any(|(_, entry)| is_own(entry)) {
            return Vec::new();
        }
        let (log, applied) = (&self.logs[&leader.node.0], leader.applied_index);
        let after = log.range(applied + 1..).filter(|(_, entry)| is_change(entry));
        let open: Vec<u64> = after.map(|(index, _)| *index).collect();
        let is_one = open.len() <= 1;
        let what = || format!("two changes at once, at {open:?}: the leader had applied {applied}");
        if is_one { Vec::new() } else { vec![what()] }
    }

    /// Judges what a leader proposes: `leader` is its status before, and `heard` tells whose messages
    /// have reached it in its term.
    pub(crate) fn proposed(
        &self,
        leader: &Status,
        entries: &[(u64, GroupEntry)],
        heard: &dyn Fn(Id) -> Heard,
        is_whole: &dyn Fn(Id) -> bool,
    ) -> Vec<String> {
        let mut found = self.at_once(leader, entries);
        let Some(wish) = &leader.wanted else { return found };
        let voters: Vec<Id> = leader
            .members
            .iter()
            .filter(|it| !it.learner)
            .map(|it| (it.node, it.incarnation))
            .collect();
        let is_wanted = |id: Id| wish.members().contains_key(&id.0);
        for (index, entry) in entries {
            let GroupChange::Leaves(node, birth) = entry.change else { continue };
            let gone = (node, birth);
            // A life whose node is wanted makes room for the next life there, by other rules.
            if entry.term != leader.term || !voters.contains(&gone) || is_wanted(gone) {
                continue;
            }
            let others = || voters.iter().copied().filter(|id| *id != gone);
            let is_silent = |id: Id| id.0 != leader.node && heard(id) == Heard::NotForLong;
            let left = others().count();
            let may_be_heard = others().filter(|id| !is_silent(*id)).count();
            if 2 * may_be_heard <= left {
                found.push(format!(
                    "at {index} {gone:?} is removed: {may_be_heard} of {left} voters are heard of"
                ));
            }
            let dead = others().find(|id| !is_wanted(*id) && is_silent(*id));
            if let Some(dead) = dead
                && heard(gone) == Heard::Lately
                && is_whole(gone)
            {
                found.push(format!("at {index} {gone:?} lives and goes before {dead:?}"));
            }
        }
        found
    }
}

/// Whether the entry changes the members.
fn is_change(entry: &GroupEntry) -> bool {
    !matches!(entry.change, GroupChange::Wish(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(node: u64, birth: u32) -> Id {
        (NodeId(node), birth)
    }

    fn member(node: u64, incarnation: u32, learner: bool) -> Member {
        Member { node: NodeId(node), incarnation, learner }
    }

    fn wish(version: u64, members: &[(u64, u32)]) -> Wanted {
        Wanted::new(version, members.iter().map(|(node, birth)| id(*node, *birth)))
            .expect("a wish that can be")
    }

    fn learns(node: u64, birth: u32) -> GroupChange {
        GroupChange::Learns(NodeId(node), birth)
    }

    fn votes(node: u64, birth: u32) -> GroupChange {
        GroupChange::Votes(NodeId(node), birth)
    }

    fn leaves(node: u64, birth: u32) -> GroupChange {
        GroupChange::Leaves(NodeId(node), birth)
    }

    /// A group with founders on nodes 1 to 3, whose log has these changes from index 1 on.
    fn judge(changes: &[GroupChange]) -> GroupJudge {
        let mut judge = GroupJudge::new(&[1, 2, 3].map(NodeId));
        let entry = |change: &GroupChange| GroupEntry { term: 1, change: change.clone() };
        let log = changes.iter().zip(1..).map(|(change, index)| (index, entry(change)));
        judge.logs.insert(1, log.collect());
        judge
    }

    fn status(index: u64, members: &[Member], wanted: Option<Wanted>) -> Status {
        Status {
            node: NodeId(1),
            term: 1,
            applied_index: index,
            committed_index: index,
            members: members.to_vec(),
            wanted,
            ..Status::default()
        }
    }

    const ALL: Facts<'_> = Facts { is_whole: &|_| true, had_log: &|_| Some(9) };

    fn founders_and(more: &[Member]) -> Vec<Member> {
        [&[member(1, 0, false), member(2, 0, false), member(3, 0, false)], more].concat()
    }

    #[test]
    fn a_member_that_comes_and_goes_as_it_should_is_no_violation() {
        let wanted = wish(2, &[(1, 0), (2, 0), (4, 7)]);
        let changes = [GroupChange::Wish(wanted.clone()), learns(4, 7), votes(4, 7), leaves(3, 0)];
        let mut judge = judge(&changes);
        let steps = [
            founders_and(&[]),
            founders_and(&[member(4, 7, true)]),
            founders_and(&[member(4, 7, false)]),
            vec![member(1, 0, false), member(2, 0, false), member(4, 7, false)],
        ];
        for (members, index) in steps.iter().zip(1..) {
            let status = status(index, members, Some(wanted.clone()));
            let status = Status { committed_index: 4, ..status };
            assert_eq!(judge.applied(1, &status, &ALL), [""; 0], "at {index}");
        }
        assert_eq!(judge.destroyed(id(3, 0)), None);
        // A replica that lags has what stood there.
        let late = status(2, &steps[1], Some(wanted));
        assert_eq!(judge.applied(2, &late, &ALL), [""; 0]);
    }

    #[test]
    fn a_replica_whose_members_or_wish_are_not_those_of_the_log_is_found() {
        let later = wish(3, &[(1, 0), (2, 0)]);
        let older = wish(2, &[(1, 0)]);
        let changes = [GroupChange::Wish(later.clone()), GroupChange::Wish(older.clone())];
        for (members, wanted, is_fine) in [
            (founders_and(&[]), Some(later.clone()), true),
            (founders_and(&[]), Some(older), false),
            (founders_and(&[]), None, false),
            (founders_and(&[member(4, 0, true)]), Some(later), false),
        ] {
            let found = judge(&changes).applied(1, &status(2, &members, wanted), &ALL);
            assert_eq!(found.is_empty(), is_fine, "{found:?}");
        }
        // Such a replica need not be the one that is furthest.
        let mut judge = judge(&changes);
        let fine = status(2, &founders_and(&[]), Some(wish(3, &[(1, 0), (2, 0)])));
        assert_eq!(judge.applied(1, &fine, &ALL), [""; 0]);
        assert_eq!(judge.applied(2, &status(1, &founders_and(&[]), None), &ALL).len(), 1);
    }

    #[test]
    fn two_changes_that_are_not_known_as_committed_are_found() {
        let open = |committed_index| {
            let status = Status { committed_index, ..status(0, &[], None) };
            judge(&[learns(4, 7), votes(4, 7)]).applied(1, &status, &ALL).len()
        };
        assert_eq!((open(0), open(1), open(2)), (1, 0, 0));
    }

    /// Regression: the judge looked at the commit index after the step, which was past the first one.
    #[test]
    fn a_change_that_is_proposed_before_the_one_before_it_is_applied_is_found() {
        let judge = judge(&[learns(4, 7), votes(4, 7)]);
        let entry = |term| GroupEntry { term, change: votes(4, 7) };
        let found = |applied_index, term| {
            let leader = Status { applied_index, committed_index: 2, ..status(0, &[], None) };
            judge.proposed(&leader, &[(2, entry(term))], &|_| Heard::Lately, &|_| true).len()
        };
        assert_eq!((found(0, 1), found(1, 1)), (1, 0));
        assert_eq!(found(0, 2), 0, "it is another leader's");
    }

    #[test]
    fn a_voter_without_the_log_or_that_never_learned_is_found() {
        let after = |changes: &[GroupChange], had: Option<u64>| {
            let mut judge = judge(changes);
            let members = founders_and(&[member(4, 7, false)]);
            let status = status(changes.len() as u64, &members, None);
            judge.applied(1, &status, &Facts { is_whole: &|_| true, had_log: &|_| had })
        };
        let way = [GroupChange::Wish(wish(1, &[(1, 0)])), learns(4, 7), votes(4, 7)];
        let without_wish =
            |found: Vec<String>| found.into_iter().filter(|what| what.contains("votes")).count();
        assert_eq!(without_wish(after(&way, Some(2))), 0);
        assert_eq!(without_wish(after(&way, Some(1))), 1);
        assert_eq!(without_wish(after(&way, None)), 1, "there was no such replica");
        assert_eq!(without_wish(after(&[votes(4, 7)], Some(9))), 1);
    }

    #[test]
    fn voters_without_their_data_and_destroyed_members_are_found() {
        let members = founders_and(&[member(4, 7, true)]);
        let mut lost = judge(&[learns(4, 7)]);
        let facts = Facts { is_whole: &|id| id.0 == NodeId(1), had_log: &|_| Some(9) };
        assert_eq!(lost.applied(1, &status(1, &members, None), &facts).len(), 1);
        let mut back = judge(&[learns(4, 7)]);
        assert_eq!(back.destroyed(id(4, 7)), None);
        assert_eq!(back.applied(1, &status(1, &members, None), &ALL).len(), 1);
        assert!(back.destroyed(id(2, 0)).is_some(), "it has a vote");
    }

    #[test]
    fn removals_by_a_leader_that_does_not_look_are_found() {
        let wanted = wish(2, &[(1, 0), (2, 0), (3, 0)]);
        let five = founders_and(&[member(4, 0, false), member(5, 0, false)]);
        let leader = status(0, &five, Some(wanted));
        let removes = |node: u64, silent: &[u64]| {
            let entry = GroupEntry { term: 1, change: leaves(node, 0) };
            let heard = |id: Id| match silent.contains(&id.0.0) {
                true => Heard::NotForLong,
                false => Heard::Lately,
            };
            let mut judge = judge(&[]);
            judge.logs.insert(1, [(7, entry.clone())].into());
            judge.proposed(&leader, &[(7, entry)], &heard, &|_| true).len()
        };
        assert_eq!((removes(4, &[]), removes(4, &[4]), removes(4, &[2])), (0, 0, 0));
        assert_eq!(removes(4, &[5]), 1, "node 5 is dead");
        assert_eq!(removes(4, &[2, 3]), 1, "two of four are left");
        assert_eq!(removes(5, &[4, 5]), 0, "one of the dead goes");
    }

    #[test]
    fn two_lives_that_speak_under_one_id_are_found() {
        let mut speakers = Speakers::default();
        let as_of = |node, birth| Speaker { node: NodeId(node), birth, term: 1 };
        let mut says = |shard, birth, life| {
            speakers.says(ShardId(shard), &as_of(1, birth), id(1, birth), life)
        };
        assert_eq!(says(0, 0, 10), None);
        assert_eq!(says(0, 0, 10), None);
        assert_eq!(says(1, 0, 11), None, "another shard");
        assert_eq!(says(0, 5, 12), None, "another birth");
        assert!(says(0, 0, 13).is_some());
    }

    #[test]
    fn a_replica_that_speaks_under_another_id_is_found() {
        let mut speakers = Speakers::default();
        let speaker = Speaker { node: NodeId(1), birth: 5, term: 1 };
        assert!(speakers.says(ShardId(0), &speaker, id(2, 5), 10).is_some(), "another node's");
        assert!(speakers.says(ShardId(0), &speaker, id(1, 0), 10).is_some(), "another birth's");
        assert_eq!(speakers.says(ShardId(0), &speaker, id(1, 5), 11), None, "its own");
    }
}
