//! What a sidecar that is not ready says about it. It has no way to the API server, so the operator asks.

use super::pods;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use k8s_openapi::api::core::v1::Pod;
use rhizon_api::settings::paths;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const LIMIT_BYTES: usize = 4096;
/// Longest answer that is shown.
const LIMIT_CHARS: usize = 300;

/// The first complaint of a running sidecar that is not ready.
pub async fn complaint(pods: &[Pod]) -> Option<String> {
    for address in pods.iter().filter(|pod| !pods::is_ready(pod)).filter_map(address) {
        let asked = tokio::time::timeout(PATIENCE, ask(&address)).await;
        if let Ok(Some(complaint)) = asked {
            return Some(complaint);
        }
    }
    None
}

pub fn is_started(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
    containers.into_iter().flatten().any(|container| container.name == "rhizon" && container.started == Some(true))
}

/// Where a pod's sidecar listens, once it does.
fn address(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let ip = status.pod_ip.as_deref()?;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    is_started(pod).then(|| format!("http://{host}:{}/readyz", paths::HEALTH_PORT))
}

async fn ask(address: &str) -> Option<String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(address.parse().ok()?).await.ok()?;
    if answer.status().is_success() {
        return None;
    }
    let body = Limited::new(answer.into_body(), LIMIT_BYTES).collect().await.ok()?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let line = text.lines().next().unwrap_or_default().trim();
    (!line.is_empty()).then(|| line.chars().take(LIMIT_CHARS).collect())
}
