//! What the gateway goes by, from its settings; taken in again when the file changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rhizon_api::settings::{self, Access, Agent};
use rhizon_kernel::Limits;
use tokio::sync::watch;

use super::admit::Rules;
use super::auth::{Authenticator, Identity, InvalidKeys, IssuerKind, Verifier};

/// How often the file is looked at. A mounted ConfigMap changes a minute after the object anyway.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Who is known, who may do what, and which agents there are.
#[derive(Debug)]
pub struct Policy {
    pub workspace: String,
    pub authenticator: Authenticator,
    pub access: Vec<Access>,
    pub limits: Limits,
    pub agents: Vec<Agent>,
}

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is no gateway settings: {source}")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Keys(InvalidKeys),
}

impl Policy {
    /// Callers prove themselves with tokens of the settings' issuers, of which the first is the cluster's own.
    pub fn from_settings(settings: settings::Gateway) -> Result<Self, InvalidKeys> {
        let mut verifier = Verifier::new(format!("rhizon/{}", settings.workspace));
        for (index, issuer) in settings.issuers.iter().enumerate() {
            let kind = if index == 0 { IssuerKind::Cluster } else { IssuerKind::Foreign };
            verifier.trust(kind, &issuer.issuer, &issuer.jwks)?;
        }
        let settings::Gateway { workspace, access, limits, agents, .. } = settings;
        Ok(Self { workspace, authenticator: Authenticator::Tokens(verifier), access, limits, agents })
    }

    /// Every caller is the one of this access entry: for a loopback address only.
    pub fn local(workspace: String, caller: &Access, access: Vec<Access>, agents: Vec<Agent>) -> Self {
        let Access { issuer, subject, .. } = caller.clone();
        let identity = Identity { issuer, actor: subject.clone(), subject };
        Self { workspace, authenticator: Authenticator::Everyone(identity), access, limits: Limits::default(), agents }
    }

    pub(super) fn rules(&self) -> Rules<'_> {
        Rules { workspace: &self.workspace, agents: &self.agents, limits: &self.limits }
    }
}

/// Reads the settings.
pub async fn load(path: &Path) -> Result<settings::Gateway, PolicyError> {
    let text = tokio::fs::read(path).await.map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| PolicyError::Parse { path: path.to_owned(), source })
}

/// Follows the file for ever. Settings that cannot be used are said once, and the last good ones stay in force.
pub async fn follow(path: PathBuf, mut current: settings::Gateway, policy: watch::Sender<Arc<Policy>>) {
    let mut complaint = String::new();
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        match take_in(&path, &current).await {
            Ok(None) => complaint.clear(),
            Ok(Some((settings, new))) => {
                tracing::info!(agents = new.agents.len(), access = new.access.len(), "took in changed settings");
                complaint.clear();
                current = settings;
                policy.send_replace(Arc::new(new));
            }
            Err(error) if error.to_string() != complaint => {
                complaint = error.to_string();
                tracing::error!(error = complaint, "cannot take in the settings; the last ones stay in force");
            }
            Err(_) => {}
        }
    }
}

/// The new settings and what follows from them, when they differ from the current ones.
async fn take_in(path: &Path, current: &settings::Gateway) -> Result<Option<(settings::Gateway, Policy)>, PolicyError> {
    let settings = load(path).await?;
    if settings == *current {
        return Ok(None);
    }
    let policy = Policy::from_settings(settings.clone()).map_err(PolicyError::Keys)?;
    Ok(Some((settings, policy)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(agents: &[&str]) -> serde_json::Value {
        json!({
            "workspace": "permits", "listen": "", "healthListen": "", "issuers": [{"issuer": "i", "jwks": {"keys": []}}],
            "access": [], "limits": {},
            "agents": agents.iter().map(|name| json!({"name": name, "subscribes": [], "shards": 1})).collect::<Vec<_>>(),
            "nats": {"url": "", "user": "gateway", "credentials": null, "ca": null, "messageIdKey": null}
        })
    }

    #[tokio::test]
    async fn only_a_change_that_can_be_used_is_taken_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        let write = |value: &str| std::fs::write(&path, value).unwrap();
        write(&text(&["permits"]).to_string());
        let current = load(&path).await.unwrap();
        assert!(take_in(&path, &current).await.unwrap().is_none());

        write(&text(&["permits", "ledger"]).to_string());
        let (_, policy) = take_in(&path, &current).await.unwrap().unwrap();
        let names: Vec<&str> = policy.agents.iter().map(|agent| agent.name.as_str()).collect();
        assert_eq!(names, ["permits", "ledger"]);

        write("{");
        assert!(matches!(take_in(&path, &current).await, Err(PolicyError::Parse { .. })));
        let mut keys = text(&[]);
        keys["issuers"][0]["jwks"] = json!("none");
        write(&keys.to_string());
        assert!(matches!(take_in(&path, &current).await, Err(PolicyError::Keys(_))));
    }
}
