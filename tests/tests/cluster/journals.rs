//! Audit: `rhizon verify` computes a journal anew on the caller's machine and names the record that somebody touched.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::log::Log;
use crate::support::pods;
use crate::support::workspace::Workspace;

const NAME: &str = "test-journals";

/// In the middle of both journals.
const RECORD: u64 = 100;

/// Lines that follow each other are one row of the table.
const FIND: &str = r#"
first, lines = store.execute("SELECT sequence, lines FROM journal WHERE sequence <= ? ORDER BY sequence DESC", (record,)).fetchone()
lines = bytes(lines).split(b"\n")
"#;

/// Turns one letter of an activity, or of whatever the record decided, into another one.
const CHANGE_A_BYTE: &str = r#"
line = bytearray(lines[record - first])
place = line.index(b'"data":') + 12
line[place] = ord("x") if line[place] != ord("x") else ord("y")
lines[record - first] = bytes(line)
"#;

const REMOVE_A_LINE: &str = r"
del lines[record - first]
";

const WRITE: &str = r#"
store.execute("UPDATE journal SET lines = ? WHERE sequence = ?", (b"\n".join(lines), first))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_and_a_removed_line_are_named() {
    let cluster = Cluster::ready().await;
    let log = Log::sample();
    let workspace = Workspace::permits(&cluster, NAME).await;
    workspace.rhizon().publish(&log.events).await;
    workspace.result(&log).await;

    for agent in ["permits", "ledger"] {
        workspace.patch_agent(agent, json!({"operatingMode": "Suspended"})).await;
    }
    for agent in ["permits", "ledger"] {
        let pod = format!("agent-{agent}-0");
        cluster.gone(&workspace.pods(), &pod, Duration::from_mins(2)).await;
    }
    tamper(&workspace, &[("permits", CHANGE_A_BYTE), ("ledger", REMOVE_A_LINE)]).await;
    for agent in ["permits", "ledger"] {
        workspace.patch_agent(agent, json!({"operatingMode": "Running"})).await;
    }
    for agent in ["permits", "ledger"] {
        let report = refused(&workspace, agent).await;
        assert_eq!(report["sequence"], RECORD, "{agent}: {report}");
    }
}

/// What somebody with access to the volumes could do: the stores are opened as files.
async fn tamper(workspace: &Workspace, changes: &[(&str, &str)]) {
    let claims: Vec<String> = changes.iter().map(|(agent, _)| format!("store-agent-{agent}-0")).collect();
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    workspace.cluster.apply(&pods::tools(workspace.name, "burglar", &json!({"app": "burglar"}), &claims)).await;
    workspace.cluster.wait_for_pods(workspace.name, "app=burglar").await;
    for ((_, change), claim) in changes.iter().zip(&claims) {
        let program = format!(
            "import sqlite3\nrecord = {RECORD}\nstore = sqlite3.connect('/claims/{claim}/store.sqlite')\n{FIND}{change}{WRITE}\nstore.commit()\nprint(store.total_changes)"
        );
        let printed = pods::exec(&workspace.pods(), "burglar", "main", &["python3", "-c", &program]).await;
        assert_eq!(printed.as_deref(), Ok("1"), "rows that were changed");
    }
    let now = DeleteParams::default().grace_period(0);
    workspace.pods().delete("burglar", &now).await.expect("deleting a pod");
    workspace.cluster.gone::<Pod>(&workspace.pods(), "burglar", Duration::from_mins(1)).await;
}

/// The report of a `verify` that finds something wrong.
async fn refused(workspace: &Workspace, agent: &str) -> Value {
    crate::support::wait::until(&format!("{agent} is verified"), Duration::from_mins(1), async || {
        let answer = workspace.rhizon().try_call(&["verify", agent, "-o", "json"]).await;
        match answer.code {
            Some(1) => Ok(serde_json::from_str(&answer.stdout).expect("`rhizon verify -o json` prints JSON")),
            // The sidecar is not up yet.
            Some(3) => Err(answer.stderr),
            code => panic!("verify ends with {code:?}: {}{}", answer.stdout, answer.stderr),
        }
    })
    .await
}
