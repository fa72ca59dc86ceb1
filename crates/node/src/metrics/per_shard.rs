//! The metrics of each replica.

use super::registrar::Registrar;
use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use routing::ShardId;
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
    let child = |shard: ShardId| {
        let label = shard.to_string();
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

    pub(super) fn show(&self, status: &Status) {
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
        // The replica counts from its start, and these counters start with it.
        let raise =
            |counter: &IntCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        raise(&self.leader_changes, status.leader_changes);
        raise(&self.entries_applied, status.entries_applied);
        raise(&self.commands_applied, status.commands_applied);
        raise(&self.snapshots_installed, status.snapshots_installed);
    }
}
