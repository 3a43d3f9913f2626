//! An agent behind HTTP: the agent protocol v1, or plain CloudEvents.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rhizon_api::agent::Protocol;

use super::wire::{self, Description, Problem};
use super::{Agent, Answer, CallError, Item};

/// How long an agent may think about one call.
pub const DEADLINE: Duration = Duration::from_secs(30);
const ANSWER_BYTES: usize = 64 << 20;

#[derive(Clone)]
pub struct HttpAgent {
    client: Client<HttpConnector, Full<Bytes>>,
    url: Arc<str>,
    protocol: Protocol,
    concurrency: usize,
    /// Whether the agent that is there now was asked who it is, and whether it takes batches. Before the first one has
    /// said so it is not met with a connection for each event.
    described: Arc<AtomicBool>,
    batches: Arc<AtomicBool>,
}

impl HttpAgent {
    pub fn new(url: &str, protocol: Protocol, concurrency: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(concurrency)
            .retry_canceled_requests(false)
            .build(connector);
        let batches = AtomicBool::new(!matches!(protocol, Protocol::CloudEvents));
        Self {
            client,
            url: url.trim_end_matches('/').into(),
            protocol,
            concurrency,
            described: Arc::default(),
            batches: Arc::new(batches),
        }
    }

    /// Asks the agent who it is. `Err` says why it is not ready.
    pub async fn describe(&self) -> Result<(), String> {
        if matches!(self.protocol, Protocol::CloudEvents) {
            return self.send(Method::GET, "/", Bytes::new(), "").await.map(|_| ()).map_err(|e| e.to_string());
        }
        let (status, body) =
            self.send(Method::GET, "/rhizon/v1/agent", Bytes::new(), "").await.map_err(|e| e.to_string())?;
        if status != StatusCode::OK {
            return Err(format!("GET /rhizon/v1/agent answered {status}"));
        }
        let description: Description =
            serde_json::from_slice(&body).map_err(|e| format!("GET /rhizon/v1/agent: {e}"))?;
        if description.protocol != "v1" {
            return Err(format!("the agent speaks protocol '{}', and only 'v1' is known", description.protocol));
        }
        self.batches.store(description.batch, Ordering::Relaxed);
        self.described.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        content_type: &str,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let lost = |cause: String| CallError::Lost(cause);
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Full::new(body)).map_err(|e| CallError::Unreachable(e.to_string()))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| {
                if error.is_connect() { CallError::Unreachable(root_cause(&error)) } else { lost(root_cause(&error)) }
            })?;
            let status = response.status();
            let body =
                Limited::new(response.into_body(), ANSWER_BYTES).collect().await.map_err(|e| lost(e.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(DEADLINE, exchange)
            .await
            .unwrap_or_else(|_| Err(lost(format!("no answer within {} s", DEADLINE.as_secs()))))
    }

    async fn receive(&self, item: &Item) -> Result<Answer, CallError> {
        if matches!(self.protocol, Protocol::CloudEvents) {
            return self.cloud_event(item).await;
        }
        let body = Bytes::from(wire::single(item));
        let (status, body) = self.send(Method::POST, "/rhizon/v1/receive", body, "application/json").await?;
        unless_error(status, &body).map_or_else(|| Ok(wire::reaction(&body)), Ok)
    }

    /// A container that knows CloudEvents alone: its answer is none, one or a batch of events, and no state.
    async fn cloud_event(&self, item: &Item) -> Result<Answer, CallError> {
        let body = Bytes::from(item.envelope.clone());
        let (status, body) = self.send(Method::POST, "/", body, "application/cloudevents+json").await?;
        Ok(unless_error(status, &body).unwrap_or_else(|| wire::cloud_events(&body)))
    }
}

impl Agent for HttpAgent {
    fn batch(&self) -> usize {
        if self.batches.load(Ordering::Relaxed) { self.concurrency } else { 1 }
    }

    async fn call(&self, items: Vec<Item>) -> Result<Vec<Answer>, CallError> {
        let answers = self.ask(items).await;
        if answers.is_err() {
            self.described.store(false, Ordering::Relaxed); // Another one may come in its place.
        }
        answers
    }
}

impl HttpAgent {
    async fn ask(&self, items: Vec<Item>) -> Result<Vec<Answer>, CallError> {
        if !self.described.load(Ordering::Relaxed) && !matches!(self.protocol, Protocol::CloudEvents) {
            self.describe().await.map_err(CallError::Unreachable)?;
        }
        if items.len() == 1 || !self.batches.load(Ordering::Relaxed) {
            return try_join_all(items.iter().map(|item| self.receive(item))).await;
        }
        let body = Bytes::from(wire::batch(&items));
        let (status, body) = self.send(Method::POST, "/rhizon/v1/receive-batch", body, "application/json").await?;
        if status == StatusCode::OK {
            return Ok(wire::answers(&body, items.len()));
        }
        // Which of them it was can't be seen: each is asked about alone.
        Err(CallError::Lost(format!("receive-batch answered {status}")))
    }
}

/// A 503 means "not now" for everybody and is a failure like any 5xx; a 4xx is final only when it says so.
fn unless_error(status: StatusCode, body: &[u8]) -> Option<Answer> {
    if status.is_success() {
        return None;
    }
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let is_final = status.is_client_error() && problem.retry == Some(false);
    Some(wire::refusal(is_final, &problem, &format!("the agent answered {status}")))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_it_has_said_who_it_is_an_agent_gets_few_calls_and_not_one_for_each_event() {
        let batch = |protocol| HttpAgent::new("http://127.0.0.1:1", protocol, 500).batch();
        assert_eq!((batch(Protocol::Rhizon), batch(Protocol::CloudEvents)), (500, 1));
    }
}
