//! The gateway in a cluster: its ports over NATS, its settings followed, its doors served.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use futures::future::BoxFuture;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Gateway, Metrics, Policy, PublishError, Publisher, Question, ReadError, Reader, Reply, Usage, Verb, policy,
};
use crate::bus::jetstream::JetStreamPublisher;
use crate::bus::nats::Connection;
use crate::bus::{Ack, Outgoing, Publisher as _};
use crate::reads;
use crate::sidecar::NEXT;
use crate::telemetry::Traces;

const STREAM_INFO: &str = "$JS.API.STREAM.INFO.EVENTS";
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until `stop`.
pub async fn run(path: PathBuf, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let settings = policy::load(&path).await?;
    let policy = Policy::from_settings(settings.clone()).context("the settings' keys")?;
    let (policies, policy) = watch::channel(Arc::new(policy));
    let connection = Connection::start(&settings.nats).await?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let traces = Traces::from_env("gateway")?;
    let gateway = Gateway {
        policy,
        publisher: Arc::new(Broker::new(connection.clone())),
        reader: Arc::new(Sidecars { connection: connection.clone() }),
        metrics,
        tracer: traces.tracer(),
    };
    let listener =
        TcpListener::bind(&settings.listen).await.with_context(|| format!("listening on {}", settings.listen))?;
    let stopping = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_health(settings.health_listen.clone(), connection, Arc::new(registry)));
    tasks.spawn(async move {
        policy::follow(path, settings, policies).await;
        Ok(())
    });
    let token = stopping.clone();
    let mut serving = std::pin::pin!(gateway.serve(listener, token));
    tokio::select! {
        served = &mut serving => return served.context("serving the gateway"),
        Some(ended) = tasks.join_next() => return ended.context("a task died")?,
        _ = stop.wait_for(|stop| *stop) => stopping.cancel(),
    }
    let served = serving.await.context("serving the gateway");
    traces.close().await;
    served
}

async fn serve_health(listen: String, connection: Connection, registry: Arc<Registry>) -> anyhow::Result<()> {
    let ready = move || {
        let connected = connection.is_connected();
        async move {
            if connected {
                (StatusCode::OK, "ready\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "the broker can't be reached\n")
            }
        }
    };
    let metrics = move || {
        let registry = registry.clone();
        async move {
            let mut text = String::new();
            encode(&mut text, &registry).map(|()| text).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    let listener = TcpListener::bind(&listen).await.with_context(|| format!("listening on {listen}"))?;
    axum::serve(listener, routes).await.with_context(|| format!("serving on {listen}"))
}

/// The workspace's stream.
struct Broker {
    connection: Connection,
    publisher: JetStreamPublisher,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: Option<StreamConfig>,
    state: Option<StreamState>,
}

#[derive(Deserialize)]
struct StreamConfig {
    max_bytes: i64,
}

#[derive(Deserialize)]
struct StreamState {
    bytes: u64,
}

impl Broker {
    fn new(connection: Connection) -> Self {
        Self { publisher: JetStreamPublisher::new(connection.clone()), connection }
    }
}

impl Publisher for Broker {
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Ack>, PublishError>> {
        Box::pin(async move { Ok(self.publisher.publish(messages).await?) })
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, PublishError>> {
        Box::pin(async move {
            let answer = self.connection.request("look at the stream", STREAM_INFO.to_owned(), Bytes::new()).await?;
            let info: StreamInfo =
                serde_json::from_slice(&answer).map_err(|e| PublishError::Unavailable(e.to_string()))?;
            let missing = || PublishError::Unavailable("the workspace has no stream yet".to_owned());
            let (config, state) = info.config.zip(info.state).ok_or_else(missing)?;
            Ok(Usage { bytes: state.bytes, limit_bytes: u64::try_from(config.max_bytes).unwrap_or(0) })
        })
    }
}

/// The agents' sidecars.
struct Sidecars {
    connection: Connection,
}

impl Reader for Sidecars {
    fn ask<'a>(&'a self, agent: &'a str, verb: Verb, question: Question) -> BoxFuture<'a, Result<Reply, ReadError>> {
        Box::pin(async move {
            let payload = serde_json::to_vec(&question).map_err(|e| ReadError::Unreadable(e.to_string()))?;
            let request = async_nats::Request::new().payload(payload.into()).timeout(Some(READ_TIMEOUT));
            let sent = self.connection.client.send_request(reads::subject(agent, verb), request).await;
            let message = sent.map_err(|_| ReadError::NoAnswer)?;
            let next = message.headers.as_ref().and_then(|headers| headers.get(NEXT)?.as_str().parse().ok());
            Ok(Reply { body: message.payload, next })
        })
    }
}
