//! The streams of a workspace's data account: made, and kept as they should be, without ever losing a message.

use super::{
    Error,
    api::{self, call, look},
    claims::StorageLimits,
};
use async_nats::Client;
use rhizon_api::workspace::Messaging;
use serde_json::{Value, json};

/// JetStream's code for a stream that does not exist.
const NOT_FOUND: u64 = 10059;
pub const JOURNAL: &str = "JOURNAL";
pub const SNAPSHOTS: &str = "SNAPSHOTS";
/// Snapshots get this part of the journals' size, at least [`SNAPSHOTS_MIN_BYTES`]. Without room for them a start reads more.
const SNAPSHOTS_SHARE: u64 = 4;
const SNAPSHOTS_MIN_BYTES: u64 = 16 << 20;
/// Dead letters get this part of the event stream's size, at least [`DEAD_MIN_BYTES`].
const DEAD_SHARE: u64 = 8;
const DEAD_MIN_BYTES: u64 = 16 << 20;

/// What a stream should be, in JetStream's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    pub name: &'static str,
    pub config: Value,
}

/// What to do about one stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    Create(Value),
    Update(Value),
    Keep,
    /// A difference that cannot be repaired without losing data: what, for a person.
    Refuse(String),
}

/// The streams of the agents that keep their journals in the broker. Nothing leaves a journal by itself; a snapshot's
/// message leaves when another comes in its place.
pub fn journals(messaging: &Messaging) -> [Stream; 2] {
    let journal = config(messaging, JOURNAL, &["jr.>"], messaging.journal_max_bytes.as_bytes(), "new");
    let mut snapshots = config(messaging, SNAPSHOTS, &["sn.>"], snapshot_bytes(messaging), "new");
    snapshots["max_msgs_per_subject"] = json!(1);
    snapshots["allow_direct"] = json!(true);
    [Stream { name: JOURNAL, config: journal }, Stream { name: SNAPSHOTS, config: snapshots }]
}

/// The streams that every workspace has.
pub fn build(messaging: &Messaging) -> Vec<Stream> {
    // A full event stream refuses; it never drops what an agent has yet to see.
    let events = config(messaging, "EVENTS", &["ev.>", "to.>"], messaging.max_bytes.as_bytes(), "new");
    // Journals keep every dead letter; its copy here must not hold up an agent.
    let dead = config(messaging, "DEAD", &["dead.>"], dead_bytes(messaging), "old");
    vec![Stream { name: "EVENTS", config: events }, Stream { name: "DEAD", config: dead }]
}

/// What the account may store: the sum of the streams for each replica, so that a stream's own limit is always met
/// first.
pub fn storage_limits(messaging: &Messaging) -> StorageLimits {
    let copies = u64::try_from(messaging.replicas).unwrap_or(1).max(1);
    let journal = messaging.journal_max_bytes.as_bytes().saturating_add(snapshot_bytes(messaging));
    let bytes = messaging.max_bytes.as_bytes().saturating_add(dead_bytes(messaging)).saturating_add(journal);
    StorageLimits { disk_bytes: bytes.saturating_mul(copies).saturating_add(64 << 20), streams: 5 }
}

fn snapshot_bytes(messaging: &Messaging) -> u64 {
    (messaging.journal_max_bytes.as_bytes() / SNAPSHOTS_SHARE).max(SNAPSHOTS_MIN_BYTES)
}

fn dead_bytes(messaging: &Messaging) -> u64 {
    (messaging.max_bytes.as_bytes() / DEAD_SHARE).max(DEAD_MIN_BYTES)
}

fn config(messaging: &Messaging, name: &str, subjects: &[&str], max_bytes: u64, discard: &str) -> Value {
    json!({
        "name": name,
        "subjects": subjects,
        "retention": "limits",
        "storage": "file",
        "discard": discard,
        "max_bytes": max_bytes,
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_consumers": -1,
        "num_replicas": messaging.replicas,
        "duplicate_window": messaging.duplicate_window.as_ms() * 1_000_000,
        "allow_atomic": true,
        "allow_direct": false,
    })
}

/// Decides about one stream. `found` is the answer of `STREAM.INFO`.
pub fn plan(wanted: &Value, found: Option<&Value>) -> Plan {
    let Some(found) = found else { return Plan::Create(wanted.clone()) };
    let config = &found["config"];
    for fixed in ["storage", "retention"] {
        if config[fixed] != wanted[fixed] {
            return Plan::Refuse(format!("its {fixed} is {}, which cannot be changed", config[fixed]));
        }
    }
    let (limit, stored) = (wanted["max_bytes"].as_u64(), found["state"]["bytes"].as_u64());
    if limit < stored {
        let (limit, stored) = (limit.unwrap_or_default(), stored.unwrap_or_default());
        return Plan::Refuse(format!("it holds {stored} bytes, more than the new limit of {limit}"));
    }
    if api::differs(wanted, config) { Plan::Update(api::overlay(wanted, config)) } else { Plan::Keep }
}

/// Creates or repairs one stream. Returns whether it had to write.
pub async fn ensure(client: &Client, stream: &Stream) -> Result<bool, Error> {
    let name = stream.name;
    let found = look(client, &format!("$JS.API.STREAM.INFO.{name}"), NOT_FOUND).await?;
    match plan(&stream.config, found.as_ref()) {
        Plan::Keep => Ok(false),
        Plan::Create(config) => call(client, &format!("$JS.API.STREAM.CREATE.{name}"), &config).await.map(|_| true),
        Plan::Update(config) => call(client, &format!("$JS.API.STREAM.UPDATE.{name}"), &config).await.map(|_| true),
        Plan::Refuse(description) => {
            Err(Error::Refused { call: format!("changing stream {name}"), code: 0, description })
        }
    }
}

/// Deletes a stream with everything in it. One that is gone already is no error.
pub async fn delete(client: &Client, name: &str) -> Result<(), Error> {
    match call(client, &format!("$JS.API.STREAM.DELETE.{name}"), &Value::Null).await {
        Ok(_) => Ok(()),
        Err(error) if error.refusal() == Some(NOT_FOUND) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a stream has a message of a subject.
pub async fn has_subject(client: &Client, name: &str, filter: &str) -> Result<bool, Error> {
    let request = json!({"subjects_filter": filter});
    match call(client, &format!("$JS.API.STREAM.INFO.{name}"), &request).await {
        Ok(info) => Ok(info["state"]["subjects"].as_object().is_some_and(|subjects| !subjects.is_empty())),
        Err(error) if error.refusal() == Some(NOT_FOUND) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the messages of a subject. A stream that is gone has none.
pub async fn purge(client: &Client, name: &str, filter: &str) -> Result<(), Error> {
    match call(client, &format!("$JS.API.STREAM.PURGE.{name}"), &json!({"filter": filter})).await {
        Ok(_) => Ok(()),
        Err(error) if error.refusal() == Some(NOT_FOUND) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The last sequence that was ever used in a stream.
pub async fn last_sequence(client: &Client, name: &str) -> Result<u64, Error> {
    let subject = format!("$JS.API.STREAM.INFO.{name}");
    let info = call(client, &subject, &Value::Null).await?;
    info["state"]["last_seq"]
        .as_u64()
        .ok_or_else(|| Error::Answer { call: subject, why: "it names no last sequence".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Value {
        build(&Messaging::default())[0].config.clone()
    }

    #[test]
    fn a_missing_stream_is_made_and_a_right_one_is_left() {
        assert_eq!(plan(&wanted(), None), Plan::Create(wanted()));
        let mut config = wanted();
        config["max_msg_size"] = json!(-1);
        assert_eq!(plan(&wanted(), Some(&json!({"config": config, "state": {"bytes": 10}}))), Plan::Keep);
    }

    #[test]
    fn drift_is_repaired_and_other_fields_stay() {
        let mut config = wanted();
        config["max_age"] = json!(1_000_000_000);
        config["description"] = json!("by hand");
        let mut repaired = wanted();
        repaired["description"] = json!("by hand");
        assert_eq!(plan(&wanted(), Some(&json!({"config": config, "state": {"bytes": 0}}))), Plan::Update(repaired));
    }

    #[test]
    fn what_would_lose_messages_is_refused() {
        let full = json!({"config": wanted(), "state": {"bytes": 2_u64 << 30}});
        assert!(matches!(plan(&wanted(), Some(&full)), Plan::Refuse(why) if why.contains("more than the new limit")));
        let mut memory = wanted();
        memory["storage"] = json!("memory");
        assert!(matches!(plan(&wanted(), Some(&json!({"config": memory}))), Plan::Refuse(_)));
    }

    #[test]
    fn the_account_may_store_what_its_streams_may() {
        let limits = storage_limits(&Messaging::default());
        let streams = build(&Messaging::default()).into_iter().chain(journals(&Messaging::default()));
        let sum: u64 = streams.map(|s| s.config["max_bytes"].as_u64().unwrap()).sum();
        assert!(limits.disk_bytes > sum);
    }
}
