//! The metrics of a gateway: one registry per gateway, names `palisade_gateway_*`.
//!
//! Serving looks up nothing by label: labelled children are made at the start, and those of nodes
//! when the metrics are read. Labels are kinds, outcomes and node ids. A resource name is never a label, because names have no
//! bound.

use net::accept::Accepted;
use net::tls::{Inside, Server};
use prometheus::core::Collector;
use prometheus::local::LocalHistogram;
use prometheus::{
    Encoder, Error, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use routing::{NodeId, ShardId};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use wire::v1::ErrorCode;
use wire::v1::operation_result::Result as Answer;
use wire::{OperationKind, Outcome};

/// One child for each kind, and one for operations without a kind.
const KINDS: usize = OperationKind::ALL.len() + 1;

/// The place of the time of the service among the times of acquires.
const SERVICE: usize = 3;

/// The times of one acquire, by place among the histograms.
type Times = [Option<(usize, Duration)>; 2];

/// Times of acquires of one stream that are not in the shared histograms yet. A drop adds them, too.
///
/// They are collected without atomics. The mutex makes them shareable between threads, as a task
/// must be. It is never locked.
#[derive(Debug)]
pub(crate) struct AcquireTimes(Mutex<[LocalHistogram; 4]>);

impl AcquireTimes {
    /// Adds what was collected to the shared histograms.
    pub(crate) fn flush(&mut self) {
        let histograms = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        histograms.iter().for_each(LocalHistogram::flush);
    }
}

/// The registry of one gateway and its metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    operations: Vec<[IntCounter; Outcome::ALL.len()]>,
    latency: Vec<Histogram>,
    retries: Vec<IntCounter>,
    attempts: IntCounter,
    contended: IntCounter,
    /// Waits by end: granted, timed out, cancelled. Then the time of the service.
    acquire_times: [Histogram; 4],
    has_leader: Vec<(ShardId, IntGauge)>,
    ready: IntGauge,
    connected: IntGaugeVec,
    /// The nodes that `connected` has.
    nodes: Mutex<BTreeSet<NodeId>>,
    waits: IntGauge,
    watches: IntGauge,
    watch_legs: IntGauge,
    connections: IntGauge,
    accept_pauses: IntGauge,
    connections_refused: IntCounter,
    inside: Certificate,
    clients: Certificate,
    pub(crate) streams: IntGauge,
    pub(crate) in_flight: IntGauge,
    pub(crate) frame_operations: Histogram,
    pub(crate) result_frame_operations: Histogram,
    pub(crate) operations_refused: IntCounter,
    pub(crate) denied: IntCounter,
    pub(crate) sign_ins_failed: IntCounter,
    pub(crate) sign_ins_refused: IntCounter,
    pub(crate) access_refused: IntCounter,
    pub(crate) unseen_grants: IntCounter,
    pub(crate) waits_left: IntCounter,
    pub(crate) watch_events: IntCounter,
    pub(crate) watch_moves: IntCounter,
    pub(crate) watch_pauses: IntCounter,
}

impl Metrics {
    /// The metrics of a gateway to these shards.
    pub(crate) fn new(shards: impl IntoIterator<Item = ShardId>) -> Result<Metrics, Error> {
        let registry = Registry::new();
        let r = Registrar(&registry);
        let kinds = || OperationKind::ALL.into_iter().map(OperationKind::as_str).chain(["unknown"]);
        let operations = r.counters(
            "operations_total",
            "Operations answered, by kind and outcome.",
            &["kind", "outcome"],
        )?;
        let latency = r.keep(HistogramVec::new(
            HistogramOpts::new(
                name("operation_seconds"),
                "From the receipt of an operation to its answer, retries and waiting in lock queues included.",
            )
            .buckets(prometheus::exponential_buckets(0.000_25, 2.0, 18)?), // 250 us to 33 s
            &["kind"],
        )?)?;
        let retries = r.counters("retries_total", "Tries after the first.", &["kind"])?;
        let connected = r.keep(IntGaugeVec::new(
            Opts::new(name("node_connected"), "1: the stream to this node is up."),
            &["node"],
        )?)?;
        let has_leader = r.keep(IntGaugeVec::new(
            Opts::new(
                name("shard_has_leader"),
                "1: the shard has a leader that can be reached, so this gateway serves it.",
            ),
            &["shard"],
        )?)?;
        let waits = r.keep(HistogramVec::new(
            HistogramOpts::new(
                name("acquire_wait_seconds"),
                "Time that acquires spent in the lock's queue, by how the wait ended. 0 for those granted at once.",
            )
            .buckets(prometheus::exponential_buckets(0.001, 2.0, 22)?), // 1 ms to 35 min
            &["end"],
        )?)?;
        let service = r.keep(Histogram::with_opts(
            HistogramOpts::new(
                name("acquire_service_seconds"),
                "From the receipt of an acquire to its answer, without the time in the lock's queue.",
            )
            .buckets(prometheus::exponential_buckets(0.000_25, 2.0, 18)?), // 250 us to 33 s
        )?)?;
        let of_frames = |what: &str, help: &str| {
            let buckets = prometheus::exponential_buckets(1.0, 2.0, 13)?; // 1 to 4,096
            r.keep(Histogram::with_opts(HistogramOpts::new(name(what), help).buckets(buckets))?)
        };
        let expires = r.keep(IntGaugeVec::new(
            Opts::new(
                name("tls_certificate_expires_seconds"),
                "When the certificate in use expires, in seconds since 1970. 0 without TLS.",
            ),
            &["side"],
        )?)?;
        let failures = r.counters(
            "tls_reload_failures_total",
            "New files of certificates that could not be used: those before stay in use.",
            &["side"],
        )?;
        let certificate = |side: &str| Certificate {
            expires: expires.with_label_values(&[side]),
            failures: failures.with_label_values(&[side]),
        };
        Ok(Metrics {
            inside: certificate("inside"),
            clients: certificate("clients"),
            connections_refused: r.counter(
                "connections_refused_total",
                "Closed: their handshake failed, their source had too many, or their certificate ended.",
            )?,
            operations: kinds()
                .map(|kind| Outcome::ALL.map(|o| operations.with_label_values(&[kind, o.as_str()])))
                .collect(),
            latency: kinds().map(|kind| latency.with_label_values(&[kind])).collect(),
            retries: kinds().map(|kind| retries.with_label_values(&[kind])).collect(),
            attempts: r.counter(
                "acquires_total",
                "Acquires answered: granted, or refused because another holds.",
            )?,
            contended: r.counter(
                "acquires_contended_total",
                "Of these, those that found another holder, whatever came of it.",
            )?,
            acquire_times: [
                waits.with_label_values(&["granted"]),
                waits.with_label_values(&["timed_out"]),
                waits.with_label_values(&["cancelled"]),
                service,
            ],
            has_leader: shards
                .into_iter()
                .map(|shard| (shard, has_leader.with_label_values(&[shard.to_string()])))
                .collect(),
            ready: r.gauge("ready", "1: /readyz answers 200.")?,
            connected,
            nodes: Mutex::default(),
            waits: r.gauge(
                "waits",
                "Waiting acquires in flight, those of clients that are gone included.",
            )?,
            watches: r.gauge("watches", "Watches of clients.")?,
            watch_legs: r.gauge(
                "watch_legs",
                "Legs of the watches of clients: one for each shard that a watch asks.",
            )?,
            connections: r
                .gauge("client_connections", "Open connections of clients and probes.")?,
            accept_pauses: r.gauge(
                "accept_pauses",
                "How often no connections were taken for a while, for want of descriptors.",
            )?,
            streams: r.gauge("client_streams", "Open streams of clients.")?,
            in_flight: r
                .gauge("operations_in_flight", "Operations not answered yet, waits included.")?,
            frame_operations: of_frames("frame_operations", "Operations per frame of a client.")?,
            result_frame_operations: of_frames(
                "result_frame_operations",
                "Results per frame to a client.",
            )?,
            operations_refused: r
                .counter("operations_refused_total", "Refused as busy before anything was sent.")?,
            denied: r.counter(
                "operations_denied_total",
                "Refused before anything was sent, because the identity may not do them.",
            )?,
            sign_ins_failed: r.counter(
                "sign_ins_failed_total",
                "Certificates and tokens of clients that proved no identity.",
            )?,
            sign_ins_refused: r.counter(
                "sign_ins_refused_total",
                "Signed tokens that were not checked, because too many of their source were wrong.",
            )?,
            access_refused: r.counter(
                "access_files_refused_total",
                "Changed files of policy, tokens or keys that could not be used.",
            )?,
            unseen_grants: r.counter(
                "unseen_grants_total",
                "Grants to waits whose client had gone: they end by retry or TTL.",
            )?,
            waits_left: r.counter(
                "waits_left_total",
                "Queues left in the name of clients that were gone.",
            )?,
            watch_events: r
                .counter("watch_events_total", "Events put into the queues of watches.")?,
            watch_moves: r.counter(
                "watch_moves_total",
                "Watches of one shard that went on at another node, or again at the same.",
            )?,
            watch_pauses: r.counter(
                "watch_pauses_total",
                "Watches that were stopped for a while, because their clients did not read.",
            )?,
            registry: {
                process::register(&registry)?;
                registry
            },
        })
    }

    /// Counts one operation in flight until the guard is dropped.
    pub(crate) fn counted(&self) -> Counted<'_> {
        self.in_flight.inc();
        Counted(&self.in_flight)
    }

    /// Counts the answer of a unary call.
    pub(crate) fn answered(&self, kind: Option<OperationKind>, answer: &Answer, took: Duration) {
        for (nth, time) in self.count_answer(kind, answer, took).into_iter().flatten() {
            self.acquire_times[nth].observe(time.as_secs_f64());
        }
    }

    /// Counts the answer of an operation of a stream, whose acquires have their `times` there.
    pub(crate) fn answered_in_stream(
        &self,
        times: &mut AcquireTimes,
        kind: Option<OperationKind>,
        answer: &Answer,
        took: Duration,
    ) {
        let histograms = times.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (nth, time) in self.count_answer(kind, answer, took).into_iter().flatten() {
            histograms[nth].observe(time.as_secs_f64());
        }
    }

    /// The times of acquires that one stream collects.
    pub(crate) fn of_stream(&self) -> AcquireTimes {
        AcquireTimes(Mutex::new(self.acquire_times.each_ref().map(Histogram::local)))
    }

    /// Counts an answer. Returns its times by place in `acquire_times`.
    fn count_answer(&self, kind: Option<OperationKind>, answer: &Answer, took: Duration) -> Times {
        let code = answer.error_code();
        self.count(kind.map_or(KINDS - 1, |kind| kind as usize), code, took);
        match kind {
            Some(OperationKind::Acquire) => {
                self.acquired(answer.grant().map(|grant| grant.waited_ms), code, took)
            }
            _ => [None; 2],
        }
    }

    /// Counts an acquire: granted after so many milliseconds in the queue, or refused. Of one whose
    /// wait ended without a grant, all of its time counts as waiting.
    fn acquired(&self, waited_ms: Option<u64>, code: Option<ErrorCode>, took: Duration) -> Times {
        let contended = match waited_ms {
            Some(waited_ms) => waited_ms > 0,
            None => matches!(
                code,
                Some(ErrorCode::Held | ErrorCode::WaitTimeout | ErrorCode::WaitCancelled)
            ),
        };
        if contended || code.is_none() {
            self.attempts.inc();
        }
        if contended {
            self.contended.inc();
        }
        match (waited_ms, code) {
            (Some(waited_ms), _) => {
                let waited = Duration::from_millis(waited_ms);
                [Some((0, waited)), Some((SERVICE, took.saturating_sub(waited)))]
            }
            (None, Some(ErrorCode::WaitTimeout)) => [Some((1, took)), None],
            (None, Some(ErrorCode::WaitCancelled)) => [Some((2, took)), None],
            (None, Some(ErrorCode::Held)) => [Some((SERVICE, took)), None],
            _ => [None; 2],
        }
    }

    /// Counts the answer of a unary call that is not an operation of the stream.
    pub(crate) fn called(&self, kind: OperationKind, code: Option<ErrorCode>, took: Duration) {
        self.count(kind as usize, code, took);
    }

    fn count(&self, kind: usize, code: Option<ErrorCode>, took: Duration) {
        self.operations[kind][Outcome::of(code) as usize].inc();
        self.latency[kind].observe(took.as_secs_f64());
    }

    /// Counts an operation that was refused before it was begun. A denial is counted where it is
    /// decided.
    pub(crate) fn refused(&self, error: &wire::v1::Error) {
        if error.code() == ErrorCode::Busy {
            self.operations_refused.inc();
        }
    }

    /// Counts a retry of an operation.
    pub(crate) fn retried(&self, kind: OperationKind) {
        self.retries[kind as usize].inc();
    }

    /// All metrics in Prometheus' text format. `present` reads what is not counted here.
    pub(crate) fn text(&self, present: &Present<'_>) -> String {
        let nodes = present.connected.iter().map(|(node, _)| *node).collect();
        let mut known = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in known.difference(&nodes) {
            let _ = self.connected.remove_label_values(&[&gone.to_string()]);
        }
        *known = nodes;
        for (node, is_connected) in &present.connected {
            let connected = self.connected.with_label_values(&[node.to_string()]);
            connected.set((*is_connected).into());
        }
        drop(known);
        for (shard, has_leader) in &self.has_leader {
            has_leader.set((!present.leaderless.contains(shard)).into());
        }
        self.ready.set(present.ready.into());
        self.waits.set(present.waits as i64);
        self.watches.set(present.watches as i64);
        self.watch_legs.set(present.watch_legs as i64);
        self.connections.set(present.accepted.open() as i64);
        self.accept_pauses.set(present.accepted.spells() as i64);
        catch_up(&self.connections_refused, present.accepted.refused());
        if let Some(tls) = present.inside {
            self.inside.show(tls.current().certificate().not_after_s, tls.failures());
        }
        if let Some(tls) = present.clients {
            self.clients.show(tls.current().certificate().not_after_s, tls.failures());
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics cannot be shown");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Figures that other parts of the gateway keep.
pub(crate) struct Present<'a> {
    pub(crate) connected: Vec<(NodeId, bool)>,
    /// The shards without a leader that can be reached.
    pub(crate) leaderless: &'a [ShardId],
    pub(crate) ready: bool,
    /// Waiting acquires in flight.
    pub(crate) waits: usize,
    /// Watches of clients.
    pub(crate) watches: usize,
    pub(crate) watch_legs: usize,
    pub(crate) accepted: &'a Accepted,
    /// TLS towards the nodes.
    pub(crate) inside: Option<&'a Inside>,
    /// TLS towards clients.
    pub(crate) clients: Option<&'a Server>,
}

/// The figures of the certificate of one side.
#[derive(Debug)]
struct Certificate {
    expires: IntGauge,
    failures: IntCounter,
}

impl Certificate {
    fn show(&self, not_after_s: i64, failures: u64) {
        self.expires.set(not_after_s);
        catch_up(&self.failures, failures);
    }
}

/// Raises a counter to a count that is kept elsewhere.
fn catch_up(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

/// Counts one operation in flight.
pub(crate) struct Counted<'a>(&'a IntGauge);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn name(name: &str) -> String {
    format!("palisade_gateway_{name}")
}

/// Registers each metric as it is made.
struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn counter(&self, called: &str, help: &str) -> Result<IntCounter, Error> {
        self.keep(IntCounter::new(name(called), help)?)
    }

    fn counters(&self, called: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.keep(IntCounterVec::new(Opts::new(name(called), help), labels)?)
    }

    fn gauge(&self, called: &str, help: &str) -> Result<IntGauge, Error> {
        self.keep(IntGauge::new(name(called), help)?)
    }

    fn keep<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}
