//! The metrics of each replica.

use super::registrar::Registrar;
use crate::board::is_reseeding;
use prometheus::{Error, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use routing::{NodeId, ShardId};
use shard::{Role, Status};
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

/// The metrics by shard. Each replica has a child of each, as long as it is here.
#[derive(Debug)]
pub(super) struct ByShard {
    counters: [IntCounterVec; 7],
    gauges: [IntGaugeVec; 12],
    oldest_hold: GaugeVec,
}

impl ByShard {
    pub(super) fn new(r: &Registrar) -> Result<ByShard, Error> {
        let counter = |name: &str, help: &str| r.counters(name, help, &["shard"]);
        let gauge = |name: &str, help: &str| r.gauges(name, help, &["shard"]);
        Ok(ByShard {
            counters: [
                counter("palisade_shard_operations_total", "Operations answered.")?,
                counter(
                    "palisade_acquire_attempts_total",
                    "Acquires decided: granted, refused or timed out.",
                )?,
                counter(
                    "palisade_acquire_contended_total",
                    "Acquires that found the lock held by another.",
                )?,
                counter(
                    "palisade_leader_changes_total",
                    "Changes of the leader, as seen by this replica.",
                )?,
                counter("palisade_entries_applied_total", "Log entries applied.")?,
                counter("palisade_commands_applied_total", "Commands in the log entries applied.")?,
                counter(
                    "palisade_snapshots_installed_total",
                    "Snapshots that replaced this replica's state.",
                )?,
            ],
            gauges: [
                gauge("palisade_raft_is_leader", "1: this replica leads.")?,
                gauge("palisade_raft_term", "Raft term.")?,
                gauge("palisade_raft_committed_index", "Highest log index known committed.")?,
                gauge(
                    "palisade_raft_applied_index",
                    "Highest log index applied to the lock table.",
                )?,
                gauge("palisade_checkpoint_index", "Log index of the last durable checkpoint.")?,
                gauge("palisade_active_locks", "Names with a holder.")?,
                gauge("palisade_waiters", "Acquires in lock queues.")?,
                gauge("palisade_sessions", "Sessions that hold something on the shard.")?,
                gauge(
                    "palisade_shard_has_leader",
                    "1: this replica knows a leader with a quorum.",
                )?,
                gauge(
                    "palisade_replica_behind_entries",
                    "Committed log entries that this replica knows to lack.",
                )?,
                gauge(
                    "palisade_replicas_behind",
                    "On the leader: voters that do not answer, or lack entries of more than two ticks ago. 0 elsewhere.",
                )?,
                gauge(
                    "palisade_replica_reseeding",
                    "1: this replica is being re-seeded, and has no vote yet.",
                )?,
            ],
            oldest_hold: r.float_gauges(
                "palisade_oldest_hold_seconds",
                "On the leader: age of the oldest grant in force by wall clocks, up to minutes late. 0 elsewhere, or if nothing is held.",
                &["shard"],
            )?,
        })
    }

    /// The children of a replica that is here from now on.
    pub(super) fn of(&self, shard: ShardId) -> ShardMetrics {
        let label = shard.to_string();
        let [
            operations,
            attempts,
            contended,
            leader_changes,
            entries_applied,
            commands_applied,
            snapshots_installed,
        ] = self.counters.each_ref().map(|vec| vec.with_label_values(&[&label]));
        let [
            is_leader,
            term,
            committed_index,
            applied_index,
            checkpoint_index,
            locks,
            waiters,
            sessions,
            has_leader,
            behind_entries,
            replicas_behind,
            reseeding,
        ] = self.gauges.each_ref().map(|vec| vec.with_label_values(&[&label]));
        ShardMetrics {
            operations,
            attempts,
            contended,
            is_leader,
            term,
            committed_index,
            applied_index,
            checkpoint_index,
            locks,
            waiters,
            sessions,
            leader_changes,
            entries_applied,
            commands_applied,
            snapshots_installed,
            has_leader,
            behind_entries,
            replicas_behind,
            reseeding,
            oldest_hold: self.oldest_hold.with_label_values(&[&label]),
        }
    }

    /// Shows nothing more of a replica that has left. The next one of the shard counts from 0.
    pub(super) fn forget(&self, shard: ShardId) {
        let label = shard.to_string();
        // An error only says that there was no child.
        for vec in &self.counters {
            let _ = vec.remove_label_values(&[&label]);
        }
        for vec in &self.gauges {
            let _ = vec.remove_label_values(&[&label]);
        }
        let _ = self.oldest_hold.remove_label_values(&[&label]);
    }
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

    /// Shows the state of the replica on this node, whose data directory has this incarnation.
    pub(super) fn show(&self, status: &Status, (node, incarnation): (NodeId, u32), now_ms: u64) {
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
        set(&self.behind_entries, status.behind_entries());
        set(&self.reseeding, is_reseeding(status, node, incarnation).into());
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
