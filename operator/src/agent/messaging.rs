//! An agent's place in the streams: its consumers, and its journal where the broker keeps it.

use super::dereference::Inputs;
use crate::{
    context::Context,
    nats::{
        Error,
        consumers::{self, Begin, Progress},
        keys, streams,
    },
};
use async_nats::Client;
use rhizon_api::{
    RhizonAgent, RhizonWorkspace,
    agent::{StartFrom, StoreKind},
    settings::Sidecar,
};
use rhizon_kernel::Config;

/// Whose place it is, and the way to the broker.
pub struct Broker<'a> {
    pub agent: &'a RhizonAgent,
    pub inputs: &'a Inputs,
    pub workspace: &'a RhizonWorkspace,
    pub keys: &'a keys::Workspace,
    pub context: &'a Context,
}

impl Broker<'_> {
    /// Creates and repairs. All shards begin at the same place, and lag together.
    pub async fn ensure(&self, settings: &Sidecar) -> Result<Progress, Error> {
        let Self { agent, inputs, workspace, keys, context } = self;
        let client = context.pool.client(&keys.data).await?;
        let mut first = recorded(agent);
        let (mut lag, mut handled) = (0, u64::MAX);
        for shard in &settings.shards {
            let begin = async || begin(agent, inputs, first, &client).await;
            let progress = consumers::ensure_shard(&client, settings, shard, begin).await?;
            first.get_or_insert(progress.first_sequence);
            (lag, handled) = (lag + progress.lag, handled.min(progress.handled));
        }
        ensure_journal(settings, workspace, &client).await?;
        Ok(Progress { first_sequence: first.unwrap_or(1), lag, handled })
    }

    /// Gives new rules their place: behind everything that the stream holds once all filters let through what is new. Until
    /// then it is behind everything, so no filter is narrowed.
    pub async fn place(&self, settings: &mut Sidecar, before: &Config) -> Result<Progress, Error> {
        let wanted = settings.kernel.clone();
        settings.kernel = wanted.clone().following(before, u64::MAX, 0);
        let placed = async {
            let progress = self.ensure(settings).await?;
            let client = self.context.pool.client(&self.keys.data).await?;
            Ok((progress, streams::last_sequence(&client, "EVENTS").await? + 1))
        };
        let result = placed.await;
        settings.kernel = match &result {
            Ok((progress, place)) => wanted.following(before, *place, progress.handled),
            Err(_) => before.clone(),
        };
        result.map(|(progress, _)| progress)
    }
}

/// The agent's first position, once it has one.
pub fn recorded(agent: &RhizonAgent) -> Option<u64> {
    agent.status.as_ref()?.first_sequence.and_then(|sequence| u64::try_from(sequence).ok())
}

async fn begin(agent: &RhizonAgent, inputs: &Inputs, first: Option<u64>, client: &Client) -> Result<Begin, Error> {
    let spec = &agent.spec;
    if first.is_none() && (spec.start_from == StartFrom::Beginning || keeps_store(agent, inputs, client).await?) {
        return Ok(Begin::OLDEST);
    }
    let first = match first {
        Some(first) => first,
        None => streams::last_sequence(client, "EVENTS").await? + 1,
    };
    // Nobody here can see whether a Postgres has the store of an earlier agent, which may want older events.
    Ok(Begin { first, earliest: if spec.store.kind == StoreKind::Postgres { 1 } else { first } })
}

/// A store of an earlier agent of the name has its own position, anywhere in the stream.
async fn keeps_store(agent: &RhizonAgent, inputs: &Inputs, client: &Client) -> Result<bool, Error> {
    match agent.spec.store.kind {
        StoreKind::SQLite => Ok(inputs.has_store),
        StoreKind::Postgres => Ok(false),
        StoreKind::JetStream => {
            let name = agent.metadata.name.as_deref().unwrap_or_default();
            streams::has_subject(client, streams::JOURNAL, &format!("jr.{name}.>")).await
        }
    }
}

/// The streams of journals come with the first agent that needs it.
async fn ensure_journal(settings: &Sidecar, workspace: &RhizonWorkspace, client: &Client) -> Result<(), Error> {
    let consumers = consumers::journals(settings);
    if consumers.is_empty() {
        return Ok(());
    }
    for stream in streams::journals(&workspace.spec.messaging) {
        if streams::ensure(client, &stream).await? {
            tracing::info!(workspace = workspace.metadata.name, stream = stream.name, "wrote a stream");
        }
    }
    for consumer in consumers {
        consumers::ensure(client, &consumer, async || Ok(Begin::OLDEST)).await?;
    }
    Ok(())
}
