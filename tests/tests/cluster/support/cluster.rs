//! The API server, as its administrator sees it.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::installation;
use super::wait::{holds, until};

#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
}

impl Cluster {
    /// With Rhizon installed on it.
    pub(crate) async fn ready() -> Self {
        installation::ensure();
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster that is up");
        let cluster = Self { client };
        for selector in [installation::OPERATOR, installation::BROKER] {
            cluster.wait_for_pods(installation::NAMESPACE, selector).await;
        }
        cluster
    }

    pub(crate) fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    pub(crate) fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// As `kubectl apply --server-side`.
    pub(crate) async fn apply(&self, manifest: &Value) {
        self.try_apply(manifest).await.unwrap_or_else(|why| panic!("{why}\n{manifest:#}"));
    }

    pub(crate) async fn try_apply(&self, manifest: &Value) -> Result<(), String> {
        let field = |name: &str| manifest[name].as_str().unwrap_or_default();
        let metadata = |name: &str| manifest["metadata"][name].as_str();
        let (group, version) = field("apiVersion").split_once('/').unwrap_or(("", field("apiVersion")));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, field("kind")));
        let api: Api<DynamicObject> = match metadata("namespace") {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let as_tests = PatchParams::apply("rhizon-tests").force();
        let applied = api.patch(metadata("name").unwrap_or_default(), &as_tests, &Patch::Apply(manifest)).await;
        applied.map(drop).map_err(|error| error.to_string())
    }

    pub(crate) async fn delete<K>(&self, api: &Api<K>, name: &str)
    where
        K: Clone + DeserializeOwned + Debug,
    {
        match api.delete(name, &DeleteParams::background()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("cannot delete {name}: {error}"),
        }
    }

    pub(crate) async fn gone<K>(&self, api: &Api<K>, name: &str, limit: Duration)
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let what = format!("{name} is gone");
        until(&what, limit, async || match api.get_opt(name).await {
            Ok(None) => Ok(()),
            Ok(Some(object)) => Err(format!("{object:?}").chars().take(600).collect()),
            Err(error) => Err(error.to_string()),
        })
        .await;
    }

    /// An empty namespace.
    pub(crate) async fn make_namespace(&self, name: &str) {
        let namespaces = self.all::<Namespace>();
        self.delete(&namespaces, name).await;
        self.gone(&namespaces, name, Duration::from_mins(2)).await;
        self.apply(&serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
    }

    pub(crate) async fn pods(&self, namespace: &str, selector: &str) -> Vec<Pod> {
        let ours = ListParams::default().labels(selector);
        self.within::<Pod>(namespace).list(&ours).await.expect("listing pods").items
    }

    /// There are some, and all are ready.
    pub(crate) async fn wait_for_pods(&self, namespace: &str, selector: &str) {
        until(&format!("pods {selector} are ready"), Duration::from_mins(2), async || {
            let pods = self.pods(namespace, selector).await;
            let ready = pods.iter().filter(|pod| super::pods::is_ready(pod)).count();
            holds(ready > 0 && ready == pods.len(), format!("{ready} of {}", pods.len()))
        })
        .await;
    }

    /// Kubernetes events about an object; those about one without a namespace are in `default`.
    pub(crate) async fn events(&self, namespace: &str, kind: &str, name: &str) -> Vec<(String, String)> {
        let about = ListParams::default().fields(&format!("regarding.kind={kind},regarding.name={name}"));
        let events = self.within::<Event>(namespace).list(&about).await.expect("listing events");
        events
            .items
            .into_iter()
            .map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default()))
            .collect()
    }

    /// Deletes all pods with a label, of which there must be some soon; those who made them make others.
    pub(crate) async fn delete_pods(&self, namespace: &str, selector: &str, grace_s: u32) {
        let api = self.within::<Pod>(namespace);
        let there = until(&format!("there are pods {selector}"), Duration::from_mins(1), async || {
            let pods = self.pods(namespace, selector).await;
            let staying: Vec<String> = pods
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_none())
                .map(ResourceExt::name_any)
                .collect();
            holds(!staying.is_empty(), "none").map(|()| staying)
        })
        .await;
        for pod in there {
            match api.delete(&pod, &DeleteParams::default().grace_period(grace_s)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => panic!("cannot delete pod {pod}: {error}"),
            }
        }
    }
}
