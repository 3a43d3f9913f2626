//! The gateway of `rhizon dev`: its ports to a stream and stores of the same process.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::{Ack, Outgoing, PublishError, Publisher, Question, ReadError, Reader, Reply, Usage, Verb};
use crate::bus::local::LocalStream;
use crate::bus::{self, Publisher as _};
use crate::driver::Report;
use crate::reads;
use crate::store::EventStore;

/// The stream of one workspace.
pub struct Stream(pub LocalStream);

impl Publisher for Stream {
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Ack>, PublishError>> {
        let messages =
            messages.into_iter().map(|Outgoing { subject, key, payload }| bus::Outgoing { subject, key, payload });
        let messages = messages.collect();
        Box::pin(async move {
            let acks = self.0.publish(messages).await.map_err(|error| PublishError::Unavailable(error.to_string()))?;
            Ok(acks.into_iter().map(|bus::Ack { stream, duplicate }| Ack { sequence: stream, duplicate }).collect())
        })
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, PublishError>> {
        Box::pin(async { Ok(Usage { bytes: 0, limit_bytes: 0 }) })
    }
}

/// The agents of one workspace, each with its store and what its driver tells of itself.
pub struct Agents<S>(pub BTreeMap<String, (S, watch::Receiver<Report>)>);

impl<S: EventStore> Reader for Agents<S> {
    fn ask<'a>(&'a self, agent: &'a str, verb: Verb, question: Question) -> BoxFuture<'a, Result<Reply, ReadError>> {
        Box::pin(async move {
            let (store, report) = self.0.get(agent).ok_or(ReadError::NoAnswer)?;
            let report = report.borrow().clone();
            Ok(reads::answer(store, report, verb, question).await)
        })
    }
}
