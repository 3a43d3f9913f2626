//! The gateway of `rhizon dev`: its ports to a stream and stores of the same process.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use rhizon_api::agent::OperatingMode;
use tokio::sync::watch;

use super::{PublishError, Publisher, Question, ReadError, Reader, Reply, Usage, Verb};
use crate::bus::local::LocalStream;
use crate::bus::{Ack, Outgoing, Publisher as _};
use crate::driver::Report;
use crate::reads::{self, Circumstances};
use crate::store::EventStore;

/// The stream of one workspace.
pub struct Stream(pub LocalStream);

impl Publisher for Stream {
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Ack>, PublishError>> {
        Box::pin(async move { Ok(self.0.publish(messages).await?) })
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
            Ok(reads::answer(
                store,
                Circumstances { report, mode: OperatingMode::Running, shard: 0, shards: 1 },
                verb,
                question,
            )
            .await)
        })
    }
}
