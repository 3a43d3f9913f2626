//! What an agent takes changes while events stream in: each is judged by the rules of its own place, and none is lost.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::pods::TOOLS_IMAGE;
use crate::support::wait::{holds, until};
use crate::support::workspace::Workspace;

const NAME: &str = "test-rules";
/// What is taken at first, and after the change; events are of both in turn.
const TYPES: [&str; 2] = ["cmd.permit.record", "cmd.permit.file"];
const PATIENCE: Duration = Duration::from_mins(2);

/// Takes everything, keeps how many of each type there were, and says nothing: events alone have places in the stream.
const COUNTER: &str = r#"
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Agent(BaseHTTPRequestHandler):
    def answer(self, value): self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(value).encode())
    def do_GET(self): self.answer({"protocol": "v1"})
    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state, kind = call["state"]["data"] or {}, call["envelope"]["type"]
        self.answer({"state": {**state, kind: state.get(kind, 0) + 1}})
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
host, port = os.environ["RHIZON_LISTEN"].split(":")
HTTPServer((host, int(port)), Agent).serve_forever()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_what_a_live_agent_takes_has_one_place_in_the_stream() {
    let cluster = Cluster::ready().await;
    let workspace = Workspace::bare(&cluster, NAME, json!({"gateway": {"access": [access()]}})).await;
    cluster.apply(&clerk()).await;
    cluster.apply(&agent()).await;
    workspace.agent_is_ready("counter").await;
    let mut events = Events { workspace: &workspace, published: 0 };
    events.publish(200).await;
    workspace.patch_agent("counter", json!({"subscribes": [TYPES[1]]})).await;
    until("the agent is ready again", PATIENCE, async || {
        events.publish(20).await;
        workspace.agent_readiness("counter").await
    })
    .await;
    events.publish(200).await;

    let place = until("each event is judged by the rules of its place", PATIENCE, async || {
        let journal = workspace.rhizon().export("counter").await;
        let place = journal.iter().filter_map(|record| record["config"]["from"].as_u64()).next_back().unwrap_or(0);
        let expected: Vec<Value> = (1..=events.published)
            .map(event)
            .zip(1..)
            .filter(|(event, at)| event["type"] == TYPES[usize::from(*at >= place)])
            .map(|(event, at)| json!([at, event["id"]]))
            .collect();
        let of = |record: &Value| json!([record["observed"]["stream"], record["decided"]["input"]["id"]]);
        let taken: Vec<Value> = journal.iter().filter(|record| record["decided"].is_object()).map(of).collect();
        let counts = (taken.len(), expected.len());
        holds(taken == expected, format!("place {place}, {counts:?} records")).map(|()| place)
    })
    .await;
    assert!((201..=events.published - 200).contains(&place), "{place} is not in the middle of the change");
    workspace.rhizon().verify("counter").await;
}

/// What is on the workspace's stream, in this order and with nothing in between.
struct Events<'a> {
    workspace: &'a Workspace,
    published: u64,
}

impl Events<'_> {
    async fn publish(&mut self, count: u64) {
        let places = self.published + 1..=self.published + count;
        let lines: Vec<String> = places.map(|place| event(place).to_string()).collect();
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), lines.join("\n")).expect("writing events");
        self.workspace.rhizon().publish(file.path()).await;
        self.published += count;
    }
}

/// The event that is published as the `place`th.
fn event(place: u64) -> Value {
    let kind = TYPES[usize::from(place.is_multiple_of(2))];
    let subject = format!("case-{}", place % 7);
    json!({"specversion": "1.0", "source": "/logs/rules", "id": place.to_string(), "type": kind, "subject": subject})
}

fn access() -> Value {
    json!({
        "issuer": "kubernetes", "subject": format!("system:serviceaccount:{NAME}:clerk"), "roles": ["clerk"],
        "send": TYPES, "sources": ["/logs/"], "read": true,
    })
}

fn clerk() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "clerk", "namespace": NAME},
        "automountServiceAccountToken": false,
    })
}

fn agent() -> Value {
    json!({
        "apiVersion": "rhizon.dev/v1alpha1", "kind": "RhizonAgent", "metadata": {"name": "counter", "namespace": NAME},
        "spec": {
            "subscribes": [TYPES[0]], "startFrom": "Beginning",
            "container": {"image": TOOLS_IMAGE, "command": ["python3", "-c", COUNTER]},
        },
    })
}
