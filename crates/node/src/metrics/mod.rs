//! The metrics of a node: one registry per node, names `palisade_*`.
//!
//! Every labelled child is made before it counts, with the replica or peer that it belongs to, so
//! that no operation looks one up by label. Labels are ids and kinds; a resource's name is never one. Gauges of replicas are filled in from the
//! board when the metrics are asked for.

mod acquires;
mod per_peer;
mod per_shard;
mod registrar;
mod store;

use crate::board::Board;
pub(crate) use acquires::{AcquireMetrics, AcquireTimes, EndedHolds};
use net::accept::Accepted;
use net::tls::Inside;
use per_peer::ByPeer;
pub(crate) use per_peer::PeerMetrics;
use per_shard::{ByShard, ShardMetrics};
use prometheus::{Encoder, Gauge, Histogram, IntCounter, IntGauge, Registry, TextEncoder};
use registrar::Registrar;
use routing::{NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use storage::Sizes;
use store::StoreMetrics;
use wire::{OperationKind, Outcome};

/// The kind of an operation; `None` if this version does not know it.
pub(crate) type Kind = Option<OperationKind>;

/// One child per known kind, then one for the unknown.
const KINDS: usize = OperationKind::ALL.len() + 1;

fn index(kind: Kind) -> usize {
    kind.map_or(KINDS - 1, |kind| kind as usize)
}

fn kind_labels() -> impl Iterator<Item = &'static str> {
    OperationKind::ALL.into_iter().map(OperationKind::as_str).chain(["unknown"])
}

/// All metrics of one node.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    operations: Vec<[IntCounter; Outcome::ALL.len()]>,
    latency: Vec<Histogram>,
    by_shard: ByShard,
    shards: RwLock<BTreeMap<ShardId, ShardMetrics>>,
    by_peer: ByPeer,
    pub(crate) streams: IntGauge,
    pub(crate) watches: IntGauge,
    pub(crate) watch_rings: IntGauge,
    pub(crate) watch_events: IntCounter,
    pub(crate) watch_resyncs: IntCounter,
    connections: IntGauge,
    accept_pauses: IntGauge,
    connections_refused: IntCounter,
    certificate_expires: IntGauge,
    certificate_failures: IntCounter,
    queued_operations: IntGauge,
    pub(crate) step_seconds: Histogram,
    pub(crate) frame_operations: Histogram,
    pub(crate) result_frame_operations: Histogram,
    fsync_seconds: Histogram,
    fsync_entries: Histogram,
    fsync_shard_writes: Histogram,
    unsynced_writes: IntCounter,
    pub(crate) disk_write_age: Gauge,
    log_entries: IntCounter,
    pub(crate) acquires: AcquireMetrics,
    pub(crate) quota_refusals: IntCounter,
    store: StoreMetrics,
    ready: IntGauge,
    stands_by: IntGauge,
    topology_failed: IntGauge,
    snapshots_arriving: IntGauge,
    snapshots_sent: [IntCounter; 2],
    pub(crate) snapshots_received: IntCounter,
}

impl Metrics {
    /// The metrics of a node that hosts `shards` and talks to `peers` at first.
    pub(crate) fn new(
        shards: impl IntoIterator<Item = ShardId>,
        peers: impl IntoIterator<Item = NodeId>,
    ) -> Result<Metrics, prometheus::Error> {
        let r = Registrar::default();
        let latency_buckets = prometheus::exponential_buckets(0.000_25, 2.0, 18)?; // 250 us to 33 s
        let disk_buckets = prometheus::exponential_buckets(0.000_05, 2.0, 18)?; // 50 us to 6.5 s
        let count_buckets = prometheus::exponential_buckets(1.0, 2.0, 13)?; // 1 to 4,096

        let operations = r.counters(
            "palisade_operations_total",
            "Operations answered, by kind and outcome.",
            &["kind", "outcome"],
        )?;
        let latency = r.histograms(
            "palisade_operation_seconds",
            "From the receipt of an operation to its answer, waiting in lock queues included.",
            &["kind"],
            latency_buckets,
        )?;
        let (by_shard, by_peer) = (ByShard::new(&r)?, ByPeer::new(&r)?);
        peers.into_iter().for_each(|peer| drop(by_peer.of(peer)));
        let sent =
            r.counters("palisade_snapshots_sent_total", "Snapshots sent to peers.", &["result"])?;
        Ok(Metrics {
            operations: kind_labels()
                .map(|kind| Outcome::ALL.map(|outcome| operations.with_label_values(&[kind, outcome.as_str()])))
                .collect(),
            latency: kind_labels().map(|kind| latency.with_label_values(&[kind])).collect(),
            shards: RwLock::new(shards.into_iter().map(|shard| (shard, by_shard.of(shard))).collect()),
            by_shard,
            by_peer,
            streams: r.gauge("palisade_operation_streams", "Open streams of operations.")?,
            watches: r.gauge("palisade_watches", "Watches of gateways on shards of this node.")?,
            watch_rings: r.gauge("palisade_watch_rings", "Shards whose recent events are kept for watches.")?,
            watch_events: r.counter("palisade_watch_events_total", "Events told, once for each watch.")?,
            watch_resyncs: r.counter(
                "palisade_watch_resyncs_total",
                "New pictures of watches that were too slow or too old, so that events were lost to them.",
            )?,
            connections: r.gauge("palisade_connections", "Open connections of gateways, peers and probes.")?,
            accept_pauses: r.gauge(
                "palisade_accept_pauses",
                "How often no connections were taken for a while, for want of descriptors.",
            )?,
            connections_refused: r.counter(
                "palisade_connections_refused_total",
                "Closed: their handshake failed, their source had too many, or their certificate ended.",
            )?,
            certificate_expires: r
                .gauges(
                    "palisade_tls_certificate_expires_seconds",
                    "When the certificate in use expires, in seconds since 1970. 0 without TLS.",
                    &["side"],
                )?
                .with_label_values(&["inside"]),
            certificate_failures: r
                .counters(
                    "palisade_tls_reload_failures_total",
                    "New files of certificates that could not be used: those before stay in use.",
                    &["side"],
                )?
                .with_label_values(&["inside"]),
            queued_operations: r.gauge("palisade_queued_operations", "Operations that wait for a shard thread.")?,
            step_seconds: r.histogram(
                "palisade_step_seconds",
                "Steps of replicas: nothing else happens on their thread meanwhile.",
                disk_buckets.clone(),
            )?,
            frame_operations: r.histogram(
                "palisade_frame_operations",
                "Operations per frame of a gateway.",
                count_buckets.clone(),
            )?,
            result_frame_operations: r.histogram(
                "palisade_result_frame_operations",
                "Results per frame to a gateway.",
                count_buckets.clone(),
            )?,
            fsync_seconds: r.histogram("palisade_fsync_seconds", "Synced writes of the log writer.", disk_buckets)?,
            fsync_entries: r.histogram(
                "palisade_fsync_entries",
                "Log entries per synced write. (Operations per entry: commands over entries applied.)",
                count_buckets.clone(),
            )?,
            fsync_shard_writes: r.histogram(
                "palisade_fsync_shard_writes",
                "Writes of shards merged into one synced write.",
                count_buckets,
            )?,
            unsynced_writes: r
                .counter("palisade_unsynced_writes_total", "Writes of the log writer that needed no sync.")?,
            disk_write_age: r.float_gauge(
                "palisade_disk_write_age_seconds",
                "Age of the disk write under way; 0: none is. Past two election timeouts the disk counts as hanging.",
            )?,
            log_entries: r.counter("palisade_log_entries_written_total", "Log entries written.")?,
            acquires: AcquireMetrics::new(&r)?,
            quota_refusals: r.counter(
                "palisade_quota_refusals_total",
                "Acquires refused because their identity is at its quota on the shard.",
            )?,
            store: StoreMetrics::new(&r)?,
            ready: r.gauge("palisade_ready", "1: /readyz answers 200.")?,
            stands_by: r.gauge(
                "palisade_stands_by",
                "1: this node takes no part yet, because its peers have not confirmed its data directory.",
            )?,
            topology_failed: r.gauge(
                "palisade_topology_failed",
                "1: the replica of the topology's group on this node has failed, and the node serves without it.",
            )?,
            snapshots_arriving: r.gauge("palisade_snapshots_arriving", "Shards of which a snapshot is on its way here.")?,
            snapshots_sent: ["ok", "failed"].map(|result| sent.with_label_values(&[result])),
            snapshots_received: r.counter("palisade_snapshots_received_total", "Snapshots received whole.")?,
            registry: {
                let registry = r.done();
                process::register(&registry)?;
                registry
            },
        })
    }

    /// Counts an operation that was answered.
    pub(crate) fn answered(
        &self,
        kind: Kind,
        outcome: Outcome,
        took: Duration,
        shard: Option<ShardId>,
    ) {
        self.operations[index(kind)][outcome as usize].inc();
        self.latency[index(kind)].observe(took.as_secs_f64());
        if let Some(shard) = shard
            && let Some(metrics) = self.shards().get(&shard)
        {
            metrics.answered(kind, outcome);
        }
    }

    /// The operations that were refused as busy.
    pub(crate) fn refused_as_busy(&self) -> u64 {
        self.operations.iter().map(|outcomes| outcomes[Outcome::Busy as usize].get()).sum()
    }

    /// Counts an acquire that could not be granted at once, however it ended.
    pub(crate) fn contended(&self, shard: ShardId) {
        if let Some(metrics) = self.shards().get(&shard) {
            metrics.contended.inc();
        }
    }

    pub(crate) fn wrote(&self, synced: bool, took: Duration, entries: usize, shard_writes: usize) {
        self.log_entries.inc_by(entries as u64);
        if synced {
            self.fsync_seconds.observe(took.as_secs_f64());
            self.fsync_entries.observe(entries as f64);
            self.fsync_shard_writes.observe(shard_writes as f64);
        } else {
            self.unsynced_writes.inc();
        }
    }

    pub(crate) fn snapshot_sent(&self, ok: bool) {
        self.snapshots_sent[usize::from(!ok)].inc();
    }

    /// The counts of a peer.
    pub(crate) fn peer(&self, peer: NodeId) -> PeerMetrics {
        self.by_peer.of(peer)
    }

    /// Shows nothing more of a node that is no peer any more.
    pub(crate) fn forget_peer(&self, peer: NodeId) {
        self.by_peer.forget(peer);
    }

    /// Shows a replica from now on.
    pub(crate) fn admit(&self, shard: ShardId) {
        let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        shards.insert(shard, self.by_shard.of(shard));
    }

    /// Shows nothing more of a replica that has left this node.
    pub(crate) fn forget(&self, shard: ShardId) {
        self.shards.write().unwrap_or_else(PoisonError::into_inner).remove(&shard);
        self.by_shard.forget(shard);
    }

    fn shards(&self) -> RwLockReadGuard<'_, BTreeMap<ShardId, ShardMetrics>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All metrics, in Prometheus' text format. `present` reads what is not counted here.
    pub(crate) fn text(&self, present: &Present<'_>) -> String {
        self.queued_operations.set(i64::try_from(present.queued_operations).unwrap_or(i64::MAX));
        self.connections.set(present.accepted.open() as i64);
        self.accept_pauses.set(present.accepted.spells() as i64);
        catch_up(&self.connections_refused, present.accepted.refused());
        if let Some(tls) = present.tls {
            self.certificate_expires.set(tls.current().certificate().not_after_s);
            catch_up(&self.certificate_failures, tls.failures());
        }
        self.ready.set(present.ready.into());
        self.stands_by.set((!present.takes_part).into());
        self.topology_failed.set(present.board.meta_failure().is_some().into());
        self.snapshots_arriving.set(present.board.arriving().len() as i64);
        if let Some(sizes) = present.sizes {
            self.store.show(sizes);
        }
        for status in present.board.all() {
            if let Some(metrics) = self.shards().get(&status.shard) {
                metrics.show(&status, (present.node, present.incarnation), present.now_ms);
            }
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics cannot be shown");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Figures that other parts of the node keep.
pub(crate) struct Present<'a> {
    pub(crate) node: NodeId,
    /// Of this node's data directory.
    pub(crate) incarnation: u32,
    pub(crate) board: &'a Board,
    pub(crate) queued_operations: usize,
    pub(crate) accepted: &'a Accepted,
    pub(crate) tls: Option<&'a Inside>,
    pub(crate) takes_part: bool,
    pub(crate) sizes: Option<Sizes>,
    pub(crate) ready: bool,
    /// Unix time in milliseconds.
    pub(crate) now_ms: u64,
}

/// Raises a counter to a count that is kept elsewhere.
fn catch_up(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_index_their_table() {
        for (nth, kind) in OperationKind::ALL.into_iter().enumerate() {
            assert_eq!(index(Some(kind)), nth, "{}", kind.as_str());
        }
        assert_eq!(kind_labels().count(), KINDS);
    }

    #[test]
    fn an_answer_is_counted_by_kind_outcome_and_shard() {
        let metrics = Metrics::new([ShardId(3)], [NodeId(2)]).unwrap();
        metrics.answered(
            Some(OperationKind::Acquire),
            Outcome::Ok,
            Duration::from_millis(1),
            Some(ShardId(3)),
        );
        metrics.answered(
            Some(OperationKind::Acquire),
            Outcome::Held,
            Duration::from_millis(1),
            Some(ShardId(3)),
        );
        metrics.contended(ShardId(3));
        let (board, accepted) = (Board::new([ShardId(3)]), Accepted::default());
        let text = metrics.text(&Present {
            node: NodeId(1),
            incarnation: 0,
            board: &board,
            queued_operations: 7,
            accepted: &accepted,
            tls: None,
            takes_part: true,
            sizes: None,
            ready: true,
            now_ms: 0,
        });
        for line in [
            r#"palisade_operations_total{kind="acquire",outcome="ok"} 1"#,
            r#"palisade_operations_total{kind="acquire",outcome="held"} 1"#,
            r#"palisade_acquire_attempts_total{shard="3"} 2"#,
            r#"palisade_acquire_contended_total{shard="3"} 1"#,
            r#"palisade_operation_seconds_count{kind="acquire"} 2"#,
            "palisade_queued_operations 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn what_has_left_is_not_shown_and_what_comes_back_counts_from_0() {
        let metrics = Metrics::new([ShardId(3), ShardId(4)], [NodeId(2), NodeId(5)]).unwrap();
        let text = || {
            let mut text = Vec::new();
            TextEncoder::new().encode(&metrics.registry.gather(), &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        let lines = |label: &str| text().lines().filter(|line| line.contains(label)).count();
        metrics.contended(ShardId(3));
        metrics.peer(NodeId(2)).frames_sent.inc();
        let (of_shard, of_peer) = (lines(r#"shard="3""#), lines(r#"peer="2""#));
        assert!(of_shard > 10 && of_peer > 5, "{of_shard} {of_peer}");
        metrics.forget(ShardId(3));
        metrics.forget_peer(NodeId(2));
        metrics.contended(ShardId(3));
        assert_eq!((lines(r#"shard="3""#), lines(r#"peer="2""#)), (0, 0));
        assert_eq!((lines(r#"shard="4""#), lines(r#"peer="5""#)), (of_shard, of_peer));
        metrics.admit(ShardId(3));
        metrics.peer(NodeId(2));
        assert_eq!((lines(r#"shard="3""#), lines(r#"peer="2""#)), (of_shard, of_peer));
        assert!(text().contains(r#"palisade_acquire_contended_total{shard="3"} 0"#));
    }
}
