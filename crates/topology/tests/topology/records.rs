//! Bytes: one encoding for each value, and damaged ones are errors.

use crate::{Lcg, NOW_S, apply, cluster, founded, nodes, told};
use palisade_topology::plan::{self, ReplicaReport, Report, Role};
use palisade_topology::*;
use routing::{NodeId, ShardId};

fn proposals() -> Vec<Proposal> {
    let commands = [
        Command::Bootstrap { seed: Seed::of(&cluster(5, 4, 3, 2)) },
        Command::NodeIs { told: told(3, 2) },
        Command::SetNodeState { node: NodeId(1), state: NodeState::Draining },
        Command::Want { shard: ShardId(2), members: nodes([1, 300]) },
        Command::Is {
            shard: ShardId(1),
            members: founded(3, 2, 3, 0).shards()[&ShardId(1)].is.clone(),
        },
        Command::Prefer { shard: ShardId(0), node: NodeId(2) },
        Command::Job {
            request: RequestId(u128::MAX),
            kind: JobKind::Replicas { count: 5, shard: None },
        },
        Command::JobProgress {
            job: JobId(1),
            progress: Progress { done: 1, total: 2 },
            why: Some(Why::NoRoom { shard: ShardId(3) }),
            is_done: false,
        },
        Command::Cancel { job: JobId(u64::MAX) },
        Command::ActivateLevel { level: 2 },
        Command::Set { setting: Setting::RepairAfter { seconds: Some(1_800) } },
    ];
    let with = |(at, command)| Proposal {
        wall_s: NOW_S,
        planned_at: (at % 2 == 0).then_some(Version(at as u64)),
        command,
    };
    commands.into_iter().enumerate().map(with).collect()
}

#[test]
fn proposals_come_back_from_their_bytes() {
    for proposal in proposals() {
        let bytes = proposal.encode();
        assert_eq!(Proposal::decode(&bytes).as_ref(), Ok(&proposal));
    }
}

/// A report of a leader with a learner.
fn report() -> Report {
    let mut members = founded(3, 2, 3, 0).shards()[&ShardId(1)].is.clone();
    members.learners.insert(Life { node: NodeId(9), birth: Birth(7) });
    let replica = |role| ReplicaReport {
        birth: Birth(0),
        role,
        term: 4,
        lag_entries: 300,
        members: members.clone(),
        ops_per_s: u64::MAX,
    };
    let roles = [Role::Leader, Role::Follower, Role::Learner];
    let replicas = roles.into_iter().enumerate();
    let replicas = replicas.map(|(shard, role)| (ShardId(shard as u32), replica(role))).collect();
    Report { heard_ms: NOW_S * 1_000, told: told(3, 2), replicas, behind: Default::default() }
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::NotFounded,
        Refusal::Seed("a rule".into()),
        Refusal::VersionMoved { planned: Version(3), now: Version(4) },
        Refusal::NodeId(NodeId(u64::MAX)),
        Refusal::AddressTaken { node: NodeId(9), address: "ä:1".to_owned(), other: NodeId(2) },
        Refusal::NoGroup { shard: ShardId(2), why: "it has no voters".into() },
        Refusal::TooManyJobs(64),
        Refusal::Busy(JobId(3)),
        Refusal::NoRoom { node: NodeId(3), shard: ShardId(2) },
        Refusal::Setting("no".into()),
        Refusal::LevelUnknown { level: 2, nodes: vec![NodeId(3), NodeId(7)] },
        Refusal::NoSpare { shard: ShardId(17), heard: 3, voters: 4 },
        Refusal::OtherZone { old: NodeId(3), new: NodeId(9), zone: "ü".to_owned() },
    ]
}

#[test]
fn reports_come_back_with_the_time_of_their_receiver() {
    let report = report();
    let heard = Report::decode(&report.encode(), 77).expect("a report");
    assert_eq!(heard, Report { heard_ms: 77, ..report });
}

#[test]
fn loads_and_small_lags_are_no_news() {
    let before = report();
    let with = |change: fn(&mut Report)| {
        let mut later = before.clone();
        change(&mut later);
        later.is_news_after(&before)
    };
    fn replica(report: &mut Report) -> &mut ReplicaReport {
        report.replicas.get_mut(&ShardId(1)).unwrap()
    }
    assert!(!with(|_| {}) && !with(|report| report.heard_ms += 1));
    assert!(!with(|report| replica(report).ops_per_s = 9));
    assert!(!with(|report| replica(report).lag_entries = plan::LEVEL_LAG_ENTRIES));
    assert!(with(|report| replica(report).lag_entries = plan::LEVEL_LAG_ENTRIES + 1));
    assert!(with(|report| replica(report).role = Role::Learner));
    assert!(with(|report| replica(report).term += 1));
    assert!(with(|report| replica(report).members.conf_index += 1));
    assert!(with(|report| report.told.start.starts += 1));
    assert!(with(|report| drop(report.replicas.remove(&ShardId(0)))));
}

#[test]
fn refusals_come_back_with_their_words() {
    for refusal in refusals() {
        let back = Refusal::decode(&refusal.encode()).expect("a refusal");
        assert_eq!((&back, back.to_string()), (&refusal, refusal.to_string()));
    }
}

#[test]
fn damaged_reports_and_refusals_are_errors() {
    let of_refusals = refusals().into_iter().map(|refusal| refusal.encode());
    for bytes in of_refusals.chain([report().encode()]) {
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            for bytes in [&bytes[..at], &flipped] {
                assert!(Report::decode(bytes, 0).is_err() && Refusal::decode(bytes).is_err());
            }
        }
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_an_error() {
    for proposal in proposals() {
        let bytes = proposal.encode();
        for at in 0..bytes.len() {
            assert!(Proposal::decode(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(Proposal::decode(&flipped).is_err(), "flipped at {at}");
        }
    }
}

/// Puts a checksum that is right on a frame, as damage that a checksum does not find.
fn checked(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[1..2]), &bytes[6..]);
    bytes[2..6].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn bytes_with_a_right_checksum_are_an_error_or_the_one_encoding_of_a_value() {
    let mut random = Lcg(1);
    let (mut taken, mut refused) = (0, 0);
    let state = founded(5, 4, 3, 2).encode();
    let deltas = proposals().into_iter().map(|proposal| proposal.encode());
    for bytes in deltas.chain([state]) {
        for _ in 0..400 {
            let mut damaged = bytes.clone();
            let at = 6 + random.below(bytes.len() as u64 - 6) as usize;
            match random.below(3) {
                0 => damaged[at] = random.below(256) as u8,
                1 => drop(damaged.remove(at)),
                _ => damaged.insert(at, random.below(256) as u8),
            }
            let damaged = checked(damaged);
            let back = match damaged[1] {
                1 => Topology::decode(&damaged).map(|value| value.encode()),
                _ => Proposal::decode(&damaged).map(|value| value.encode()),
            };
            match back {
                Ok(back) => assert_eq!(back, damaged),
                Err(_) => refused += 1,
            }
            taken += 1;
        }
    }
    assert!(refused > 100 && taken > refused, "{refused} of {taken} were refused");
}

#[test]
fn a_length_that_is_a_lie_costs_no_memory() {
    // A state whose list of slots claims 2^63 entries.
    let mut bytes = founded(3, 1, 3, 0).encode()[..6].to_vec();
    bytes.extend([1]); // version
    bytes.extend([0; 16]); // cluster id
    bytes.extend([1, 1, 0, 1, 0, 0]); // generation, level, settings, last job
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(Topology::decode(&checked(bytes)), Err(DecodeError("cut short")));
}

#[test]
fn a_topology_that_was_not_founded_is_empty() {
    let empty = Topology::default();
    assert_eq!(Topology::decode(&empty.encode()), Ok(empty));
    let mut bad = founded(3, 1, 3, 0).encode();
    assert_eq!(bad[6], 1, "the version");
    bad[6] = 0;
    assert_eq!(Topology::decode(&checked(bad)), Err(DecodeError("version 0 is empty")));
}

#[test]
fn a_state_that_breaks_a_rule_is_an_error() {
    let mut seed = Seed::of(&cluster(3, 1, 3, 0));
    let good = founded(3, 1, 3, 0).encode();
    assert!(Topology::decode(&good).is_ok());
    // The last node of the state is named 4 in place of 3: then a member is no node.
    seed.nodes.remove(&NodeId(3));
    let at = good.windows(14).position(|window| window == b"\x0d10.0.0.3:7400").expect("node 3");
    let mut bad = good.clone();
    assert_eq!(bad[at - 1], 3, "its id stands before its address");
    bad[at - 1] = 4;
    let error = Topology::decode(&checked(bad)).unwrap_err();
    assert_eq!(error, DecodeError("a life is on a node, with a birth that was given"));
}

#[test]
fn a_frame_of_another_kind_is_refused() {
    let mut topology = founded(3, 1, 3, 0);
    let delta = topology.apply(&Proposal::new(
        NOW_S,
        Command::SetNodeState { node: NodeId(1), state: NodeState::Draining },
    ));
    let delta = delta.unwrap().unwrap();
    assert_eq!(Delta::decode(&delta.encode()).as_ref(), Ok(&delta));
    assert_eq!(Topology::decode(&delta.encode()), Err(DecodeError("of another kind")));
    assert_eq!(Delta::decode(&topology.encode()), Err(DecodeError("of another kind")));
}

#[test]
fn the_encoding_and_the_hash_never_change() {
    assert_eq!(founded(3, 2, 3, 0).state_hash(), PINNED);
}

const PINNED: u64 = 1_317_295_729_782_898_743;

#[test]
fn deltas_are_kept_up_to_a_number() {
    let mut topology = founded(3, 1, 3, 0);
    let mut recent = Recent::default();
    let old = topology.clone();
    for turn in 0..DELTAS_KEPT as u64 {
        let setting = Setting::SnapshotBytesPerS { bytes: (2 << 20) + turn };
        let delta = topology.apply(&Proposal::new(NOW_S, Command::Set { setting })).unwrap();
        recent.push(delta.unwrap());
    }
    let since = |recent: &Recent, known: &Topology, now: &Topology| match recent
        .since(known.version(), now.version())
    {
        Since::Deltas(deltas) => Some(deltas.len()),
        Since::All => None,
    };
    assert_eq!(since(&recent, &old, &topology), Some(DELTAS_KEPT));
    assert_eq!(since(&recent, &topology, &topology), Some(0));
    assert_eq!(since(&recent, &topology, &old), None, "a version that is not there yet");
    let setting = Setting::Paused { paused: true };
    let delta = topology.apply(&Proposal::new(NOW_S, Command::Set { setting })).unwrap().unwrap();
    assert_eq!(since(&recent, &old, &topology), None, "the last change is not among them");
    recent.push(delta.clone());
    assert_eq!(since(&recent, &old, &topology), None, "the first change is not among them");

    // After a snapshot, the deltas before it are of no use.
    assert_eq!(
        apply(&mut topology, Command::Set { setting: Setting::Paused { paused: false } }),
        Ok(true)
    );
    let setting = Setting::Paused { paused: true };
    let later = topology.apply(&Proposal::new(NOW_S, Command::Set { setting })).unwrap().unwrap();
    recent.push(later.clone());
    let before = Version(later.version.0 - 1);
    assert_eq!(recent.since(before, topology.version()), Since::Deltas(vec![&later]));
    assert_eq!(recent.since(Version(before.0 - 1), topology.version()), Since::All);

    let mut copy = old.clone();
    assert_eq!(copy.follow(&later), Err(Gap { known: Version(1), delta: later.version }));
    assert_eq!(copy, old);
    let mut current = topology.clone();
    assert_eq!(current.follow(&delta), Ok(()), "an old change is passed over");
    assert_eq!(current, topology);
}
