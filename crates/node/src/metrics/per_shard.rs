//! The metrics of each replica.

use super::registrar::Registrar;
use crate::board::{behind_entries, is_reseeding};
use prometheus::{Error, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use routing::{META, NodeId, ShardId};
use shard::{Role, Status};
use std::collections::BTreeMap;
use wire::{OperationKind, Outcome};

/// One replica's children of the metrics by shard.
#[derive(Debug)]
pub(super) struct ShardMetrics {
    operations: IntCounter,
    attempts: IntCounter,
    pub(super) contended: IntCounter,
    is_leader: IntGauge,
    term: IntGauge,
    committed_index: IntGauge,
    applied_index: IntGauge,
    checkpoint_index: IntGauge,
    locks: IntGauge,
    waiters: IntGauge,
    sessions: IntGauge,
    leader_changes: IntCounter,
    entries_applied: IntCounter,
    commands_applied: IntCounter,
    snapshots_installed: IntCounter,
    has_leader: IntGauge,
    behind_entries: IntGauge,
    replicas_behind: IntGauge,
    reseeding: IntGauge,
    oldest_hold: Gauge,
}

pub(super) fn children(
    r: &Registrar,
    shards: impl IntoIterator<Item = ShardId>,
) -> Result<BTreeMap<ShardId, ShardMetrics>, Error> {
    let counters = |name: &str, help: &str| r.counters(name, help, &["shard"]);
    let gauges = |name: &str, help: &str| r.gauges(name, help, &["shard"]);
    let operations = counters("palisade_shard_operations_total", "Operations answered.")?;
    let attempts = counters(
        "palisade_acquire_attempts_total",
        "Acquires decided: granted, refused or timed out.",
    )?;
    let contended = counters(
        "palisade_acquire_contended_total",
        "Acquires that found the lock held by another.",
    )?;
    let is_leader = gauges("palisade_raft_is_leader", "1: this replica leads.")?;
    let term = gauges("palisade_raft_term", "Raft term.")?;
    let committed = gauges("palisade_raft_committed_index", "Highest log index known committed.")?;
    let applied =
        gauges("palisade_raft_applied_index", "Highest log index applied to the lock table.")?;
    let checkpoint =
        gauges("palisade_checkpoint_index", "Log index of the last durable checkpoint.")?;
    let locks = gauges("palisade_active_locks", "Names with a holder.")?;
    let waiters = gauges("palisade_waiters", "Acquires in lock queues.")?;
    let sessions = gauges("palisade_sessions", "Sessions that hold something on the shard.")?;
    let changes = counters(
        "palisade_leader_changes_total",
        "Changes of the leader, as seen by this replica.",
    )?;
    let entries = counters("palisade_entries_applied_total", "Log entries applied.")?;
    let commands =
        counters("palisade_commands_applied_total", "Commands in the log entries applied.")?;
    let installed = counters(
        "palisade_snapshots_installed_total",
        "Snapshots that replaced this replica's state.",
    )?;
    let has_leader =
        gauges("palisade_shard_has_leader", "1: this replica knows a leader with a quorum.")?;
    let behind = gauges(
        "palisade_replica_behind_entries",
        "Committed log entries that this replica knows to lack.",
    )?;
    let replicas_behind = gauges(
        "palisade_replicas_behind",
        "On the leader: voters that do not answer, or lack entries of more than two ticks ago. 0 elsewhere.",
    )?;
    let reseeding = gauges(
        "palisade_replica_reseeding",
        "1: this replica is being re-seeded, and has no vote yet.",
    )?;
    let oldest_hold = r.float_gauges(
        "palisade_oldest_hold_seconds",
        "On the leader: age of the oldest grant in force by wall clocks, up to minutes late. 0 elsewhere, or if nothing is held.",
        &["shard"],
    )?;
    let child = |shard: ShardId| {
        let label = if shard == META { "meta".to_owned() } else { shard.to_string() };
        let counter = |vec: &IntCounterVec| vec.with_label_values(&[&label]);
        let gauge = |vec: &IntGaugeVec| vec.with_label_values(&[&label]);
        let metrics = ShardMetrics {
            operations: counter(&operations),
            attempts: counter(&attempts),
            contended: counter(&contended),
            is_leader: gauge(&is_leader),
            term: gauge(&term),
            committed_index: gauge(&committed),
            applied_index: gauge(&applied),
            checkpoint_index: gauge(&checkpoint),
            locks: gauge(&locks),
            waiters: gauge(&waiters),
            sessions: gauge(&sessions),
            leader_changes: counter(&changes),
            entries_applied: counter(&entries),
            commands_applied: counter(&commands),
            snapshots_installed: counter(&installed),
            has_leader: gauge(&has_leader),
            behind_entries: gauge(&behind),
            replicas_behind: gauge(&replicas_behind),
            reseeding: gauge(&reseeding),
            oldest_hold: oldest_hold.with_label_values(&[&label]),
        };
        (shard, metrics)
    };
    Ok(shards.into_iter().map(child).collect())
}

impl ShardMetrics {
    pub(super) fn answered(&self, kind: Option<OperationKind>, outcome: Outcome) {
        self.operations.inc();
        let decided = matches!(
            outcome,
            Outcome::Ok | Outcome::Held | Outcome::WaitTimeout | Outcome::WaitCancelled
        );
        if kind == Some(OperationKind::Acquire) && decided {
            self.attempts.inc();
        }
    }

    /// Shows the state of the replica on this node.
    pub(super) fn show(&self, status: &Status, node: NodeId, now_ms: u64) {
        let set =
            |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.is_leader, (status.role == Role::Leader).into());
        set(&self.term, status.term);
        set(&self.committed_index, status.committed_index);
        set(&self.applied_index, status.applied_index);
        set(&self.checkpoint_index, status.checkpoint_index);
        set(&self.locks, status.counts.locks);
        set(&self.waiters, status.counts.waiters);
        set(&self.sessions, status.counts.sessions);
        set(&self.has_leader, status.leader.is_some().into());
        set(&self.behind_entries, behind_entries(status));
        set(&self.reseeding, is_reseeding(status, node).into());
        let leads = status.role == Role::Leader;
        let voters = status.members.iter().filter(|member| !member.learner).count();
        let behind = voters.saturating_sub(status.caught_up.len());
        set(&self.replicas_behind, if leads { behind as u64 } else { 0 });
        let oldest_ms = status.oldest_grant_ms.filter(|_| leads);
        let age_ms = oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms));
        self.oldest_hold.set(age_ms as f64 / 1_000.0);
        // The replica counts from its start, and these counters start with it.
        let raise =
            |counter: &IntCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        raise(&self.leader_changes, status.leader_changes);
        raise(&self.entries_applied, status.entries_applied);
        raise(&self.commands_applied, status.commands_applied);
        raise(&self.snapshots_installed, status.snapshots_installed);
    }
}
