//! The broker's side of snapshots: messages by name, one each.

use async_nats::client::RequestErrorKind;
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;

use super::super::super::{Result, StoreError};
use super::super::journal::full;
use crate::bus::jetstream::{PubAck, code};
use crate::bus::nats::Connection;

pub(super) struct Shelf {
    connection: Connection,
    stream: String,
    subject: String,
}

/// A message, and its sequence in the stream.
pub(super) struct Found {
    pub(super) stream: u64,
    pub(super) payload: Bytes,
}

impl Shelf {
    pub(super) fn new(connection: Connection, stream: String, subject: String) -> Self {
        Self { connection, stream, subject }
    }

    /// Asks for the message of a subject: this the broker can grant to one agent, unlike reading by sequence.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Found>> {
        let failed = |cause: String| StoreError::Failed { doing: "read a snapshot", cause };
        let Self { connection, stream, subject } = self;
        let get = format!("$JS.API.DIRECT.GET.{stream}.{subject}.{name}");
        let message = match connection.client.request(get, Bytes::new()).await {
            Ok(message) => message,
            // There is no such stream.
            Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        if message.status == Some(StatusCode::NOT_FOUND) {
            return Ok(None);
        }
        let sequence = message.headers.as_ref().and_then(|headers| headers.get("Nats-Sequence"));
        let stream = sequence.and_then(|sequence| sequence.as_str().parse().ok());
        let stream = stream.ok_or_else(|| failed("the broker's answer is not understood".into()))?;
        Ok(Some(Found { stream, payload: message.payload }))
    }

    /// Puts a message in the place of the one at `last`, 0 for none; answers its sequence, unless there is another one.
    pub(super) async fn put(&self, name: &str, last: u64, payload: Bytes) -> Result<Option<u64>> {
        let failed = |cause: String| StoreError::Failed { doing: "write a snapshot", cause };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", self.stream.as_str());
        headers.insert("Nats-Expected-Last-Subject-Sequence", last.to_string());
        let subject = format!("{}.{name}", self.subject);
        let answer = self.connection.client.request_with_headers(subject, headers, payload).await;
        let answer = answer.map_err(|e| failed(e.to_string()))?.payload;
        let ack: PubAck = serde_json::from_slice(&answer).map_err(|e| failed(e.to_string()))?;
        match ack.error {
            None => Ok(Some(ack.seq)),
            Some(error) if code::WRONG_LAST_SEQUENCE.contains(&error.err_code) => Ok(None),
            Some(error) if code::STREAM_FULL.contains(&error.err_code) => Err(full(&error.description)),
            Some(error) => Err(failed(format!("{} {}", error.err_code, error.description))),
        }
    }
}
