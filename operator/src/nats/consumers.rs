//! The durable consumer of an agent: made at the agent's first position, and kept as it should be.

use super::{
    Error,
    api::{self, call, look},
};
use async_nats::Client;
use rhizon_api::settings::{Retry, Shard, Sidecar};
use rhizon_kernel::subject;
use serde_json::{Value, json};

/// JetStream's codes for a consumer and a stream that do not exist.
const NOT_FOUND: u64 = 10014;
const STREAM_NOT_FOUND: u64 = 10059;
/// Longest that one call of an agent may take.
const CALL_MS: u64 = 60_000;

/// What the consumer should be: all but its first position, which is fixed when it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Consumer {
    pub stream: String,
    pub name: String,
    pub config: Value,
}

/// How far an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// First stream sequence that belongs to the agent.
    pub first_sequence: u64,
    /// Messages that were not acknowledged yet, delivered or not.
    pub lag: u64,
}

/// What to do about the consumer.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    Create(Value),
    Update(Value),
    Keep,
}

/// The consumers of a sidecar with these settings: one for each shard.
pub fn build(settings: &Sidecar) -> Vec<Consumer> {
    settings.shards.iter().map(|shard| of_shard(settings, shard)).collect()
}

fn of_shard(settings: &Sidecar, shard: &Shard) -> Consumer {
    let name = shard.consumer.name.clone();
    let filters = filters(settings, shard);
    let config = json!({
        "name": name,
        "durable_name": name,
        "ack_policy": "all",
        "replay_policy": "instant",
        "filter_subjects": filters,
        // What is in flight must not come a second time while the agent still has tries left.
        "ack_wait": ack_wait_ms(settings.retry) * 1_000_000,
        "max_deliver": -1,
        "max_ack_pending": 20_000,
    });
    Consumer { stream: shard.consumer.stream.clone(), name, config }
}

/// A sole shard takes every partition; others name theirs.
fn filters(settings: &Sidecar, shard: &Shard) -> Vec<String> {
    let Sidecar { kernel, shards, .. } = settings;
    let all = subject::filters(&kernel.agent, &kernel.subscribes);
    let count = shards.len();
    if count == 1 {
        return all;
    }
    let ours = (0..subject::PARTITIONS).filter(|partition| usize::from(*partition) % count == shard.index as usize);
    ours.flat_map(|partition| all.iter().map(move |filter| in_partition(filter, partition))).collect()
}

/// The filter with a partition in place of any: the third token of `ev.…`, the fourth of `to.…`.
fn in_partition(filter: &str, partition: u8) -> String {
    let place = if filter.starts_with("ev.") { 2 } else { 3 };
    let number = partition.to_string();
    let tokens = filter.split('.').enumerate().map(|(index, token)| if index == place { &number } else { token });
    tokens.collect::<Vec<_>>().join(".")
}

fn ack_wait_ms(retry: Retry) -> u64 {
    u64::from(retry.attempts).saturating_mul(retry.max_ms.saturating_add(CALL_MS)).saturating_add(CALL_MS)
}

/// Decides. `first_sequence` is where a new consumer begins; `found` is the answer of `CONSUMER.INFO`.
pub fn plan(wanted: &Consumer, first_sequence: u64, found: Option<&Value>) -> Plan {
    let Some(found) = found else {
        let start = if first_sequence > 1 {
            json!({"deliver_policy": "by_start_sequence", "opt_start_seq": first_sequence})
        } else {
            json!({"deliver_policy": "all"})
        };
        return Plan::Create(api::overlay(&start, &wanted.config));
    };
    let mut config = found["config"].clone();
    sort_filters(&mut config);
    let mut sorted = wanted.config.clone();
    sort_filters(&mut sorted);
    if api::differs(&sorted, &config) {
        Plan::Update(api::overlay(&wanted.config, &found["config"]))
    } else {
        Plan::Keep
    }
}

/// The broker keeps filters in the order in which they came; the order means nothing.
fn sort_filters(config: &mut Value) {
    if let Some(filters) = config["filter_subjects"].as_array_mut() {
        filters.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
}

/// Creates or repairs the consumer. `begin` is asked only when there is none yet, and tells where it begins.
pub async fn ensure<F>(client: &Client, wanted: &Consumer, begin: F) -> Result<Progress, Error>
where
    F: AsyncFnOnce() -> Result<u64, Error>,
{
    let Consumer { stream, name, .. } = wanted;
    let found = look(client, &format!("$JS.API.CONSUMER.INFO.{stream}.{name}"), NOT_FOUND).await?;
    let first_sequence = if found.is_some() { 1 } else { begin().await? };
    let (config, action) = match plan(wanted, first_sequence, found.as_ref()) {
        Plan::Keep => return Ok(progress(found.as_ref().unwrap_or(&Value::Null))),
        Plan::Create(config) => (config, "create"),
        Plan::Update(config) => (config, "update"),
    };
    let request = json!({"stream_name": stream, "config": config, "action": action});
    let info = call(client, &format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), &request).await?;
    Ok(progress(&info))
}

/// How far the agent is, from the broker's view of its consumer.
pub fn progress(info: &Value) -> Progress {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    Progress {
        first_sequence: number(&info["config"]["opt_start_seq"]).max(1),
        lag: number(&info["num_pending"]) + number(&info["num_ack_pending"]),
    }
}

/// Deletes the consumer. One that is gone already, or whose stream is, is no error.
pub async fn delete(client: &Client, stream: &str, name: &str) -> Result<(), Error> {
    match call(client, &format!("$JS.API.CONSUMER.DELETE.{stream}.{name}"), &Value::Null).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.refusal(), Some(NOT_FOUND | STREAM_NOT_FOUND)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhizon_api::RhizonAgentSpec;

    fn consumer() -> Consumer {
        let spec: RhizonAgentSpec = serde_json::from_value(json!({
            "subscribes": ["evt.b.x", "cmd.a.y"], "container": {"image": "x"}
        }))
        .unwrap();
        build(&Sidecar::from_agent("w", "z", &spec).unwrap()).remove(0)
    }

    #[test]
    fn shards_divide_the_partitions() {
        let spec: RhizonAgentSpec = serde_json::from_value(json!({
            "subscribes": ["evt.b.x"], "container": {"image": "x"}, "shards": 32, "store": {"kind": "JetStream"}
        }))
        .unwrap();
        let consumers = build(&Sidecar::from_agent("w", "z", &spec).unwrap());
        assert_eq!(
            consumers[31].config["filter_subjects"],
            json!([
                "ev.*.31.evt.b.x.*",
                "to.z.*.31.evt.b.x.*",
                "to.z.gateway.31.ctl.*.*.*",
                "ev.*.63.evt.b.x.*",
                "to.z.*.63.evt.b.x.*",
                "to.z.gateway.63.ctl.*.*.*",
            ])
        );
        assert_eq!((consumers.len(), consumers[31].name.as_str()), (32, "agent-z_31"));
    }

    #[test]
    fn a_new_consumer_begins_at_the_agents_first_position() {
        let Plan::Create(config) = plan(&consumer(), 42, None) else { panic!("not created") };
        assert_eq!((&config["deliver_policy"], &config["opt_start_seq"]), (&json!("by_start_sequence"), &json!(42)));
        let Plan::Create(config) = plan(&consumer(), 1, None) else { panic!("not created") };
        assert_eq!(config["deliver_policy"], "all");
        assert_eq!(config["ack_wait"], 510_000_000_000_u64);
    }

    #[test]
    fn the_order_of_filters_is_no_drift_and_an_update_keeps_the_position() {
        let mut config = consumer().config;
        config["opt_start_seq"] = json!(42);
        config["filter_subjects"].as_array_mut().unwrap().reverse();
        assert_eq!(plan(&consumer(), 1, Some(&json!({"config": config}))), Plan::Keep);
        config["max_deliver"] = json!(3);
        let Plan::Update(update) = plan(&consumer(), 1, Some(&json!({"config": config}))) else { panic!("kept") };
        assert_eq!((&update["opt_start_seq"], &update["max_deliver"]), (&json!(42), &json!(-1)));
    }
}
