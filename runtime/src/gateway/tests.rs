//! The API over real HTTP, with a stream and sidecars that are played.

use std::sync::Mutex;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rhizon_api::settings::{self, Access};
use serde_json::{Value, json};

use super::*;
use crate::bus::{Ack, Outgoing};

const EVENT: &str =
    r#"{"specversion":"1.0","id":"1","source":"/logs/a","type":"cmd.permit.record","subject":"case-1"}"#;

/// A record as a sidecar answers it.
const DEAD_LETTER: &str = concat!(
    r#"{"link":"0000000000000000000000000000000000000000000000000000000000000000","#,
    r#""hash":"0000000000000000000000000000000000000000000000000000000000000000","size":209,"decided":"#,
    r#"{"entity":"case-1","subject":"s","before":0,"after":0,"input":{"specversion":"1.0","id":"dead","source":"/logs/a","#,
    r#""type":"cmd.permit.record","subject":"case-1","workspace":"permits"},"outcome":"dead-lettered"},"#,
    r#""observed":{"sequence":4,"stream":1,"time":"2026-01-01T00:00:00Z","attempts":5,"epoch":1,"revision":"r"}}"#,
    "\n"
);

fn key_of(id: &str) -> rhizon_kernel::chain::Hash {
    rhizon_kernel::identity::dedup_key("gateway", "/logs/a", id)
}

#[derive(Default)]
struct Stream {
    stored: Mutex<Vec<Outgoing>>,
    error: Mutex<Option<PublishError>>,
    /// Of a thousand kilobytes.
    kilobytes: u64,
}

impl Publisher for Stream {
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Ack>, PublishError>> {
        let result = match self.error.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => Ok(messages.iter().map(|_| Ack { stream: 1, duplicate: false }).collect()),
        };
        self.stored.lock().unwrap().extend(messages);
        Box::pin(async { result })
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, PublishError>> {
        let bytes = self.kilobytes * 1_000;
        Box::pin(async move { Ok(Usage { bytes, limit_bytes: 1_000_000 }) })
    }
}

/// Plays the agent `permits`, with a journal of three lines in two pages.
struct Sidecar;

impl Reader for Sidecar {
    fn ask<'a>(&'a self, agent: &'a str, verb: Verb, question: Question) -> BoxFuture<'a, Result<Reply, ReadError>> {
        let reply = |body: Value| Ok(Reply { body: Bytes::from(body.to_string()), next: None });
        let lines = |text: &'static str, next| Ok(Reply { body: Bytes::from_static(text.as_bytes()), next });
        let result = match (agent, verb, question.after.clone()) {
            ("ledger" | "nobody", ..) => Err(ReadError::NoAnswer),
            (_, Verb::Status, _) => {
                let root = question.root.then_some("ab");
                reply(json!({"ok": {"ready": true, "position": 9, "records": 3, "entities": 1, "root": root}}))
            }
            (_, Verb::Entities, Some(After::Key(after))) if after == "a/b" && question.limit == Some(5) => {
                let entities: &[&str] = if question.shard == Some(0) { &["b", "d"] } else { &["c"] };
                let items: Vec<Value> = entities.iter().map(|entity| json!({"entity": entity, "version": 1})).collect();
                reply(json!({"ok": {"items": items, "next": null}}))
            }
            (_, Verb::Entity, _) if question.entity.as_deref() == Some("a b/c") => {
                reply(json!({"ok": {"entity": "a b/c"}}))
            }
            (_, Verb::Entity, _) => reply(json!({"error": {"code": "not_found", "detail": "no record"}})),
            (_, Verb::Journal, None) => lines("{\"link\":1}\n{\"link\":2}\n", Some(2)),
            (_, Verb::Journal, Some(After::Sequence(2))) => lines("{\"link\":3}\n", None),
            (_, Verb::Event | Verb::Dead, _) if question.key.is_some() && question.shard == Some(0) => {
                reply(json!({"error": {"code": "not_found", "detail": "another shard's"}}))
            }
            (_, Verb::Event, _) => match question.key {
                Some(key) if key == key_of("1") => reply(json!({"ok": {
                    "outcome": "processed", "entity": "case-1", "version": 1, "sequence": 2, "outputs": []}})),
                Some(key) if key == key_of("used") => reply(json!({"ok": {
                    "outcome": "processed", "entity": "case-1", "outputs": [], "digest": key}})),
                Some(key) if key == key_of("timer") => reply(json!({"ok": {
                    "outcome": "waiting", "entity": "case-1", "outputs": [], "until": "2030-01-01T00:00:00Z"}})),
                _ => reply(json!({"error": {"code": "not_found", "detail": "unknown"}})),
            },
            (_, Verb::Dead, _) if question.key == Some(key_of("dead")) => lines(DEAD_LETTER, Some(4)),
            (_, Verb::Dead, _) if question.key.is_some() => {
                reply(json!({"error": {"code": "not_found", "detail": "no open dead letter"}}))
            }
            (_, Verb::Dead, _) if question.shard == Some(0) => lines("", None),
            (_, Verb::Dead, _) => lines(if question.after.is_none() { DEAD_LETTER } else { "" }, None),
            (_, Verb::History, _) => lines("{\"link\":1}\n", Some(1)),
            _ => Err(ReadError::Unreadable("odd".into())),
        };
        Box::pin(async { result })
    }
}

struct Api {
    address: std::net::SocketAddr,
    stream: Arc<Stream>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<io::Result<()>>,
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

impl Api {
    async fn start(stream: Stream, read: bool) -> Self {
        let entry = Access {
            issuer: "kubernetes".into(),
            subject: "clerk".into(),
            roles: vec!["clerk".into()],
            send: if read {
                vec![
                    "cmd.permit.record".parse().unwrap(),
                    "ctl.dead.*".parse().unwrap(),
                    "ctl.timer.cancel".parse().unwrap(),
                ]
            } else {
                vec!["cmd.permit.record".parse().unwrap()]
            },
            sources: vec!["/logs/".into()],
            read,
        };
        let known = |name: &str, types: &str, shards| settings::Agent {
            name: name.into(),
            subscribes: vec![types.parse().unwrap()],
            shards,
        };
        let agents = vec![known("permits", "cmd.permit.record", 2), known("ledger", "evt.permit.recorded", 1)];
        let policy = Policy::local("permits".into(), &entry, vec![entry.clone()], agents);
        let (stream, stop) = (Arc::new(stream), CancellationToken::new());
        let gateway = Gateway {
            policy: watch::channel(Arc::new(policy)).1,
            publisher: stream.clone(),
            reader: Arc::new(Sidecar),
            metrics: Metrics::unregistered(),
            tracer: Tracer::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(gateway.serve(listener, stop.clone()));
        Self { address, stream, stop, served, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    async fn call(&self, method: &str, path: &str, content_type: &str, body: &str) -> (u16, String) {
        let response = self.send(method, path, content_type, body).await;
        (response.status().as_u16(), String::from_utf8(response.into_body().to_vec()).unwrap())
    }

    /// With a preference that only `POST /v1/events` knows.
    async fn send(&self, method: &str, path: &str, content_type: &str, body: &str) -> http::Response<Bytes> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", content_type)
            .header("prefer", "wait=1")
            .body(Full::from(body.to_owned()))
            .unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        http::Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }

    fn subjects(&self) -> Vec<String> {
        self.stream.stored.lock().unwrap().iter().map(|message| message.subject.clone()).collect()
    }

    async fn post(&self, body: &str) -> (u16, String) {
        self.call("POST", "/v1/events", "application/cloudevents+json", body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.call("GET", path, "", "").await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }
}

#[tokio::test]
async fn events_are_accepted_after_they_are_stored() {
    let api = Api::start(Stream::default(), false).await;
    assert_eq!(api.post(EVENT).await, (202, r#"{"accepted":1}"#.into()));
    let batch = format!("[{EVENT},{EVENT}]");
    let answer = api.call("POST", "/v1/events", "application/cloudevents-batch+json", &batch).await;
    assert_eq!(answer, (202, r#"{"accepted":2}"#.into()));
    assert_eq!(api.stream.stored.lock().unwrap().len(), 3);

    api.stop.cancel();
    api.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_batch_with_one_invalid_event_is_refused_whole() {
    let api = Api::start(Stream::default(), false).await;
    let batch = format!("[{EVENT},{}]", EVENT.replace("/logs/", "/rhizon/"));
    let (status, body) = api.call("POST", "/v1/events", "application/cloudevents-batch+json", &batch).await;
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &problem["field"], &problem["code"]), (403, &json!("[1].source"), &json!("forbidden")));
    assert!(api.stream.stored.lock().unwrap().is_empty());
}

#[tokio::test]
async fn errors_have_the_status_that_says_what_to_do() {
    let api = Api::start(Stream::default(), true).await;
    assert_eq!(api.post("{").await.0, 400);
    assert_eq!(api.call("POST", "/v1/events", "text/plain", EVENT).await.0, 415);
    assert_eq!(api.post(&" ".repeat(ingest::BODY_BYTES + 1)).await.0, 413);
    assert_eq!(api.call("PUT", "/v1/events", "", "").await.0, 405);
    assert_eq!(api.get("/v2").await.1["code"], "not_found");
    assert_eq!(api.get("/v1/agents/permits/journal?after=x").await.1["field"], "query");

    for (error, status) in [
        (PublishError::Unavailable("away".into()), 503),
        (PublishError::Full("full".into()), 429),
        (PublishError::Refused("x".into()), 413),
    ] {
        *api.stream.error.lock().unwrap() = Some(error);
        assert_eq!(api.post(EVENT).await.0, status);
    }
}

#[tokio::test]
async fn a_stream_that_is_nearly_full_takes_no_events_of_clients() {
    let api = Api::start(Stream { kilobytes: 800, ..Stream::default() }, false).await;
    // The first look at the stream happens while the first requests are answered.
    while api.post(EVENT).await.0 == 202 {}
    let (status, body) = api.post(EVENT).await;
    assert_eq!(status, 429, "{body}");
    assert!(body.contains("80 % full"), "{body}");
}

#[tokio::test]
async fn readers_see_what_sidecars_answer() {
    let api = Api::start(Stream::default(), true).await;
    let (_, agents) = api.get("/v1/agents").await;
    let up = json!({"name": "permits", "shards": 2, "ready": true, "position": 9, "records": 6, "entities": 2});
    let down = json!({"name": "ledger", "shards": 1, "ready": false, "position": 0, "records": 0, "entities": 0});
    assert_eq!(agents, json!({"items": [up, down]}));

    assert_eq!(
        api.get("/v1/agents/new").await,
        (
            200,
            json!({"name": "new", "shards": 1, "ready": true, "position": 9, "records": 3, "entities": 1, "root": "ab"})
        )
    );
    assert_eq!(api.get("/v1/agents/nobody").await.0, 404);
    assert_eq!(api.get("/v1/agents/*/entities").await.0, 404);
    let page = api.get("/v1/agents/permits/entities?after=a%2Fb&limit=5").await;
    let of_both_shards = ["b", "c", "d"].map(|entity| json!({"entity": entity, "version": 1}));
    assert_eq!(page, (200, json!({"items": of_both_shards, "next": null})));
    assert_eq!(api.get("/v1/agents/permits/entities/a%20b%2Fc").await, (200, json!({"entity": "a b/c"})));
    assert_eq!(api.get("/v1/agents/permits/entities/unknown").await.0, 404);
    assert_eq!(api.get("/v1/agents/nobody/entities/a").await.0, 404);
    assert_eq!(api.get("/v1/agents/ledger/entities").await.1["code"], "agent_away");

    let journal = api.call("GET", "/v1/agents/permits/journal", "", "").await;
    assert_eq!(journal, (200, "{\"link\":1}\n{\"link\":2}\n{\"link\":3}\n".into()));
    let history = api.call("GET", "/v1/agents/permits/entities/a/history?limit=1", "", "").await;
    assert_eq!(history, (200, "{\"link\":1}\n".into()));
}

#[tokio::test]
async fn who_may_only_send_reads_nothing() {
    let api = Api::start(Stream::default(), false).await;
    let paths =
        ["/v1/agents", "/v1/agents/permits/entities", "/v1/agents/permits/entities/a", "/v1/agents/permits/journal"];
    for path in paths {
        assert_eq!(api.get(path).await.0, 403, "{path}");
    }
}

#[tokio::test]
async fn the_outcome_of_an_event_is_asked_of_every_agent() {
    let api = Api::start(Stream::default(), true).await;
    let (status, answer) = api.get("/v1/events?source=/logs/a&id=1").await;
    let processed = json!({
        "agent": "permits", "outcome": "processed", "entity": "case-1", "version": 1, "sequence": 2, "outputs": []
    });
    let expected = json!({"source": "/logs/a", "id": "1", "outcomes": [processed], "silent": ["ledger"]});
    assert_eq!((status, answer), (200, expected));
    let (status, answer) = api.get("/v1/events?source=/logs/a&id=2&agent=permits").await;
    assert_eq!((status, &answer["code"]), (404, &json!("not_found")));
    assert_eq!(api.get("/v1/events?source=/logs/a&id=2").await.1["code"], "agent_away");
    assert_eq!(api.get("/v1/events?source=/logs/a").await.0, 400);
    assert_eq!(Api::start(Stream::default(), false).await.get("/v1/events?source=/logs/a&id=1").await.0, 403);
}

#[tokio::test]
async fn who_sends_one_event_may_wait_for_its_outcomes() {
    let api = Api::start(Stream::default(), true).await;
    let answer = api.send("POST", "/v1/events", "application/cloudevents+json", EVENT).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["preference-applied"], "wait");
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!((&body["outcomes"][0]["agent"], &body["outcomes"][1]), (&json!("permits"), &Value::Null));

    let used = EVENT.replace(r#""id":"1""#, r#""id":"used""#);
    let (status, body) = api.post(&used).await;
    assert_eq!((status, body.contains(r#""code":"id_reused""#)), (409, true), "{body}");

    let unknown = EVENT.replace(r#""id":"1""#, r#""id":"slow""#);
    assert_eq!(api.post(&unknown).await, (202, r#"{"accepted":1}"#.into()), "when time is up");
}

#[tokio::test]
async fn an_id_keeps_its_content() {
    let api = Api::start(Stream::default(), false).await;
    let other = EVENT.replace(r#""subject":"case-1""#, r#""subject":"case-2""#);
    *api.stream.error.lock().unwrap() = Some(PublishError::Full("full".into()));
    assert_eq!(api.post(&other).await.0, 429);
    *api.stream.error.lock().unwrap() = None;
    assert_eq!(api.post(EVENT).await.0, 202, "what was not stored occupies no id");
    assert_eq!(api.post(EVENT).await.0, 202);
    let (status, body) = api.post(&other).await;
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &problem["code"], &problem["field"]), (409, &json!("id_reused"), &json!("id")));
    let batch = format!("[{},{other}]", EVENT.replace(r#""id":"1""#, r#""id":"2""#));
    let (status, body) = api.call("POST", "/v1/events", "application/cloudevents-batch+json", &batch).await;
    assert_eq!((status, body.contains(r#""field":"[1].id""#)), (409, true), "{body}");
}

#[tokio::test]
async fn dead_letters_are_shown_sent_again_and_dropped() {
    let api = Api::start(Stream::default(), true).await;
    let path = format!("/v1/agents/permits/dead/{}", key_of("dead"));
    assert_eq!(api.call("GET", "/v1/agents/permits/dead", "", "").await, (200, DEAD_LETTER.into()));
    assert_eq!(api.call("GET", &path, "", "").await, (200, DEAD_LETTER.trim().into()));

    let (status, body) = api.call("POST", &format!("{path}/redrive"), "", "").await;
    let id = rhizon_kernel::identity::redrive_id(&key_of("dead"), "permits");
    let event = json!({"source": "/gateway/redrive/permits", "id": id});
    let expected = json!({"agent": "permits", "key": key_of("dead"), "event": event});
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (202, expected));
    assert_eq!(api.call("DELETE", &path, "", "").await.0, 202);
    let partition = rhizon_kernel::subject::partition("case-1");
    let subject = |event_type: &str| format!("to.permits.{event_type}.{partition}.gateway");
    let expected = ["cmd.permit.record", "ctl.dead.redrive", "ctl.dead.drop"].map(subject);
    assert_eq!(api.subjects(), expected);

    let unknown = format!("/v1/agents/permits/dead/{}", key_of("other"));
    assert_eq!(api.call("DELETE", &unknown, "", "").await.0, 404);
    assert_eq!(api.call("DELETE", "/v1/agents/permits/dead/x", "", "").await.0, 400);
    let without = Api::start(Stream::default(), false).await;
    assert_eq!(without.call("POST", &format!("{path}/redrive"), "", "").await.0, 403);
    assert_eq!(without.call("DELETE", &path, "", "").await.0, 403);
}

#[tokio::test]
async fn what_is_not_due_is_taken_back() {
    let api = Api::start(Stream::default(), true).await;
    let (status, body) = api.call("DELETE", "/v1/events?source=/logs/a&id=timer", "", "").await;
    assert_eq!((status, body.contains(r#""agent":"permits""#)), (202, true), "{body}");
    assert!(api.subjects()[0].contains(".ctl.timer.cancel"), "{:?}", api.subjects());
    assert_eq!(api.call("DELETE", "/v1/events?source=/logs/a&id=1&agent=permits", "", "").await.0, 404);
    let without = Api::start(Stream::default(), false).await;
    assert_eq!(without.call("DELETE", "/v1/events?source=/logs/a&id=timer", "", "").await.0, 403);
}

#[tokio::test]
async fn commands_are_no_events_of_clients() {
    let api = Api::start(Stream::default(), true).await;
    let (status, body) = api.post(&EVENT.replace("cmd.permit.record", "ctl.dead.drop")).await;
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &problem["field"]), (400, &json!("type")));
}
