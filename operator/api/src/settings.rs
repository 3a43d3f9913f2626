//! What the operator tells the runtime: the file `/etc/rhizon/settings.json`.
//!
//! `rhizon dev` builds the same values from the same YAML, so an agent runs under the same rules on a laptop.

use crate::agent::{OperatingMode, Ordering, Protocol, RhizonAgentSpec, StoreKind};
use rhizon_kernel::{Config, EventType, Limits, Rule, TypePattern};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

mod shard;

pub use shard::{Consumer, Shard, Store, consumer_names, ordinal};

/// Where the files and doors of a pod are.
pub mod paths {
    pub const SETTINGS: &str = "/etc/rhizon/settings.json";
    pub const NATS_DIR: &str = "/etc/rhizon/nats";
    pub const CREDENTIALS: &str = "user.creds";
    pub const CA: &str = "ca.crt";
    pub const MESSAGE_ID_KEY: &str = "msg-id.key";
    pub const STORE_DIR: &str = "/var/lib/rhizon";
    /// The connection string of a Postgres store.
    pub const STORE_URL: &str = "/etc/rhizon/store/url";
    /// Beside it, when the Secret has one.
    pub const STORE_CA: &str = "ca.crt";
    /// The agent's own door, told to it in `RHIZON_LISTEN`.
    pub const AGENT_LISTEN: &str = "127.0.0.1:8080";
    pub const HEALTH_PORT: u16 = 9090;
    pub const DRAIN_PORT: u16 = 9091;
    pub const GATEWAY_PORT: u16 = 8080;
}

/// Settings of the sidecar of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sidecar {
    pub kernel: Config,
    pub ordering: Ordering,
    pub concurrency: usize,
    pub batch_events: usize,
    pub retry: Retry,
    pub protocol: Protocol,
    pub agent_url: String,
    pub nats: Nats,
    /// All shards of the agent, by index. A pod takes those of [`Sidecar::shards_of`].
    pub shards: Vec<Shard>,
    /// Pods that share the shards.
    pub replicas: u32,
    pub health_listen: String,
    pub drain_listen: String,
    /// What answers: the agent's image.
    pub revision: String,
    pub operating_mode: OperatingMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Tries in all, the first included.
    pub attempts: u32,
    pub initial_ms: u64,
    pub max_ms: u64,
}

/// How to reach the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nats {
    pub url: String,
    /// Name of the user; its inbox prefix is `_INBOX.<user>`.
    pub user: String,
    pub credentials: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    /// Secret of the HMAC that makes `Nats-Msg-Id` unguessable.
    pub message_id_key: Option<PathBuf>,
}

/// Settings of a workspace's gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    pub workspace: String,
    pub listen: String,
    pub health_listen: String,
    pub nats: Nats,
    pub issuers: Vec<Issuer>,
    pub access: Vec<Access>,
    pub limits: Limits,
    pub agents: Vec<Agent>,
}

/// An agent, as the gateway knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Agent {
    pub name: String,
    pub subscribes: Vec<TypePattern>,
    pub shards: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    /// The token's `iss`.
    pub issuer: String,
    /// A JWK set (RFC 7517).
    pub jwks: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Access {
    /// The token's `iss`.
    pub issuer: String,
    pub subject: String,
    pub roles: Vec<String>,
    pub send: Vec<TypePattern>,
    pub sources: Vec<String>,
    pub read: bool,
}

/// A spec that gives no settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A type that is none: where it stands, and why not.
    Type { field: String, why: String },
    /// More shards than one pod, and so one file, has.
    StoreNotShared { shards: u32 },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { field, why } => write!(f, "{field}: {why}"),
            Self::StoreNotShared { shards } => write!(
                f,
                "spec.shards: {shards} shards need a store that replicas can share; set spec.store.kind to Postgres or \
                 JetStream, or spec.shards to 1"
            ),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// CamelCase, for a condition's reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Type { .. } => "InvalidType",
            Self::StoreNotShared { .. } => "StoreNotShared",
        }
    }
}

/// Reads a list of types or patterns, or says which one is wrong.
pub fn parse_types<T>(field: &str, texts: &[String]) -> Result<Vec<T>, Error>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            text.parse().map_err(|why: T::Err| Error::Type { field: format!("{field}[{index}]"), why: why.to_string() })
        })
        .collect()
}

/// The rules that the kernel applies for an agent.
pub fn kernel_config(workspace: &str, agent: &str, spec: &RhizonAgentSpec) -> Result<Config, Error> {
    let authorization = spec.authorization.iter().enumerate().map(|(index, rule)| {
        let field = format!("spec.authorization[{index}].type");
        let event_type: TypePattern =
            rule.r#type.parse().map_err(|why| Error::Type { field, why: format!("{why}") })?;
        Ok(Rule { event_type, roles: rule.roles.clone() })
    });
    let subscribes = parse_types::<TypePattern>("spec.subscribes", &spec.subscribes)?;
    let publishes = parse_types::<EventType>("spec.publishes", &spec.publishes)?;
    refuse_control("spec.subscribes", subscribes.iter().map(TypePattern::is_control))?;
    refuse_control("spec.publishes", publishes.iter().map(EventType::is_control))?;
    Ok(Config {
        workspace: workspace.to_owned(),
        agent: agent.to_owned(),
        subscribes,
        publishes,
        authorization: authorization.collect::<Result<_, Error>>()?,
        limits: Limits::default(),
        from: 0,
        earlier: Vec::new(),
    })
}

/// Commands to a sidecar come from people, through the gateway.
fn refuse_control(field: &str, are_control: impl Iterator<Item = bool>) -> Result<(), Error> {
    match are_control.into_iter().position(|is_control| is_control) {
        None => Ok(()),
        Some(index) => {
            let why = "types that begin with 'ctl.' are commands to Rhizon, which no agent sends or gets; \
                       use cmd.<noun>.<verb> or evt.<noun>.<past tense>";
            Err(Error::Type { field: format!("{field}[{index}]"), why: why.to_owned() })
        }
    }
}

impl Sidecar {
    /// The settings of an agent's sidecar in a cluster. `rhizon dev` changes addresses and paths.
    pub fn from_agent(workspace: &str, agent: &str, spec: &RhizonAgentSpec) -> Result<Self, Error> {
        let count = u32::try_from(spec.shards).unwrap_or(1).max(1);
        if spec.store.kind == StoreKind::SQLite && count != 1 {
            return Err(Error::StoreNotShared { shards: count });
        }
        Ok(Self {
            kernel: kernel_config(workspace, agent, spec)?,
            ordering: spec.ordering,
            concurrency: spec.concurrency as usize,
            batch_events: spec.batch.max_events as usize,
            retry: Retry {
                attempts: spec.retry.attempts,
                initial_ms: spec.retry.initial.as_ms(),
                max_ms: spec.retry.max.as_ms(),
            },
            protocol: spec.protocol,
            agent_url: format!("http://{}", paths::AGENT_LISTEN),
            nats: Nats::in_cluster(&format!("agent-{agent}")),
            shards: (0..count).map(|index| Shard::of_agent(agent, spec.store.kind, count, index)).collect(),
            replicas: u32::try_from(spec.replicas).unwrap_or(1).max(1),
            health_listen: format!("0.0.0.0:{}", paths::HEALTH_PORT),
            drain_listen: format!("0.0.0.0:{}", paths::DRAIN_PORT),
            revision: spec.container.image.clone(),
            operating_mode: spec.operating_mode,
        })
    }

    /// The shards of the pod with this ordinal: those whose index leaves it as the remainder.
    pub fn shards_of(&self, ordinal: u32) -> impl Iterator<Item = &Shard> {
        let replicas = self.replicas.max(1);
        self.shards.iter().filter(move |shard| shard.index % replicas == ordinal)
    }
}

impl Nats {
    /// The broker of the chart, with the files of the pod's Secret.
    pub fn in_cluster(user: &str) -> Self {
        let file = |name: &str| Some(PathBuf::from(paths::NATS_DIR).join(name));
        Self {
            url: "tls://rhizon-nats.rhizon-system.svc:4222".to_owned(),
            user: user.to_owned(),
            credentials: file(paths::CREDENTIALS),
            ca: file(paths::CA),
            message_id_key: file(paths::MESSAGE_ID_KEY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The smallest spec, with these fields.
    pub(super) fn spec(patch: &serde_json::Value) -> RhizonAgentSpec {
        let mut value = json!({"subscribes": ["cmd.permit.record"], "container": {"image": "x:1"}});
        for (key, field) in patch.as_object().unwrap() {
            value[key] = field.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn settings_read_back_and_refuse_what_they_do_not_know() {
        let settings = Sidecar::from_agent("permits", "ledger", &spec(&json!({}))).unwrap();
        let mut text = serde_json::to_value(&settings).unwrap();
        assert_eq!(text["shards"][0]["store"], json!({"kind": "sqlite", "path": "/var/lib/rhizon/store.sqlite"}));
        assert_eq!(text["nats"]["user"], "agent-ledger");
        assert_eq!(serde_json::from_value::<Sidecar>(text.clone()).unwrap(), settings);
        text["surprise"] = json!(1);
        assert!(serde_json::from_value::<Sidecar>(text).is_err());
    }

    #[test]
    fn stores_are_written_as_documented() {
        let postgres = json!({"kind": "postgres", "urlFile": "/u", "schema": "rhizon_a_0", "account": "A"});
        let jetstream = json!({"kind": "jetStream", "stream": "J", "subject": "jr.a.0", "consumer": "agent-a-0", "snapshotStream": "S", "snapshotSubject": "sn.a.0", "cache": "/c"});
        for text in [postgres, jetstream] {
            let store: Store = serde_json::from_value(text.clone()).unwrap();
            assert_eq!(serde_json::to_value(store).unwrap(), text);
        }
    }

    #[test]
    fn a_wrong_type_is_named_with_its_place() {
        let wrong = spec(&json!({"subscribes": ["cmd.permit.record", "Permit recorded"]}));
        let error = Sidecar::from_agent("permits", "ledger", &wrong).unwrap_err();
        assert_eq!(error.reason(), "InvalidType");
        assert!(error.to_string().starts_with("spec.subscribes[1]: "), "{error}");
    }

    #[test]
    fn no_agent_sends_or_gets_commands_to_rhizon() {
        for field in ["subscribes", "publishes"] {
            let steering = spec(&json!({field: ["cmd.permit.record", "ctl.dead.drop"]}));
            let error = Sidecar::from_agent("permits", "ledger", &steering).unwrap_err().to_string();
            assert!(error.starts_with(&format!("spec.{field}[1]: types that begin with 'ctl.'")), "{error}");
        }
    }
}
