//! Brings a workspace about: first the namespace, whose UID is recorded, then the broker, then the rest.

use super::{
    Error, build,
    build::{gateway, ownership},
    dereference::Inputs,
    keys_secret,
    nudge::nudge,
    read_keys,
    status::{Applied, Outcome},
    validate::{GatewayAccess, Problem},
};
use crate::{
    cluster::{self, apply::ensure},
    context::Context,
    credentials, install,
    nats::{self, claims, keys, resolver, retention, streams},
};
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{Api, api::PostParams};
use rhizon_api::{RhizonWorkspace, workspace::AccountsStatus, workspace::NamespaceStatus};

pub async fn apply(
    workspace: &RhizonWorkspace,
    inputs: &Inputs,
    access: GatewayAccess,
    context: &Context,
) -> Result<Outcome, Error> {
    let namespace = match ensure_namespace(workspace, inputs, context).await.map_err(Error::Cluster)? {
        Ok(namespace) => namespace,
        Err(problem) => return Ok(Outcome::Invalid(problem)),
    };
    for manifest in build::tenancy(workspace, &context.settings) {
        ensure(&context.client, &manifest).await.map_err(Error::Cluster)?;
    }
    let keys = ensure_keys(workspace, context).await?;
    let accounts = AccountsStatus { data: keys.data.public_key(), runtime: keys.runtime.public_key() };
    // A broker that is away is an outcome: the gateway starts all the same, and waits for it.
    let messaging = ensure_messaging(workspace, inputs, &keys, context).await;
    let gateway = ensure_gateway(workspace, inputs, &access, &keys, context).await?;
    Ok(Outcome::Applied(Box::new(Applied { namespace, accounts, messaging, gateway })))
}

/// Creates the namespace, or takes the one that is ours or to be adopted. A lost race is a problem like any other.
async fn ensure_namespace(
    workspace: &RhizonWorkspace,
    inputs: &Inputs,
    context: &Context,
) -> Result<Result<NamespaceStatus, Problem>, cluster::Error> {
    let name = workspace.namespace_name();
    let api = Api::<Namespace>::all(context.client.clone());
    let failed = |verb| move |e| cluster::Error::new(verb, format!("Namespace {name}"), e);
    let created = if let Some(live) = &inputs.namespace {
        ownership::is_created(live) && ownership::owner(live) == workspace.metadata.uid.as_deref()
    } else {
        let manifest = ownership::manifest(workspace, true);
        let wanted: Namespace = serde_json::from_value(manifest.value().clone())
            .map_err(|e| failed("building")(kube::Error::SerdeError(e)))?;
        match api.create(&PostParams::default(), &wanted).await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let message = format!("namespace {name} was made by somebody else just now");
                return Ok(Err(Problem::new("NamespaceTaken", message)));
            }
            Err(error) => return Err(failed("creating")(error)),
        }
    };
    let live = ensure(&context.client, &ownership::manifest(workspace, created)).await?;
    let uid = live.metadata.uid.unwrap_or_default();
    Ok(Ok(NamespaceStatus { name: name.to_owned(), uid, created }))
}

/// The keys of the workspace's accounts: made once, kept in the operator's namespace.
async fn ensure_keys(workspace: &RhizonWorkspace, context: &Context) -> Result<keys::Workspace, Error> {
    let name = workspace.metadata.name.as_deref().unwrap_or_default();
    if let Some(keys) = read_keys(name, context).await? {
        return Ok(keys);
    }
    let seeds = keys::Workspace::generate().seeds().map_err(Error::Messaging)?;
    let secret = build::label(install::secret(&context.settings.namespace, &keys_secret(name), &seeds), workspace);
    install::create_secret(&context.client, &secret).await.map_err(Error::Cluster)?;
    // Read back: in a race the first one's keys hold.
    read_keys(name, context).await?.ok_or_else(|| {
        Error::Messaging(nats::Error::Key { why: format!("Secret {} vanished after it was made", keys_secret(name)) })
    })
}

async fn ensure_messaging(
    workspace: &RhizonWorkspace,
    inputs: &Inputs,
    keys: &keys::Workspace,
    context: &Context,
) -> Result<(), nats::Error> {
    let name = workspace.metadata.name.as_deref().unwrap_or_default();
    let (data, runtime) = (keys.data.public_key(), keys.runtime.public_key());
    let messaging = &workspace.spec.messaging;
    let system = context.pool.system().await?;
    let now = Timestamp::now().as_second();
    let lock = context.pool.lock_accounts().await;
    for account in [
        claims::data_account(&data, name, &runtime, streams::storage_limits(messaging)),
        claims::runtime_account(&runtime, name, &data),
    ] {
        if resolver::ensure_account(&system, context.pool.signer(), &account, now).await? {
            tracing::info!(workspace = name, account = account.name, "pushed an account");
        }
    }
    drop(lock);
    let client = context.pool.client(&keys.data).await?;
    for stream in streams::build(messaging) {
        if streams::ensure(&client, &stream).await? {
            tracing::info!(workspace = name, stream = stream.name, "wrote a stream");
        }
    }
    if let Some(before) = retention::enforce(&client, "EVENTS", messaging, &inputs.consumers).await? {
        tracing::info!(workspace = name, before, "let go of events that everybody has handled");
    }
    Ok(())
}

async fn ensure_gateway(
    workspace: &RhizonWorkspace,
    inputs: &Inputs,
    access: &GatewayAccess,
    keys: &keys::Workspace,
    context: &Context,
) -> Result<kube::api::DynamicObject, Error> {
    let permissions = claims::gateway_permissions();
    let wanted = credentials::Wanted {
        namespace: workspace.namespace_name(),
        secret: gateway::NAME,
        account: &keys.runtime,
        user: "gateway",
        permissions: &permissions,
        ca_pem: context.pool.broker().ca_pem.as_deref(),
    };
    let now = Timestamp::now().as_second();
    let secret = credentials::build(&wanted, inputs.gateway_secret.as_ref(), now).map_err(Error::Messaging)?;
    let secret = build::label(secret, workspace);
    ensure(&context.client, &secret).await.map_err(Error::Cluster)?;
    for manifest in gateway::parts(workspace, access, &inputs.agents, &context.settings) {
        let live = ensure(&context.client, &manifest).await.map_err(Error::Cluster)?;
        if manifest.kind() == "ConfigMap" {
            nudge(workspace.namespace_name(), &live, context).await.map_err(Error::Cluster)?;
        }
    }
    ensure(&context.client, &gateway::deployment(workspace, &context.settings)).await.map_err(Error::Cluster)
}
