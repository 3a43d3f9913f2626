//! The gateway against a real broker, with real tokens, over real HTTP.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rhizon_api::settings::{self, Access};
use rhizon_kernel::chain::Hash;
use rhizon_runtime::bus::nats::Connection;
use rhizon_runtime::gateway;
use rhizon_tests::nats;
use rhizon_tests::tokens::{ISSUER, Issuer};
use serde_json::{Value, json};
use tokio::sync::watch;

const CLERK: &str = "system:serviceaccount:permits:clerk";
const BATCHED: &str = "application/cloudevents-batch+json";

/// A broker with a stream, a gateway, and its issuer.
struct World {
    broker: nats::Server,
    operator: Connection,
    issuer: Issuer,
    settings: settings::Gateway,
    path: PathBuf,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
    _folder: tempfile::TempDir,
}

fn free_address() -> String {
    format!("127.0.0.1:{}", nats::free_port())
}

fn access(subject: &str) -> Access {
    Access {
        issuer: ISSUER.into(),
        subject: subject.into(),
        roles: vec!["clerk".into()],
        send: vec!["cmd.permit.record".parse().unwrap()],
        sources: vec!["/logs/".into()],
        read: true,
    }
}

impl World {
    async fn start(max_bytes: u64) -> Self {
        let broker = nats::start(&nats::Options::default());
        let nats = |user: &str| settings::Nats {
            url: broker.url(),
            user: user.into(),
            credentials: None,
            ca: None,
            message_id_key: None,
        };
        let operator = Connection::start(&nats("operator")).await.unwrap();
        let issuer = Issuer::new();
        let settings = settings::Gateway {
            workspace: "permits".into(),
            listen: free_address(),
            health_listen: free_address(),
            nats: nats("gateway"),
            issuers: vec![settings::Issuer { issuer: ISSUER.into(), jwks: issuer.jwks() }],
            access: vec![access(CLERK)],
            limits: rhizon_kernel::Limits::default(),
            agents: vec![settings::Agent {
                name: "permits".into(),
                subscribes: vec!["cmd.permit.record".parse().unwrap()],
                shards: 1,
            }],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        std::fs::write(&path, serde_json::to_vec(&settings).unwrap()).unwrap();
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(gateway::cluster::run(path.clone(), stopped));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let world = Self { broker, operator, issuer, settings, path, client, stop, running, _folder: folder };
        let stream = json!({
            "name": "EVENTS", "subjects": ["ev.>", "to.>"], "storage": "file", "retention": "limits", "discard": "new",
            "max_bytes": max_bytes, "num_replicas": 1, "allow_atomic": true, "duplicate_window": 120_000_000_000_u64,
        });
        world.ask("$JS.API.STREAM.CREATE.EVENTS", &stream).await;
        world.until("ready", async || world.health("/readyz").await == 200).await;
        world
    }

    async fn ask(&self, subject: &str, request: &Value) -> Value {
        let answer = self.operator.request("ask", subject.to_owned(), request.to_string().into()).await.unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    async fn stored(&self) -> u64 {
        self.ask("$JS.API.STREAM.INFO.EVENTS", &json!({})).await["state"]["messages"].as_u64().unwrap()
    }

    async fn call(&self, address: &str, token: Option<&str>, body: Option<String>, path: &str) -> (u16, Value) {
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut request = http::Request::builder().method(method).uri(format!("http://{address}{path}"));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.header("content-type", BATCHED).body(Full::from(body.unwrap_or_default())).unwrap();
        // Not there yet is an answer too: it has no status.
        let Ok(answer) = self.client.request(request).await else { return (0, Value::Null) };
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn delete(&self, token: &str, path: &str) -> u16 {
        let uri = format!("http://{}{path}", self.settings.listen);
        let request = http::Request::delete(uri).header("authorization", format!("Bearer {token}"));
        self.client.request(request.body(Full::default()).unwrap()).await.unwrap().status().as_u16()
    }

    async fn text(&self, address: &str, path: &str) -> String {
        let answer = self.client.get(format!("http://{address}{path}").parse().unwrap()).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    async fn health(&self, path: &str) -> u16 {
        self.call(&self.settings.health_listen, None, None, path).await.0
    }

    async fn post(&self, token: &str, body: String) -> (u16, Value) {
        self.call(&self.settings.listen, Some(token), Some(body), "/v1/events").await
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds().await {
            assert!(Instant::now() < deadline, "not {what} after 30 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One that remembers nothing of what it was sent.
    async fn restart(&mut self) {
        self.stop.send_replace(true);
        (&mut self.running).await.unwrap().unwrap();
        let (stop, stopped) = watch::channel(false);
        (self.stop, self.running) = (stop, tokio::spawn(gateway::cluster::run(self.path.clone(), stopped)));
        self.until("ready", async || self.health("/readyz").await == 200).await;
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.running.await.unwrap().unwrap();
    }
}

fn events(ids: std::ops::Range<usize>) -> String {
    let event = |id| {
        let data = "x".repeat(100);
        json!({"specversion": "1.0", "id": format!("{id}"), "source": "/logs/a", "type": "cmd.permit.record", "subject": "case-1", "data": data})
    };
    Value::from(ids.map(event).collect::<Vec<_>>()).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_proven_callers_publish_and_each_event_once() {
    let world = World::start(1 << 30).await;
    let token = world.issuer.token(CLERK, "rhizon/permits");
    assert_eq!(world.call(&world.settings.listen, None, Some(events(0..1)), "/v1/events").await.0, 401);
    assert_eq!(world.post(&world.issuer.token(CLERK, "rhizon/other"), events(0..1)).await.0, 401);
    assert_eq!(world.post(&world.issuer.token("somebody", "rhizon/permits"), events(0..1)).await.0, 403);
    assert_eq!(world.stored().await, 0);

    assert_eq!(world.post(&token, events(0..300)).await, (202, json!({"accepted": 300})));
    assert_eq!(world.stored().await, 300);
    // Again, and again with news among it.
    assert_eq!(world.post(&token, events(0..300)).await.0, 202);
    assert_eq!(world.post(&token, events(200..400)).await.0, 202);
    assert_eq!(world.stored().await, 400);
    assert_eq!(world.call(&world.settings.listen, Some(&token), None, "/v1/agents/permits").await.0, 503);
    assert_eq!(world.call(&world.settings.listen, Some(&token), None, "/v1/agents/unknown").await.0, 404);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_settings_count_without_a_restart() {
    let world = World::start(1 << 30).await;
    let token = world.issuer.token("somebody", "rhizon/permits");
    assert_eq!(world.post(&token, events(0..1)).await.0, 403);
    let settings = settings::Gateway { access: vec![access("somebody")], ..world.settings.clone() };
    std::fs::write(&world.path, serde_json::to_vec(&settings).unwrap()).unwrap();
    world.until("granted", async || world.post(&token, events(0..1)).await.0 == 202).await;
    assert_eq!(world.post(&world.issuer.token(CLERK, "rhizon/permits"), events(0..1)).await.0, 403);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_503_until_it_is_back() {
    let mut world = World::start(1 << 30).await;
    let token = world.issuer.token(CLERK, "rhizon/permits");
    assert_eq!(world.post(&token, events(0..10)).await.0, 202);
    world.broker.kill();
    let (status, problem) = world.post(&token, events(10..20)).await;
    assert_eq!((status, &problem["code"]), (503, &json!("broker_away")));
    world.until("not ready", async || world.health("/readyz").await == 503).await;
    assert_eq!(world.health("/healthz").await, 200);
    world.broker.restart();
    world.until("accepted", async || world.post(&token, events(10..20)).await.0 == 202).await;
    assert_eq!(world.stored().await, 20);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nearly_full_stream_keeps_its_rest_for_agents() {
    let mut world = World::start(200_000).await;
    // It looks at the stream as soon as it can, and this one finds it.
    world.restart().await;
    let token = world.issuer.token(CLERK, "rhizon/permits");
    let mut sent = 0;
    let mut problem = Value::Null;
    world
        .until("full", async || {
            let (status, answer) = world.post(&token, events(sent..sent + 10)).await;
            sent += 10;
            problem = answer;
            status == 429
        })
        .await;
    assert_eq!(problem["code"], "workspace_full");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("its stream is ") && detail.contains(" % full"), "{detail}");
    let before = world.stored().await;
    // What an agent sends is taken.
    let output = json!({"specversion": "1.0", "data": "x".repeat(1_000)});
    let ack = world.ask("ev.evt.permit.recorded.0.permits", &output).await;
    assert_eq!((&ack["stream"], &ack["error"]), (&json!("EVENTS"), &Value::Null));
    assert_eq!(world.stored().await, before + 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_under_an_id_is_never_lost_to_the_brokers_dedup() {
    let mut world = World::start(1 << 30).await;
    let token = world.issuer.token(CLERK, "rhizon/permits");
    assert_eq!(world.post(&token, events(0..1)).await.0, 202);
    world.restart().await;
    assert_eq!(world.post(&token, events(0..1)).await.0, 202);
    assert_eq!(world.stored().await, 1, "the same is the same");
    world.restart().await;
    let other = events(0..1).replace("case-1", "case-2");
    assert_eq!(world.post(&token, other).await.0, 202);
    assert_eq!(world.stored().await, 2, "agents are to refuse it, and they can");
    world.end().await;
}

/// Plays the sidecar of `permits`, which has one dead letter and one timer.
async fn play_sidecar(operator: &Connection) -> tokio::task::JoinHandle<()> {
    let client = operator.client.clone();
    let mut questions = client.subscribe("rq.permits.>").await.unwrap();
    tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let asked: Value = serde_json::from_slice(&question.payload).unwrap();
            let is = |id: &str| asked["key"] == key_of(id).to_string();
            let answer = match question.subject.rsplit('.').next() {
                Some("dead") if is("dead") => format!("{}\n", dead_letter()),
                Some("event") if is("late") => json!({"ok": {
                    "outcome": "waiting", "entity": "case-1", "outputs": [], "until": "2030-01-01T00:00:00Z"
                }})
                .to_string(),
                Some("event") if is("0") => json!({"ok": {
                    "outcome": "processed", "entity": "case-1", "version": 1, "sequence": 2, "outputs": []
                }})
                .to_string(),
                _ => json!({"error": {"code": "not_found", "detail": "unknown"}}).to_string(),
            };
            client.publish(question.reply.unwrap(), answer.into()).await.unwrap();
        }
    })
}

fn key_of(id: &str) -> Hash {
    rhizon_kernel::identity::dedup_key("gateway", "/logs/a", id)
}

fn dead_letter() -> String {
    let event = json!({
        "specversion": "1.0", "id": "dead", "source": "/logs/a", "type": "cmd.permit.record", "subject": "case-1",
        "workspace": "permits", "roles": "clerk"
    });
    let decided = format!(
        r#"{{"entity":"case-1","subject":"s","before":0,"after":0,"input":{event},"outcome":"dead-lettered"}}"#
    );
    let zero = Hash::ZERO;
    let observed = r#"{"sequence":4,"stream":1,"time":"2026-01-01T00:00:00Z","attempts":5,"epoch":1,"revision":"r"}"#;
    format!(r#"{{"link":"{zero}","hash":"{zero}","size":{},"decided":{decided},"observed":{observed}}}"#, decided.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_the_stream_once_and_in_order() {
    let world = World::start(1 << 30).await;
    let sidecar = play_sidecar(&world.operator).await;
    let token = world.issuer.token(CLERK, "rhizon/permits");
    let redrive = format!("/v1/agents/permits/dead/{}/redrive", key_of("dead"));
    let command =
        async |path: &str| world.call(&world.settings.listen, Some(&token), Some(String::new()), path).await.0;
    assert_eq!(command(&redrive).await, 403);

    let mut settings = world.settings.clone();
    settings.access[0].send.extend(["ctl.dead.*", "ctl.timer.cancel"].map(|send| send.parse().unwrap()));
    std::fs::write(&world.path, serde_json::to_vec(&settings).unwrap()).unwrap();
    world.until("granted", async || command(&redrive).await == 202).await;
    assert_eq!(command(&redrive).await, 202);
    assert_eq!(world.delete(&token, &format!("/v1/agents/permits/dead/{}", key_of("dead"))).await, 202);
    assert_eq!(world.delete(&token, "/v1/events?source=/logs/a&id=late").await, 202);

    let partition = rhizon_kernel::subject::partition("case-1");
    let expected = ["cmd.permit.record", "ctl.dead.redrive", "ctl.dead.drop", "ctl.timer.cancel"];
    assert_eq!(world.stored().await, expected.len() as u64);
    for (sequence, event_type) in (1..).zip(expected) {
        let message = world.ask("$JS.API.STREAM.MSG.GET.EVENTS", &json!({"seq": sequence})).await;
        let subject = format!("to.permits.{event_type}.{partition}.gateway");
        assert_eq!(message["message"]["subject"], subject);
    }
    sidecar.abort();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_asked_of_sidecars() {
    let world = World::start(1 << 30).await;
    let sidecar = play_sidecar(&world.operator).await;
    let token = world.issuer.token(CLERK, "rhizon/permits");
    let ask = async |id: &str| {
        world.call(&world.settings.listen, Some(&token), None, &format!("/v1/events?source=/logs/a&id={id}")).await
    };
    let (status, answer) = ask("0").await;
    assert_eq!((status, &answer["outcomes"][0]["outcome"]), (200, &json!("processed")));
    assert_eq!(ask("unknown").await.0, 404);
    assert_eq!(world.post(&token, events(0..2)).await.0, 202);
    let other = events(1..2).replace("case-1", "case-2");
    let (status, problem) = world.post(&token, other).await;
    assert_eq!((status, &problem["code"], &problem["field"]), (409, &json!("id_reused"), &json!("[0].id")));
    let refusals = world.text(&world.settings.health_listen, "/metrics").await;
    assert!(refusals.contains(r#"rhizon_gateway_refusals_total{code="id_reused"} 1"#), "{refusals}");
    sidecar.abort();
    world.end().await;
}
