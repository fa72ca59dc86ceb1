//! What the judges of lives and members are told: what replicas write, say, hear and apply.

use super::state::World;
use super::state::members::Members;
use super::state::node::Node;
use crate::checker::Invariant;
use crate::checker::groups::{Facts, GroupJudge, Heard, Id};
use routing::{META, NodeId, ShardId};
use shard::{GroupEntry, Role, Speaker, Status};
use storage::ShardWrite;

/// The ticks by which the world's look at a leader's messages may differ from its own.
const EDGE_TICKS: u64 = 2;

impl World {
    pub(crate) fn judge_of(&mut self, shard: ShardId) -> &mut GroupJudge {
        let Members { judges, founders, .. } = &mut self.members;
        let of_meta = self.meta.founders.as_ref().filter(|_| shard == META);
        judges.entry(shard).or_insert_with(|| match of_meta {
            Some(of_meta) => GroupJudge::begun_by(of_meta),
            None => GroupJudge::new(founders),
        })
    }

    /// Judges the writer of a message: invariant 18.
    pub(crate) fn judge_speaker(&mut self, id: u64, shard: ShardId, speaker: &Speaker) {
        // A question how far the log is committed has no term. raft-rs passes on those of others under
        // their names.
        if speaker.term == 0 {
            return;
        }
        // A replica that was just stopped has no life left to speak of.
        let Some(life) = self.nodes[&id].lives.get(&shard) else { return };
        let (by, number) = ((NodeId(id), life.birth), life.number);
        let found = self.members.speakers.says(shard, speaker, by, number);
        found.into_iter().for_each(|what| self.violated_in(shard, Invariant::OneLife, what));
    }

    /// Judges a snapshot that is sent: invariant 19. A member whose leader goes on sending it one
    /// without it never comes.
    pub(crate) fn judge_snapshot(&mut self, id: u64, shard: ShardId, to: NodeId, message: &[u8]) {
        if shard::snapshot_has_receiver(message) == Some(false) {
            self.found(id, shard, &format!("a snapshot for node {to} that does not have it"));
        }
    }

    /// A message has reached a node.
    pub(crate) fn note_heard(&mut self, id: u64, shard: ShardId, speaker: &Speaker) {
        let ticks = self.nodes[&id].ticks;
        let of = (speaker.node, speaker.birth);
        self.members.heard.note(shard, id, of, speaker.term, ticks);
    }

    /// A replica writes, and it had this status before. Judges what it proposes: invariant 19.
    pub(crate) fn judge_write(
        &mut self,
        id: u64,
        shard: ShardId,
        before: &Status,
        write: &ShardWrite,
    ) {
        let new: Vec<(u64, GroupEntry)> = self.judge_of(shard).wrote(id, write);
        if before.role != Role::Leader || new.is_empty() {
            return;
        }
        let node = &self.nodes[&id];
        let (ticks, patience) = (node.ticks, node.settings.raft.election_ticks as u64);
        let heard = |of: Id| match self.members.heard.in_term(shard, id, of, before.term) {
            Some(last) => match ticks - last {
                ago if ago + EDGE_TICKS <= patience => Heard::Lately,
                ago if ago > patience + EDGE_TICKS => Heard::NotForLong,
                _ => Heard::Perhaps,
            },
            None => Heard::NotForLong,
        };
        let is_whole = |(node, birth): Id| is_whole(&self.nodes[&node.0], shard, birth);
        let found = self.members.judges[&shard].proposed(before, &new, &heard, &is_whole);
        found.into_iter().for_each(|what| self.found(id, shard, &what));
    }

    /// Judges what a replica has applied: invariant 19.
    pub(crate) fn judge_members(&mut self, id: u64, shard: ShardId) {
        self.judge_level(id, shard);
        let Some(replica) = self.nodes[&id].replicas.get(&shard) else { return };
        let status = replica.status();
        let (nodes, had) = (&self.nodes, &self.members.had_log);
        let is_whole = |(node, birth): Id| is_whole(&nodes[&node.0], shard, birth);
        let had_log = |(node, birth): Id| had.get(&(shard, node.0, birth)).copied();
        let facts = Facts { is_whole: &is_whole, had_log: &had_log };
        let judge = self.members.judges.get_mut(&shard).expect("it has written");
        let found = judge.applied(id, &status, &facts);
        found.into_iter().for_each(|what| self.found(id, shard, &what));
    }

    fn found(&mut self, id: u64, shard: ShardId, what: &str) {
        let what = format!("shard {shard}, by node {id}: {what}");
        self.violated_in(shard, Invariant::Quorums, what);
    }
}

fn is_whole(node: &Node, shard: ShardId, birth: u32) -> bool {
    node.has_data() && node.lives.get(&shard).is_some_and(|life| life.birth == birth)
}
