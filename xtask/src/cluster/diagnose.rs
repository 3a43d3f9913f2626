//! What one would look at first when something on the cluster failed: printed before the cluster is taken away.

use super::Cluster;
use crate::exec;

const LOOKS: &[&str] = &[
    "get pods -A -o wide",
    "get rhizonworkspaces,rhizonagents -A -o wide",
    "get events -A --sort-by=.lastTimestamp --field-selector type=Warning",
];

/// Never fails: it follows a failure that must not be hidden.
pub(crate) fn diagnose(cluster: &Cluster) {
    for look in LOOKS {
        print(cluster, look);
    }
    let path = r#"{range .items[*]}{.metadata.namespace} {.metadata.name}{"\n"}{end}"#;
    let pods = cluster
        .kubectl(["get", "pods", "-A", "-o", &format!("jsonpath={path}")])
        .and_then(|mut kubectl| exec::output(&mut kubectl))
        .unwrap_or_default();
    for (namespace, pod) in pods.lines().filter_map(|line| line.split_once(' ')) {
        if namespace != "kube-system" {
            print(cluster, &format!("logs -n {namespace} {pod} --all-containers --prefix --tail=15"));
        }
    }
}

fn print(cluster: &Cluster, words: &str) {
    let answer = cluster.kubectl(words.split(' ')).and_then(|mut kubectl| exec::output(&mut kubectl));
    let text = answer.unwrap_or_else(|error| format!("{error:#}"));
    let lines: Vec<&str> = text.trim_end().lines().collect();
    eprintln!("\n$ kubectl {words}");
    for line in &lines[lines.len().saturating_sub(40)..] {
        eprintln!("{line}");
    }
}
