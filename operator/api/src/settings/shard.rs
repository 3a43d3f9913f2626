//! Shards: what each has of its own, and which pod runs it.

use super::{Sidecar, paths};
use crate::agent::StoreKind;
use rhizon_kernel::subject::{self, PARTITIONS};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A share of the partitions, with one owner at a time: where its events come from, and where its journal is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shard {
    pub index: u32,
    pub consumer: Consumer,
    pub store: Store,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind", deny_unknown_fields)]
pub enum Store {
    Sqlite {
        path: PathBuf,
    },
    Postgres {
        /// File with the connection string.
        url_file: PathBuf,
        schema: String,
        /// The broker's account: with other streams, the store's positions mean nothing.
        account: String,
    },
    JetStream {
        stream: String,
        /// Where the shard's records are published.
        subject: String,
        consumer: String,
        /// The stream of snapshots, and how the subjects of the shard's begin.
        snapshot_stream: String,
        snapshot_subject: String,
        /// A copy for reading, which may be lost.
        cache: PathBuf,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Consumer {
    pub stream: String,
    pub name: String,
    /// First stream sequence that belongs to the agent.
    pub first_sequence: u64,
}

/// The ordinal of a StatefulSet's pod, from its name.
pub fn ordinal(pod: &str) -> Option<u32> {
    pod.rsplit_once('-')?.1.parse().ok()
}

impl Sidecar {
    /// What a shard's consumer lets through of all that counts behind what is handled: what was unsubscribed from, until its
    /// last event is. A sole shard takes every partition; others name theirs.
    pub fn filters(&self, shard: &Shard, handled: u64) -> Vec<String> {
        let all = subject::filters(&self.kernel.agent, &self.kernel.subscribes_behind(handled));
        let count = self.shards.len();
        if count == 1 {
            return all;
        }
        let ours = (0..PARTITIONS).filter(|partition| usize::from(*partition) % count == shard.index as usize);
        ours.flat_map(|partition| all.iter().map(move |filter| in_partition(filter, partition))).collect()
    }
}

/// The filter with a partition in place of any: the fifth token of `ev.…`, the sixth of `to.…`.
fn in_partition(filter: &str, partition: u8) -> String {
    let place = if filter.starts_with("ev.") { 4 } else { 5 };
    let number = partition.to_string();
    let tokens = filter.split('.').enumerate().map(|(index, token)| if index == place { &number } else { token });
    tokens.collect::<Vec<_>>().join(".")
}

impl Shard {
    pub(super) fn of_agent(agent: &str, kind: StoreKind, count: u32, index: u32) -> Self {
        Self { index, consumer: Consumer::of_agent(agent, count, index), store: Store::of_agent(agent, kind, index) }
    }
}

/// Names of the consumers of an agent with so many shards.
pub fn consumer_names(agent: &str, shards: u32) -> impl Iterator<Item = String> {
    (0..shards).map(move |index| Consumer::of_agent(agent, shards, index).name)
}

impl Consumer {
    fn of_agent(agent: &str, count: u32, index: u32) -> Self {
        let name = if count == 1 { format!("agent-{agent}") } else { shard_name(agent, index) };
        Self { stream: "EVENTS".to_owned(), name, first_sequence: 1 }
    }
}

/// No agent's name has a `_`, so the shards of `a` are never those of an agent `a-1`.
fn shard_name(agent: &str, index: u32) -> String {
    format!("agent-{agent}_{index}")
}

impl Store {
    fn of_agent(agent: &str, kind: StoreKind, index: u32) -> Self {
        let file = |name: &str| PathBuf::from(paths::STORE_DIR).join(name);
        match kind {
            StoreKind::SQLite => Self::Sqlite { path: file("store.sqlite") },
            StoreKind::Postgres => Self::Postgres {
                url_file: PathBuf::from(paths::STORE_URL),
                schema: format!("rhizon_{}_{index}", agent.replace('-', "_")),
                account: String::new(),
            },
            StoreKind::JetStream => Self::JetStream {
                stream: "JOURNAL".to_owned(),
                subject: format!("jr.{agent}.{index}"),
                consumer: shard_name(agent, index),
                snapshot_stream: "SNAPSHOTS".to_owned(),
                snapshot_subject: format!("sn.{agent}.{index}"),
                cache: file(&format!("cache-{index}.sqlite")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::spec;
    use serde_json::json;

    #[test]
    fn each_shard_has_a_consumer_and_a_journal_and_a_pod() {
        let sharded = spec(&json!({"shards": 4, "replicas": 2, "store": {"kind": "JetStream"}}));
        let settings = Sidecar::from_agent("w", "a-1", &sharded).unwrap();
        let shard = serde_json::to_value(&settings.shards[3]).unwrap();
        assert_eq!(
            shard,
            json!({
                "index": 3,
                "consumer": {"stream": "EVENTS", "name": "agent-a-1_3", "firstSequence": 1},
                "store": {
                    "kind": "jetStream", "stream": "JOURNAL", "subject": "jr.a-1.3", "consumer": "agent-a-1_3",
                    "snapshotStream": "SNAPSHOTS", "snapshotSubject": "sn.a-1.3",
                    "cache": "/var/lib/rhizon/cache-3.sqlite",
                },
            })
        );
        let of = |ordinal| settings.shards_of(ordinal).map(|shard| shard.index).collect::<Vec<_>>();
        assert_eq!((of(0), of(1), of(2)), (vec![0, 2], vec![1, 3], vec![]));
        assert_eq!((ordinal("agent-a-1-0"), ordinal("agent")), (Some(0), None));
    }

    #[test]
    fn a_file_has_one_shard_and_a_postgres_schema_is_a_plain_name() {
        let error = Sidecar::from_agent("w", "a", &spec(&json!({"shards": 4}))).unwrap_err();
        assert_eq!(error.reason(), "StoreNotShared");
        let postgres = spec(&json!({"store": {"kind": "Postgres", "secretRef": "db"}}));
        let settings = Sidecar::from_agent("w", "a-1", &postgres).unwrap();
        assert_eq!(
            serde_json::to_value(&settings.shards[0].store).unwrap(),
            json!({"kind": "postgres", "urlFile": "/etc/rhizon/store/url", "schema": "rhizon_a_1_0", "account": ""})
        );
    }
}
