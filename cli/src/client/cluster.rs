//! The way to a gateway through a kubeconfig. What the caller may do is the API server's decision: it gives the token, and it
//! forwards the port.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use rhizon_api::settings::paths::GATEWAY_PORT;
use rhizon_api::{RhizonWorkspace, labels};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::args::Target;
use crate::failure::Failure;

const TOKEN_SECONDS: i64 = 3600;

/// Subjects of service accounts are `system:serviceaccount:<namespace>:<name>`.
const ACCOUNT_SUBJECT: &str = "system:serviceaccount:";

pub(super) struct Cluster {
    client: kube::Client,
    pub(super) workspace: String,
    namespace: String,
    /// Whose token is asked for; what is missing is said when one is needed.
    account: Result<Account, Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    namespace: String,
    name: String,
}

impl Cluster {
    pub(super) async fn find(target: &Target) -> Result<Self, Failure> {
        let client = kube::Client::try_default().await.map_err(|error| {
            Failure::Unreachable(format!("no usable kubeconfig ({error}); set KUBECONFIG, or give --gateway URL"))
        })?;
        let (workspace, object) = find_workspace(&client, target.workspace.as_deref()).await?;
        let namespace = object.as_ref().map_or(workspace.as_str(), RhizonWorkspace::namespace_name).to_owned();
        let account = choose_account(target.service_account.as_deref(), &namespace, object.as_ref());
        Ok(Self { client, workspace, namespace, account })
    }

    /// A token for this workspace's gateway, and how long it is valid.
    pub(super) async fn token(&self) -> Result<(String, Duration), Failure> {
        let Account { namespace, name } = self.account.clone()?;
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![format!("rhizon/{}", self.workspace)],
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let answer = accounts
            .create_token_request(&name, &PostParams::default(), &request)
            .await
            .map_err(|error| failure(&error, &format!("ask for a token of service account {namespace}/{name}")))?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        let seconds = u64::try_from(answer.spec.expiration_seconds.unwrap_or(TOKEN_SECONDS)).unwrap_or(0);
        Ok((token, Duration::from_secs(seconds)))
    }

    /// The workspace's status as it stands there: it may say more than this version knows.
    pub(super) async fn status(&self) -> Option<serde_json::Value> {
        let kind = ApiResource::erase::<RhizonWorkspace>(&());
        let workspaces: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let mut object = workspaces.get(&self.workspace).await.ok()?;
        Some(object.data["status"].take())
    }

    /// A stream to a gateway pod, through the API server.
    pub(super) async fn forward(&self) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Failure> {
        let gateways = self.gateways().await?;
        let pod = gateways.iter().find(|pod| is_ready(pod)).and_then(|pod| pod.metadata.name.as_deref());
        let name = pod.ok_or_else(|| {
            let namespace = &self.namespace;
            Failure::Unreachable(format!(
                "workspace '{}' has no gateway that is ready; look at `kubectl get pods -n {namespace}` and `kubectl get rhizonworkspaces`",
                self.workspace
            ))
        })?;
        let mut forward = self
            .pods()
            .portforward(name, &[GATEWAY_PORT])
            .await
            .map_err(|error| failure(&error, &format!("forward a port of pod {}/{name}", self.namespace)))?;
        forward.take_stream(GATEWAY_PORT).ok_or_else(|| Failure::Unreachable("the port was not forwarded".to_owned()))
    }

    /// There are gateways, and none of them is ready yet.
    pub(super) async fn is_starting(&self) -> Result<bool, Failure> {
        let gateways = self.gateways().await?;
        Ok(!gateways.is_empty() && !gateways.iter().any(is_ready))
    }

    async fn gateways(&self) -> Result<Vec<Pod>, Failure> {
        let selector = format!("{}=gateway,{}={}", labels::COMPONENT, labels::WORKSPACE, self.workspace);
        let found = self
            .pods()
            .list(&ListParams::default().labels(&selector))
            .await
            .map_err(|error| failure(&error, &format!("list the pods of namespace {}", self.namespace)))?;
        Ok(found.items)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// The workspace's name, and its object where the caller may see it.
async fn find_workspace(
    client: &kube::Client,
    given: Option<&str>,
) -> Result<(String, Option<RhizonWorkspace>), Failure> {
    let workspaces: Api<RhizonWorkspace> = Api::all(client.clone());
    if let Some(name) = given {
        return match workspaces.get(name).await {
            Ok(object) => Ok((name.to_owned(), Some(object))),
            Err(error) if is_forbidden(&error) => Ok((name.to_owned(), None)),
            Err(error) => Err(failure(&error, &format!("read the workspace '{name}'"))),
        };
    }
    let current = client.default_namespace();
    match workspaces.list(&ListParams::default()).await {
        Ok(list) => choose_workspace(list.items, current).map(|object| (name_of(&object), Some(object))),
        Err(error) if is_forbidden(&error) => Ok((current.to_owned(), None)),
        Err(error) => Err(failure(&error, "list the workspaces")),
    }
}

/// The only one, or the one of the current context's namespace.
fn choose_workspace(mut all: Vec<RhizonWorkspace>, current: &str) -> Result<RhizonWorkspace, Failure> {
    let index = match all.as_slice() {
        [] => return Err(Failure::Unreachable("there is no workspace in this cluster".to_owned())),
        [_] => Some(0),
        many => many.iter().position(|workspace| workspace.namespace_name() == current),
    };
    let Some(index) = index else {
        let names: Vec<String> = all.iter().map(name_of).collect();
        return Err(Failure::Usage(format!("which workspace? Give --workspace, one of: {}", names.join(", "))));
    };
    Ok(all.swap_remove(index))
}

/// The account that was asked for, or the only one to which the workspace gives access.
fn choose_account(
    given: Option<&str>,
    namespace: &str,
    workspace: Option<&RhizonWorkspace>,
) -> Result<Account, Failure> {
    let account = |namespace: &str, name: &str| Account { namespace: namespace.to_owned(), name: name.to_owned() };
    if let Some(given) = given {
        return Ok(match given.split_once('/') {
            Some((namespace, name)) => account(namespace, name),
            None => account(namespace, given),
        });
    }
    let access = workspace.map_or(&[][..], |workspace| workspace.spec.gateway.access.as_slice());
    let mut accounts: Vec<Account> = access
        .iter()
        .filter(|entry| entry.issuer == "kubernetes")
        .filter_map(|entry| entry.subject.strip_prefix(ACCOUNT_SUBJECT)?.split_once(':'))
        .map(|(namespace, name)| account(namespace, name))
        .collect();
    accounts.dedup();
    match accounts.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(Failure::Usage(
            "as whom? Give --service-account NAME, one that spec.gateway.access of the workspace names, or --token"
                .to_owned(),
        )),
    }
}

fn name_of(workspace: &RhizonWorkspace) -> String {
    workspace.metadata.name.clone().unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

fn failure(error: &kube::Error, doing: &str) -> Failure {
    let why = match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    };
    Failure::Unreachable(format!("cannot {doing}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(name: &str, subjects: &[&str]) -> RhizonWorkspace {
        let access: Vec<_> = subjects.iter().map(|subject| serde_json::json!({ "subject": subject })).collect();
        let spec = serde_json::json!({"gateway": {"access": access}});
        RhizonWorkspace::new(name, serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_workspace_is_the_only_one_or_the_contexts() {
        let two = || vec![workspace("a", &[]), workspace("b", &[])];
        assert_eq!(name_of(&choose_workspace(vec![workspace("a", &[])], "default").unwrap()), "a");
        assert_eq!(name_of(&choose_workspace(two(), "b").unwrap()), "b");
        let unclear = choose_workspace(two(), "default").unwrap_err();
        assert_eq!((unclear.code(), unclear.to_string().contains("a, b")), (2, true));
        assert_eq!(choose_workspace(vec![], "default").unwrap_err().code(), 3);
    }

    #[test]
    fn the_account_is_the_given_one_or_the_only_one() {
        let account = |namespace: &str, name: &str| Account { namespace: namespace.into(), name: name.into() };
        let one = workspace("w", &["system:serviceaccount:permits:clerk", "somebody"]);
        assert_eq!(choose_account(None, "w", Some(&one)), Ok(account("permits", "clerk")));
        assert_eq!(choose_account(Some("bot"), "w", Some(&one)), Ok(account("w", "bot")));
        assert_eq!(choose_account(Some("x/bot"), "w", None), Ok(account("x", "bot")));
        let two = workspace("w", &["system:serviceaccount:permits:clerk", "system:serviceaccount:permits:bot"]);
        assert_eq!(choose_account(None, "w", Some(&two)).unwrap_err().code(), 2);
        assert_eq!(choose_account(None, "w", None).unwrap_err().code(), 2);
    }
}
