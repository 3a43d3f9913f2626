//! The product's own client, called as a user would call it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use super::installation::variable;

/// What a call gave.
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(variable("RHIZON_CLI"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Calls for one workspace.
pub(crate) struct Rhizon {
    workspace: String,
}

impl Rhizon {
    pub(crate) fn of(workspace: &str) -> Self {
        Self { workspace: workspace.to_owned() }
    }

    fn spawn(&self, args: &[&str]) -> Child {
        let mut command = command();
        command.args(args).args(["--workspace", &self.workspace]);
        command.spawn().unwrap_or_else(|error| panic!("the client does not start: {error}"))
    }

    pub(crate) async fn try_call(&self, args: &[&str]) -> Answer {
        let output = self.spawn(args).wait_with_output().await.expect("waiting for the client");
        answer(&output)
    }

    /// Where failing is no possible outcome.
    pub(crate) async fn call(&self, args: &[&str]) -> String {
        let Answer { code, stdout, stderr } = self.try_call(args).await;
        assert_eq!(code, Some(0), "rhizon {} failed: {stdout}{stderr}", args.join(" "));
        stdout
    }

    pub(crate) async fn publish(&self, file: &Path) {
        self.publishing(file).done().await;
    }

    /// Publishes beside what the test does; it goes on trying while something is away.
    pub(crate) fn publishing(&self, file: &Path) -> Publishing {
        let file = file.to_str().expect("a path in UTF-8");
        Publishing(self.spawn(&["publish", file, "--batch", "100", "--patience", "5m"]))
    }

    /// Every entity's state of an agent, or what stood in the way.
    pub(crate) async fn states(&self, agent: &str) -> Result<BTreeMap<String, Value>, String> {
        let answer = self.try_call(&["state", agent, "-o", "json"]).await;
        if answer.code != Some(0) {
            return Err(answer.stderr);
        }
        let answer: Value = serde_json::from_str(&answer.stdout).expect("`rhizon state -o json` prints JSON");
        let items = answer["items"].as_array().expect("a list of entities");
        Ok(items.iter().map(|item| (text(&item["entity"]), item["state"].clone())).collect())
    }

    /// Checks an agent's journal and answers its root.
    pub(crate) async fn verify(&self, agent: &str) -> String {
        root(&self.call(&["verify", agent, "-o", "json"]).await)
    }

    /// Checks the journals of all shards and answers their roots.
    pub(crate) async fn verify_shards(&self, agent: &str) -> Vec<String> {
        self.call(&["verify", agent, "-o", "json"]).await.lines().map(root).collect()
    }

    /// Every record of an agent's journal.
    pub(crate) async fn export(&self, agent: &str) -> Vec<Value> {
        let journal = self.call(&["export", agent]).await;
        journal.lines().map(|line| serde_json::from_str(line).expect("a record is JSON")).collect()
    }
}

/// A `rhizon publish` that runs.
pub(crate) struct Publishing(Child);

impl Publishing {
    pub(crate) async fn done(self) {
        let Answer { code, stderr, .. } = answer(&self.0.wait_with_output().await.expect("waiting for the client"));
        assert_eq!(code, Some(0), "publishing failed: {stderr}");
    }
}

/// The root in what `rhizon verify -o json` printed.
pub(crate) fn root(report: &str) -> String {
    let report: Value = serde_json::from_str(report).expect("`rhizon verify -o json` prints JSON");
    assert_eq!(report["sound"], true, "{report}");
    text(&report["root"])
}

fn answer(output: &Output) -> Answer {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Answer { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
