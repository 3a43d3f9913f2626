//! An API server of a few lines: it keeps what is written to it, and notes every write.
#![allow(dead_code, reason = "each test needs another part")]

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

#[derive(Clone, Default)]
pub(crate) struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Objects by path.
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
    /// So many more writes are done; then nothing is, as after a crash.
    left: Option<usize>,
}

impl ApiServer {
    /// A client of a server that knows its own token issuer and nothing else.
    pub(crate) fn start() -> (Self, Client) {
        let server = Self::default();
        server.put("/.well-known/openid-configuration", json!({"issuer": "https://cluster"}));
        server.put("/openid/v1/jwks", json!({"keys": []}));
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let answering = server.clone();
        tokio::spawn(async move {
            while let Some((request, respond)) = handle.next_request().await {
                respond.send_response(answering.answer(request).await);
            }
        });
        (server, Client::new(service, "default"))
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.state().objects.insert(path.to_owned(), object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state().objects.remove(path);
    }

    /// The next writes are the last ones, until `repair`.
    pub(crate) fn break_after(&self, writes: usize) {
        self.state().left = Some(writes);
    }

    /// Whether it had to fail.
    pub(crate) fn repair(&self) -> bool {
        self.state().left.take() == Some(0)
    }

    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        change(self.state().objects.get_mut(path).expect("an object"));
    }

    /// Method and path of each write since the last call.
    pub(crate) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked with the lock")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut state = self.state();
        if parts.method != Method::GET {
            if state.left == Some(0) {
                return failed();
            }
            state.left = state.left.map(|left| left - 1);
            state.writes.push(format!("{} {path}", parts.method));
        }
        let (status, answer) = match parts.method {
            Method::GET => state.read(&path, parts.uri.query().unwrap_or_default()),
            Method::POST => state.create(&path, body),
            Method::PATCH => (StatusCode::OK, state.patch(&path, body)),
            Method::DELETE => state.delete(&path),
            other => panic!("{other} {path} was not expected"),
        };
        let body = Body::from(answer.to_string().into_bytes());
        Response::builder().status(status).body(body).expect("a response")
    }
}

impl State {
    fn read(&self, path: &str, query: &str) -> (StatusCode, Value) {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        // The last part of a collection's path is a kind in the plural.
        let is_collection =
            ["pods", "rhizonagents", "events", "persistentvolumeclaims"].iter().any(|k| path.ends_with(k));
        if is_collection {
            let below = format!("{path}/");
            let items = self.objects.iter().filter(|(key, _)| key.starts_with(&below)).map(|(_, object)| object);
            let items: Vec<&Value> = items.filter(|object| is_selected(object, query)).collect();
            return (StatusCode::OK, json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}));
        }
        missing(path)
    }

    fn create(&mut self, path: &str, mut object: Value) -> (StatusCode, Value) {
        if path.ends_with("/events") {
            return (StatusCode::CREATED, object);
        }
        let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        object["metadata"]["uid"] = json!(format!("uid of {path}"));
        self.objects.insert(path, object.clone());
        (StatusCode::CREATED, object)
    }

    /// Apply and merge are the same to an object that nobody else writes.
    fn patch(&mut self, path: &str, change: Value) -> Value {
        let path = path.strip_suffix("/status").unwrap_or(path);
        let object = self.objects.entry(path.to_owned()).or_insert_with(|| json!({"metadata": {}}));
        merge(object, change);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid of {path}"));
        }
        object.clone()
    }

    fn delete(&mut self, path: &str) -> (StatusCode, Value) {
        match self.objects.remove(path) {
            Some(object) => (StatusCode::OK, object),
            None => missing(path),
        }
    }
}

/// By one label: `labelSelector=<key>%3D<value>`.
fn is_selected(object: &Value, query: &str) -> bool {
    let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
    let selector = selector.map(|text| text.replace("%2F", "/").replace("%3D", "="));
    let Some((key, value)) = selector.as_deref().and_then(|text| text.split_once('=')) else { return true };
    object["metadata"]["labels"][key] == value
}

fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                merge(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

fn failed() -> Response<Body> {
    let status =
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "InternalError", "code": 500});
    let body = Body::from(status.to_string().into_bytes());
    Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body(body).expect("a response")
}

fn missing(path: &str) -> (StatusCode, Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "reason": "NotFound", "message": path, "code": 404,
    });
    (StatusCode::NOT_FOUND, status)
}
