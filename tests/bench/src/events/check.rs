//! What a run has left behind, read through the gateway: the journals of all shards, computed again, and the states.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow, ensure};
use rhizon_kernel::chain::{self, Hash};
use rhizon_kernel::replay::Replay;
use rhizon_tests::permits::States;
use serde::Deserialize;
use serde_json::Value;

use super::gateway::Gateway;

/// Of one agent, all shards together.
pub(super) struct Kept {
    pub states: States,
    /// What each entity adds to the root.
    pub leaves: BTreeMap<String, Hash>,
}

impl Kept {
    /// The root of the whole agent: that of one shard, and with several what it would be if they were one.
    pub(super) fn root(&self) -> Hash {
        chain::root(&self.leaves.values().copied().collect::<Vec<_>>())
    }

    /// The first entity that another run has decided otherwise.
    pub(super) fn first_difference<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let entities = self.leaves.keys().chain(other.leaves.keys());
        entities.filter(|entity| self.leaves.get(*entity) != other.leaves.get(*entity)).min().map(String::as_str)
    }
}

#[derive(Deserialize)]
struct Status {
    records: u64,
    root: String,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    entity: String,
    state: Value,
}

pub(super) async fn look(gateway: &Gateway, agent: &str, shards: u32) -> anyhow::Result<Kept> {
    let mut leaves = BTreeMap::new();
    for shard in 0..shards {
        let replay = verify(gateway, agent, shard).await.with_context(|| format!("agent {agent}, shard {shard}"))?;
        for (entity, head) in replay.heads() {
            let twice = leaves.insert(entity.clone(), chain::leaf(entity, head.version, &head.hash));
            ensure!(twice.is_none(), "agent {agent}: two shards have entity {entity}");
        }
    }
    Ok(Kept { states: states(gateway, agent).await?, leaves })
}

/// Both chains and each decision, and that the sidecar tells the same end.
async fn verify(gateway: &Gateway, agent: &str, shard: u32) -> anyhow::Result<Replay> {
    let journal = gateway.get(&format!("/v1/agents/{agent}/journal?shard={shard}")).await?;
    let mut replay = Replay::default();
    for line in journal.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        replay.push(line).map_err(|mismatch| anyhow!("the journal is not sound: {mismatch}"))?;
    }
    let Status { records, root } = gateway.get_json(&format!("/v1/agents/{agent}?shard={shard}")).await?;
    let (end, computed) = (replay.tail().sequence, replay.root().to_string());
    ensure!(records == end, "the journal has {end} records, and the sidecar says {records}");
    ensure!(root == computed, "the journal's root is {computed}, and the sidecar says {root}");
    Ok(replay)
}

/// As the sidecars keep them, which is not what the journal was folded to.
async fn states(gateway: &Gateway, agent: &str) -> anyhow::Result<States> {
    let mut states = States::new();
    let mut path = format!("/v1/agents/{agent}/entities");
    loop {
        let Page { items, next } = gateway.get_json(&path).await?;
        states.extend(items.into_iter().map(|item| (item.entity, item.state)));
        let Some(next) = next else { return Ok(states) };
        path = format!("/v1/agents/{agent}/entities?after={}", encoded(&next));
    }
}

fn encoded(key: &str) -> String {
    use std::fmt::Write as _;
    key.bytes().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "%{byte:02X}");
        text
    })
}
