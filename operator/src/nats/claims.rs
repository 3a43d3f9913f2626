//! Who may do what in the broker: the claims of operator, accounts and users. Pure.
//!
//! The broker checks the subject that is published to, never the reply subject. A user in the account of its streams
//! could therefore delete them by naming an API subject as reply. So streams live in the *data account*, where only
//! the operator has users, and sidecars live in the *runtime account*, which imports exactly what they need.

use super::jwt::Claims;
use rhizon_api::settings::{Sidecar, Store};
use rhizon_kernel::subject;
use serde_json::{Map, Value, json};

/// `-1` is "no limit" in the claims of accounts and users.
const UNLIMITED: i64 = -1;
/// How long the broker keeps the way back of an answer, in nanoseconds. Pulls wait long.
const PULL_THRESHOLD_NS: i64 = 120_000_000_000;
/// How long a sidecar may take to answer a read, in nanoseconds.
const READ_TTL_NS: i64 = 30_000_000_000;

/// Upper limits of a workspace's data account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageLimits {
    pub disk_bytes: u64,
    pub streams: u32,
}

/// Claims of the operator itself, for the broker's configuration.
pub fn operator(public_key: &str, signing_key: &str, system_account: &str) -> Claims {
    claims(
        public_key,
        "rhizon",
        json!({"type": "operator", "version": 2, "signing_keys": [signing_key], "system_account": system_account}),
    )
}

/// Claims of the system account. Accounts are pushed and deleted through it.
pub fn system_account(public_key: &str) -> Claims {
    claims(
        public_key,
        "SYS",
        json!({"type": "account", "version": 2, "limits": limits(None), "default_permissions": nobody()}),
    )
}

/// Claims of the account that holds a workspace's streams. From it the operator asks the sidecars how they are.
pub fn data_account(public_key: &str, workspace: &str, runtime_account: &str, storage: StorageLimits) -> Claims {
    claims(
        public_key,
        &format!("{workspace}-data"),
        json!({
            "type": "account",
            "version": 2,
            "limits": limits(Some(storage)),
            "default_permissions": nobody(),
            "exports": services().map(|service| service.export()).collect::<Vec<_>>(),
            "imports": [QUESTIONS.import(runtime_account)],
        }),
    )
}

/// Claims of the account that holds the users of a workspace's sidecars and gateway.
pub fn runtime_account(public_key: &str, workspace: &str, data_account: &str) -> Claims {
    claims(
        public_key,
        workspace,
        json!({
            "type": "account",
            "version": 2,
            "limits": limits(None),
            "default_permissions": nobody(),
            "exports": [QUESTIONS.export()],
            "imports": services().map(|service| service.import(data_account)).collect::<Vec<_>>(),
            "mappings": services().filter_map(|service| service.mapping()).collect::<Map<_, _>>(),
        }),
    )
}

/// What a user may publish and subscribe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
    /// May answer a request, once.
    pub answers: bool,
}

/// An agent's sidecar: its own types under its own name, its own consumers, its own dead letters, its own journal.
pub fn agent_permissions(settings: &Sidecar) -> Permissions {
    let agent = &settings.kernel.agent;
    let user = agent_user(agent);
    let mut publish = subject::publish_permissions(&user, &settings.kernel.publishes);
    publish.push(format!("dead.{agent}.>"));
    for shard in &settings.shards {
        let name = &shard.consumer.name;
        publish.extend(reading("EVENTS", name));
        publish.extend([format!("$JS.ACK.EVENTS.{name}.>"), format!("$JS.ACK.*.*.EVENTS.{name}.>")]);
        if let Store::JetStream { subject, consumer, snapshot_stream, snapshot_subject, .. } = &shard.store {
            publish.push(subject.clone());
            publish.extend(reading("JOURNAL", consumer));
            publish.push(format!("{snapshot_subject}.*"));
            publish.push(format!("$JS.API.DIRECT.GET.{snapshot_stream}.{snapshot_subject}.*"));
        }
    }
    Permissions { publish, subscribe: vec![inbox(&user), format!("rq.{agent}.>")], answers: true }
}

/// What it takes to read a stream through a consumer, from any place in it.
fn reading(stream: &str, consumer: &str) -> [String; 3] {
    [
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
        // The broker asks for the right to what a request to JetStream's API is mapped to.
        format!("js.CONSUMER.RESET.{stream}.{consumer}"),
        format!("js.CONSUMER.INFO.{stream}.{consumer}"),
    ]
}

/// The gateway: all types under its own name, reads, and how full the stream is.
pub fn gateway_permissions() -> Permissions {
    let user = subject::GATEWAY;
    Permissions {
        publish: vec![
            format!("ev.*.*.*.*.{user}"),
            format!("to.*.*.*.*.*.{user}"),
            "rq.*.*".to_owned(),
            "js.STREAM.INFO.EVENTS".to_owned(),
        ],
        subscribe: vec![inbox(user)],
        answers: false,
    }
}

/// The operator itself, in any account.
pub fn all_permissions() -> Permissions {
    Permissions { publish: vec![">".to_owned()], subscribe: vec![">".to_owned()], answers: false }
}

/// Name of an agent as a user of the broker, and as a publisher.
pub fn agent_user(agent: &str) -> String {
    format!("agent-{agent}")
}

fn inbox(user: &str) -> String {
    format!("_INBOX.{user}.>")
}

/// Claims of a user. `expires` in seconds since 1970.
pub fn user(public_key: &str, name: &str, permissions: &Permissions, expires: i64) -> Claims {
    let Permissions { publish, subscribe, answers } = permissions;
    let mut nats = json!({
        "type": "user",
        "version": 2,
        "subs": UNLIMITED,
        "data": UNLIMITED,
        "payload": UNLIMITED,
        "allowed_connection_types": ["STANDARD"],
        "pub": {"allow": publish},
        "sub": {"allow": subscribe},
    });
    if *answers {
        nats["resp"] = json!({"max": 1, "ttl": READ_TTL_NS});
    }
    Claims { expires: Some(expires), ..claims(public_key, name, nats) }
}

/// A service of the data account that sidecars or the gateway need.
struct Service {
    subject: &'static str,
    kind: Kind,
}

#[derive(PartialEq)]
enum Kind {
    /// Takes a message, answers once.
    Plain,
    /// A pull: many messages come back.
    Pull,
    /// A request to JetStream's API. Every account, also one without storage, has the broker's own import of
    /// `$JS.API.>`, and its answer "not enabled" would race with the right one. So the request is mapped to a subject
    /// of our own, which only our import has.
    Api,
}

/// Reads, which sidecars answer.
const QUESTIONS: Service = Service { subject: "rq.>", kind: Kind::Plain };

fn services() -> impl Iterator<Item = Service> {
    [
        ("ev.>", Kind::Plain),
        ("to.>", Kind::Plain),
        ("dead.>", Kind::Plain),
        ("jr.>", Kind::Plain),
        ("$JS.API.CONSUMER.MSG.NEXT.EVENTS.*", Kind::Pull),
        ("$JS.API.CONSUMER.RESET.EVENTS.*", Kind::Api),
        ("$JS.API.CONSUMER.INFO.EVENTS.*", Kind::Api),
        ("$JS.API.STREAM.INFO.EVENTS", Kind::Api),
        ("$JS.API.CONSUMER.MSG.NEXT.JOURNAL.*", Kind::Pull),
        ("$JS.API.CONSUMER.RESET.JOURNAL.*", Kind::Api),
        ("$JS.API.CONSUMER.INFO.JOURNAL.*", Kind::Api),
        ("sn.>", Kind::Plain),
        // The message of a subject, and no other way to get one.
        ("$JS.API.DIRECT.GET.SNAPSHOTS.sn.>", Kind::Plain),
        ("$JS.ACK.EVENTS.*.>", Kind::Plain),
        ("$JS.ACK.*.*.EVENTS.*.>", Kind::Plain),
    ]
    .into_iter()
    .map(|(subject, kind)| Service { subject, kind })
}

impl Service {
    fn export(&self) -> Value {
        let mut export = json!({"name": self.subject, "subject": self.subject, "type": "service"});
        if self.kind == Kind::Pull {
            export["response_type"] = json!("Stream");
            export["response_threshold"] = json!(PULL_THRESHOLD_NS);
        } else {
            export["response_type"] = json!("Singleton");
        }
        export
    }

    fn import(&self, account: &str) -> Value {
        let mut import = json!({"name": self.subject, "subject": self.subject, "account": account, "type": "service"});
        if self.kind == Kind::Api {
            import["local_subject"] = json!(self.local());
        }
        import
    }

    fn mapping(&self) -> Option<(String, Value)> {
        let target = json!([{"subject": self.local().replace('*', "{{wildcard(1)}}")}]);
        (self.kind == Kind::Api).then(|| (self.subject.to_owned(), target))
    }

    fn local(&self) -> String {
        self.subject.replace("$JS.API.", "js.")
    }
}

fn claims(public_key: &str, name: &str, nats: Value) -> Claims {
    Claims { subject: public_key.to_owned(), name: name.to_owned(), expires: None, nats }
}

/// A user without permissions of its own gets nothing.
fn nobody() -> Value {
    json!({"pub": {"deny": [">"]}, "sub": {"deny": [">"]}})
}

fn limits(storage: Option<StorageLimits>) -> Value {
    let mut limits = json!({
        "subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED,
        "imports": UNLIMITED, "exports": UNLIMITED, "wildcards": true,
        "conn": UNLIMITED, "leaf": 0, "disallow_bearer": true,
    });
    if let Some(StorageLimits { disk_bytes, streams }) = storage {
        limits["disk_storage"] = json!(disk_bytes);
        limits["streams"] = json!(streams);
        limits["consumer"] = json!(UNLIMITED);
        limits["max_bytes_required"] = json!(true);
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(spec: &Value) -> Permissions {
        agent_permissions(&Sidecar::from_agent("w", "permits", &serde_json::from_value(spec.clone()).unwrap()).unwrap())
    }

    #[test]
    fn an_agent_gets_its_own_subjects_and_no_others() {
        let spec = json!({
            "subscribes": ["evt.a.b"], "publishes": ["evt.permit.recorded"], "container": {"image": "x"},
        });
        let permissions = permissions(&spec);
        assert_eq!(
            permissions.publish,
            [
                "ev.evt.permit.recorded.*.agent-permits",
                "to.*.evt.permit.recorded.*.agent-permits",
                "dead.permits.>",
                "$JS.API.CONSUMER.MSG.NEXT.EVENTS.agent-permits",
                "js.CONSUMER.RESET.EVENTS.agent-permits",
                "js.CONSUMER.INFO.EVENTS.agent-permits",
                "$JS.ACK.EVENTS.agent-permits.>",
                "$JS.ACK.*.*.EVENTS.agent-permits.>",
            ]
        );
        assert_eq!(permissions.subscribe, ["_INBOX.agent-permits.>", "rq.permits.>"]);
    }

    #[test]
    fn a_journal_in_the_broker_is_written_and_read_shard_by_shard() {
        let spec = json!({
            "subscribes": ["evt.a.b"], "container": {"image": "x"}, "shards": 2, "store": {"kind": "JetStream"},
        });
        let publish = permissions(&spec).publish;
        assert_eq!(
            publish[6..12],
            [
                "jr.permits.0",
                "$JS.API.CONSUMER.MSG.NEXT.JOURNAL.agent-permits_0",
                "js.CONSUMER.RESET.JOURNAL.agent-permits_0",
                "js.CONSUMER.INFO.JOURNAL.agent-permits_0",
                "sn.permits.0.*",
                "$JS.API.DIRECT.GET.SNAPSHOTS.sn.permits.0.*",
            ]
        );
        assert!(publish.contains(&"$JS.ACK.EVENTS.agent-permits_1.>".to_owned()));
        assert!(publish.iter().all(|subject| !subject.contains("ACK") || subject.contains("EVENTS")));
    }

    #[test]
    fn the_runtime_account_imports_what_the_data_account_exports_and_has_no_storage() {
        let data = data_account("AD", "permits", "AR", StorageLimits { disk_bytes: 1, streams: 2 });
        let runtime = runtime_account("AR", "permits", "AD");
        let subjects = |claims: &Claims, list: &str| -> Vec<String> {
            claims.nats[list].as_array().unwrap().iter().map(|s| s["subject"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(subjects(&data, "exports"), subjects(&runtime, "imports"));
        assert_eq!(subjects(&data, "imports"), subjects(&runtime, "exports"));
        assert_eq!(data.nats["limits"]["disk_storage"], 1);
        assert_eq!(runtime.nats["limits"]["disk_storage"], Value::Null);
        assert_eq!(runtime.nats["limits"]["disallow_bearer"], true);
    }
}
