//! A broker in operator mode with a workspace in it, and users who try things.
#![allow(dead_code, reason = "each test needs another part")]

use async_nats::{Client, ConnectOptions, HeaderMap};
use futures::StreamExt as _;
use rhizon_api::{RhizonAgentSpec, settings::Sidecar, workspace::Messaging};
use rhizon_operator::nats::{
    api, claims, claims::Permissions, connect, consumers, credentials, jwt, keys, pool::Pool, resolver, server, streams,
};
use rhizon_tests::nats::{Options, Server};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Mutex, mpsc};

pub(crate) const WORKSPACE: &str = "permits";
const PATIENCE: Duration = Duration::from_secs(5);

/// Headers by name and value.
pub(crate) fn header_map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(*name, *value);
    }
    headers
}

pub(crate) struct Broker {
    server: Arc<Server>,
    installation: Arc<keys::Installation>,
    workspace: String,
    pub(crate) keys: keys::Workspace,
    pub(crate) system: Client,
    pub(crate) data: Client,
}

pub(crate) fn now() -> i64 {
    k8s_openapi::jiff::Timestamp::now().as_second()
}

impl Broker {
    pub(crate) async fn start(workspace: &str) -> Self {
        let installation = keys::Installation::generate();
        let operator = server::configuration(&installation, now()).unwrap();
        let server = rhizon_tests::nats::start(&Options { operator: Some(operator), ..Options::default() });
        Self::enter(Arc::new(server), Arc::new(installation), workspace).await
    }

    /// Another workspace of the same broker.
    pub(crate) async fn workspace(&self, name: &str) -> Self {
        Self::enter(self.server.clone(), self.installation.clone(), name).await
    }

    async fn enter(server: Arc<Server>, installation: Arc<keys::Installation>, workspace: &str) -> Self {
        let address = connect::Broker { url: server.url(), ca_pem: None };
        let system = connect::connect(&address, &installation.system.seed().unwrap(), "operator").await.unwrap();
        let keys = keys::Workspace::generate();
        push_accounts(&system, &installation, &keys, workspace).await;
        let data = connect::connect(&address, &keys.data.seed().unwrap(), "operator").await.unwrap();
        for stream in streams::build(&Messaging::default()) {
            streams::ensure(&data, &stream).await.unwrap();
        }
        Self { server, installation, workspace: workspace.to_owned(), keys, system, data }
    }

    /// Connections as the operator has them.
    pub(crate) fn pool(&self) -> Pool {
        let address = connect::Broker { url: self.server.url(), ca_pem: None };
        let seeds = self.installation.seeds().unwrap();
        Pool::new(address, keys::Installation::from_seeds(&seeds).unwrap())
    }

    pub(crate) fn kill(&mut self) {
        Arc::get_mut(&mut self.server).expect("one workspace alone").kill();
    }

    /// Whether anything had to be written.
    pub(crate) async fn ensure_accounts(&self) -> bool {
        push_accounts(&self.system, &self.installation, &self.keys, &self.workspace).await
    }

    /// Ends a user of the runtime account.
    pub(crate) async fn revoke(&self, user: &User) {
        let key = user.file.lines().find_map(jwt::decode).unwrap().subject;
        let account = self.keys.runtime.public_key();
        resolver::revoke(&self.system, &self.installation.operator_signing, &account, &key, now()).await.unwrap();
    }

    pub(crate) async fn delete_accounts(&self) {
        let keys = [self.keys.runtime.public_key(), self.keys.data.public_key()];
        resolver::delete_accounts(&self.system, &self.installation.operator_signing, &keys, now()).await.unwrap();
    }

    /// An agent with its consumer, connected as its sidecar would be.
    pub(crate) async fn agent(&self, name: &str, publishes: &[&str], subscribes: &[&str]) -> User {
        self.agent_of(name, &json!({"subscribes": subscribes, "publishes": publishes, "container": {"image": "x"}}))
            .await
    }

    /// The same for a whole spec: with all that it needs in the broker.
    pub(crate) async fn agent_of(&self, name: &str, spec: &Value) -> User {
        let spec: RhizonAgentSpec = serde_json::from_value(spec.clone()).unwrap();
        let settings = Sidecar::from_agent(&self.workspace, name, &spec).unwrap();
        let journals = consumers::journals(&settings);
        if !journals.is_empty() {
            for stream in streams::journals(&Messaging::default()) {
                streams::ensure(&self.data, &stream).await.unwrap();
            }
        }
        for consumer in consumers::build(&settings).iter().chain(&journals) {
            consumers::ensure(&self.data, consumer, async || Ok(consumers::Begin::OLDEST)).await.unwrap();
        }
        self.user(&claims::agent_user(name), &claims::agent_permissions(&settings)).await
    }

    pub(crate) async fn gateway(&self) -> User {
        self.user("gateway", &claims::gateway_permissions()).await
    }

    /// Somebody with a credentials file that the operator wrote.
    pub(crate) async fn connect(&self, name: &str, file: String) -> Result<User, async_nats::ConnectError> {
        User::connect(&self.server.url(), name, file, PATIENCE).await
    }

    async fn user(&self, name: &str, permissions: &Permissions) -> User {
        let (file, _) = credentials::issue(&self.keys.runtime, name, permissions, now()).unwrap();
        User::connect(&self.server.url(), name, file, PATIENCE).await.unwrap()
    }

    pub(crate) async fn messages(&self) -> u64 {
        self.state().await.0["messages"].as_u64().unwrap()
    }

    /// The event stream's state, and each consumer's position.
    pub(crate) async fn state(&self) -> (Value, Vec<Value>) {
        let info = api::call(&self.data, "$JS.API.STREAM.INFO.EVENTS", &Value::Null).await.unwrap();
        let consumers = api::call(&self.data, "$JS.API.CONSUMER.LIST.EVENTS", &Value::Null).await.unwrap();
        let positions = consumers["consumers"].as_array().unwrap().iter();
        let mut positions: Vec<Value> =
            positions.filter(|c| c["name"] != "agent-permits").map(|c| json!([c["name"], c["ack_floor"]])).collect();
        positions.sort_by_key(Value::to_string);
        (info["state"].clone(), positions)
    }
}

async fn push_accounts(
    system: &Client,
    installation: &keys::Installation,
    keys: &keys::Workspace,
    workspace: &str,
) -> bool {
    let (data, runtime) = (keys.data.public_key(), keys.runtime.public_key());
    let limits = streams::storage_limits(&Messaging::default());
    let mut written = false;
    for account in
        [claims::data_account(&data, workspace, &runtime, limits), claims::runtime_account(&runtime, workspace, &data)]
    {
        written |= resolver::ensure_account(system, &installation.operator_signing, &account, now()).await.unwrap();
    }
    written
}

/// Somebody with a credentials file.
pub(crate) struct User {
    pub(crate) client: Client,
    name: String,
    url: String,
    file: String,
    violations: Arc<Mutex<mpsc::UnboundedReceiver<String>>>,
}

impl User {
    async fn connect(
        url: &str,
        name: &str,
        file: String,
        patience: Duration,
    ) -> Result<Self, async_nats::ConnectError> {
        let (send, receive) = mpsc::unbounded_channel();
        let client = ConnectOptions::with_credentials(&file)
            .expect("a credentials file")
            .custom_inbox_prefix(format!("_INBOX.{name}"))
            .connection_timeout(patience)
            .request_timeout(Some(PATIENCE))
            .event_callback(move |event| {
                let _ = send.send(event.to_string().to_lowercase());
                async {}
            })
            .connect(url)
            .await?;
        Ok(Self { client, name: name.to_owned(), url: url.to_owned(), file, violations: Arc::new(Mutex::new(receive)) })
    }

    pub(crate) async fn reconnect(&self, patience: Duration) -> Result<Self, async_nats::ConnectError> {
        Self::connect(&self.url, &self.name, self.file.clone(), patience).await
    }

    /// Publishes and returns the broker's PubAck.
    pub(crate) async fn publish(&self, subject: &str, headers: &[(&'static str, &str)], payload: &str) -> Value {
        let ack = self.try_publish(subject, headers, payload).await;
        assert!(ack.get("error").is_none(), "{ack}");
        ack
    }

    /// The same, also for a refusal.
    pub(crate) async fn try_publish(&self, subject: &str, headers: &[(&'static str, &str)], payload: &str) -> Value {
        let headers = header_map(headers);
        let request = async_nats::Request::new().headers(headers).payload(payload.to_owned().into());
        let answer = self.client.send_request(subject.to_owned(), request).await.expect("a PubAck");
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// Publishes without waiting for an answer.
    pub(crate) async fn put(&self, subject: &str, headers: &[(&'static str, &str)], payload: &str) {
        let headers = header_map(headers);
        self.client.publish_with_headers(subject.to_owned(), headers, payload.to_owned().into()).await.unwrap();
    }

    pub(crate) async fn put_with_reply(&self, subject: &str, reply: &str, payload: &str) {
        let payload = payload.to_owned().into();
        self.client.publish_with_reply(subject.to_owned(), reply.to_owned(), payload).await.unwrap();
    }

    pub(crate) async fn ask(&self, subject: &str, payload: &str) -> Option<String> {
        let answer = self.client.request(subject.to_owned(), payload.to_owned().into()).await.ok()?;
        String::from_utf8(answer.payload.to_vec()).ok()
    }

    pub(crate) async fn api(&self, subject: &str, request: &Value) -> Value {
        api::call(&self.client, subject, request).await.unwrap()
    }

    /// Payload and ack subject of what is there now.
    pub(crate) async fn pull(&self, consumer: &str, batch: u32) -> Vec<(String, String)> {
        self.pull_from("EVENTS", consumer, batch).await
    }

    pub(crate) async fn pull_from(&self, stream: &str, consumer: &str, batch: u32) -> Vec<(String, String)> {
        let inbox = self.client.new_inbox();
        let mut messages = self.client.subscribe(inbox.clone()).await.unwrap();
        let request = json!({"batch": batch, "no_wait": true}).to_string();
        self.put_with_reply(&format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"), &inbox, &request).await;
        let mut pulled = Vec::new();
        loop {
            let message = tokio::time::timeout(PATIENCE, messages.next()).await.expect("the end of a pull").unwrap();
            if message.status.is_some() {
                return pulled;
            }
            let ack = message.reply.as_deref().unwrap_or_default().to_owned();
            pulled.push((String::from_utf8(message.payload.to_vec()).unwrap(), ack));
            if pulled.len() == batch as usize {
                return pulled;
            }
        }
    }

    /// Publishing to the subject is a violation, which the broker says.
    pub(crate) async fn refused(&self, subject: &str) {
        self.put_with_reply(subject, &self.client.new_inbox(), "{}").await;
        self.violation(subject).await;
    }

    pub(crate) async fn cannot_subscribe(&self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.violation(subject).await;
    }

    /// Waits until the broker has ended the connection.
    pub(crate) async fn ended(&self) {
        let mut events = self.violations.lock().await;
        let seen = async { while events.recv().await.is_some_and(|event| !event.contains("disconnected")) {} };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{} is still connected", self.name));
    }

    async fn violation(&self, subject: &str) {
        // The broker names what the subject is mapped to.
        let mapped = match subject.strip_prefix("$JS.API.") {
            Some(rest)
                if ["CONSUMER.RESET.", "CONSUMER.INFO.", "STREAM.INFO.EVENTS"].iter().any(|p| rest.starts_with(p)) =>
            {
                format!("js.{rest}")
            }
            _ => subject.to_owned(),
        };
        let wanted = format!("\"{}\"", mapped.to_lowercase());
        let mut violations = self.violations.lock().await;
        let seen = async {
            while let Some(event) = violations.recv().await {
                if event.contains("permissions violation") && event.contains(&wanted) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{} may use {subject}", self.name));
    }
}
