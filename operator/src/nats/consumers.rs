//! The durable consumers of an agent: made at the agent's first position, and kept as they should be.

use super::{
    Error,
    api::{self, call, look},
    streams,
};
use async_nats::Client;
use rhizon_api::settings::{Retry, Shard, Sidecar, Store};
use serde_json::{Value, json};

/// JetStream's codes for a consumer and a stream that do not exist.
const NOT_FOUND: u64 = 10014;
const STREAM_NOT_FOUND: u64 = 10059;
/// Longest that one call of an agent may take.
const CALL_MS: u64 = 60_000;
/// In a consumer's metadata: the agent's first position, where the consumer itself begins earlier.
const FIRST_SEQUENCE: &str = "rhizon.dev/first-sequence";
/// How far an idle consumer is: nothing that the stream holds by now is for it. Less than any place that is not picked yet.
const EVERYTHING: u64 = u64::MAX / 2;
/// The broker compares each filter with each other: this many take it a third of a second, and twice as many a second.
pub const MAX_FILTERS: usize = 2_048;

/// What the consumer should be: all but its first position, which is fixed when it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Consumer {
    pub stream: String,
    pub name: String,
    pub config: Value,
}

/// Where a new consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// First stream sequence that belongs to the agent.
    pub first: u64,
    /// First one that its sidecar may go back to.
    pub earliest: u64,
}

/// How far an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// First stream sequence that belongs to the agent.
    pub first_sequence: u64,
    /// Messages that were not acknowledged yet, delivered or not.
    pub lag: u64,
    /// Everything up to this stream sequence is handled.
    pub handled: u64,
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
    settings.shards.iter().map(|shard| of_shard(settings, shard, 0)).collect()
}

/// The consumers by which an agent reads its own journal in the broker.
pub fn journals(settings: &Sidecar) -> Vec<Consumer> {
    settings.shards.iter().filter_map(of_journal).collect()
}

/// It is read once at each start, from where the sidecar says: nothing is acknowledged.
fn of_journal(shard: &Shard) -> Option<Consumer> {
    let Store::JetStream { subject, consumer, .. } = &shard.store else { return None };
    let config = json!({
        "name": consumer,
        "durable_name": consumer,
        "ack_policy": "none",
        "replay_policy": "instant",
        "filter_subjects": [subject],
    });
    Some(Consumer { stream: streams::JOURNAL.to_owned(), name: consumer.clone(), config })
}

/// The filters let through all that counts behind what is handled: what was unsubscribed from, until its last event is.
fn of_shard(settings: &Sidecar, shard: &Shard, handled: u64) -> Consumer {
    let name = shard.consumer.name.clone();
    let filters = settings.filters(shard, handled);
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

/// How many filters each shard's consumer has.
pub fn filters_of_a_shard(settings: &Sidecar) -> usize {
    settings.shards.first().map_or(0, |shard| settings.filters(shard, 0).len())
}

fn ack_wait_ms(retry: Retry) -> u64 {
    u64::from(retry.attempts).saturating_mul(retry.max_ms.saturating_add(CALL_MS)).saturating_add(CALL_MS)
}

/// Decides. `begin` is where a new consumer begins; `found` is the answer of `CONSUMER.INFO`.
pub fn plan(wanted: &Consumer, begin: Begin, found: Option<&Value>) -> Plan {
    let Some(found) = found else {
        let Begin { first, earliest } = begin;
        let mut start = if earliest > 1 {
            json!({"deliver_policy": "by_start_sequence", "opt_start_seq": earliest})
        } else {
            json!({"deliver_policy": "all"})
        };
        if first > earliest {
            start["metadata"] = json!({FIRST_SEQUENCE: first.to_string()});
        }
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
    F: AsyncFnOnce() -> Result<Begin, Error>,
{
    let found = find(client, &wanted.stream, &wanted.name).await?;
    write(client, wanted, found, begin).await
}

/// The same for a shard's consumer, whose filters depend on how far it is.
pub async fn ensure_shard<F>(client: &Client, settings: &Sidecar, shard: &Shard, begin: F) -> Result<Progress, Error>
where
    F: AsyncFnOnce() -> Result<Begin, Error>,
{
    let found = find(client, &shard.consumer.stream, &shard.consumer.name).await?;
    let handled = found.as_ref().map_or(0, |info| progress(info).handled);
    write(client, &of_shard(settings, shard, handled), found, begin).await
}

async fn find(client: &Client, stream: &str, name: &str) -> Result<Option<Value>, Error> {
    look(client, &format!("$JS.API.CONSUMER.INFO.{stream}.{name}"), NOT_FOUND).await
}

async fn write<F>(client: &Client, wanted: &Consumer, found: Option<Value>, begin: F) -> Result<Progress, Error>
where
    F: AsyncFnOnce() -> Result<Begin, Error>,
{
    let Consumer { stream, name, .. } = wanted;
    let begin = if found.is_some() { Begin::OLDEST } else { begin().await? };
    let (config, action) = match plan(wanted, begin, found.as_ref()) {
        Plan::Keep => return Ok(progress(found.as_ref().unwrap_or(&Value::Null))),
        Plan::Create(config) => (config, "create"),
        Plan::Update(config) => (config, "update"),
    };
    let request = json!({"stream_name": stream, "config": config, "action": action});
    let info = call(client, &format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), &request).await?;
    Ok(progress(&info))
}

impl Begin {
    /// With the oldest message of the stream.
    pub const OLDEST: Self = Self { first: 1, earliest: 1 };
}

/// How far the agent is, from the broker's view of its consumer.
pub fn progress(info: &Value) -> Progress {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let config = &info["config"];
    let told = config["metadata"][FIRST_SEQUENCE].as_str().and_then(|text| text.parse().ok());
    let lag = number(&info["num_pending"]) + number(&info["num_ack_pending"]);
    Progress {
        first_sequence: told.unwrap_or_else(|| number(&config["opt_start_seq"])).max(1),
        lag,
        handled: if lag == 0 { EVERYTHING } else { number(&info["ack_floor"]["stream_seq"]) },
    }
}

/// Deletes all consumers that an agent ever had in a stream, by the names that shards have.
pub async fn delete_all(client: &Client, stream: &str, user: &str) -> Result<(), Error> {
    for name in names(client, stream).await?.iter().filter(|name| is_of(name, user)) {
        match call(client, &format!("$JS.API.CONSUMER.DELETE.{stream}.{name}"), &Value::Null).await {
            Err(error) if !matches!(error.refusal(), Some(NOT_FOUND | STREAM_NOT_FOUND)) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_of(name: &str, user: &str) -> bool {
    name.strip_prefix(user).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Names of a stream's consumers. A stream that is gone has none.
async fn names(client: &Client, stream: &str) -> Result<Vec<String>, Error> {
    match api::list(client, &format!("$JS.API.CONSUMER.NAMES.{stream}"), "consumers").await {
        Ok(names) => Ok(names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()),
        Err(error) if error.refusal() == Some(STREAM_NOT_FOUND) => Ok(Vec::new()),
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
    fn an_agents_consumers_are_known_by_their_names() {
        let of_a = |name| is_of(name, "agent-a");
        assert_eq!(
            (of_a("agent-a"), of_a("agent-a_12"), of_a("agent-a-1"), of_a("agent-b")),
            (true, true, false, false)
        );
    }

    #[test]
    fn shards_divide_the_partitions() {
        let spec: RhizonAgentSpec = serde_json::from_value(json!({
            "subscribes": ["evt.b.x"], "container": {"image": "x"}, "shards": 8, "store": {"kind": "JetStream"}
        }))
        .unwrap();
        let consumers = build(&Sidecar::from_agent("w", "z", &spec).unwrap());
        assert_eq!(
            consumers[7].config["filter_subjects"],
            json!([
                "ev.evt.b.x.7.*",
                "to.z.evt.b.x.7.*",
                "to.z.ctl.*.*.7.gateway",
                "ev.evt.b.x.15.*",
                "to.z.evt.b.x.15.*",
                "to.z.ctl.*.*.15.gateway",
            ])
        );
        assert_eq!((consumers.len(), consumers[7].name.as_str()), (8, "agent-z_7"));
    }

    #[test]
    fn a_new_consumer_begins_at_the_agents_first_position() {
        let created = |first, earliest| match plan(&consumer(), Begin { first, earliest }, None) {
            Plan::Create(config) => config,
            other => panic!("{other:?}"),
        };
        let config = created(42, 42);
        assert_eq!((&config["deliver_policy"], &config["opt_start_seq"]), (&json!("by_start_sequence"), &json!(42)));
        assert_eq!(progress(&json!({"config": config})).first_sequence, 42);
        let config = created(42, 1);
        assert_eq!(config["deliver_policy"], "all");
        assert_eq!(progress(&json!({"config": config})).first_sequence, 42);
        let config = created(1, 1);
        assert_eq!(config["deliver_policy"], "all");
        assert_eq!(config["ack_wait"], 510_000_000_000_u64);
    }

    #[test]
    fn the_order_of_filters_is_no_drift_and_an_update_keeps_the_position() {
        let mut config = consumer().config;
        config["opt_start_seq"] = json!(42);
        config["filter_subjects"].as_array_mut().unwrap().reverse();
        assert_eq!(plan(&consumer(), Begin::OLDEST, Some(&json!({"config": config}))), Plan::Keep);
        config["max_deliver"] = json!(3);
        let Plan::Update(update) = plan(&consumer(), Begin::OLDEST, Some(&json!({"config": config}))) else {
            panic!("kept")
        };
        assert_eq!((&update["opt_start_seq"], &update["max_deliver"]), (&json!(42), &json!(-1)));
    }
}
