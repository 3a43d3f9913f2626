//! What the audit commands say about a workspace in which something goes wrong, and how it is put right. Needs python3.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{Running, dev, rhizon, text};
use serde_json::{Value, json};

const WORKSPACE: &str = r#"
apiVersion: rhizon.dev/v1alpha1
kind: RhizonWorkspace
metadata: {name: parcels}
spec:
  gateway:
    access:
      - {subject: porter, send: [cmd.parcel.weigh, ctl.dead.*, ctl.timer.cancel], sources: [/dock], read: true}
---
apiVersion: rhizon.dev/v1alpha1
kind: RhizonAgent
metadata: {name: scale, namespace: parcels, annotations: {rhizon.dev/dev-command: '["python3", "agent.py"]'}}
spec:
  subscribes: [cmd.parcel.weigh]
  publishes: [evt.parcel.weighed]
  startFrom: Beginning
  retry: {attempts: 2, initial: 10ms, max: 10ms}
  container: {image: scale}
---
apiVersion: rhizon.dev/v1alpha1
kind: RhizonAgent
metadata: {name: total, namespace: parcels, annotations: {rhizon.dev/dev-command: '["python3", "agent.py"]'}}
spec: {subscribes: [evt.parcel.weighed], startFrom: Beginning, container: {image: total}}
"#;

/// Keeps the sum of weights and the last one; fails for as long as the file `broken` is there.
const AGENT: &str = r#"
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Agent(BaseHTTPRequestHandler):
    def answer(self, status, value):
        self.send_response(status); self.end_headers(); self.wfile.write(json.dumps(value).encode())
    def log_message(self, *_): pass
    def do_GET(self): self.answer(200, {"protocol": "v1", "types": []})
    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if os.path.exists("broken"): return self.answer(500, {"detail": "the scale is broken"})
        event, state = call["envelope"], call["state"]["data"] or {"sum": 0, "last": None, "unit": "kg"}
        weight = event["data"]["weight"]
        state = {**state, "sum": state["sum"] + weight, "last": {"weight": weight}}
        weighed = {"type": "evt.parcel.weighed", "subject": "all", "data": {"weight": weight}}
        self.answer(200, {"outputs": [weighed] if event["type"] == "cmd.parcel.weigh" else [], "state": state})
host, port = os.environ["RHIZON_LISTEN"].split(":")
HTTPServer((host, int(port)), Agent).serve_forever()
"#;

/// A running workspace, and its folder.
struct World {
    folder: tempfile::TempDir,
    dev: Running,
    url: String,
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("workspace.yaml"), WORKSPACE).unwrap();
        std::fs::write(folder.path().join("agent.py"), AGENT).unwrap();
        let mut dev = Running::start(&mut dev(folder.path(), &folder.path().join("state")));
        let url = dev.wait_for("  gateway ").trim().trim_start_matches("gateway ").to_owned();
        dev.wait_for("all agents are up");
        Self { folder, dev, url }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        rhizon().args(["--gateway", &self.url]).args(arguments).output().unwrap()
    }

    /// What a command that must succeed prints.
    fn say(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {:?}", text(&output));
        text(&output).0
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.say(&[arguments, &["-o", "json"]].concat())).unwrap()
    }

    fn publish(&self, id: &str, parcel: &str, weight: u32, attribute: Option<(&str, &str)>) {
        let mut event = json!({
            "specversion": "1.0", "id": id, "source": "/dock", "type": "cmd.parcel.weigh", "subject": parcel,
            "data": {"weight": weight}
        });
        if let Some((name, value)) = attribute {
            event[name] = value.into();
        }
        let file = self.path("events.ndjson");
        std::fs::write(&file, format!("{event}\n")).unwrap();
        self.say(&["publish", file.to_str().unwrap()]);
    }

    /// Waits for an outcome of an event at an agent.
    fn outcome(&self, source: &str, id: &str, agent: &str, outcome: &str) -> Value {
        until(&format!("{id} is {outcome}"), || {
            let output = self.run(&["event", source, id, "-o", "json"]);
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let all = answer["outcomes"].as_array().cloned().unwrap_or_default();
            all.into_iter().find(|found| found["agent"] == agent && found["outcome"] == outcome)
        })
    }

    fn export(&self, agent: &str, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, self.run(&["export", agent]).stdout).unwrap();
        path
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
    }
}

/// The thirty lines of Python that need nothing of Rhizon.
fn verified_by_python(export: &Path) -> Output {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/verify_export.py");
    assert!(std::fs::read_to_string(&program).unwrap().lines().count() <= 30);
    Command::new("python3").arg(program).arg(export).output().unwrap()
}

#[test]
fn a_dead_letter_is_found_and_sent_again() {
    let world = World::start();
    std::fs::write(world.path("broken"), "").unwrap();
    world.publish("1", "p", 3, None);
    world.publish("2", "q", 4, None);
    let dead = world.outcome("/dock", "1", "scale", "dead-lettered");
    assert_eq!(dead["reason"]["code"], "agent_failed");
    world.outcome("/dock", "2", "scale", "dead-lettered");

    let listed = world.json(&["dead", "list", "scale"]);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2), "{listed}");
    let one = world.json(&["dead", "list", "scale", "--entity", "p", "--type", "cmd.parcel.weigh"])["items"][0].clone();
    assert_eq!((&one["id"], &one["reason"]["code"]), (&json!("1"), &json!("agent_failed")));
    let key = one["key"].as_str().unwrap();
    assert!(world.say(&["dead", "show", "scale", &key[..10]]).contains("the scale is broken"));
    assert_eq!(world.run(&["dead", "show", "scale", "0000"]).status.code(), Some(1));
    let unclear = world.run(&["dead", "drop", "scale"]);
    assert_eq!((unclear.status.code(), text(&unclear).1.contains("--all")), (Some(2), true));

    std::fs::remove_file(world.path("broken")).unwrap();
    assert!(world.say(&["dead", "redrive", "scale", &key[..10]]).contains("1 dead letters sent again"));
    let again = rhizon_kernel::identity::redrive_id(&key.to_owned().try_into().unwrap(), "scale");
    world.outcome("/gateway/redrive/scale", &again, "scale", "processed");
    world.say(&["dead", "drop", "scale", "--entity", "q"]);
    until("all are dealt with", || (world.json(&["dead", "list", "scale"])["items"] == json!([])).then_some(()));

    let tree = until("the effect is there", || {
        Some(world.say(&["trace", "1"])).filter(|tree| tree.contains("total: processed"))
    });
    for part in ["scale: dead-lettered p", "ctl.dead.redrive", "scale: noted p", &again, "  ◀", "by porter"] {
        assert!(tree.contains(part), "{part} is not in\n{tree}");
    }
    assert!(world.say(&["verify", "scale"]).contains("are sound"));
    world.dev.interrupt();
}

#[test]
fn a_timer_waits_and_is_taken_back() {
    let world = World::start();
    world.publish("later", "p", 3, Some(("deliverat", "2030-01-01T00:00:00Z")));
    let waiting = world.outcome("/dock", "later", "scale", "waiting");
    assert_eq!(waiting["until"], "2030-01-01T00:00:00Z");
    assert!(world.say(&["cancel", "/dock", "later"]).contains("agent scale was told"));
    let rejected = world.outcome("/dock", "later", "scale", "rejected");
    assert_eq!(rejected["reason"]["code"], "cancelled");
    assert_eq!(world.run(&["cancel", "/dock", "later"]).status.code(), Some(1));
    world.dev.interrupt();
}

#[test]
fn every_state_can_be_explained() {
    let world = World::start();
    for (id, weight) in [("1", 3), ("2", 4)] {
        world.publish(id, "p", weight, None);
        world.outcome("/dock", id, "scale", "processed");
    }
    let before = world.export("scale", "before.ndjson");
    world.publish("3", "p", 4, None);
    let third = world.outcome("/dock", "3", "scale", "processed");
    let sequence = |id: &str| world.outcome("/dock", id, "scale", "processed")["sequence"].to_string();

    let at = |at: &str| world.json(&["state", "scale", "p", "--at", at])["state"]["sum"].clone();
    assert_eq!([at(&sequence("1")), at(&sequence("2")), at(&sequence("3"))], [3, 7, 11].map(Value::from));
    assert_eq!(at(third["time"].as_str().unwrap()), 11);
    let all = world.json(&["state", "scale", "--at", &sequence("2")]);
    assert_eq!(all["items"][0]["state"]["sum"], 7);
    assert_eq!(world.run(&["state", "scale", "p", "--at", "2000-01-01T00:00:00Z"]).status.code(), Some(1));
    assert_eq!(world.run(&["state", "scale", "--at", "1000"]).status.code(), Some(1));

    let why = world.json(&["why", "scale", "p"]);
    let setters: Vec<(&str, &str)> = why["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| (field["field"].as_str().unwrap(), field["id"].as_str().unwrap()))
        .collect();
    assert_eq!(setters, [("/last", "2"), ("/sum", "3"), ("/unit", "1")]);
    assert!(world.say(&["why", "scale", "p", "last.weight"]).contains("porter"));
    assert_eq!(world.run(&["why", "scale", "p", "colour"]).status.code(), Some(1));
    let history = world.say(&["history", "scale", "p"]);
    let short_hash = |word: &str| word.len() == 12 && word.chars().all(|c| c.is_ascii_hexdigit());
    assert!(history.contains("REVISION") && history.split_whitespace().any(short_hash), "{history}");

    let after = world.export("scale", "after.ndjson");
    let diff = |a: &Path, b: &Path| {
        let output = rhizon().arg("diff").arg(a).arg(b).output().unwrap();
        (output.status.code(), text(&output))
    };
    assert_eq!(diff(&after, &after).0, Some(0));
    let (code, (out, err)) = diff(&before, &after);
    assert_eq!((code, err.contains("entity p: record")), (Some(1), true), "{err}");
    assert!(out.contains("ends before"), "{out}");
    world.dev.interrupt();
}

#[test]
fn an_export_is_verified_in_another_language() {
    let world = World::start();
    for (id, parcel) in [("1", "p"), ("2", "q"), ("3", "é \"x\""), ("4", "p"), ("5", "r")] {
        world.publish(id, parcel, 1, None);
    }
    let tail = world.outcome("/dock", "5", "scale", "processed");
    let export = world.export("scale", "export.ndjson");
    let root = world.say(&["verify", "--file", export.to_str().unwrap()]);
    let root = root.trim().rsplit(' ').next().unwrap();
    let sound = verified_by_python(&export);
    let expected = format!("{} records of 4 entities are sound; root {root}\n", tail["sequence"]);
    assert_eq!((sound.status.code(), text(&sound).0), (Some(0), expected));

    let journal = std::fs::read_to_string(&export).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    let without_third: Vec<&str> = [&lines[..2], &lines[3..]].concat();
    let tampered = [
        (
            "record 2: the link",
            journal.replacen(r#""sum": 1"#, r#""sum": 7"#, 1).replacen(r#""sum":1"#, r#""sum":7"#, 1),
        ),
        ("record 3: the link", without_third.join("\n") + "\n"),
        ("record 6: the end of the line", journal.trim_end().to_owned()),
    ];
    for (place, text_of) in tampered {
        std::fs::write(&export, text_of).unwrap();
        let wrong = verified_by_python(&export);
        assert_eq!((wrong.status.code(), text(&wrong).1), (Some(1), format!("{place} is wrong\n")));
    }
    world.dev.interrupt();
}

#[test]
fn who_publishes_may_wait_for_what_becomes_of_it() {
    let world = World::start();
    let event = r#"{"specversion":"1.0","id":"1","source":"/dock","type":"cmd.parcel.weigh","subject":"p","data":{"weight":1}}"#;
    let file = world.path("one.ndjson");
    std::fs::write(&file, event).unwrap();
    let said = world.say(&["publish", file.to_str().unwrap(), "--wait", "20"]);
    assert!(said.contains("processed") && said.contains("1 events accepted"), "{said}");
    std::fs::write(&file, event.replace(r#""weight":1"#, r#""weight":2"#)).unwrap();
    let reused = world.run(&["publish", file.to_str().unwrap()]);
    assert_eq!(reused.status.code(), Some(2));
    assert!(text(&reused).1.contains("line 1: id: this source and id were used"), "{:?}", text(&reused));
    world.dev.interrupt();
}
