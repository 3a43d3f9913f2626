//! The Secret of a Postgres store: may it be used, and where does it lead? Pure.
//!
//! The agent's container shares its pod's network with the sidecar, so the way to the database is kept as narrow as a
//! NetworkPolicy can say it.

use super::{build::Frame, dereference::is_for};
use crate::{cluster::Manifest, workspace::validate::Problem};
use http::Uri;
use k8s_openapi::api::core::v1::Secret;
use rhizon_api::{agent, agent::StoreKind, labels};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Key in the Secret, and name of the file in the pod.
pub const URL: &str = "url";
const DEFAULT_PORT: u16 = 5432;

/// A database, as a policy can name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub secret: String,
    /// Another one means other content: the pod is to read it.
    pub version: String,
    pub place: Place,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Address(IpAddr),
    /// A Service of this cluster: the pods behind it are somewhere in its namespace.
    Namespace(String),
    /// A name that only a resolver knows.
    Anywhere,
}

/// The database of an agent that has one.
pub fn database(
    store: &agent::Store,
    secret: Option<&Secret>,
    own_namespace: &str,
) -> Result<Option<Database>, Problem> {
    let StoreKind::Postgres = store.kind else { return Ok(None) };
    let Some(name) = &store.secret_ref else {
        let message = "spec.store.secretRef is missing: name a Secret with the connection string of the Postgres";
        return Err(Problem::new("StoreSecretMissing", message));
    };
    let Some(secret) = secret else {
        let message = format!("Secret {name}, which spec.store.secretRef names, does not exist");
        return Err(Problem::new("StoreSecretMissing", message));
    };
    if !is_for(labels::STORE_SECRET, &secret.metadata) {
        let message = format!(
            "Secret {name} is not for stores; if sidecars may use it, label it {}=true. Rhizon's own never may",
            labels::STORE_SECRET
        );
        return Err(Problem::new("StoreSecretNotAllowed", message));
    }
    let text = secret.data.as_ref().and_then(|data| std::str::from_utf8(&data.get(URL)?.0).ok());
    let (place, port) = text.and_then(|text| destination(text.trim(), own_namespace)).ok_or_else(|| {
        let message =
            format!("Secret {name} has no connection string such as postgres://user:password@host:5432/db under {URL}");
        Problem::new("StoreSecretInvalid", message)
    })?;
    let version = secret.metadata.resource_version.clone().unwrap_or_default();
    Ok(Some(Database { secret: name.clone(), version, place, port }))
}

fn destination(url: &str, own_namespace: &str) -> Option<(Place, u16)> {
    let uri: Uri = url.parse().ok()?;
    if !matches!(uri.scheme_str(), Some("postgres" | "postgresql")) {
        return None;
    }
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let labels: Vec<&str> = host.split('.').collect();
    let place = match (host.parse(), &labels[..]) {
        (Ok(address), _) => Place::Address(address),
        (_, [""]) => return None,
        (_, [_]) => Place::Namespace(own_namespace.to_owned()),
        (_, [_, namespace, "svc"] | [_, namespace, "svc", "cluster", "local"]) => {
            Place::Namespace((*namespace).to_owned())
        }
        _ => Place::Anywhere,
    };
    Some((place, uri.port_u16().unwrap_or(DEFAULT_PORT)))
}

/// Lets the agent's pods connect to its database.
pub fn network_policy(frame: &Frame<'_>, database: &Database) -> Manifest {
    let mut rule = json!({"ports": [{"protocol": "TCP", "port": database.port}]});
    if let Some(peer) = peer(&database.place) {
        rule["to"] = json!([peer]);
    }
    frame.finish(Manifest::new(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": format!("{}-store", frame.object), "namespace": frame.namespace},
        "spec": {
            "podSelector": {"matchLabels": {labels::AGENT: frame.name, labels::COMPONENT: "agent"}},
            "policyTypes": ["Egress"],
            "egress": [rule],
        },
    })))
}

fn peer(place: &Place) -> Option<Value> {
    match place {
        Place::Address(address) => {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            Some(json!({"ipBlock": {"cidr": format!("{address}/{bits}")}}))
        }
        Place::Namespace(name) => {
            Some(json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}))
        }
        Place::Anywhere => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres() -> agent::Store {
        serde_json::from_value(json!({"kind": "Postgres", "secretRef": "db"})).unwrap()
    }

    fn secret(labels: &Value, url: &str) -> Secret {
        let data = json!({"url": k8s_openapi::ByteString(url.as_bytes().to_vec())});
        let metadata = json!({"name": "db", "resourceVersion": "7", "labels": labels});
        serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap()
    }

    fn reason(secret: Option<&Secret>) -> &'static str {
        database(&postgres(), secret, "permits").unwrap_err().reason
    }

    #[test]
    fn only_a_secret_that_is_meant_for_it_and_leads_somewhere_is_used() {
        let labelled = json!({"rhizon.dev/store-secret": "true"});
        let url = "postgres://me:pass%20word@10.0.0.7:6000/db?sslmode=require";
        let found = database(&postgres(), Some(&secret(&labelled, url)), "permits").unwrap().unwrap();
        let place = Place::Address("10.0.0.7".parse().unwrap());
        assert_eq!(found, Database { secret: "db".to_owned(), version: "7".to_owned(), place, port: 6000 });
        assert_eq!(reason(None), "StoreSecretMissing");
        assert_eq!(reason(Some(&secret(&json!({}), url))), "StoreSecretNotAllowed");
        let ours = json!({"rhizon.dev/store-secret": "true", "app.kubernetes.io/managed-by": "rhizon"});
        assert_eq!(reason(Some(&secret(&ours, url))), "StoreSecretNotAllowed");
        for nonsense in ["", "mysql://h/db", "postgres:///db", "host=h"] {
            assert_eq!(reason(Some(&secret(&labelled, nonsense))), "StoreSecretInvalid", "{nonsense}");
        }
        assert_eq!(database(&agent::Store::default(), None, "permits").unwrap(), None);
    }

    #[test]
    fn the_way_out_is_as_narrow_as_the_host_allows() {
        let to = |host: &str| destination(&format!("postgresql://u@{host}/db"), "permits").unwrap();
        assert_eq!(to("db"), (Place::Namespace("permits".to_owned()), 5432));
        assert_eq!(to("db.data.svc:5433"), (Place::Namespace("data".to_owned()), 5433));
        assert_eq!(to("db.data.svc.cluster.local"), (Place::Namespace("data".to_owned()), 5432));
        assert_eq!(to("[2001:db8::1]"), (Place::Address("2001:db8::1".parse().unwrap()), 5432));
        assert_eq!(to("db.example.com"), (Place::Anywhere, 5432));
        assert_eq!(peer(&Place::Anywhere), None);
    }
}
