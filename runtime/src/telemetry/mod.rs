//! Structured logs, and traces when an OTLP endpoint is configured.
//!
//! A trace follows an event from the gateway to its last effect: the W3C trace context travels in the envelope, and each
//! hop's span is the parent of what it sends on. Without an endpoint the context is passed on as it came.

mod export;

use std::time::SystemTime;

use anyhow::Context as _;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Logs as JSON lines on stderr, filtered by `RUST_LOG`.
pub fn init_logs() {
    let asked = std::env::var("RUST_LOG").ok().and_then(|list| list.parse::<Targets>().ok());
    let quiet = ["async_nats", "sqlx", "opentelemetry", "opentelemetry_sdk"].map(|name| (name, LevelFilter::WARN));
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO).with_targets(quiet));
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(json).init();
}

/// W3C trace context, as an envelope carries it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

/// Makes spans, or passes contexts on when traces go nowhere.
#[derive(Clone, Default)]
pub struct Tracer(Option<SdkTracer>);

/// Spans waiting to be exported. Dropping it without `close` loses the last ones.
pub struct Traces(Option<SdkTracerProvider>);

/// Work in progress; it ends when dropped.
pub struct Span {
    inner: Option<opentelemetry_sdk::trace::Span>,
    context: TraceContext,
}

impl Traces {
    /// Exports to `OTEL_EXPORTER_OTLP_ENDPOINT` (HTTP, protobuf) where it is set.
    pub fn from_env(service: &str) -> anyhow::Result<Self> {
        let configured = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        if !configured.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
            return Ok(Self(None));
        }
        let exporter = export::exporter().context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        let resource = opentelemetry_sdk::Resource::builder().with_service_name(service.to_owned()).build();
        Ok(Self(Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())))
    }

    pub fn tracer(&self) -> Tracer {
        Tracer(self.0.as_ref().map(|provider| provider.tracer("rhizon")))
    }

    /// Exports what is left.
    pub async fn close(self) {
        let Some(provider) = self.0 else { return };
        let closed = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "exporting the last spans");
        }
    }
}

impl Tracer {
    /// Whether spans go anywhere.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span below `parent`, or a new trace when there is none.
    pub fn start(&self, name: String, kind: SpanKind, parent: &TraceContext, attributes: Vec<KeyValue>) -> Span {
        let Some(tracer) = &self.0 else { return Span { inner: None, context: parent.clone() } };
        let builder =
            tracer.span_builder(name).with_kind(kind).with_attributes(attributes).with_start_time(SystemTime::now());
        let inner = tracer.build_with_context(builder, &extract(parent));
        let context = inject(&inner);
        Span { inner: Some(inner), context }
    }
}

impl Span {
    /// What to send on, so that others continue this span.
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    pub fn outcome(&mut self, outcome: &'static str) {
        if let Some(span) = &mut self.inner {
            span.set_attribute(KeyValue::new("rhizon.outcome", outcome));
        }
    }
}

fn extract(parent: &TraceContext) -> Context {
    let mut carrier = std::collections::HashMap::new();
    carrier.extend(parent.traceparent.clone().map(|value| ("traceparent".to_owned(), value)));
    carrier.extend(parent.tracestate.clone().map(|value| ("tracestate".to_owned(), value)));
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

fn inject(span: &opentelemetry_sdk::trace::Span) -> TraceContext {
    let mut carrier = std::collections::HashMap::new();
    let context = Context::new().with_remote_span_context(span.span_context().clone());
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    let tracestate = carrier.remove("tracestate").filter(|state| !state.is_empty());
    TraceContext { traceparent: carrier.remove("traceparent"), tracestate }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn without_an_endpoint_the_context_is_passed_on() {
        let parent = TraceContext { traceparent: Some(PARENT.into()), tracestate: Some("a=b".into()) };
        let span = Tracer::default().start("x".into(), SpanKind::Consumer, &parent, vec![]);
        assert_eq!(*span.context(), parent);
    }

    #[test]
    fn a_span_continues_its_parents_trace() {
        let provider = SdkTracerProvider::builder().build();
        let tracer = Tracer(Some(provider.tracer("test")));
        let parent = TraceContext { traceparent: Some(PARENT.into()), tracestate: None };
        let span = tracer.start("x".into(), SpanKind::Consumer, &parent, vec![]);
        let own = span.context().traceparent.clone().unwrap();
        assert_eq!(own[..36], PARENT[..36], "the same trace");
        assert_ne!(own, PARENT, "another span");
    }
}
