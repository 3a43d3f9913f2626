//! JetStream as the bus. The consumer only carries messages: order and place come from the store's position.

mod feed;
mod publish;
mod reader;

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

pub use publish::JetStreamPublisher;
pub(crate) use publish::{PubAck, code};
pub(crate) use reader::Reader;

use super::nats::Connection;
use super::{Ack, Attached, BusError, EventBus, Message, Outgoing, Publisher, Result};
use feed::Feed;

/// One agent's consumer.
#[derive(Clone)]
pub struct JetStreamBus {
    publisher: JetStreamPublisher,
    stream: String,
    consumer: String,
    feed: Arc<tokio::sync::Mutex<Option<Feed>>>,
    /// Where to acknowledge what was pulled and is not acknowledged yet.
    replies: Arc<std::sync::Mutex<VecDeque<(u64, async_nats::Subject)>>>,
}

#[derive(Deserialize)]
pub(crate) struct ApiError {
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    error: Option<ApiError>,
    ack_floor: Option<Place>,
    delivered: Option<Place>,
    #[serde(default)]
    num_pending: u64,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    consumer_seq: u64,
    #[serde(default)]
    stream_seq: u64,
}

impl JetStreamBus {
    pub fn new(connection: Connection, stream: String, consumer: String) -> Self {
        Self {
            publisher: JetStreamPublisher::new(connection),
            stream,
            consumer,
            feed: Arc::default(),
            replies: Arc::default(),
        }
    }

    fn connection(&self) -> &Connection {
        self.publisher.connection()
    }

    fn api(&self, verb: &str) -> String {
        subject(verb, &self.stream, &self.consumer)
    }

    async fn ask(&self, doing: &'static str, verb: &str, payload: String) -> Result<ConsumerInfo> {
        ask(self.connection(), doing, self.api(verb), payload).await
    }
}

/// A request to JetStream's API about a consumer.
fn subject(verb: &str, stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.{verb}.{stream}.{consumer}")
}

async fn ask(connection: &Connection, doing: &'static str, subject: String, payload: String) -> Result<ConsumerInfo> {
    let answer = connection.request(doing, subject, Bytes::from(payload)).await?;
    let info: ConsumerInfo = serde_json::from_slice(&answer)
        .map_err(|e| BusError::Unreachable { doing, cause: format!("its answer is not understood: {e}") })?;
    match info.error {
        Some(ApiError { err_code, description }) => {
            Err(BusError::Refused { doing, code: err_code, detail: description })
        }
        None => Ok(info),
    }
}

impl Publisher for JetStreamBus {
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Ack>> {
        self.publisher.publish(messages).await
    }
}

impl EventBus for JetStreamBus {
    async fn attach(&self, position: u64) -> Result<Attached> {
        let mut feed = self.feed.lock().await;
        *feed = None;
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let generation = self.connection().connected().await?;
        let info = self.ask("look at the consumer", "INFO", String::new()).await?;
        let floor = info.ack_floor.map_or(0, |floor| floor.stream_seq);
        if floor <= position {
            self.ask("reset the consumer", "RESET", format!("{{\"seq\":{}}}", position + 1)).await?;
            *feed = Some(Feed::open(self.connection(), self.api("MSG.NEXT"), position, generation).await?);
        }
        Ok(Attached { floor })
    }

    async fn pull(&self, max: usize) -> Result<Vec<Message>> {
        let mut feed = self.feed.lock().await;
        let Some(open) = feed.as_mut() else { return Err(BusError::Gap("no consumer is attached".into())) };
        let pulled = open.pull(self.connection(), max).await?;
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(pulled
            .into_iter()
            .map(|(message, reply)| {
                replies.push_back((message.stream, reply));
                message
            })
            .collect())
    }

    /// The policy is All: acknowledging the last of what is settled acknowledges all before it.
    async fn settled(&self, position: u64) {
        let last = {
            let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
            let mut last = None;
            while replies.front().is_some_and(|(stream, _)| *stream <= position) {
                last = replies.pop_front();
            }
            last
        };
        if let Some((_, reply)) = last
            && let Err(error) = self.connection().client.publish(reply, Bytes::from_static(b"+ACK")).await
        {
            tracing::debug!(%error, "acknowledging; the next one covers it");
        }
    }
}

/// How long a pull waits at the broker; shorter than this without a word means that the broker is gone.
const PULL_EXPIRES: Duration = Duration::from_secs(20);
