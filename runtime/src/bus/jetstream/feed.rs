//! Pulls from a consumer, and takes what is the next by its sequence.

use std::time::Duration;

use async_nats::{StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::nats::Connection;
use super::super::sequence::{Delivery, Sequence};
use super::super::{BusError, Message, Result};
use super::PULL_EXPIRES;

/// What a pull may bring, and one for a message that is larger than that: more than the broker's largest.
const PULL_BYTES: usize = 1 << 20;
const LARGE_PULL_BYTES: usize = 16 << 20;
/// How long a pull waits for the next message that the broker has said to have.
const GATHER: Duration = Duration::from_millis(5);

pub(super) struct Feed {
    inbox: Subscriber,
    inbox_subject: String,
    next_subject: String,
    /// Messages that the pull under way may still bring.
    outstanding: usize,
    /// How many messages the pull under way was to bring, and how many bytes the next one may.
    asked: usize,
    pull_bytes: usize,
    /// Messages that the broker had for us behind the last one.
    pending: u64,
    sequence: Sequence,
    generation: u64,
    reconnected: watch::Receiver<u64>,
}

impl Feed {
    pub(super) async fn open(
        connection: &Connection,
        next_subject: String,
        position: u64,
        generation: u64,
    ) -> Result<Self> {
        let unreachable = |cause: String| BusError::Unreachable { doing: "subscribe an inbox", cause };
        let inbox_subject = connection.client.new_inbox();
        let inbox = connection.client.subscribe(inbox_subject.clone()).await.map_err(|e| unreachable(e.to_string()))?;
        Ok(Self {
            inbox,
            inbox_subject,
            next_subject,
            outstanding: 0,
            asked: 0,
            pull_bytes: PULL_BYTES,
            pending: 0,
            sequence: Sequence::behind(position),
            generation,
            reconnected: connection.generation.clone(),
        })
    }

    /// Waits for the first message, and takes with it those that the broker has: a batch costs less than its parts.
    pub(super) async fn pull(&mut self, connection: &Connection, max: usize) -> Result<Vec<(Message, Subject)>> {
        let mut taken = Vec::new();
        loop {
            if self.outstanding == 0 {
                self.ask(connection, max).await?;
            }
            let message = self.wait().await?;
            self.take(message, &mut taken)?;
            while taken.len() < max && self.outstanding > 0 {
                let next = self.inbox.next();
                let next = if self.pending == 0 { next.now_or_never() } else { timeout(GATHER, next).await.ok() };
                let Some(message) = next else { break };
                self.take(message.ok_or_else(closed)?, &mut taken)?;
            }
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
    }

    /// What the pull under way still brings.
    pub(super) async fn rest(&mut self) -> Result<Vec<(Message, Subject)>> {
        let mut taken = Vec::new();
        while self.outstanding > 0 {
            let message = self.wait().await?;
            self.take(message, &mut taken)?;
        }
        Ok(taken)
    }

    async fn ask(&mut self, connection: &Connection, max: usize) -> Result<()> {
        let bytes = std::mem::replace(&mut self.pull_bytes, PULL_BYTES);
        let request = format!(
            "{{\"batch\":{max},\"max_bytes\":{bytes},\"expires\":{},\"idle_heartbeat\":{}}}",
            PULL_EXPIRES.as_nanos(),
            (PULL_EXPIRES / 4).as_nanos(),
        );
        let reply = self.inbox_subject.clone();
        connection
            .client
            .publish_with_reply(self.next_subject.clone(), reply, Bytes::from(request))
            .await
            .map_err(|e| BusError::Unreachable { doing: "pull", cause: e.to_string() })?;
        (self.outstanding, self.asked) = (max, max);
        Ok(())
    }

    async fn wait(&mut self) -> Result<async_nats::Message> {
        let generation = self.generation;
        tokio::select! {
            message = self.inbox.next() => message.ok_or_else(closed),
            _ = self.reconnected.wait_for(|now| *now != generation) => {
                Err(BusError::Gap("the connection to the broker was made anew".into()))
            }
            () = tokio::time::sleep(PULL_EXPIRES + Duration::from_secs(5)) => {
                Err(BusError::Gap("the broker has gone silent".into()))
            }
        }
    }

    fn take(&mut self, message: async_nats::Message, taken: &mut Vec<(Message, Subject)>) -> Result<()> {
        if let Some(status) = message.status {
            let last = message.headers.as_ref().and_then(|headers| headers.get("Nats-Last-Consumer"));
            let last = last.and_then(|last| last.as_str().parse().ok());
            return self.status(status, message.description.as_deref().unwrap_or_default(), last);
        }
        let delivery = message.reply.as_ref().and_then(|reply| parse_reply(reply));
        let Some((reply, (delivery, pending))) = message.reply.zip(delivery) else {
            // Through an import an empty message without a reply ends the pull.
            self.outstanding = 0;
            return Ok(());
        };
        self.outstanding = self.outstanding.saturating_sub(1);
        if message.payload.is_empty() {
            // It ends a pull through an import; the next one starts behind it.
            self.outstanding = 0;
        }
        self.sequence.take(delivery)?;
        self.pending = pending;
        let message =
            Message { stream: delivery.stream, subject: message.subject.to_string(), payload: message.payload };
        taken.push((message, reply));
        Ok(())
    }

    fn status(&mut self, status: StatusCode, description: &str, last: Option<u64>) -> Result<()> {
        match status.as_u16() {
            // A heartbeat: there is nothing to hand out.
            100 => last.map_or(Ok(()), |last| self.sequence.ends_with(last)),
            404 | 408 => {
                self.outstanding = 0;
                Ok(())
            }
            409 if description.contains("Consumer Deleted") || description.contains("Consumer is push") => {
                Err(BusError::Refused { doing: "pull", code: 409, detail: description.to_owned() })
            }
            // Behind the last message of a pull that brought all that it may: by now the next one may be under way.
            409 if description == "Batch Completed" => Ok(()),
            409 => {
                // The pull's bytes are used up, by nothing if the next message is larger; or the server goes down.
                if self.outstanding == self.asked {
                    self.pull_bytes = LARGE_PULL_BYTES;
                }
                self.outstanding = 0;
                Ok(())
            }
            503 => Err(BusError::Unreachable { doing: "pull", cause: "no responders".into() }),
            code => Err(BusError::Refused { doing: "pull", code: u64::from(code), detail: description.to_owned() }),
        }
    }
}

fn closed() -> BusError {
    BusError::Unreachable { doing: "pull", cause: "the connection is closed".into() }
}

/// The delivery, and how many messages wait behind it, from
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`; the second form has a domain
/// and an account's hash before the stream, and may have a token more behind.
fn parse_reply(reply: &str) -> Option<(Delivery, u64)> {
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let first = match tokens.len() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let number = |index: usize| tokens.get(first + index)?.parse().ok();
    Some((Delivery { delivered: number(0)?, stream: number(1)?, consumer: number(2)? }, number(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_reply_are_read() {
        let want = (Delivery { delivered: 1, stream: 42, consumer: 7 }, 3);
        assert_eq!(parse_reply("$JS.ACK.EVENTS.agent-a.1.42.7.1700000000.3"), Some(want));
        assert_eq!(parse_reply("$JS.ACK._.hash.EVENTS.agent-a.1.42.7.1700000000.3.tok"), Some(want));
        assert_eq!(parse_reply("_INBOX.x"), None);
    }
}
