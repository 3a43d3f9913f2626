//! Journals in the broker: their agent alone writes and reads them, and nobody but the operator can shorten them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say so where it stands")]

mod broker;

use broker::{Broker, User, WORKSPACE};
use rhizon_operator::nats::{api, consumers, streams};
use serde_json::{Value, json};

const FENCE: &str = "Nats-Expected-Last-Subject-Sequence";

fn spec(shards: u32) -> Value {
    json!({
        "subscribes": ["evt.*.*"], "publishes": ["evt.permit.recorded"], "container": {"image": "x"},
        "store": {"kind": "JetStream"}, "shards": shards,
    })
}

async fn info(broker: &Broker) -> Value {
    let all = json!({"subjects_filter": ">"});
    api::call(&broker.data, "$JS.API.STREAM.INFO.JOURNAL", &all).await.unwrap()["state"].clone()
}

#[tokio::test]
async fn an_agent_writes_its_journal_behind_a_fence_and_reads_it_from_any_place() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent_of("permits", &spec(2)).await;
    for (fence, payload) in [("0", "1"), ("1", "2"), ("2", "3")] {
        permits.publish("jr.permits.0", &[(FENCE, fence)], payload).await;
    }
    let late = permits.try_publish("jr.permits.0", &[(FENCE, "2")], "4").await;
    assert_eq!(late["error"]["err_code"], 10071, "{late}");
    assert_eq!(permits.publish("jr.permits.1", &[(FENCE, "0")], "other").await["seq"], 4);
    let large = "x".repeat(7 << 20);
    assert_eq!(permits.publish("jr.permits.1", &[(FENCE, "4")], &large).await["seq"], 5);

    let read = async || {
        let pulled = permits.pull_from("JOURNAL", "agent-permits_0", 10).await;
        pulled.into_iter().map(|(payload, _)| payload).collect::<Vec<_>>()
    };
    assert_eq!(read().await, ["1", "2", "3"]);
    permits.api("$JS.API.CONSUMER.RESET.JOURNAL.agent-permits_0", &json!({"seq": 2})).await;
    assert_eq!(read().await, ["2", "3"]);
    let consumer = permits.api("$JS.API.CONSUMER.INFO.JOURNAL.agent-permits_0", &Value::Null).await;
    assert_eq!((&consumer["num_pending"], &consumer["num_ack_pending"]), (&json!(0), &json!(0)));
}

/// What `DIRECT.GET` answers: a message's payload, or nothing.
async fn get(user: &User, name: &str) -> Option<String> {
    let subject = format!("$JS.API.DIRECT.GET.SNAPSHOTS.{name}");
    user.ask(&subject, "").await.filter(|payload| !payload.is_empty())
}

#[tokio::test]
async fn an_agent_replaces_and_gets_its_own_snapshots_and_nobody_elses() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent_of("permits", &spec(2)).await;
    // Named like a shard of the first.
    let rival = broker.agent_of("permits-0", &spec(1)).await;
    let plain = broker.agent("plain", &["evt.permit.recorded"], &["evt.*.*"]).await;
    assert_eq!(get(&permits, "sn.permits.0.index").await, None);
    let large = "x".repeat(1 << 20);
    for (name, fence, payload) in [("index", "0", "first"), ("0", "0", &large), ("index", "1", "second")] {
        permits.publish(&format!("sn.permits.0.{name}"), &[(FENCE, fence)], payload).await;
    }
    let late = permits.try_publish("sn.permits.0.index", &[(FENCE, "1")], "late").await;
    assert_eq!(late["error"]["err_code"], 10071, "{late}");
    assert_eq!(get(&permits, "sn.permits.0.index").await.as_deref(), Some("second"));
    assert_eq!(get(&permits, "sn.permits.0.0").await, Some(large));
    // One message each; and no way to take away others with a header.
    permits.publish("sn.permits.1.index", &[], "another shard").await;
    for rollup in ["sub", "all"] {
        for subject in ["sn.permits.1.index", "jr.permits.0"] {
            let refused = permits.try_publish(subject, &[("Nats-Rollup", rollup)], "alone").await;
            assert!(refused["error"].is_object(), "{refused}");
        }
    }
    rival.publish("sn.permits-0.0.index", &[], "theirs").await;
    let kept =
        json!({"sn.permits.0.index": 1, "sn.permits.0.0": 1, "sn.permits.1.index": 1, "sn.permits-0.0.index": 1});
    assert_eq!(snapshots(&broker).await["subjects"], kept);
    let others = [
        "sn.permits-0.0.index",
        "$JS.API.DIRECT.GET.SNAPSHOTS.sn.permits-0.0.index",
        "$JS.API.DIRECT.GET.SNAPSHOTS",
        "$JS.API.DIRECT.GET.SNAPSHOTS.>",
        "$JS.API.DIRECT.GET.JOURNAL.jr.permits.0",
        "$JS.API.STREAM.MSG.GET.SNAPSHOTS",
        "$JS.API.STREAM.MSG.DELETE.SNAPSHOTS",
        "$JS.API.STREAM.PURGE.SNAPSHOTS",
        "$JS.API.STREAM.DELETE.SNAPSHOTS",
        "$JS.API.STREAM.UPDATE.SNAPSHOTS",
        "$JS.API.STREAM.INFO.SNAPSHOTS",
        "$JS.API.CONSUMER.CREATE.SNAPSHOTS.thief",
    ];
    for subject in others.into_iter().chain(["sn.permits.2.index", "sn.permits.0", "sn.permits.0.a.b"]) {
        permits.refused(subject).await;
    }
    for subject in others.into_iter().chain(["sn.plain.0.index", "$JS.API.DIRECT.GET.SNAPSHOTS.sn.plain.0.index"]) {
        plain.refused(subject).await;
    }
    for subject in ["sn.>", "sn.permits.0.index", "sn.permits-0.0.index"] {
        permits.cannot_subscribe(subject).await;
    }
    assert_eq!(snapshots(&broker).await["subjects"], kept);
}

async fn snapshots(broker: &Broker) -> Value {
    let all = json!({"subjects_filter": ">"});
    api::call(&broker.data, "$JS.API.STREAM.INFO.SNAPSHOTS", &all).await.unwrap()["state"].clone()
}

#[tokio::test]
async fn nobody_reaches_the_journal_of_another() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent_of("permits", &spec(1)).await;
    // Named like a shard of the first.
    let rival = broker.agent_of("permits-0", &spec(1)).await;
    let plain = broker.agent("plain", &["evt.permit.recorded"], &["evt.*.*"]).await;
    rival.publish("jr.permits-0.0", &[], "theirs").await;
    let others = [
        "jr.permits-0.0",
        "jr.permits-0.1",
        "$JS.API.CONSUMER.MSG.NEXT.JOURNAL.agent-permits-0_0",
        "$JS.API.CONSUMER.RESET.JOURNAL.agent-permits-0_0",
        "$JS.API.CONSUMER.INFO.JOURNAL.agent-permits-0_0",
        "$JS.ACK.JOURNAL.agent-permits-0_0.1.1.1.1.1",
        "$JS.ACK._.hash.JOURNAL.agent-permits-0_0.1.1.1.1.1",
        "$JS.API.STREAM.DELETE.JOURNAL",
        "$JS.API.STREAM.PURGE.JOURNAL",
        "$JS.API.STREAM.INFO.JOURNAL",
        "$JS.API.STREAM.UPDATE.JOURNAL",
        "$JS.API.STREAM.MSG.GET.JOURNAL",
        "$JS.API.STREAM.MSG.DELETE.JOURNAL",
        "$JS.API.DIRECT.GET.JOURNAL",
        "$JS.API.CONSUMER.CREATE.JOURNAL.thief",
        "$JS.API.CONSUMER.DELETE.JOURNAL.agent-permits_0",
    ];
    for subject in others.into_iter().chain(["jr.permits.1", "jr.permits"]) {
        permits.refused(subject).await;
    }
    for subject in others.into_iter().chain(["jr.plain.0", "$JS.API.CONSUMER.MSG.NEXT.JOURNAL.agent-plain_0"]) {
        plain.refused(subject).await;
    }
    for subject in ["jr.>", "jr.permits.0", "jr.permits-0.0"] {
        permits.cannot_subscribe(subject).await;
    }
    assert_eq!(info(&broker).await["subjects"], json!({"jr.permits-0.0": 1}));
}

#[tokio::test]
async fn reply_subjects_do_not_reach_a_journal() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent_of("permits", &spec(1)).await;
    let ledger = broker.agent_of("ledger", &spec(1)).await;
    permits.publish("jr.permits.0", &[], "mine").await;
    ledger.publish("jr.ledger.0", &[], "theirs").await;
    permits.publish("sn.permits.0.index", &[], "mine").await;
    ledger.publish("sn.ledger.0.index", &[], "theirs").await;
    let before = (info(&broker).await, snapshots(&broker).await);
    let replies = [
        "jr.ledger.0",
        "sn.ledger.0.index",
        "$JS.API.STREAM.DELETE.SNAPSHOTS",
        "$JS.API.STREAM.PURGE.SNAPSHOTS",
        "$JS.API.DIRECT.GET.SNAPSHOTS.sn.ledger.0.index",
        "$JS.API.STREAM.DELETE.JOURNAL",
        "$JS.API.STREAM.PURGE.JOURNAL",
        "$JS.API.STREAM.MSG.DELETE.JOURNAL",
        "$JS.API.CONSUMER.DELETE.JOURNAL.agent-ledger_0",
        "$JS.API.CONSUMER.MSG.NEXT.JOURNAL.agent-ledger_0",
        "$JS.API.CONSUMER.RESET.JOURNAL.agent-ledger_0",
    ];
    for reply in replies {
        // As the reply of an append or a snapshot that is refused, of a get, of a pull, of a look, and of a reset.
        for subject in ["jr.permits.0", "sn.permits.0.index"] {
            let headers = broker::header_map(&[(FENCE, "99")]);
            permits.client.publish_with_reply_and_headers(subject, reply, headers, "{}".into()).await.unwrap();
        }
        permits.put_with_reply("$JS.API.DIRECT.GET.SNAPSHOTS.sn.permits.0.index", reply, "").await;
        for (verb, payload) in [("MSG.NEXT", "{\"batch\":1,\"no_wait\":true}"), ("INFO", ""), ("RESET", "{\"seq\":1}")]
        {
            let subject = format!("$JS.API.CONSUMER.{verb}.JOURNAL.agent-permits_0");
            permits.put_with_reply(&subject, reply, payload).await;
        }
    }
    permits.api("$JS.API.CONSUMER.INFO.JOURNAL.agent-permits_0", &Value::Null).await;
    assert_eq!((info(&broker).await, snapshots(&broker).await), before);
    let theirs = ledger.pull_from("JOURNAL", "agent-ledger_0", 10).await;
    assert_eq!(theirs.iter().map(|m| m.0.as_str()).collect::<Vec<_>>(), ["theirs"]);
}

#[tokio::test]
async fn a_deleted_agent_leaves_no_journal_and_no_consumers_and_others_keep_theirs() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent_of("permits", &spec(4)).await;
    let rival = broker.agent_of("permits-0", &spec(1)).await;
    for (user, name) in [(&permits, "permits.3"), (&rival, "permits-0.0")] {
        user.publish(&format!("jr.{name}"), &[], "record").await;
        user.publish(&format!("sn.{name}.index"), &[], "snapshot").await;
    }
    let has = async |filter| streams::has_subject(&broker.data, streams::JOURNAL, filter).await.unwrap();
    assert!(has("jr.permits.>").await);
    for _ in 0..2 {
        for stream in ["EVENTS", streams::JOURNAL] {
            consumers::delete_all(&broker.data, stream, "agent-permits").await.unwrap();
        }
        streams::purge(&broker.data, streams::JOURNAL, "jr.permits.>").await.unwrap();
        streams::purge(&broker.data, streams::SNAPSHOTS, "sn.permits.>").await.unwrap();
    }
    assert_eq!(snapshots(&broker).await["subjects"], json!({"sn.permits-0.0.index": 1}));
    assert_eq!((has("jr.permits.>").await, has("jr.permits-0.>").await), (false, true));
    for (stream, kept) in [("EVENTS", "agent-permits-0"), ("JOURNAL", "agent-permits-0_0")] {
        let left = api::call(&broker.data, &format!("$JS.API.CONSUMER.NAMES.{stream}"), &Value::Null).await.unwrap();
        assert_eq!(left["consumers"], json!([kept]));
    }
}

#[tokio::test]
async fn shards_divide_the_events_and_most_of_them_still_connect() {
    let broker = Broker::start(WORKSPACE).await;
    let gateway = broker.gateway().await;
    let ledger = broker.agent_of("ledger", &spec(16)).await;
    for partition in 0..16 {
        gateway.publish(&format!("ev.evt.permit.recorded.{partition}.gateway"), &[], &partition.to_string()).await;
    }
    gateway.publish("to.ledger.ctl.agent.redrive.7.gateway", &[], "control").await;
    for partition in [0, 7, 15] {
        let pulled = ledger.pull(&format!("agent-ledger_{partition}"), 10).await;
        let payloads: Vec<&str> = pulled.iter().map(|m| m.0.as_str()).collect();
        let own = partition.to_string();
        assert_eq!(payloads, if partition == 7 { vec!["7", "control"] } else { vec![own.as_str()] });
    }
}
