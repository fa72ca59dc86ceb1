//! Which answers are enough: for groups that never moved, for some that did, and on random
//! histories.

use super::*;

/// The node that lost its directory.
const ME: NodeId = NodeId(4);
const SHARD: ShardId = ShardId(0);

fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
}

fn voter(node: u64, incarnation: u32) -> Member {
    Member { node: NodeId(node), incarnation, learner: false }
}

fn learner(node: u64, incarnation: u32) -> Member {
    Member { learner: true, ..voter(node, incarnation) }
}

fn group(birth: u32, conf_index: u64, members: &[Member]) -> Group {
    Group { birth, members: members.to_vec(), conf_index, wish: None }
}

fn wanting(version: u64, ids: &[u64], group: Group) -> Group {
    Group { wish: Some(Wish { version, nodes: nodes(ids) }), ..group }
}

fn told(groups: impl IntoIterator<Item = (ShardId, Group)>) -> Answer {
    Answer::Told(Told { groups: groups.into_iter().collect(), ..Told::default() })
}

fn of_shard(group: Group) -> Answer {
    told([(SHARD, group)])
}

/// Six nodes, and a cluster file that gives the node one shard with these other nodes.
fn answers(listed: &[u64]) -> Answers {
    Answers::new(ME, nodes(&[1, 2, 3, 5, 6]), [(SHARD, nodes(listed))].into())
}

#[test]
fn a_majority_of_each_shard_answers_and_nobody_hears_of_the_former_one() {
    let listed = [(SHARD, nodes(&[1, 2, 3, 5])), (ShardId(1), nodes(&[5, 6]))];
    let mut answers = Answers::new(ME, nodes(&[1, 2, 3, 5, 6]), listed.into());
    let five = [1, 2, 3, 4, 5].map(|node| voter(node, 0));
    let three = [4, 5, 6].map(|node| voter(node, 0));
    let first = || (SHARD, group(0, 1, &five));
    let second = || (ShardId(1), group(0, 1, &three));
    for (peer, groups, is_enough) in [
        (1, vec![first()], false),
        (5, vec![first(), second()], false),
        (6, vec![second()], false),
        (3, vec![first()], true),
    ] {
        answers.take(NodeId(peer), Answer::Unheard("down".into()));
        assert!(!answers.are_enough());
        answers.take(NodeId(peer), told(groups));
        assert_eq!(answers.are_enough(), is_enough, "after node {peer}");
    }
    assert_eq!(answers.begins(), [SHARD, ShardId(1)].into());
    answers.take(NodeId(2), Answer::Refused("it lives".into()));
    assert!(!answers.are_enough() && answers.refusal() == Some("it lives"));
    assert!(answers.still_to_come().contains("it lives"), "{}", answers.still_to_come());
    answers.take(NodeId(2), Answer::Unheard("down".into()));
    assert!(answers.are_enough(), "it may have gone since");
}

/// The nodes of the cluster file were asked, and these had given the group away. Those that had it
/// then, and knew the birth of the node's replica, were not.
#[test]
fn a_group_that_has_moved_is_asked_where_it_is() {
    let now = [voter(4, 700), voter(5, 600), voter(6, 600)];
    let mut answers = answers(&[1, 2]);
    // They were not told that their replicas left.
    let former = [voter(1, 0), voter(2, 0), voter(4, 0), learner(5, 600)];
    for peer in [1, 2] {
        answers.take(NodeId(peer), of_shard(group(0, 40, &former)));
    }
    assert!(answers.are_enough(), "as far as anybody knows");
    answers.take(NodeId(5), of_shard(group(600, 90, &now)));
    assert!(!answers.are_enough(), "one of three voters");
    let missing = answers.still_to_come();
    assert_eq!(missing, "shard 0: 1 of node 6 (it was not asked yet)");
    answers.take(NodeId(6), of_shard(group(600, 90, &now)));
    assert!(answers.are_enough());
}

/// The file gives the node no replica, and one had moved to it. Nobody was asked, so any number
/// did.
#[test]
fn a_node_to_which_a_group_has_moved_asks_that_group() {
    let mut answers = Answers::new(ME, nodes(&[1, 2, 3]), BTreeMap::new());
    let members = [voter(1, 0), voter(2, 0), voter(4, 700)];
    answers.take(NodeId(1), of_shard(group(0, 50, &members)));
    answers.take(NodeId(3), told([]));
    assert!(!answers.are_enough());
    assert!(answers.still_to_come().starts_with("shard 0: 1 of node 2"));
    let answer =
        Told { highest: 700, groups: [(SHARD, group(0, 50, &members))].into(), ..Told::default() };
    answers.take(NodeId(2), Answer::Told(answer));
    assert!(answers.are_enough());
    assert_eq!((answers.highest(), answers.begins()), (700, [SHARD].into()));
}

#[test]
fn a_node_without_any_group_asks_a_majority_of_the_cluster() {
    let mut answers = Answers::new(ME, nodes(&[1, 2, 3, 5]), BTreeMap::new());
    let elsewhere = || of_shard(group(0, 1, &[1, 2, 3].map(|node| voter(node, 0))));
    for peer in [1, 2] {
        assert!(!answers.are_enough());
        assert!(answers.still_to_come().starts_with("no shard that is known wants a replica here"));
        answers.take(NodeId(peer), elsewhere());
    }
    answers.take(NodeId(5), Answer::Told(Told { stands_by: true, ..Told::default() }));
    assert!(
        !answers.are_enough(),
        "one that takes no part yet may have forgotten something itself"
    );
    assert!(answers.still_to_come().contains("node 5 (it takes no part yet)"));
    answers.take(NodeId(5), told([]));
    assert!(answers.are_enough() && answers.begins().is_empty());
    assert!(Answers::new(ME, nodes(&[]), BTreeMap::new()).are_enough(), "there is no other node");
}

/// Nodes 1 to 3 of the cluster file were removed, and 5 to 7 joined. Two of the removed ones had to
/// answer, so that the re-seed never ended.
#[test]
fn the_nodes_of_the_latest_topology_count_and_not_those_of_the_file() {
    let mut answers = Answers::new(ME, nodes(&[1, 2, 3]), BTreeMap::new());
    let knows = |version, ids: &[u64]| {
        let present = Present { order: (1, version), nodes: nodes(ids) };
        Answer::Told(Told { present: Some(present), ..Told::default() })
    };
    answers.take(NodeId(5), knows(20, &[4, 5, 6, 7]));
    answers.take(NodeId(6), knows(9, &[1, 2, 4, 5, 6]));
    assert!(!answers.are_enough(), "two of four");
    assert!(answers.still_to_come().contains("1 of node 7"), "{}", answers.still_to_come());
    answers.take(NodeId(7), knows(20, &[4, 5, 6, 7]));
    assert!(answers.are_enough(), "{}", answers.still_to_come());
}

#[test]
fn another_life_of_a_voter_does_not_answer_for_it() {
    let members = [voter(1, 0), voter(2, 0), voter(4, 0)];
    let mut answers = answers(&[1, 2]);
    answers.take(NodeId(1), of_shard(group(0, 30, &members)));
    answers.take(NodeId(2), of_shard(group(900, 0, &members)));
    assert!(!answers.are_enough(), "node 2 was re-seeded, and has no vote yet");
    assert!(answers.still_to_come().contains("node 2 (its replica of shard 0 does not tell yet)"));
    // An answer counts for good, and the newest answer of a peer is the one that counts.
    answers.take(NodeId(1), Answer::Unheard("down".into()));
    answers.take(NodeId(2), of_shard(group(0, 30, &members)));
    assert!(answers.are_enough());
}

#[test]
fn where_the_lost_vote_decided_each_member_must_answer() {
    let mut answers = answers(&[2]);
    let members = [voter(2, 0), voter(4, 0), learner(3, 600)];
    answers.take(NodeId(2), of_shard(group(0, 20, &members)));
    assert!(!answers.are_enough(), "3 may be a voter since, and have decided with node 4");
    answers.take(NodeId(3), of_shard(group(600, 20, &members)));
    assert!(answers.are_enough());
}

#[test]
fn a_replica_begins_where_the_last_known_wish_has_the_node() {
    let members = [voter(1, 0), voter(2, 0), voter(4, 0)];
    let begins = |wishes: [Option<(u64, &[u64])>; 2]| {
        let mut answers = answers(&[1, 2]);
        for (peer, wish) in [1, 2].into_iter().zip(wishes) {
            let group = group(0, 30, &members);
            let group = match wish {
                Some((version, ids)) => wanting(version, ids, group),
                None => group,
            };
            answers.take(NodeId(peer), of_shard(group));
        }
        !answers.begins().is_empty()
    };
    assert!(begins([None, None]));
    assert!(begins([Some((7, &[1, 2, 4])), None]));
    assert!(!begins([Some((7, &[1, 2, 4])), Some((8, &[1, 2, 3]))]));
    assert!(begins([Some((9, &[1, 2, 4])), Some((8, &[1, 2, 3]))]));
}

/// Random histories of a group of one node's replicas: whatever was heard by whom, answers that are
/// enough know each birth that could vote on the lost node.
#[test]
fn enough_answers_know_each_birth_that_has_voted() {
    let mut random = Random(7);
    let (mut enough, mut with_moves) = (0, 0);
    for seed in 0..10_000 {
        random.0 = seed;
        let history = History::make(&mut random);
        let mut answers = answers(&[1, 2]);
        for (peer, group) in history.replicas(&mut random) {
            if random.below(3) > 0 {
                let births = group.members.iter().filter(|member| member.node == ME);
                let highest = births.map(|member| member.incarnation).max().unwrap_or(0);
                let groups = [(SHARD, group)].into();
                let told = Told { highest, groups, ..Told::default() };
                answers.take(peer, Answer::Told(told));
            }
        }
        if answers.groups(SHARD).next().is_none() || !answers.are_enough() {
            continue;
        }
        enough += 1;
        let last = history.confs.last().expect("the first configuration");
        let Some(votes) = last.iter().find(|member| member.node == ME && !member.learner) else {
            continue;
        };
        with_moves += u64::from(history.confs.len() > 3);
        assert!(
            answers.highest() >= votes.incarnation,
            "seed {seed}: {:?} votes, and {answers:#?} do not know it",
            votes
        );
    }
    assert!(enough > 1_000 && with_moves > 100, "{enough} were enough, {with_moves} after moves");
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

/// The configurations of a group in the order of its log, and the logs of its members.
///
/// * Change k is on disk at a majority of the voters of configuration k.
/// * A member that has change k in its log has applied the one before it.
struct History {
    confs: Vec<Vec<Member>>,
    /// The last change that each life has in its log.
    logs: BTreeMap<(NodeId, u32), usize>,
}

impl History {
    fn make(random: &mut Random) -> History {
        let first: Vec<Member> = [1, 2, 4].map(|node| voter(node, 0)).to_vec();
        let logs = first.iter().map(|member| ((member.node, member.incarnation), 0)).collect();
        let mut history = History { confs: vec![first], logs };
        for _ in 0..random.below(14) {
            history.change(random);
        }
        history
    }

    fn change(&mut self, random: &mut Random) {
        let number = self.confs.len();
        let last = self.confs[number - 1].clone();
        let mut next = last.clone();
        let node = 1 + random.below(6) as u64;
        match next.iter().position(|member| member.node == NodeId(node)) {
            None => next.push(learner(node, 100 * number as u32)),
            Some(at) if next[at].learner => next[at].learner = false,
            Some(at) => drop(next.remove(at)),
        }
        // The data of a group with its only voter on the lost node are gone.
        if next.iter().all(|member| member.learner || member.node == ME) {
            return;
        }
        // A majority of the voters before has it, and anybody else may have it, too.
        let mut voters: Vec<Member> =
            last.iter().filter(|member| !member.learner).copied().collect();
        while voters.len() > last.iter().filter(|member| !member.learner).count() / 2 + 1 {
            voters.remove(random.below(voters.len()));
        }
        for member in &last {
            if voters.contains(member) || random.below(3) == 0 {
                self.logs.insert((member.node, member.incarnation), number);
            }
        }
        self.confs.push(next);
    }

    /// The replicas of the other nodes, each as it has applied the group.
    fn replicas(&self, random: &mut Random) -> Vec<(NodeId, Group)> {
        let mut replicas: BTreeMap<NodeId, Group> = BTreeMap::new();
        for ((node, birth), in_log) in &self.logs {
            // The last change of its log may be applied, if it was committed, or may not.
            let applied = match random.below(2) {
                0 => *in_log,
                _ => in_log.saturating_sub(1),
            };
            let group = group(*birth, applied as u64, &self.confs[applied]);
            if *node != ME {
                replicas.insert(*node, group); // a later life replaces a former one
            }
        }
        replicas.into_iter().collect()
    }
}
