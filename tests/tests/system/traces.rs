//! Traces of operations, from the header of a client to the spans of a gateway and a node.

use client::{Client, ClientOptions, in_trace};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use palisade_tests::{Cluster, Spec, eventually};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A collector that keeps all spans, each with the name of its service.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_process in request.into_inner().resource_spans {
            let service = service(&of_process);
            let spans = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn service(of_process: &ResourceSpans) -> String {
    let attributes = of_process.resource.iter().flat_map(|resource| &resource.attributes);
    let name = attributes.filter(|one| one.key == "service.name").find_map(|one| {
        match one.value.as_ref()?.value.as_ref()? {
            Value::StringValue(name) => Some(name.clone()),
            _ => None,
        }
    });
    name.unwrap_or_default()
}

impl Collector {
    /// Serves on a port of its own, and returns its address.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(self.clone());
        let incoming = TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        address
    }

    /// The spans of a trace with this name, of this service.
    fn spans_of(&self, trace: u128, service: &str, name: &str) -> Vec<Span> {
        let spans = self.0.lock().unwrap();
        let trace = trace.to_be_bytes();
        spans
            .iter()
            .filter(|(of, span)| of == service && span.name == name && span.trace_id == trace)
            .map(|(_, span)| span.clone())
            .collect()
    }

    /// Waits for the only such span.
    async fn span_of(&self, trace: u128, service: &str, name: &str) -> Span {
        let what = format!("the span {name} of {service}");
        eventually(&what, async || self.spans_of(trace, service, name).pop()).await
    }

    /// Waits for the span of an operation on the leader and for those of its entry, and compares
    /// their times.
    async fn entry_of(&self, trace: u128, name: &str) -> Span {
        let node = "palisade-node";
        let [of_node, commit, apply] = [
            self.span_of(trace, node, name).await,
            self.span_of(trace, node, "commit").await,
            self.span_of(trace, node, "apply").await,
        ];
        for part in [&commit, &apply] {
            assert_eq!(part.parent_span_id, of_node.span_id, "a part of the node's span");
        }
        assert_eq!(commit.end_time_unix_nano, apply.start_time_unix_nano);
        assert!(commit.start_time_unix_nano <= commit.end_time_unix_nano, "{commit:?}");
        assert!(apply.start_time_unix_nano <= apply.end_time_unix_nano, "{apply:?}");
        of_node
    }
}

/// Takes a lock over HTTP, as a part of this trace.
async fn acquire(gateway: &str, name: &str, traceparent: &str) -> String {
    let body = format!(r#"{{"name":"{name}","wait":"1s"}}"#);
    let request = format!(
        "POST /v1/acquire HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         traceparent: {traceparent}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The clusters of these tests, whose processes export all that is traced.
async fn traced(collector: &Collector) -> Cluster {
    let to = ["--traces".to_owned(), collector.start().await];
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let mut cluster = Cluster::prepare(Spec::default()).await;
    for node in 1..=3 {
        cluster.start_node_with(node, &to);
    }
    cluster.start_gateway_with(1, &to);
    cluster.ready().await;
    cluster
}

/// Ends all processes, which export their last spans then.
async fn end(mut cluster: Cluster) {
    cluster.signal_all(Signal::SIGTERM);
    cluster.gateway_ended(1).await;
    for node in 1..=3 {
        cluster.node_ended(node).await;
    }
}

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const SPAN: u64 = 0xb7ad_6b71_6920_3331;

fn traceparent(trace: u128) -> String {
    format!("00-{trace:032x}-{SPAN:016x}-01")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_header_of_a_client_to_the_entry_of_the_log() {
    let collector = Collector::default();
    let cluster = traced(&collector).await;
    let gateway = cluster.gateway(1).to_owned();

    let not_sampled = format!("00-{}-b7ad6b7169203331-00", "1".repeat(32));
    for (name, parent) in [
        ("secret-1", not_sampled.as_str()),
        ("secret-2", "no traceparent"),
        ("secret-3", &traceparent(TRACE)),
    ] {
        let answer = acquire(&gateway, name, parent).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let of_gateway = collector.span_of(TRACE, "palisade-gateway", "acquire").await;
    let of_node = collector.entry_of(TRACE, "acquire").await;
    assert_eq!(of_gateway.parent_span_id, SPAN.to_be_bytes());
    assert_eq!(of_node.parent_span_id, of_gateway.span_id, "a child of the gateway's");
    let keys: Vec<&str> = of_node.attributes.iter().map(|one| one.key.as_str()).collect();
    assert!(keys.contains(&"palisade.shard") && keys.contains(&"palisade.outcome"), "{keys:?}");

    // The last spans come at the end at the latest, so that one too many would be seen.
    end(cluster).await;
    let spans = collector.0.lock().unwrap();
    assert_eq!(spans.len(), 4, "only what was sampled: {spans:?}");
    assert!(!format!("{spans:?}").contains("secret"), "no name of a lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operations_of_a_stream_belong_to_the_trace_of_their_caller() {
    let collector = Collector::default();
    let cluster = traced(&collector).await;
    let unary = ClientOptions::new().unary(true);
    for (trace, options) in [(TRACE, ClientOptions::new()), (TRACE + 1, unary)] {
        let client = Client::with_options([cluster.gateway(1)], options);
        let name = format!("{trace:x}");
        let grant = in_trace(traceparent(trace), client.acquire(name.as_str())).await.unwrap();
        client.release(&name, grant.fencing_token).await.unwrap();
        let of_gateway = collector.span_of(trace, "palisade-gateway", "acquire").await;
        let of_node = collector.entry_of(trace, "acquire").await;
        assert_eq!(of_gateway.parent_span_id, SPAN.to_be_bytes());
        assert_eq!(of_node.parent_span_id, of_gateway.span_id);
    }
    end(cluster).await;
    let spans = collector.0.lock().unwrap();
    assert_eq!(spans.len(), 8, "the releases are not in the trace: {spans:?}");
}
