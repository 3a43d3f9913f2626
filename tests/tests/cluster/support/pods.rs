//! Pods: what they say of themselves, commands in them, and pods of our own.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Api;
use kube::api::AttachParams;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Python and a NATS client.
pub(crate) const TOOLS_IMAGE: &str = "localhost/rhizon/tools:0.1.0";

/// Ready, and not on its way out.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// A container's status, be it a sidecar or not.
pub(crate) fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|container| container.name == name)
}

/// Runs a program in a container and gives what it printed, errors included.
pub(crate) async fn exec(pods: &Api<Pod>, pod: &str, container: &str, command: &[&str]) -> Result<String, String> {
    let params = AttachParams::default().container(container).stdout(true).stderr(true);
    let mut process = pods.exec(pod, command.iter().copied(), &params).await.map_err(|error| error.to_string())?;
    let (mut stdout, mut stderr) = (process.stdout().expect("asked for"), process.stderr().expect("asked for"));
    let (mut printed, mut said) = (String::new(), String::new());
    let read = async { tokio::join!(stdout.read_to_string(&mut printed), stderr.read_to_string(&mut said)) };
    let (out, err) = read.await;
    out.and(err).map_err(|error| error.to_string())?;
    let status = process.take_status().expect("the first to ask").await;
    match status.and_then(|status| status.status).as_deref() {
        Some("Success") => Ok(printed.trim().to_owned()),
        _ => Err(format!("{printed}{said}")),
    }
}

/// What an operator or a sidecar counts.
pub(crate) async fn metrics(pods: &Api<Pod>, pod: &str) -> Result<String, String> {
    let mut forward = pods.portforward(pod, &[9090]).await.map_err(|error| error.to_string())?;
    let mut stream = forward.take_stream(9090).ok_or("the port was not forwarded")?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).await.map_err(|error| error.to_string())?;
    stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
    Ok(answer)
}

/// A pod that waits for commands, as Pod Security `restricted` and a workspace's quota want it. The claims are mounted
/// at `/claims/<name>`.
pub(crate) fn tools(namespace: &str, name: &str, labels: &Value, claims: &[&str]) -> Value {
    let volumes: Vec<Value> =
        claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
    let mounts: Vec<Value> =
        claims.iter().map(|claim| json!({"name": claim, "mountPath": format!("/claims/{claim}")})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main", "image": TOOLS_IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-c", "import signal; signal.pause()"],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
}
