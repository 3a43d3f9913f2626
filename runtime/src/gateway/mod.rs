//! A workspace's door for clients: CloudEvents in, states and journals out.
//!
//! ```text
//!  POST /v1/events ──▶ caller ──▶ ingest ──▶ admit ──▶ publish ──▶ EVENTS          GET … ──▶ caller ──▶ reads ──▶ sidecar
//!                      (auth)    (parse)   (decide)   (batches)                            (auth, access)
//!  POST, DELETE … ──▶ caller ──▶ commands ──▶ reads ──▶ control ──▶ publish ──▶ EVENTS, for one agent's sidecar
//! ```
//!
//! `auth`, `access`, `ingest`, `admit` and `control` are functions of values. What is behind the gateway comes in through two ports,
//! [`Publisher`] and [`Reader`], so that it is the same in a cluster and in `rhizon dev`.

mod access;
mod admit;
mod auth;
mod caller;
mod capacity;
pub mod cluster;
mod commands;
mod control;
mod entities;
mod events;
mod ingest;
pub mod local;
mod metrics;
mod outcome;
mod outcomes;
pub mod policy;
mod problem;
mod publish;
mod reader;
mod reads;
mod recent;
mod signature;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Router, middleware};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::capacity::Capacity;
use crate::telemetry::Tracer;

pub use self::metrics::Metrics;
pub use self::outcome::{Outcome, Sent, WAITING};
pub use self::policy::Policy;
pub use self::publish::{PublishError, Publisher, Usage};
pub use self::reader::{After, Question, ReadError, Reader, Reply, Verb};
use problem::Problem;
use publish::Queue;
use recent::Recent;

/// How long requests that are under way may take when the gateway stops.
const STOP_TIME: Duration = Duration::from_secs(10);

/// What a gateway needs to work.
pub struct Gateway {
    pub policy: watch::Receiver<Arc<Policy>>,
    pub publisher: Arc<dyn Publisher>,
    pub reader: Arc<dyn Reader>,
    pub metrics: Metrics,
    pub tracer: Tracer,
}

#[derive(Clone)]
struct App {
    policy: watch::Receiver<Arc<Policy>>,
    queue: Queue,
    capacity: Capacity,
    recent: Recent,
    reader: Arc<dyn Reader>,
    metrics: Metrics,
    tracer: Tracer,
}

impl FromRef<App> for watch::Receiver<Arc<Policy>> {
    fn from_ref(app: &App) -> Self {
        app.policy.clone()
    }
}

impl FromRef<App> for Arc<dyn Reader> {
    fn from_ref(app: &App) -> Self {
        app.reader.clone()
    }
}

impl Gateway {
    /// Answers until `stop`, then finishes what is under way. Everything it has started has ended when it returns.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let Self { policy, publisher, reader, metrics, tracer } = self;
        let (queue, batcher) = publish::batcher(publisher.clone());
        let capacity = Capacity::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(batcher);
        tasks.spawn(capacity.clone().follow(publisher));

        let routes = routes(App { policy, queue, capacity, recent: Recent::default(), reader, metrics, tracer });
        let listener = listener.tap_io(|stream| {
            // Without the option an answer only leaves later.
            let _ = stream.set_nodelay(true);
        });
        let stopped = stop.clone();
        let serve = axum::serve(listener, routes).with_graceful_shutdown(async move { stopped.cancelled().await });
        let result = tokio::select! {
            result = serve.into_future() => result,
            () = async { stop.cancelled().await; tokio::time::sleep(STOP_TIME).await } => Ok(()),
        };
        tasks.shutdown().await;
        result
    }
}

fn routes(app: App) -> Router {
    Router::new()
        .route("/v1/events", post(events::post).get(outcomes::get).delete(commands::cancel))
        .route("/v1/agents", get(reads::agents))
        .route("/v1/agents/{agent}", get(reads::agent))
        .route("/v1/agents/{agent}/entities", get(entities::entities))
        .route("/v1/agents/{agent}/entities/{entity}", get(reads::entity))
        .route("/v1/agents/{agent}/entities/{entity}/history", get(reads::history))
        .route("/v1/agents/{agent}/journal", get(reads::journal))
        .route("/v1/agents/{agent}/dead", get(reads::dead))
        .route("/v1/agents/{agent}/dead/{key}", get(reads::dead_letter).delete(commands::drop))
        .route("/v1/agents/{agent}/dead/{key}/redrive", post(commands::redrive))
        .fallback(async || Problem::not_found("there is nothing at this path; the API begins with /v1/"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(middleware::from_fn_with_state(app.metrics.clone(), metrics::count))
        .with_state(app)
}

#[cfg(test)]
mod tests;
