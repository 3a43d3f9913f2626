//! The smallest agent that does something: state and output for each event.

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use serde::Deserialize;

#[derive(Deserialize)]
struct Batch {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    state: State,
}

#[derive(Deserialize)]
struct State {
    data: Option<u64>,
}

pub(crate) async fn serve() -> anyhow::Result<()> {
    let address = std::env::var("RHIZON_LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let describe = async || r#"{"protocol":"v1","deterministic":true,"batch":true}"#;
    let routes = Router::new()
        .route("/rhizon/v1/agent", get(describe))
        .route("/rhizon/v1/receive", post(single))
        .route("/rhizon/v1/receive-batch", post(batch))
        .layer(axum::extract::DefaultBodyLimit::disable());
    axum::serve(tokio::net::TcpListener::bind(&address).await?, routes).await?;
    Ok(())
}

fn react(item: &Item, out: &mut String) {
    use std::fmt::Write as _;
    let count = item.state.data.unwrap_or(0) + 1;
    let _ = write!(out, r#"{{"outputs":[{{"type":"evt.bench.done","data":{count}}}],"state":{count}}}"#);
}

async fn single(body: Bytes) -> String {
    let mut out = String::new();
    if let Ok(item) = serde_json::from_slice::<Item>(&body) {
        react(&item, &mut out);
    }
    out
}

async fn batch(body: Bytes) -> String {
    let mut out = String::from(r#"{"items":["#);
    if let Ok(batch) = serde_json::from_slice::<Batch>(&body) {
        for (index, item) in batch.items.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            react(item, &mut out);
        }
    }
    out.push_str("]}");
    out
}
