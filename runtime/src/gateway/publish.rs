//! Puts messages on the stream, many requests at a time.
//!
//! ```text
//!  request ──▶┐                    ┌─▶ its answer
//!  request ──▶┼─▶ queue ─▶ Batcher ┼─▶ its answer      while one publish is under way, the next batch gathers
//!  request ──▶┘             │      └─▶ its answer
//!                           ▼
//!                  Publisher::publish(all that waited), one call at a time: what came first is stored first
//! ```
//!
//! An fsync costs the same for one message as for hundreds, so batches are what makes publishing fast; and one call at a
//! time is what keeps the order.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::bus::{Ack, BusError, Outgoing};

/// Most messages of one publish, unless a single request has more.
const GATHER_MESSAGES: usize = 1000;

/// Requests that may wait for the publish that is under way.
const QUEUE_REQUESTS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nothing was stored, and nothing will be until events are purged.
    #[error("the workspace's stream is nearly full: {0}")]
    Full(String),
    /// Nothing was stored, and trying again would not help.
    #[error("the broker refuses the message: {0}")]
    Refused(String),
    /// Whether something was stored is unknown. Publishing the same messages again is safe.
    #[error("the broker does not answer: {0}")]
    Unavailable(String),
}

impl From<BusError> for PublishError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Full(detail) => Self::Full(detail),
            BusError::Refused { code, detail, .. } => Self::Refused(format!("{detail} ({code})")),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// Port to the stream: JetStream in a cluster, the local bus in `rhizon dev`.
pub trait Publisher: Send + Sync + 'static {
    /// Stores all messages durably, in their order; the answer has one entry for each. There may be more than the broker
    /// takes in one step.
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Ack>, PublishError>>;

    /// How full the stream is.
    fn usage(&self) -> BoxFuture<'_, Result<Usage, PublishError>>;
}

/// Size of the stream, and how large it may become; a limit of 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub limit_bytes: u64,
}

struct Waiting {
    messages: Vec<Outgoing>,
    answer: oneshot::Sender<Result<Vec<Ack>, PublishError>>,
}

/// Hands messages to the batcher. Clones share it.
#[derive(Clone)]
pub(super) struct Queue {
    sender: mpsc::Sender<Waiting>,
}

impl Queue {
    /// Waits until the broker has stored all of the messages.
    pub(super) async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Ack>, PublishError> {
        let stopped = || PublishError::Unavailable("the gateway is stopping".to_owned());
        let (answer, answered) = oneshot::channel();
        self.sender.send(Waiting { messages, answer }).await.map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// A queue, and the task that empties it; the task ends when all queues are gone.
pub(super) fn batcher(publisher: Arc<dyn Publisher>) -> (Queue, impl Future<Output = ()> + Send) {
    let (sender, mut receiver) = mpsc::channel(QUEUE_REQUESTS);
    let run = async move {
        while let Some(first) = receiver.recv().await {
            let batch = gather(first, &mut receiver);
            publish(publisher.as_ref(), batch).await;
        }
    };
    (Queue { sender }, run)
}

/// All requests that wait already, up to the size of a batch.
fn gather(first: Waiting, receiver: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let mut messages = first.messages.len();
    let mut batch = vec![first];
    while messages < GATHER_MESSAGES {
        let Ok(next) = receiver.try_recv() else { break };
        messages += next.messages.len();
        batch.push(next);
    }
    batch
}

async fn publish(publisher: &dyn Publisher, batch: Vec<Waiting>) {
    let all: Vec<Outgoing> = batch.iter().flat_map(|waiting| waiting.messages.iter().cloned()).collect();
    match publisher.publish(all).await {
        Ok(acks) => {
            let mut acks = acks.into_iter();
            for waiting in batch {
                let own = acks.by_ref().take(waiting.messages.len()).collect();
                answer(waiting, Ok(own));
            }
        }
        // One request's message can be at fault: each for itself, so that it fails alone.
        Err(PublishError::Refused(_)) if batch.len() > 1 => {
            for mut waiting in batch {
                let messages = std::mem::take(&mut waiting.messages);
                let result = publisher.publish(messages).await;
                answer(waiting, result);
            }
        }
        Err(error) => batch.into_iter().for_each(|waiting| answer(waiting, Err(error.clone()))),
    }
}

fn answer(waiting: Waiting, result: Result<Vec<Ack>, PublishError>) {
    // Who has asked may have gone away; the events are published all the same.
    let _ = waiting.answer.send(result);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rhizon_kernel::chain::Hash;
    use std::sync::Mutex;
    use tokio::sync::Semaphore;

    /// Remembers its calls, waits for a permit in each, and refuses what is called "bad".
    struct Recorder {
        permits: Semaphore,
        entered: Semaphore,
        calls: Mutex<Vec<Vec<String>>>,
    }

    impl Publisher for Recorder {
        fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Ack>, PublishError>> {
            Box::pin(async move {
                self.entered.add_permits(1);
                self.permits.acquire().await.unwrap().forget();
                let subjects: Vec<String> = messages.into_iter().map(|message| message.subject).collect();
                let refused = subjects.iter().any(|subject| subject == "bad");
                let acks = (1..=subjects.len() as u64).map(|stream| Ack { stream, duplicate: false }).collect();
                self.calls.lock().unwrap().push(subjects);
                if refused { Err(PublishError::Refused("bad".into())) } else { Ok(acks) }
            })
        }

        fn usage(&self) -> BoxFuture<'_, Result<Usage, PublishError>> {
            Box::pin(async { Ok(Usage { bytes: 0, limit_bytes: 0 }) })
        }
    }

    fn messages(subjects: &[&str]) -> Vec<Outgoing> {
        let message =
            |subject: &&str| Outgoing { subject: (*subject).to_owned(), key: Hash::ZERO, payload: Bytes::new() };
        subjects.iter().map(message).collect()
    }

    type Results = Vec<Result<Vec<Ack>, PublishError>>;

    /// Publishes the first alone, and the others while it is under way.
    async fn run(first: &[&str], others: &[&[&str]]) -> (Results, Vec<Vec<String>>) {
        let recorder =
            Arc::new(Recorder { permits: Semaphore::new(0), entered: Semaphore::new(0), calls: Mutex::default() });
        let (queue, task) = batcher(recorder.clone());
        let task = tokio::spawn(task);
        let request = |subjects: &[&str]| {
            let (queue, messages) = (queue.clone(), messages(subjects));
            tokio::spawn(async move { queue.publish(messages).await })
        };
        let mut requests = vec![request(first)];
        recorder.entered.acquire().await.unwrap().forget();
        for (index, subjects) in others.iter().enumerate() {
            requests.push(request(subjects));
            while queue.sender.capacity() > QUEUE_REQUESTS - index - 1 {
                tokio::task::yield_now().await;
            }
        }
        recorder.permits.add_permits(10);
        let results = futures::future::join_all(requests).await.into_iter().map(Result::unwrap).collect();
        drop(queue);
        task.await.unwrap();
        let calls = recorder.calls.lock().unwrap().clone();
        (results, calls)
    }

    #[tokio::test]
    async fn what_waits_is_published_together_and_each_gets_its_own_answer() {
        let (results, calls) = run(&["a"], &[&["b", "c"], &["d"]]).await;
        assert_eq!(calls, [vec!["a"], vec!["b", "c", "d"]]);
        let sequences: Vec<Vec<u64>> =
            results.into_iter().map(|acks| acks.unwrap().iter().map(|ack| ack.stream).collect()).collect();
        assert_eq!(sequences, [vec![1], vec![1, 2], vec![3]]);
    }

    #[tokio::test]
    async fn a_refused_message_fails_its_own_request_only() {
        let (results, calls) = run(&["a"], &[&["b"], &["bad"], &["c"]]).await;
        assert_eq!(calls, [vec!["a"], vec!["b", "bad", "c"], vec!["b"], vec!["bad"], vec!["c"]]);
        let passed: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(passed, [true, true, false, true]);
    }
}
