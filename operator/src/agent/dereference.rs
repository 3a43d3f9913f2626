//! Everything that an agent's reconcile reads.

use super::{Error, sidecar};
use crate::{
    cluster::{self, found},
    context::Context,
    nats::keys,
    workspace,
};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Event, PersistentVolumeClaim, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, api::ListParams};
use rhizon_api::{RhizonAgent, RhizonWorkspace, labels};
use std::collections::{BTreeMap, BTreeSet};

pub struct Inputs {
    /// The workspace that the namespace belongs to.
    pub workspace: Option<RhizonWorkspace>,
    pub keys: Option<keys::Workspace>,
    /// The Secret with the sidecar's credentials, as it is.
    pub credentials: Option<Secret>,
    /// Secrets that the container names: `None` for a missing one, else whether agents may read it.
    pub secrets: BTreeMap<String, Option<bool>>,
    pub pods: Vec<Pod>,
    /// What a sidecar that is not ready says about it.
    pub complaint: Option<String>,
    pub stateful_set: Option<StatefulSet>,
    /// The sidecar's settings, as they are.
    pub settings: Option<ConfigMap>,
    /// Why no pod could be made, newest last; read only when there is none.
    pub refusals: Vec<String>,
    /// A volume with the store of an earlier agent of this name is there.
    pub has_store: bool,
    /// The Secret that `spec.store` names, as it is.
    pub store_secret: Option<Secret>,
}

pub async fn dereference(agent: &RhizonAgent, context: &Context) -> Result<Inputs, Error> {
    let namespace = agent.metadata.namespace.as_deref().unwrap_or_default();
    let object = object_name(agent.metadata.name.as_deref().unwrap_or_default());
    let workspace = context.workspace_of(namespace);
    let keys = match &workspace {
        Some(owner) => workspace::read_keys(owner.metadata.name.as_deref().unwrap_or_default(), context)
            .await
            .map_err(Error::Workspace)?,
        None => None,
    };
    let reader = Reader { namespace, context };
    let pods = reader.pods(agent).await?;
    let stateful_set = reader.get::<StatefulSet>(&object).await?;
    let refusals = match &stateful_set {
        Some(set) if pods.is_empty() && wants_pods(set) => reader.refusals(&object).await?,
        _ => Vec::new(),
    };
    Ok(Inputs {
        workspace,
        keys,
        credentials: reader.get(&object).await?,
        secrets: reader.secrets(agent).await?,
        complaint: sidecar::complaint(&pods).await,
        pods,
        stateful_set,
        settings: reader.get(&object).await?,
        refusals,
        has_store: reader.get::<PersistentVolumeClaim>(&format!("store-{object}-0")).await?.is_some(),
        store_secret: match &agent.spec.store.secret_ref {
            Some(name) => reader.get(name).await?,
            None => None,
        },
    })
}

/// Name of all objects of an agent, so that none collides with the gateway's.
pub fn object_name(agent: &str) -> String {
    format!("agent-{agent}")
}

/// Whether a Secret carries a label that gives it away. Rhizon's own are never given away.
pub fn is_for(label: &str, metadata: &ObjectMeta) -> bool {
    let has =
        |key, value: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|v| v == value);
    has(label, "true") && !has(labels::MANAGED_BY, "rhizon")
}

fn wants_pods(set: &StatefulSet) -> bool {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1) > 0
}

struct Reader<'a> {
    namespace: &'a str,
    context: &'a Context,
}

impl Reader<'_> {
    async fn get<K>(&self, name: &str) -> Result<Option<K>, Error>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let api = Api::<K>::namespaced(self.context.client.clone(), self.namespace);
        found(api.get(name).await).map_err(|e| self.failed(&K::kind(&()), name, e))
    }

    async fn pods(&self, agent: &RhizonAgent) -> Result<Vec<Pod>, Error> {
        let name = agent.metadata.name.as_deref().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.context.client.clone(), self.namespace);
        let ours = ListParams::default().labels(&format!("{}={name}", labels::AGENT));
        Ok(api.list(&ours).await.map_err(|e| self.failed("Pods", name, e))?.items)
    }

    async fn secrets(&self, agent: &RhizonAgent) -> Result<BTreeMap<String, Option<bool>>, Error> {
        let env = agent.spec.container.env.iter();
        let names: BTreeSet<&str> =
            env.filter_map(|variable| Some(variable.value_from.as_ref()?.secret_key_ref.name.as_str())).collect();
        let api = Api::<Secret>::namespaced(self.context.client.clone(), self.namespace);
        let mut secrets = BTreeMap::new();
        for name in names {
            let metadata = found(api.get_metadata(name).await).map_err(|e| self.failed("Secret", name, e))?;
            let allowed = metadata.map(|secret| is_for(labels::AGENT_SECRET, &secret.metadata));
            secrets.insert(name.to_owned(), allowed);
        }
        Ok(secrets)
    }

    async fn refusals(&self, object: &str) -> Result<Vec<String>, Error> {
        let api = Api::<Event>::namespaced(self.context.client.clone(), self.namespace);
        let selector = format!("involvedObject.kind=StatefulSet,involvedObject.name={object},reason=FailedCreate");
        let events = api.list(&ListParams::default().fields(&selector)).await;
        let mut events = events.map_err(|e| self.failed("Events", object, e))?.items;
        events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        Ok(events.into_iter().filter_map(|event| event.message).collect())
    }

    fn failed(&self, kind: &str, name: &str, error: kube::Error) -> Error {
        Error::Cluster(cluster::Error::new("reading", format!("{kind} {}/{name}", self.namespace), error))
    }
}
