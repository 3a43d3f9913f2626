//! Both reconciles from end to end, against an API server in memory and a real broker.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say so where it stands")]

mod api_server;
mod broker;
mod world;

use rhizon_operator::{
    nats::{api, streams},
    workspace,
};
use serde_json::{Value, json};
use world::{
    AGENT, DEPLOYMENT, GATEWAY_POD, GATEWAY_SETTINGS, NAMESPACE, POLICY, STATEFUL_SET, WORKSPACE, World, without_events,
};

#[tokio::test]
async fn a_workspace_and_an_agent_come_about_and_then_nothing_is_written() {
    let mut world = World::new().await;
    assert_eq!(world.workspace().await[0], format!("PATCH {WORKSPACE}"), "the finalizer comes first");
    world.agent().await;
    world.make_pods_ready();
    world.workspace().await;
    world.agent().await;
    assert_eq!(world.condition(WORKSPACE, "Ready"), ("True".to_owned(), "Ready".to_owned()));
    assert_eq!(world.condition(AGENT, "Ready"), ("True".to_owned(), "Running".to_owned()));
    assert_eq!(world.workspace().await, Vec::<String>::new());
    assert_eq!(world.agent().await, Vec::<String>::new());
}

#[tokio::test]
async fn drift_is_repaired_and_only_that() {
    let mut world = World::running().await;
    world.server.change(STATEFUL_SET, |set| set["spec"]["replicas"] = json!(5));
    assert_eq!(world.agent().await, [format!("PATCH {STATEFUL_SET}")]);
    assert_eq!(world.server.get(STATEFUL_SET).unwrap()["spec"]["replicas"], 1);
    world.server.change(NAMESPACE, |namespace| namespace["metadata"]["labels"] = json!({}));
    assert_eq!(world.workspace().await, [format!("PATCH {NAMESPACE}")]);
}

#[tokio::test]
async fn a_namespace_of_somebody_else_is_not_touched() {
    let mut world = World::new().await;
    world.server.put(NAMESPACE, json!({"metadata": {"name": "permits", "uid": "theirs"}}));
    let writes = without_events(world.workspace().await);
    assert_eq!(writes, [format!("PATCH {WORKSPACE}"), format!("PATCH {WORKSPACE}/status")]);
    assert_eq!(world.condition(WORKSPACE, "Ready"), ("False".to_owned(), "NamespaceTaken".to_owned()));
    let writes = without_events(world.agent().await);
    assert_eq!(writes, [format!("PATCH {AGENT}"), format!("PATCH {AGENT}/status")]);
    assert_eq!(world.condition(AGENT, "Ready"), ("False".to_owned(), "WorkspaceNotReady".to_owned()));
}

#[tokio::test]
async fn while_the_broker_is_away_the_rest_goes_on() {
    let mut world = World::new().await;
    world.broker.kill();
    world.workspace().await;
    assert_eq!(world.condition(WORKSPACE, "MessagingReady"), ("False".to_owned(), "MessagingUnavailable".to_owned()));
    assert!(world.server.get(DEPLOYMENT).is_some(), "the gateway waits for the broker by itself");
    world.agent().await;
    assert_eq!(world.condition(AGENT, "Ready"), ("False".to_owned(), "MessagingUnavailable".to_owned()));
    assert_eq!(world.server.get(STATEFUL_SET), None, "no pod without a first position");
}

#[tokio::test]
async fn an_agent_that_becomes_invalid_keeps_what_it_has() {
    let mut world = World::new().await;
    world.workspace().await;
    world.agent().await;
    let before = world.server.get(STATEFUL_SET);
    world.server.change(AGENT, |agent| agent["spec"]["subscribes"] = json!(["nonsense"]));
    assert_eq!(without_events(world.agent().await), [format!("PATCH {AGENT}/status")]);
    assert_eq!(world.condition(AGENT, "Valid"), ("False".to_owned(), "InvalidType".to_owned()));
    assert_eq!(world.server.get(STATEFUL_SET), before);
}

#[tokio::test]
async fn an_unreadable_object_stops_nobody_and_goes_when_it_is_deleted() {
    let world = World::new().await;
    world.server.change(AGENT, |agent| agent["spec"] = json!({"subscribes": 7}));
    assert_eq!(world.agent().await, Vec::<String>::new());
    world.server.change(AGENT, |agent| {
        agent["metadata"]["finalizers"] = json!(["rhizon.dev/cleanup"]);
        agent["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    assert_eq!(world.agent().await, [format!("DELETE {STATEFUL_SET}"), format!("PATCH {AGENT}")]);
    assert_eq!(world.server.get(AGENT).unwrap()["metadata"]["finalizers"], json!([]));
}

#[tokio::test]
async fn a_mode_is_acknowledged_by_the_sidecar_and_its_journals_end_is_published() {
    let mut world = World::new().await;
    world.workspace().await;
    world.agent().await;
    world.make_pods_ready();
    world.server.change(AGENT, |agent| agent["spec"]["operatingMode"] = json!("Paused"));
    world.agent().await;
    assert_eq!(world.condition(AGENT, "Paused"), ("False".to_owned(), "Pausing".to_owned()), "nobody answers");
    let busy = world.sidecar(json!({"ready": true, "mode": "Paused", "inFlight": 2})).await;
    world.agent().await;
    assert_eq!(world.condition(AGENT, "Paused"), ("False".to_owned(), "Pausing".to_owned()));
    busy.abort();
    let _ = busy.await;
    let answer = json!({"ready": true, "mode": "Paused", "inFlight": 0, "records": 7, "link": "ab"});
    let _done = world.sidecar(answer).await;
    world.agent().await;
    assert_eq!(world.condition(AGENT, "Paused"), ("True".to_owned(), "Paused".to_owned()));
    world.workspace().await;
    let heads = world.server.get(WORKSPACE).unwrap()["status"]["chainHeads"].clone();
    assert_eq!(
        (&heads[0]["agent"], &heads[0]["sequence"], &heads[0]["link"]),
        (&json!("ledger"), &json!(7), &json!("ab"))
    );
    assert_eq!((world.workspace().await, world.agent().await), (vec![], vec![]), "a steady state writes nothing");
}

#[tokio::test]
async fn a_postgres_store_needs_a_secret_that_is_meant_for_it() {
    let mut world = World::new().await;
    world.workspace().await;
    world.server.change(AGENT, |agent| {
        agent["spec"]["store"] = json!({"kind": "Postgres", "secretRef": "db"});
        agent["spec"]["shards"] = json!(2);
    });
    world.agent().await;
    assert_eq!(world.condition(AGENT, "Valid"), ("False".to_owned(), "StoreSecretMissing".to_owned()));
    let secret = json!({
        "metadata": {"name": "db", "resourceVersion": "1", "labels": {"rhizon.dev/store-secret": "true"}},
        "data": {"url": "cG9zdGdyZXM6Ly9tZTpzZWNyZXRAZGIuZGF0YS5zdmMvcGVybWl0cw=="},
    });
    world.server.put("/api/v1/namespaces/permits/secrets/db", secret);
    world.agent().await;
    assert_eq!(world.condition(AGENT, "Valid").0, "True");
    let egress = &world.server.get(POLICY).unwrap()["spec"]["egress"];
    assert_eq!(egress[0]["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "data");
    let settings = world.server.get("/api/v1/namespaces/permits/configmaps/agent-ledger").unwrap();
    let settings: Value = serde_json::from_str(settings["data"]["settings.json"].as_str().unwrap()).unwrap();
    assert_eq!(settings["shards"][1]["store"]["schema"], "rhizon_ledger_1");
    assert_eq!(settings["shards"][1]["consumer"]["name"], "agent-ledger_1");
    let keys = workspace::read_keys("permits", &world.context).await.unwrap().unwrap();
    assert_eq!(settings["shards"][1]["store"]["account"], keys.data.public_key());
    let everything = serde_json::to_string(&world.server.get(STATEFUL_SET)).unwrap() + &settings.to_string();
    assert!(!everything.contains("secret@"), "the connection string stays in its Secret");
}

#[tokio::test]
async fn a_gateway_is_told_of_new_settings_once() {
    let mut world = World::new().await;
    world.workspace().await;
    let labels = json!({"app.kubernetes.io/component": "gateway"});
    world.server.put(GATEWAY_POD, json!({"metadata": {"name": "rhizon-gateway-x", "labels": labels}}));
    assert_eq!(world.workspace().await, [format!("PATCH {GATEWAY_POD}")], "it might have older ones");
    assert_eq!(world.workspace().await, Vec::<String>::new());
    world.server.change(WORKSPACE, |workspace| {
        workspace["spec"]["gateway"] = json!({"access": [{"subject": "s", "read": true}]});
    });
    let writes = without_events(world.workspace().await);
    assert_eq!(writes, [format!("PATCH {GATEWAY_SETTINGS}"), format!("PATCH {GATEWAY_POD}")]);
}

#[tokio::test]
async fn a_deleted_agent_loses_its_user_and_with_the_policy_its_journal() {
    for (policy, is_kept) in [("Retain", true), ("Delete", false)] {
        let mut world = World::new().await;
        world.server.change(WORKSPACE, |workspace| workspace["spec"] = json!({"deletionPolicy": policy}));
        world.server.change(AGENT, |agent| agent["spec"]["store"] = json!({"kind": "JetStream"}));
        world.workspace().await;
        world.agent().await;
        let keys = workspace::read_keys("permits", &world.context).await.unwrap().unwrap();
        let data = world.context.pool.client(&keys.data).await.unwrap();
        data.request("jr.ledger.0", "record".into()).await.unwrap();
        let user = world.user().await;
        world.server.change(AGENT, |agent| agent["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        world.agent().await;
        user.ended().await;
        assert_eq!(streams::has_subject(&data, streams::JOURNAL, "jr.ledger.>").await.unwrap(), is_kept);
        for stream in ["EVENTS", streams::JOURNAL] {
            let left = api::call(&data, &format!("$JS.API.CONSUMER.NAMES.{stream}"), &Value::Null).await.unwrap();
            assert_eq!(left["total"], 0, "{left}");
        }
    }
}
