//! The broker's side: a message that lands only behind the last one that we know, and reading what we do not know.

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};

use super::super::{Result, StoreError};
use crate::bus::jetstream::{PubAck, Reader, code};
use crate::bus::nats::Connection;

/// Room for what the broker adds to a message, and for headers.
const SLACK: usize = 1 << 10;

pub(super) struct Journal {
    connection: Connection,
    stream: String,
    subject: String,
    consumer: String,
    /// Whose turn it is to read through the consumer, and how often it was begun anew.
    turn: Mutex<u64>,
}

/// What became of a message.
pub(super) enum Sent {
    /// Stored, as this sequence of the stream.
    Stored(u64),
    /// Not behind the subject's last message, which is another one by now: perhaps our own, sent twice.
    Overtaken,
    /// Nobody answered, or not understandably: it may be stored, or be stored later.
    Unknown(String),
}

/// A stream of the workspace.
pub(super) fn full(description: &str) -> StoreError {
    StoreError::Full(format!(
        "{description}; raise spec.messaging.journalMaxBytes of the workspace, or give the broker a larger disk"
    ))
}

impl Journal {
    pub(super) fn new(connection: Connection, stream: String, subject: String, consumer: String) -> Self {
        Self { connection, stream, subject, consumer, turn: Mutex::default() }
    }

    /// A name that nobody else gives to a message.
    pub(super) fn id(&self) -> String {
        let inbox = self.connection.client.new_inbox();
        inbox.rsplit('.').next().unwrap_or_default().to_owned()
    }

    /// Publishes behind `last`, the stream sequence of the subject's last message; 0 when there is none.
    pub(super) async fn publish(&self, last: u64, payload: Bytes) -> Result<Sent> {
        self.check_size(payload.len())?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", self.stream.as_str());
        headers.insert("Nats-Expected-Last-Subject-Sequence", last.to_string());
        let request = self.connection.client.request_with_headers(self.subject.clone(), headers, payload.clone());
        let answer = match request.await {
            Ok(message) => message.payload,
            Err(error) => return Ok(Sent::Unknown(error.to_string())),
        };
        let Ok(ack) = serde_json::from_slice::<PubAck>(&answer) else {
            return Ok(Sent::Unknown("the broker's answer is not understood".into()));
        };
        match ack.error {
            None => Ok(Sent::Stored(ack.seq)),
            Some(error) if code::WRONG_LAST_SEQUENCE.contains(&error.err_code) => Ok(Sent::Overtaken),
            Some(error) if code::STREAM_FULL.contains(&error.err_code) => Err(full(&error.description)),
            Some(error) if error.err_code == code::TOO_LARGE => {
                Err(StoreError::TooLarge { bytes: payload.len(), limit: self.limit() })
            }
            Some(error) => Ok(Sent::Unknown(format!("{} {}", error.err_code, error.description))),
        }
    }

    fn limit(&self) -> usize {
        self.connection.client.server_info().max_payload.saturating_sub(SLACK)
    }

    /// The broker closes the connection of who sends more than it takes.
    fn check_size(&self, bytes: usize) -> Result<()> {
        let limit = self.limit();
        // Nothing is known before the first connection; what is sent then waits for it.
        if limit == 0 || bytes <= limit { Ok(()) } else { Err(StoreError::TooLarge { bytes, limit }) }
    }

    /// Waits until nobody else reads. What a pull brings must be taken before the turn is given away.
    pub(super) async fn turn(&self) -> MutexGuard<'_, u64> {
        self.turn.lock().await
    }

    /// Reads from the message at `from` to the last one. Whoever read before must begin anew.
    pub(super) async fn read(&self, from: u64, turn: &mut u64) -> crate::bus::Result<Reader> {
        *turn += 1;
        Reader::open(&self.connection, &self.stream, &self.consumer, from).await
    }
}
