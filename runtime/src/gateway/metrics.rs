//! What the gateway counts. Labels are routes, status codes and codes of problems: bounded sets.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::problem::Refused;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refusal {
    code: &'static str,
}

/// Clones share the counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    refusals: Family<Refusal, Counter>,
    seconds: Histogram,
    events: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            refusals: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            events: Counter::default(),
        };
        registry.register("rhizon_gateway_requests", "Answered requests", metrics.requests.clone());
        registry.register(
            "rhizon_gateway_refusals",
            "Refused requests, by the problem's code",
            metrics.refusals.clone(),
        );
        registry.register("rhizon_gateway_request_seconds", "Time until the answer begins", metrics.seconds.clone());
        registry.register("rhizon_gateway_events", "Events that the broker has acknowledged", metrics.events.clone());
        metrics
    }

    /// For where nobody asks.
    pub fn unregistered() -> Self {
        Self::register(&mut Registry::default())
    }

    pub(super) fn accepted(&self, events: usize) {
        self.events.inc_by(events as u64);
    }
}

/// Middleware that counts each answer.
pub(super) async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let begun = Instant::now();
    let response = next.run(request).await;
    metrics.seconds.observe(begun.elapsed().as_secs_f64());
    if let Some(Refused(code)) = response.extensions().get() {
        metrics.refusals.get_or_create(&Refusal { code }).inc();
    }
    metrics.requests.get_or_create(&Labels { route, status: response.status().as_u16() }).inc();
    response
}
