//! A trace follows one event through both agents, as a collector sees it.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
#![allow(dead_code, reason = "the shared world has more than this test needs")]

mod common;
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rhizon_kernel::Envelope;
use world::{Store, World};

type Spans = Arc<Mutex<Vec<Span>>>;

/// The smallest OTLP collector: it keeps what it is sent.
async fn collector() -> (String, Spans) {
    let spans = Spans::default();
    let kept = spans.clone();
    let receive = async move |body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        kept.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, Router::new().route("/v1/traces", post(receive))).into_future());
    (url, spans)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hop_is_a_span_below_the_one_before() {
    let (url, spans) = collector().await;
    let environment = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", url), ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned())];
    let mut world = World::start_on(Store::Sqlite, environment).await;
    let mut event = Envelope::new("1".into(), "/test".into(), "cmd.permit.record".parse().unwrap(), "case-1".into());
    event.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    event.data = Some(serde_json::value::RawValue::from_string(r#"{"activity":"a","resource":"r"}"#.into()).unwrap());
    world.publish(&[common::events::admitted(event)]).await;
    world.wait_for_total(1).await;
    let named = |name: &str| spans.lock().unwrap().iter().find(|span| span.name == name).cloned();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let (first, second) = loop {
        if let Some(found) = named("process cmd.permit.record").zip(named("process evt.permit.recorded")) {
            break found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{:?} {}", spans.lock().unwrap(), world.log("permits"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(hex(&first.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&first.parent_span_id), "b7ad6b7169203331");
    assert_eq!(second.trace_id, first.trace_id);
    assert_eq!(second.parent_span_id, first.span_id);
    world.stop().await;
}
