//! Publishing that keeps order: one at a time, or as one atomic batch; never pipelined.

use async_nats::HeaderMap;
use serde::Deserialize;

use super::super::nats::Connection;
use super::super::{Ack, BusError, Outgoing, Publisher, Result};
use super::ApiError;

/// Below this many, singles are faster than the fixed cost of an atomic batch.
const FEW: usize = 6;
/// The broker's limit is 1,000 messages; bytes are kept well below its buffers.
const BATCH_MESSAGES: usize = 900;
const BATCH_BYTES: usize = 16 << 20;

pub(crate) mod code {
    pub(crate) const WRONG_LAST_SEQUENCE: [u64; 2] = [10071, 10164];
    pub(crate) const TOO_LARGE: u64 = 10054;
    pub(super) const DUPLICATE_IN_BATCH: u64 = 10201;
    pub(crate) const STREAM_FULL: [u64; 3] = [10077, 10047, 10023];
    pub(super) const TOO_MANY_BATCHES: [u64; 2] = [10199, 10176];
}

#[derive(Clone)]
pub struct JetStreamPublisher {
    connection: Connection,
}

#[derive(Deserialize)]
pub(crate) struct PubAck {
    pub(crate) error: Option<ApiError>,
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(default)]
    duplicate: bool,
}

impl JetStreamPublisher {
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A batch that fails without saying which message is at fault goes one by one, so each answer is read.
    async fn publish_run(&self, run: &[Outgoing]) -> Result<Vec<Ack>> {
        if run.len() <= FEW {
            return self.one_by_one(run).await;
        }
        match self.atomic(run).await {
            Err(BusError::Refused { code, .. })
                if code == code::DUPLICATE_IN_BATCH || code::TOO_MANY_BATCHES.contains(&code) =>
            {
                self.one_by_one(run).await
            }
            other => other,
        }
    }

    async fn one_by_one(&self, run: &[Outgoing]) -> Result<Vec<Ack>> {
        let mut acks = Vec::with_capacity(run.len());
        for message in run {
            acks.push(self.acknowledged(message, self.headers(message)).await?);
        }
        Ok(acks)
    }

    /// Stored whole or not at all; only the last message is answered.
    async fn atomic(&self, run: &[Outgoing]) -> Result<Vec<Ack>> {
        let id = self.connection.client.new_inbox(); // Unguessable, so that nobody commits it for us.
        let id = id.rsplit('.').next().unwrap_or_default();
        let Some((last, rest)) = run.split_last() else { return Ok(Vec::new()) };
        let headers = |sequence: usize, message: &Outgoing| {
            let mut headers = self.headers(message);
            headers.insert("Nats-Batch-Id", id);
            headers.insert("Nats-Batch-Sequence", sequence.to_string());
            headers
        };
        for (index, message) in rest.iter().enumerate() {
            let headers = headers(index + 1, message);
            let sent =
                self.connection.client.publish_with_headers(message.subject.clone(), headers, message.payload.clone());
            sent.await.map_err(|e| unreachable(&e))?;
        }
        let mut commit = headers(run.len(), last);
        commit.insert("Nats-Batch-Commit", "1");
        let ack = self.acknowledged(last, commit).await?;
        let before = Ack { stream: 0, duplicate: false };
        Ok(rest.iter().map(|_| before).chain([ack]).collect())
    }

    fn headers(&self, message: &Outgoing) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", self.connection.message_id(&message.key));
        headers
    }

    async fn acknowledged(&self, message: &Outgoing, headers: HeaderMap) -> Result<Ack> {
        let sent =
            self.connection.client.request_with_headers(message.subject.clone(), headers, message.payload.clone());
        let answer = sent.await.map_err(|e| unreachable(&e))?;
        let doing = "publish";
        let ack: PubAck = serde_json::from_slice(&answer.payload)
            .map_err(|e| BusError::Unreachable { doing, cause: format!("its answer is not understood: {e}") })?;
        match ack.error {
            None => Ok(Ack { stream: ack.seq, duplicate: ack.duplicate }),
            Some(error) if code::STREAM_FULL.contains(&error.err_code) => Err(BusError::Full(error.description)),
            Some(error) => Err(BusError::Refused { doing, code: error.err_code, detail: error.description }),
        }
    }
}

impl Publisher for JetStreamPublisher {
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Ack>> {
        let mut acks = Vec::with_capacity(messages.len());
        for run in runs(&messages) {
            acks.extend(self.publish_run(run).await?);
        }
        Ok(acks)
    }
}

/// Cuts where the stream changes and where a batch would be too large: an atomic batch is for one stream.
fn runs(messages: &[Outgoing]) -> Vec<&[Outgoing]> {
    let stream = |message: &Outgoing| message.subject.starts_with("dead.");
    let (mut runs, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (index, message) in messages.iter().enumerate() {
        let cut = index - from >= BATCH_MESSAGES
            || bytes + message.payload.len() > BATCH_BYTES
            || stream(message) != stream(&messages[from]);
        if cut && index > from {
            runs.push(&messages[from..index]);
            (from, bytes) = (index, 0);
        }
        bytes += message.payload.len();
    }
    if from < messages.len() {
        runs.push(&messages[from..]);
    }
    runs
}

fn unreachable(error: &impl std::error::Error) -> BusError {
    BusError::Unreachable { doing: "publish", cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(subject: &str, bytes: usize) -> Outgoing {
        Outgoing {
            subject: subject.into(),
            key: rhizon_kernel::chain::Hash::ZERO,
            payload: Bytes::from(vec![0; bytes]),
        }
    }

    #[test]
    fn a_run_is_of_one_stream_and_not_too_large() {
        let mut list = vec![message("ev.a", 1), message("to.b", 1), message("dead.a", 1), message("ev.a", BATCH_BYTES)];
        list.extend(vec![message("ev.a", 1); BATCH_MESSAGES + 1]);
        let lengths: Vec<usize> = runs(&list).iter().map(|run| run.len()).collect();
        assert_eq!(lengths, [2, 1, 1, BATCH_MESSAGES, 1]);
    }
}
