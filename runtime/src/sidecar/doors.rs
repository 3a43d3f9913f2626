//! The sidecar's doors to the cluster: health and metrics, and drain on a port of its own.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use tokio::net::TcpListener;

use super::Parts;
use super::hold::Hold;

pub(super) async fn serve_health(listen: String, parts: Arc<Parts>) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(parts);
    serve(&listen, routes).await
}

pub(super) async fn serve_drain(listen: String, hold: Hold) -> anyhow::Result<()> {
    let drain = async |State(hold): State<Hold>| {
        hold.drain().await;
        "drained\n"
    };
    serve(&listen, Router::new().route("/drain", get(drain)).with_state(hold)).await
}

async fn serve(listen: &str, routes: Router) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    axum::serve(listener, routes).await.with_context(|| format!("serving on {listen}"))
}

/// Ready: attached to the broker, and the agent is there. What is missing is said.
async fn ready(State(parts): State<Arc<Parts>>) -> (StatusCode, String) {
    let because = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    for report in &parts.reports {
        let report = report.borrow().clone();
        if !report.attached {
            return because(report.last_error.unwrap_or_else(|| "not attached to the stream yet".to_owned()));
        }
    }
    match parts.agent.describe().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => because(format!("the agent is not ready: {why}")),
    }
}

async fn metrics(State(parts): State<Arc<Parts>>) -> Result<String, StatusCode> {
    let mut text = String::new();
    encode(&mut text, &parts.metrics.registry()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(text)
}
