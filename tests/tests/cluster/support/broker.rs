//! The broker, reached as its administrator and with the credentials of agents.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use k8s_openapi::api::core::v1::Secret;
use rhizon_operator::nats::{api, connect, keys, resolver};
use rhizon_operator::{install, workspace};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::sync::{Mutex, mpsc};

use super::cluster::Cluster;
use super::installation::{NAMESPACE, kubectl};

const PATIENCE: Duration = Duration::from_secs(10);

/// A forwarded port to the broker, and the installation's keys.
pub(crate) struct Broker {
    cluster: Cluster,
    forward: Child,
    address: connect::Broker,
    ca: NamedTempFile,
    installation: keys::Installation,
}

impl Broker {
    pub(crate) async fn reach(cluster: &Cluster) -> Self {
        let seeds = install::seeds(&secret(cluster, NAMESPACE, install::OPERATOR_SECRET).await);
        let ca_pem = seeds.get("ca.crt").expect("the broker's CA").clone();
        let ca = NamedTempFile::new().expect("a temporary file");
        std::fs::write(ca.path(), &ca_pem).expect("writing the CA");
        let (forward, port) = forward();
        Self {
            cluster: cluster.clone(),
            forward,
            // The certificate is also for this name.
            address: connect::Broker { url: format!("tls://localhost:{port}"), ca_pem: Some(ca_pem) },
            ca,
            installation: keys::Installation::from_seeds(&seeds).expect("the installation's keys"),
        }
    }

    pub(crate) async fn workspace_keys(&self, name: &str) -> keys::Workspace {
        let seeds = install::seeds(&secret(&self.cluster, NAMESPACE, &workspace::keys_secret(name)).await);
        keys::Workspace::from_seeds(&seeds).expect("the workspace's keys")
    }

    /// Whether the broker knows a workspace's data account, and its runtime account.
    pub(crate) async fn knows(&self, keys: &keys::Workspace) -> [bool; 2] {
        let seed = self.installation.system.seed().expect("a seed");
        let system = connect::connect(&self.address, &seed, "rhizon-tests").await.expect("the system account");
        let mut known = [false; 2];
        for (known, account) in known.iter_mut().zip([&keys.data, &keys.runtime]) {
            *known = resolver::look_up(&system, &account.public_key()).await.expect("an answer").is_some();
        }
        known
    }

    /// Everything that a workspace has in JetStream: streams with their state, consumers with their positions.
    pub(crate) async fn contents(&self, keys: &keys::Workspace) -> Value {
        let seed = keys.data.seed().expect("a seed");
        let data = connect::connect(&self.address, &seed, "rhizon-tests").await.expect("the data account");
        let ask = async |subject: &str| api::call(&data, subject, &Value::Null).await.expect("an answer of JetStream");
        let streams = ask("$JS.API.STREAM.LIST").await;
        let consumers = ask("$JS.API.CONSUMER.LIST.EVENTS").await;
        let of = |list: &Value, fields: &[&str]| -> Vec<Value> {
            let items = list.as_array().into_iter().flatten();
            let mut items: Vec<Value> =
                items.map(|item| fields.iter().map(|field| item[*field].clone()).collect()).collect();
            items.sort_by_key(Value::to_string);
            items
        };
        json!({
            "streams": of(&streams["streams"], &["config", "state"]),
            "consumers": of(&consumers["consumers"], &["config", "ack_floor", "num_pending"]),
        })
    }

    /// Somebody with the credentials of a Secret, which only Rhizon's sidecars mount.
    pub(crate) async fn user(&self, namespace: &str, object: &str, name: &str) -> User {
        let secret = secret(&self.cluster, namespace, object).await;
        let file = install::seeds(&secret).remove("user.creds").expect("credentials");
        self.connect(name, &file).await.expect("the broker takes the credentials")
    }

    pub(crate) async fn connect(&self, name: &str, credentials: &str) -> Result<User, async_nats::ConnectError> {
        let (send, receive) = mpsc::unbounded_channel();
        let client = ConnectOptions::with_credentials(credentials)
            .expect("a credentials file")
            .require_tls(true)
            .add_root_certificates(self.ca.path().to_owned())
            .custom_inbox_prefix(format!("_INBOX.{name}"))
            .connection_timeout(PATIENCE)
            .request_timeout(Some(PATIENCE))
            .event_callback(move |event| {
                let _ = send.send(event.to_string().to_lowercase());
                async {}
            })
            .connect(&self.address.url)
            .await?;
        Ok(User { client, name: name.to_owned(), violations: Arc::new(Mutex::new(receive)) })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.forward.kill();
        let _ = self.forward.wait();
    }
}

async fn secret(cluster: &Cluster, namespace: &str, name: &str) -> Secret {
    let secret = cluster.within::<Secret>(namespace).get(name).await;
    secret.unwrap_or_else(|error| panic!("Secret {namespace}/{name}: {error}"))
}

/// A loopback port that leads to the broker's pod.
fn forward() -> (Child, u16) {
    let mut command = kubectl();
    command.args(["port-forward", "-n", NAMESPACE, "service/rhizon-nats", ":4222", "--address", "127.0.0.1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("kubectl starts");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("reading what kubectl says");
    let port = line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    (child, port.unwrap_or_else(|| panic!("kubectl port-forward said {line:?}")))
}

/// A connection with an agent's or a gateway's rights.
pub(crate) struct User {
    pub(crate) client: Client,
    name: String,
    violations: Arc<Mutex<mpsc::UnboundedReceiver<String>>>,
}

impl User {
    pub(crate) async fn put_with_reply(&self, subject: &str, reply: &str, payload: &str) {
        let (subject, reply, payload) = (subject.to_owned(), reply.to_owned(), payload.to_owned().into());
        self.client.publish_with_reply(subject, reply, payload).await.expect("a connection");
    }

    /// Publishing to the subject is a violation, which the broker says.
    pub(crate) async fn may_not_publish(&self, subject: &str) {
        self.put_with_reply(subject, &self.client.new_inbox(), "{}").await;
        self.violation(subject).await;
    }

    pub(crate) async fn may_not_subscribe(&self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.expect("a connection");
        self.violation(subject).await;
    }

    /// A request that is allowed: what was sent before it has been handled when its answer comes.
    pub(crate) async fn ask(&self, subject: &str) -> Value {
        self.ask_with(subject, "").await
    }

    pub(crate) async fn ask_with(&self, subject: &str, payload: &str) -> Value {
        let answer = self.client.request(subject.to_owned(), payload.to_owned().into()).await.expect("an answer");
        let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert!(answer["error"].is_null(), "{subject}: {answer}");
        answer
    }

    async fn violation(&self, subject: &str) {
        // The broker names what a subject is mapped to.
        let mapped = match subject.strip_prefix("$JS.API.") {
            Some(rest) if ["CONSUMER.RESET.", "CONSUMER.INFO.", "STREAM.INFO."].iter().any(|p| rest.starts_with(p)) => {
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
