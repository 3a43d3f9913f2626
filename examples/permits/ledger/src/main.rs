//! The agent `ledger`: how many steps each officer has handled.
//!
//! It handles `evt.permit.recorded`, which the agent `permits` emits. The entity is the officer (the event's subject),
//! its state is `{"handled": n}`. The agent keeps nothing between calls; it speaks the agent protocol v1 over HTTP.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const HANDLES: &str = "evt.permit.recorded";

#[derive(Deserialize)]
struct Item {
    envelope: Envelope,
    state: Option<Stored>,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Stored {
    data: Option<Account>,
}

/// What is kept for one officer.
#[derive(Default, Deserialize, Serialize)]
struct Account {
    handled: u64,
}

#[derive(Deserialize)]
struct Batch {
    items: Vec<Item>,
}

/// One event and its entity's state in, the new state out. There are no outputs.
fn react(item: Item) -> Result<Value, Value> {
    if item.envelope.kind != HANDLES {
        let detail = format!("this agent handles {HANDLES}, not {}", item.envelope.kind);
        return Err(json!({"title": "rejected", "status": 422, "detail": detail, "retry": false}));
    }
    let account = item.state.and_then(|stored| stored.data).unwrap_or_default();
    Ok(json!({"outputs": [], "state": Account { handled: account.handled + 1 }}))
}

async fn describe() -> Json<Value> {
    Json(json!({"protocol": "v1", "types": [HANDLES], "deterministic": true, "batch": true}))
}

async fn receive(Json(item): Json<Item>) -> Response {
    match react(item) {
        Ok(reaction) => Json(reaction).into_response(),
        Err(problem) => (StatusCode::UNPROCESSABLE_ENTITY, Json(problem)).into_response(),
    }
}

/// In a batch, an item that is rejected fails only itself.
async fn receive_batch(Json(batch): Json<Batch>) -> Json<Value> {
    let answer = |item| react(item).unwrap_or_else(|problem| json!({"problem": problem}));
    Json(json!({"items": batch.items.into_iter().map(answer).collect::<Vec<_>>()}))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::var("RHIZON_LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let routes = Router::new()
        .route("/rhizon/v1/agent", get(describe))
        .route("/rhizon/v1/receive", post(receive))
        .route("/rhizon/v1/receive-batch", post(receive_batch))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20));
    let listener = tokio::net::TcpListener::bind(&address).await?.tap_io(|stream| {
        // An answer is small and complete: it should leave at once. Without the option it only leaves later.
        let _ = stream.set_nodelay(true);
    });
    println!("ledger listens on {address}");

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = axum::serve(listener, routes).into_future() => result,
        // The sidecar has drained before: a connection that is still open is idle.
        _ = terminate.recv() => Ok(()),
    }
}
