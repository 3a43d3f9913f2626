//! The claims against a real nats-server: what a sidecar needs works, and what it may not do fails.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say so where it stands")]

mod broker;

use broker::{Broker, User, WORKSPACE, header_map};
use futures::StreamExt as _;
use rhizon_api::workspace::Messaging;
use rhizon_operator::nats::{Error, api, resolver, streams};
use serde_json::{Value, json};

const EVENT: &str = "ev.evt.permit.recorded.7.agent-permits";

#[tokio::test]
async fn a_sidecar_can_do_its_work_through_the_imports() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent("permits", &["evt.permit.recorded"], &["evt.*.*"]).await;

    // One message, and a second time: the broker tells a duplicate.
    let first = permits.publish(EVENT, &[("Nats-Msg-Id", "one")], "1").await;
    assert_eq!((&first["stream"], &first["seq"]), (&json!("EVENTS"), &json!(1)));
    assert_eq!(permits.publish(EVENT, &[("Nats-Msg-Id", "one")], "1").await["duplicate"], true);

    // An atomic batch.
    permits.put(EVENT, &[("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", "1")], "2").await;
    let headers = [("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", "2"), ("Nats-Batch-Commit", "1")];
    let batch = permits.publish(EVENT, &headers, "3").await;
    assert_eq!((&batch["seq"], &batch["count"]), (&json!(3), &json!(2)));

    // Pull, and acknowledge all with the last.
    let pulled = permits.pull("agent-permits", 10).await;
    assert_eq!(pulled.iter().map(|m| m.0.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    permits.ask(&pulled[2].1, "+ACK").await.expect("an answer to the ack");
    let info = permits.api("$JS.API.CONSUMER.INFO.EVENTS.agent-permits", &Value::Null).await;
    assert_eq!((&info["ack_floor"]["stream_seq"], &info["num_pending"]), (&json!(3), &json!(0)));

    // Reset to an earlier position: the same messages again, counted from one.
    permits.api("$JS.API.CONSUMER.RESET.EVENTS.agent-permits", &json!({"seq": 2})).await;
    let again = permits.pull("agent-permits", 10).await;
    assert_eq!(again.iter().map(|m| m.0.as_str()).collect::<Vec<_>>(), ["2", "3"]);
    assert!(again[0].1.contains(".1.2.1."), "delivered once, stream 2, consumer 1: {}", again[0].1);

    assert_eq!(permits.publish("dead.permits.7.x", &[], "{}").await["stream"], "DEAD");
}

#[tokio::test]
async fn the_gateway_publishes_and_asks_and_an_agent_answers() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent("permits", &["evt.permit.recorded"], &["evt.*.*"]).await;
    let gateway = broker.gateway().await;
    assert_eq!(gateway.publish("ev.cmd.permit.record.1.gateway", &[], "{}").await["stream"], "EVENTS");
    assert_eq!(gateway.publish("to.permits.cmd.permit.record.1.gateway", &[], "{}").await["stream"], "EVENTS");
    assert_eq!(gateway.api("$JS.API.STREAM.INFO.EVENTS", &Value::Null).await["state"]["messages"], 2);

    let mut questions = permits.client.subscribe("rq.permits.>").await.unwrap();
    // An answered request on the same connection: the subscription before it holds.
    permits.api("$JS.API.CONSUMER.INFO.EVENTS.agent-permits", &Value::Null).await;
    let answering = tokio::spawn(async move {
        let question = questions.next().await.unwrap();
        permits.client.publish(question.reply.unwrap(), "{\"ok\":1}".into()).await.unwrap();
        permits.client.flush().await.unwrap();
        permits
    });
    assert_eq!(gateway.ask("rq.permits.status", "{}").await.as_deref(), Some("{\"ok\":1}"));
    let permits = answering.await.unwrap();
    gateway.refused("ev.evt.permit.recorded.1.agent-permits").await;
    permits.refused("rq.ledger.status").await;
}

#[tokio::test]
async fn an_agent_cannot_go_beyond_its_own_rights() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent("permits", &["evt.permit.recorded"], &["evt.*.*"]).await;
    broker.agent("ledger", &[], &["evt.*.*"]).await;
    for subject in [
        // As somebody else, or a type that it does not publish.
        "ev.evt.permit.recorded.7.gateway",
        "ev.evt.permit.recorded.7.agent-ledger",
        "ev.evt.permit.revoked.7.agent-permits",
        "to.ledger.evt.permit.recorded.7.agent-ledger",
        "dead.ledger.7.x",
        // Another agent's consumer.
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.agent-ledger",
        "$JS.API.CONSUMER.RESET.EVENTS.agent-ledger",
        "$JS.API.CONSUMER.INFO.EVENTS.agent-ledger",
        "$JS.ACK.EVENTS.agent-ledger.1.1.1.1.1",
        "$JS.ACK._.hash.EVENTS.agent-ledger.1.1.1.1.1",
        // The stream.
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.STREAM.PURGE.EVENTS",
        "$JS.API.STREAM.INFO.EVENTS",
        "$JS.API.STREAM.UPDATE.EVENTS",
        "$JS.API.STREAM.MSG.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS",
        "$JS.API.STREAM.NAMES",
        "$JS.API.CONSUMER.CREATE.EVENTS.thief",
        "$JS.API.CONSUMER.DELETE.EVENTS.agent-permits",
        "$JS.API.INFO",
        // The broker.
        "$SYS.REQ.CLAIMS.LIST",
        "$SYS.REQ.CLAIMS.DELETE",
    ] {
        permits.refused(subject).await;
    }
    for subject in
        ["ev.>", "to.>", ">", "_INBOX.>", "_INBOX.agent-ledger.>", "_INBOX.gateway.>", "rq.ledger.>", "$JS.>"]
    {
        permits.cannot_subscribe(subject).await;
    }
    assert_eq!(broker.messages().await, 0);
}

#[tokio::test]
async fn reply_subjects_reach_nothing() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent("permits", &["evt.permit.recorded"], &["evt.*.*"]).await;
    broker.agent("ledger", &[], &["evt.*.*"]).await;
    permits.publish(EVENT, &[], "kept").await;
    let before = broker.state().await;
    let replies = [
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.STREAM.PURGE.EVENTS",
        "$JS.API.CONSUMER.DELETE.EVENTS.agent-ledger",
        "$JS.API.CONSUMER.RESET.EVENTS.agent-ledger",
        "$JS.ACK.EVENTS.agent-ledger.1.1.1.1.1",
        "ev.evt.permit.recorded.7.gateway",
        "dead.ledger.7.x",
        "rq.ledger.status",
    ];
    for (index, reply) in replies.into_iter().enumerate() {
        // As the reply of a publish, of a pull, of a read, and of a reset.
        permits.put_with_reply("dead.permits.7.x", reply, "{}").await;
        permits.put_with_reply("$JS.API.CONSUMER.INFO.EVENTS.agent-permits", reply, "").await;
        let pull = json!({"batch": 1, "no_wait": true}).to_string();
        permits.put_with_reply("$JS.API.CONSUMER.MSG.NEXT.EVENTS.agent-permits", reply, &pull).await;
        permits.put_with_reply("$JS.API.CONSUMER.RESET.EVENTS.agent-permits", reply, "{\"seq\":1}").await;
        let id = format!("batch-{index}");
        let headers = header_map(&[("Nats-Batch-Id", id.as_str()), ("Nats-Batch-Sequence", "1")]);
        permits.client.publish_with_reply_and_headers(EVENT, reply, headers, "x".into()).await.unwrap();
        permits.client.flush().await.unwrap();
    }
    // An answered request on the same connection: what was sent before has been handled.
    permits.api("$JS.API.CONSUMER.INFO.EVENTS.agent-permits", &Value::Null).await;
    assert_eq!(broker.state().await, before);
}

#[tokio::test]
async fn two_workspaces_share_nothing() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent("permits", &["evt.permit.recorded"], &["evt.*.*"]).await;
    permits.publish(EVENT, &[], "secret").await;
    let other = broker.workspace("other").await;
    // The same name in the other workspace, with all rights that an agent can have there.
    let twin = other.agent("permits", &["evt.permit.recorded"], &["evt.*.*"]).await;
    assert_eq!(twin.pull("agent-permits", 10).await, []);
    assert_eq!(twin.publish(EVENT, &[], "theirs").await["seq"], 1);
    assert_eq!(broker.messages().await, 1);
    let pulled = permits.pull("agent-permits", 10).await;
    assert_eq!(pulled.iter().map(|m| m.0.as_str()).collect::<Vec<_>>(), ["secret"]);
}

#[tokio::test]
async fn what_is_right_is_not_written_again_and_drift_is_repaired() {
    let broker = Broker::start(WORKSPACE).await;
    assert!(!broker.ensure_accounts().await, "accounts are pushed once");
    let [events, _] = &streams::build(&Messaging::default())[..] else { panic!() };
    assert!(!streams::ensure(&broker.data, events).await.unwrap());
    let mut drifted = events.config.clone();
    drifted["max_age"] = json!(3_600_000_000_000_u64);
    api::call(&broker.data, "$JS.API.STREAM.UPDATE.EVENTS", &drifted).await.unwrap();
    assert!(streams::ensure(&broker.data, events).await.unwrap());
    assert!(!streams::ensure(&broker.data, events).await.unwrap());
}

#[tokio::test]
async fn a_deleted_workspace_leaves_nothing_and_its_credentials_are_worth_nothing() {
    let broker = Broker::start(WORKSPACE).await;
    let permits: User = broker.agent("permits", &["evt.permit.recorded"], &["evt.*.*"]).await;
    for name in ["EVENTS", "DEAD", "EVENTS"] {
        streams::delete(&broker.data, name).await.unwrap();
    }
    broker.delete_accounts().await;
    broker.delete_accounts().await;
    assert_eq!(resolver::look_up(&broker.system, &broker.keys.data.public_key()).await.unwrap(), None);
    assert!(permits.reconnect(std::time::Duration::from_secs(2)).await.is_err());
    let gone = streams::last_sequence(&broker.data, "EVENTS").await.unwrap_err();
    assert!(matches!(gone, Error::Unavailable { .. }), "{gone}");
}

#[tokio::test]
async fn a_revoked_user_is_out_at_once_and_for_good_and_others_are_not() {
    let broker = Broker::start(WORKSPACE).await;
    let permits = broker.agent("permits", &["evt.permit.recorded"], &["evt.*.*"]).await;
    let ledger = broker.agent("ledger", &[], &["evt.*.*"]).await;
    broker.revoke(&permits).await;
    permits.ended().await;
    assert!(permits.reconnect(std::time::Duration::from_secs(2)).await.is_err());
    assert!(!broker.ensure_accounts().await, "the account remembers it, and that is no drift");
    broker.revoke(&permits).await;
    assert!(permits.reconnect(std::time::Duration::from_secs(2)).await.is_err());
    ledger.api("$JS.API.CONSUMER.INFO.EVENTS.agent-ledger", &Value::Null).await;
    // A new agent of the name has another key.
    let anew = broker.agent("permits", &["evt.permit.recorded"], &["evt.*.*"]).await;
    assert_eq!(anew.publish(EVENT, &[], "1").await["seq"], 1);
}
