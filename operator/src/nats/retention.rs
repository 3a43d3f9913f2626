//! What may leave the event stream: events older than `maxAge` that every agent has handled. Above 70% of the stream's
//! size also younger ones, if every agent has handled them. An agent that is paused or behind loses nothing.

use super::{Error, api};
use async_nats::Client;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rhizon_api::workspace::Messaging;
use serde_json::{Value, json};

/// JetStream's code for "no message found".
const NO_MESSAGE: u64 = 10037;
/// Above this share of the stream's size age no longer counts.
const PRESSURE_PERCENT: u64 = 70;

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    first: u64,
    last: u64,
    bytes: u64,
    max_bytes: u64,
    /// First sequence that is not older than `maxAge`.
    young: u64,
    /// Up to where each consumer has handled everything.
    floors: Vec<u64>,
    /// A consumer is gone, and with it the knowledge of how far its agent is.
    is_one_missing: bool,
}

/// The sequence before which everything may go, if anything may.
fn plan(facts: &Facts) -> Option<u64> {
    let Facts { first, last, bytes, max_bytes, young, floors, is_one_missing } = facts;
    if *is_one_missing {
        return None;
    }
    let handled = floors.iter().min().unwrap_or(last) + 1;
    let pressed = bytes.saturating_mul(100) > max_bytes.saturating_mul(PRESSURE_PERCENT);
    let before = if pressed { handled } else { handled.min(*young) };
    // A stream that never had a message begins at none.
    (before > (*first).max(1)).then_some(before)
}

/// Where a consumer is. An idle one, with nothing pending, is at the stream's end whatever it saw last.
fn floor(consumer: &Value, last: u64) -> u64 {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    if number(&consumer["num_pending"]) + number(&consumer["num_ack_pending"]) == 0 {
        return last;
    }
    let start = number(&consumer["config"]["opt_start_seq"]).saturating_sub(1);
    number(&consumer["ack_floor"]["stream_seq"]).max(start)
}

/// Purges what may go from a stream. `consumers` are those that must be there. Returns before which sequence, if
/// anything went.
pub async fn enforce(
    client: &Client,
    stream: &str,
    messaging: &Messaging,
    consumers: &[String],
) -> Result<Option<u64>, Error> {
    let facts = look(client, stream, messaging, consumers).await?;
    let Some(before) = plan(&facts) else { return Ok(None) };
    api::call(client, &format!("$JS.API.STREAM.PURGE.{stream}"), &json!({"seq": before})).await?;
    Ok(Some(before))
}

async fn look(client: &Client, stream: &str, messaging: &Messaging, expected: &[String]) -> Result<Facts, Error> {
    // In this order, what arrives in between makes floors too low, never too high.
    let seen_last = super::streams::last_sequence(client, stream).await?;
    let consumers = api::list(client, &format!("$JS.API.CONSUMER.LIST.{stream}"), "consumers").await?;
    let info = api::call(client, &format!("$JS.API.STREAM.INFO.{stream}"), &Value::Null).await?;
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let last = number(&info["state"]["last_seq"]);
    Ok(Facts {
        first: number(&info["state"]["first_seq"]),
        last,
        bytes: number(&info["state"]["bytes"]),
        max_bytes: number(&info["config"]["max_bytes"]),
        young: young(client, stream, messaging, last).await?,
        floors: consumers.iter().map(|consumer| floor(consumer, seen_last)).collect(),
        is_one_missing: expected.iter().any(|name| consumers.iter().all(|found| found["name"] != name.as_str())),
    })
}

/// First sequence of an event that is not older than `maxAge`; behind the last one when all are.
async fn young(client: &Client, stream: &str, messaging: &Messaging, last: u64) -> Result<u64, Error> {
    let age = SignedDuration::from_millis(i64::try_from(messaging.max_age.as_ms()).unwrap_or(i64::MAX));
    let Ok(since) = Timestamp::now().checked_sub(age) else { return Ok(0) };
    let request = json!({"next_by_subj": ">", "start_time": since.to_string()});
    match api::call(client, &format!("$JS.API.STREAM.MSG.GET.{stream}"), &request).await {
        Ok(answer) => Ok(answer["message"]["seq"].as_u64().unwrap_or_default()),
        Err(error) if error.refusal() == Some(NO_MESSAGE) => Ok(last + 1),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { first: 1, last: 100, bytes: 10, max_bytes: 100, young: 50, floors: vec![80, 90], is_one_missing: false }
    }

    #[test]
    fn what_is_old_and_handled_by_all_may_go() {
        assert_eq!(plan(&facts()), Some(50));
        assert_eq!(plan(&Facts { floors: vec![80, 20], ..facts() }), Some(21));
        assert_eq!(plan(&Facts { floors: vec![80, 0], ..facts() }), None);
        assert_eq!(plan(&Facts { young: 1, ..facts() }), None);
        assert_eq!(plan(&Facts { floors: Vec::new(), ..facts() }), Some(50));
        assert_eq!(plan(&Facts { first: 0, last: 0, young: 1, floors: Vec::new(), ..facts() }), None);
        assert_eq!(plan(&Facts { is_one_missing: true, ..facts() }), None);
    }

    #[test]
    fn under_pressure_age_does_not_count_but_being_handled_does() {
        assert_eq!(plan(&Facts { bytes: 71, ..facts() }), Some(81));
        assert_eq!(plan(&Facts { bytes: 71, floors: vec![0], ..facts() }), None);
    }

    #[test]
    fn an_idle_consumer_is_at_the_end_and_a_new_one_before_its_start() {
        let idle = json!({"num_pending": 0, "num_ack_pending": 0, "ack_floor": {"stream_seq": 3}});
        let behind = json!({"num_pending": 5, "ack_floor": {"stream_seq": 3}});
        let new = json!({"num_pending": 5, "ack_floor": {"stream_seq": 0}, "config": {"opt_start_seq": 42}});
        assert_eq!((floor(&idle, 100), floor(&behind, 100), floor(&new, 100)), (100, 3, 41));
    }
}
