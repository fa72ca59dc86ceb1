//! Traces of operations: spans that go to a collector by OTLP over gRPC.
//!
//! Traces are off until [`start`] is called, once in a process. An operation is traced if its
//! caller says so, by a W3C `traceparent`, or if it is among the share that is sampled.
//!
//! ```
//! use palisade_traces::{Parent, server};
//!
//! let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
//! let parent = Parent::parse(text).unwrap();
//! assert_eq!(Parent::of_bytes(&parent.to_bytes()), Some(parent));
//! assert!(server("acquire", Some(parent)).is_none(), "traces are off");
//! ```

mod parent;
mod rate;

pub use parent::Parent;

use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use rate::Rate;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// The most operations that one process traces in a second. Callers decide what is traced, and a
/// traced operation costs several times as much as another one.
const TRACED_PER_SECOND: u32 = 1_000;

/// The way to the collector. Empty while traces are off.
static EXPORT: OnceLock<Export> = OnceLock::new();

struct Export {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Whether operations without a parent may be traced.
    begins: bool,
    rate: Rate,
}

/// Where traces go, and which there are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector, as `http://host:port`.
    pub endpoint: String,
    /// The name of this service, such as `palisade-gateway`.
    pub service: String,
    /// This process among those of its service, such as `node-3`.
    pub instance: String,
    /// The share of operations that are traced although their caller does not ask for that: 0 to 1.
    pub sample: f64,
}

/// Traces cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// They are on already.
    #[error("traces are on already")]
    Again,
    /// The collector's address cannot be used.
    #[error("the collector of traces cannot be used: {0}")]
    Collector(#[from] ExporterBuildError),
}

/// Turns traces on. Call it inside a tokio runtime, which the exporter's connection uses.
///
/// # Errors
/// [`StartError`]. An unreachable collector is no error: spans are dropped until it answers.
pub fn start(settings: &Settings) -> Result<(), StartError> {
    if EXPORT.get().is_some() {
        return Err(StartError::Again);
    }
    let exporter =
        SpanExporter::builder().with_tonic().with_endpoint(&settings.endpoint).build()?;
    let resource = Resource::builder()
        .with_service_name(settings.service.clone())
        .with_attribute(KeyValue::new("service.instance.id", settings.instance.clone()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample)));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("palisade");
    let rate = Rate::new(TRACED_PER_SECOND);
    let export = Export { provider, tracer, begins: settings.sample > 0.0, rate };
    EXPORT.set(export).map_err(|_| StartError::Again)
}

/// Sends the spans that are left, for at most this time. It blocks.
pub fn stop(within: Duration) {
    if let Some(export) = EXPORT.get() {
        // Spans that do not get through in time are lost.
        let _ = export.provider.shutdown_with_timeout(within);
    }
}

/// Whether traces are on.
pub fn is_on() -> bool {
    EXPORT.get().is_some()
}

/// Begins the span of an operation that came from elsewhere. `None` if the operation is not traced:
/// its caller does not ask for that, or too many others of this second are traced.
pub fn server(name: &'static str, parent: Option<Parent>) -> Option<Span> {
    // Asked before there is a span, because one that is dropped is sent.
    let export = EXPORT.get().filter(|export| export.rate.has_room())?;
    let context = match parent {
        Some(parent) if parent.is_sampled() => {
            Context::new().with_remote_span_context(parent.into())
        }
        None if export.begins => Context::new(),
        _ => return None,
    };
    let builder = export.tracer.span_builder(name).with_kind(SpanKind::Server);
    let span = export.tracer.build_with_context(builder, &context);
    let is_sampled = span.span_context().is_sampled();
    if is_sampled {
        export.rate.count();
    }
    is_sampled.then_some(Span(span))
}

/// A span that ends when it is dropped.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    /// The parent that the next process is told, so that its span is a child of this one.
    pub fn parent(&self) -> Parent {
        self.0.span_context().into()
    }

    /// Adds a part of this span, from one moment to another.
    pub fn part(&self, name: &'static str, from: SystemTime, to: SystemTime) {
        let Some(export) = EXPORT.get() else { return };
        let context = Context::new().with_remote_span_context(self.0.span_context().clone());
        let builder = export.tracer.span_builder(name).with_start_time(from);
        export.tracer.build_with_context(builder, &context).end_with_timestamp(to);
    }

    /// Sets a number on the span.
    pub fn number(&mut self, key: &'static str, value: u64) {
        self.0.set_attribute(KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX)));
    }

    /// Sets a word on the span.
    pub fn word(&mut self, key: &'static str, value: &'static str) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Notes a moment in the span.
    pub fn event(&mut self, name: &'static str) {
        self.0.add_event(name, Vec::new());
    }

    /// Marks the span as one of an operation that failed.
    pub fn failed(&mut self, why: &'static str) {
        self.0.set_status(Status::error(why));
    }
}
