//! What an agent's pods say about themselves, in words that help. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// Why a pod does not run, or why it last stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// CamelCase.
    pub reason: String,
    pub message: String,
}

/// The first trouble of any pod: what waits, what cannot be placed, what keeps crashing.
pub fn trouble(pods: &[Pod]) -> Option<Trouble> {
    pods.iter().find_map(|pod| waiting(pod).or_else(|| unschedulable(pod)))
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    main.into_iter().flatten().chain(init.into_iter().flatten())
}

fn waiting(pod: &Pod) -> Option<Trouble> {
    containers(pod).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let who = if container.name == "agent" { "the agent's container" } else { "the sidecar" };
        let detail = waiting.message.as_deref().unwrap_or_default();
        match reason {
            "ImagePullBackOff" | "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName" => Some(Trouble {
                reason: "ImageNotFound".to_owned(),
                message: format!("image {} cannot be pulled{}", container.image, cause(detail)),
            }),
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Some(Trouble {
                reason: "ContainerNotStarted".to_owned(),
                message: format!("{who} cannot be started: {detail}"),
            }),
            "CrashLoopBackOff" => Some(Trouble {
                reason: "Crashing".to_owned(),
                message: format!("{who} ended {} times, last with {}", container.restart_count, exit(container)),
            }),
            _ => None,
        }
    })
}

/// The cause alone: the rest of the text changes between one try and the next.
fn cause(detail: &str) -> String {
    let cause = detail.rsplit("ErrImagePull: ").next().unwrap_or_default();
    if cause.is_empty() || cause.starts_with("Back-off") { String::new() } else { format!(": {cause}") }
}

fn exit(container: &ContainerStatus) -> String {
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    last.map_or_else(
        || "an unknown code".to_owned(),
        |last| match last.reason.as_deref() {
            Some("OOMKilled") => "OOMKilled: give it more memory in spec.container.resources.limits".to_owned(),
            _ => format!("exit code {}", last.exit_code),
        },
    )
}

fn unschedulable(pod: &Pod) -> Option<Trouble> {
    let (status, message) = condition(pod, "PodScheduled")?;
    (status == "False")
        .then(|| Trouble { reason: "Unschedulable".to_owned(), message: format!("no node takes the pod: {message}") })
}

fn condition<'a>(pod: &'a Pod, r#type: &str) -> Option<(&'a str, &'a str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == r#type)?;
    Some((&condition.status, condition.message.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "agent-ledger-0"}, "status": status})).unwrap()
    }

    fn waiting_for(reason: &str) -> Pod {
        pod(&json!({"containerStatuses": [{
            "name": "agent", "image": "x:1", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": reason, "message": "not found"}},
            "lastState": {"terminated": {"exitCode": 7}},
        }]}))
    }

    #[test]
    fn a_missing_image_is_named() {
        let trouble = trouble(&[waiting_for("ImagePullBackOff")]).unwrap();
        assert_eq!(trouble.reason, "ImageNotFound");
        assert_eq!(trouble.message, "image x:1 cannot be pulled: not found");
    }

    #[test]
    fn a_crash_loop_tells_the_exit_code_and_a_start_is_no_trouble() {
        assert_eq!(
            trouble(&[waiting_for("CrashLoopBackOff")]).unwrap().message,
            "the agent's container ended 3 times, last with exit code 7"
        );
        assert_eq!(trouble(&[waiting_for("ContainerCreating")]), None);
    }

    #[test]
    fn a_pod_that_fits_nowhere_says_so() {
        let pod = pod(&json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}));
        assert_eq!(trouble(&[pod]).unwrap().reason, "Unschedulable");
    }
}
