//! `cargo xtask demo`: the whole way of an event on a real cluster, from the client to the last effect, checked against an oracle.

mod progress;
mod store;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use rhizon_tests::permits::{self, Expected, States};
use serde_json::Value;

use crate::cluster::{self, Cluster};
use crate::{dirs, exec, images, tools, ui};
use progress::Workload;
pub(crate) use store::Store;

const WORKSPACE: &str = "permits";

pub(crate) fn demo(events: Option<PathBuf>, expect: Option<PathBuf>, store: Store) -> Result<()> {
    let sample = permits::Log::sample();
    // The sample brings its own result; with other events only the caller knows it.
    let expect = expect.or_else(|| events.is_none().then_some(sample.expected));
    let events = absolute(&events.unwrap_or(sample.events))?;
    let workload = Workload::read(&events)?;
    let expected = expect.map(|path| Expected::read(&path).map_err(Error::msg)).transpose()?;

    let cluster = cluster::up()?;
    store.check(&cluster, WORKSPACE)?;
    images::build_and_load(&cluster, &[])?;
    if cluster.kind {
        images::build_binaries()?;
    }
    let result = run(&cluster, &events, &workload, expected.as_ref(), store);
    if result.is_err() {
        cluster::diagnose(&cluster);
    }
    result?;
    ui::note("the cluster stays up: `cargo xtask kubeconfig` says how to look at it, `cargo xtask down` removes it");
    Ok(())
}

fn run(cluster: &Cluster, events: &Path, workload: &Workload, expected: Option<&Expected>, store: Store) -> Result<()> {
    let examples = dirs::repository().join("examples");
    let example = examples.join("permits");
    ui::step("helm install", || install(cluster))?;
    ui::step("workspace", || apply_workspace(cluster, &example))?;
    ui::step("store", || store.prepare(cluster, &examples))?;
    ui::step("agents", || apply_agents(cluster, &example, store))?;
    run_events(cluster, events, workload)?;
    ui::step("cluster", || show(cluster, &["get", "rhizonworkspaces,rhizonagents", "-A"]))?;
    for agent in ["permits", "ledger"] {
        ui::step(&format!("verify {agent}"), || exec::stream(&mut client(cluster, &["verify", agent])))?;
    }
    match expected {
        Some(expected) => ui::step("compare with the expected result", || compare(cluster, expected)),
        None => Ok(()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))
}

fn install(cluster: &Cluster) -> Result<()> {
    let helm = |args: &[&str]| -> Result<Command> {
        let mut command = exec::command(tools::path("helm")?, args);
        command.args(["--namespace", "rhizon-system"]).env("KUBECONFIG", cluster.kubeconfig());
        command.current_dir(dirs::repository());
        Ok(command)
    };
    if exec::succeeds(&mut helm(&["status", "rhizon"])?) {
        // Helm installs definitions once and leaves them alone then; those of an earlier demo may be older.
        let mut apply = cluster.kubectl(["apply", "--server-side", "--force-conflicts", "-f", "crds/"])?;
        exec::run(apply.current_dir(dirs::repository()))?;
    }
    let args = ["upgrade", "--install", "rhizon", "charts/rhizon", "--create-namespace", "--wait", "--timeout", "180s"];
    exec::run(&mut helm(&args)?)
}

fn apply_workspace(cluster: &Cluster, example: &Path) -> Result<()> {
    exec::run(cluster.kubectl(["apply", "-f"])?.arg(example.join("workspace.yaml")))?;
    let workspace = format!("rhizonworkspace/{WORKSPACE}");
    wait_ready(cluster, &["get", &workspace], "the workspace")
}

fn apply_agents(cluster: &Cluster, example: &Path, store: Store) -> Result<()> {
    exec::run(cluster.kubectl(["apply", "-f"])?.arg(example.join("access.yaml")))?;
    let agents = store.choose(&fs::read_to_string(example.join("agents.yaml"))?);
    let file = dirs::repository().join("target/demo-agents.yaml");
    fs::write(&file, agents)?;
    exec::run(cluster.kubectl(["apply", "-f"])?.arg(file))?;
    wait_ready(cluster, &["get", "rhizonagents", "--namespace", WORKSPACE], "the agents")
}

/// All the objects have the condition Ready for the generation that is there now.
fn wait_ready(cluster: &Cluster, get: &[&str], what: &str) -> Result<()> {
    ui::wait_for(what, Duration::from_mins(3), || {
        let mut kubectl = cluster.kubectl(get)?;
        let answer: Value = serde_json::from_str(&exec::output(kubectl.args(["-o", "json"]))?)?;
        let items = answer["items"].as_array().map_or_else(|| vec![&answer], |items| items.iter().collect());
        for item in &items {
            if let Err(reason) = readiness(item) {
                anyhow::bail!("{} {reason}", item["metadata"]["name"].as_str().unwrap_or_default());
            }
        }
        Ok((!items.is_empty()).then_some(()))
    })
}

fn readiness(item: &Value) -> Result<(), String> {
    let conditions = item["status"]["conditions"].as_array();
    let ready = conditions.and_then(|conditions| conditions.iter().find(|condition| condition["type"] == "Ready"));
    let Some(ready) = ready else { return Err("has no condition Ready yet".to_owned()) };
    let of_this = item["status"]["observedGeneration"] == item["metadata"]["generation"];
    if ready["status"] == "True" && of_this {
        return Ok(());
    }
    Err(format!(
        "is not ready: {} {}",
        ready["reason"].as_str().unwrap_or_default(),
        ready["message"].as_str().unwrap_or_default()
    ))
}

/// Publishes, and waits until the last agent has handled the last event.
fn run_events(cluster: &Cluster, events: &Path, workload: &Workload) -> Result<()> {
    let start = Instant::now();
    ui::step(&format!("publish {} events", workload.events), || {
        exec::stream(client(cluster, &["publish"]).arg(events))
    })?;
    ui::step("effects", || {
        progress::wait(workload, || states(cluster, "ledger"))?;
        let took = start.elapsed();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = workload.events as f64 / took.as_secs_f64();
        ui::note(&format!("from publishing to the last effect: {}, {rate:.0} events/s", ui::seconds(took)));
        Ok(())
    })
}

fn compare(cluster: &Cluster, expected: &Expected) -> Result<()> {
    expected.compare(&states(cluster, "permits")?, &states(cluster, "ledger")?).map_err(Error::msg)?;
    ui::note(&format!("{} applications and {} officers all equal", expected.permits.len(), expected.ledger.len()));
    Ok(())
}

/// Every entity's state of an agent.
fn states(cluster: &Cluster, agent: &str) -> Result<States> {
    let answer = exec::output(&mut client(cluster, &["state", agent, "-o", "json"]))?;
    let answer: Value = serde_json::from_str(&answer).context("`rhizon state -o json` printed no JSON")?;
    let items = answer["items"].as_array().context("`rhizon state -o json` printed no items")?;
    let entity = |item: &Value| Some((item["entity"].as_str()?.to_owned(), item["state"].clone()));
    items.iter().map(|item| entity(item).context("an item has no entity")).collect()
}

fn show(cluster: &Cluster, args: &[&str]) -> Result<()> {
    exec::stream(&mut cluster.kubectl(args)?)
}

/// The product's own client, as a user would call it.
fn client(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = exec::command(dirs::repository().join("target/release/rhizon"), args);
    command.args(["--workspace", WORKSPACE]).env("KUBECONFIG", cluster.kubeconfig());
    command
}
