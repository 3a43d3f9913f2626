//! `/healthz`, `/readyz` and `/metrics`. A replica that waits for its turn is ready, too: it is there to take over.

use crate::metrics::Metrics;
use axum::{Router, extract::State, routing::get};

pub async fn serve(listen: &str, metrics: Metrics) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .route("/metrics", get(|State(metrics): State<Metrics>| async move { metrics.text() }))
        .with_state(metrics);
    axum::serve(tokio::net::TcpListener::bind(listen).await?, router).await
}
