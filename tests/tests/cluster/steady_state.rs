//! A steady state writes nothing: counted where nobody can hide a write, in the API server's audit log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::ListParams;
use rhizon_api::{RhizonAgent, RhizonWorkspace};
use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::installation::{NAMESPACE, OPERATOR, variable};
use crate::support::log::Log;
use crate::support::pods;
use crate::support::wait::{holds, until};
use crate::support::workspace::Workspace;

const USER: &str = "system:serviceaccount:rhizon-system:rhizon-operator";
const PATIENCE: Duration = Duration::from_mins(3);

/// Reconciles by kind.
type Looks = BTreeMap<String, u64>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_look_at_an_unchanged_cluster_writes_nothing() {
    let cluster = Cluster::ready().await;
    let log = Log::sample();
    let workspace = Workspace::permits(&cluster, "test-steady").await;
    workspace.rhizon().publish(&log.events).await;
    workspace.effects(log.total()).await;
    until("nothing else is on its way out", PATIENCE, async || leaving(&cluster).await).await;
    // Where the journals end is published at most once a minute.
    until("the chain heads are published", PATIENCE, async || heads(&cluster, log.total() + 1).await).await;
    let audit = Audit::open();

    // Agents are looked at regularly; the first look after the events still has news for their status.
    let start = looks(&cluster).await.expect("a leader");
    more_looks(&cluster, &start, &["agent"], count::<RhizonAgent>(&cluster).await).await;
    let settled = looks(&cluster).await.expect("a leader");
    let mark = audit.end();
    more_looks(&cluster, &settled, &["agent"], 2 * count::<RhizonAgent>(&cluster).await).await;
    audit.expect_no_writes(mark, "looking again");

    // Another leader looks at everything anew.
    cluster.delete_pods(NAMESPACE, OPERATOR, 5).await;
    cluster.wait_for_pods(NAMESPACE, OPERATOR).await;
    more_looks(&cluster, &Looks::new(), &["agent"], count::<RhizonAgent>(&cluster).await).await;
    more_looks(&cluster, &Looks::new(), &["workspace"], count::<RhizonWorkspace>(&cluster).await).await;
    audit.expect_no_writes(mark, "a new leader");
}

/// Waits until the leader has looked so many more times.
async fn more_looks(cluster: &Cluster, before: &Looks, kinds: &[&str], more: u64) {
    until(&format!("{more} more looks at {kinds:?}"), PATIENCE, async || {
        let now = looks(cluster).await?;
        let of = |looks: &Looks, kind: &str| looks.get(kind).copied().unwrap_or_default();
        let enough = kinds.iter().all(|kind| of(&now, kind) >= of(before, kind) + more);
        holds(enough, format!("{before:?}, now {now:?}"))
    })
    .await;
}

/// How often the leader has looked, by its own metrics.
async fn looks(cluster: &Cluster) -> Result<Looks, String> {
    for pod in cluster.pods(NAMESPACE, OPERATOR).await {
        let metrics = pods::metrics(&cluster.within(NAMESPACE), &pod.name_any()).await?;
        if metrics.lines().any(|line| line == "rhizon_operator_leader 1") {
            return Ok(metrics.lines().filter_map(look).fold(Looks::new(), |mut all, (kind, count)| {
                *all.entry(kind).or_default() += count;
                all
            }));
        }
    }
    Err("no replica leads".to_owned())
}

/// Such as `rhizon_operator_reconciles_total{kind="agent",outcome="ok"} 17`.
fn look(line: &str) -> Option<(String, u64)> {
    let rest = line.strip_prefix("rhizon_operator_reconciles_total{kind=\"")?;
    let (kind, rest) = rest.split_once('"')?;
    Some((kind.to_owned(), rest.rsplit(' ').next()?.parse().ok()?))
}

async fn count<K>(cluster: &Cluster) -> u64
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let all = kube::Api::<K>::all(cluster.client.clone()).list(&ListParams::default()).await.expect("listing objects");
    all.items.len() as u64
}

/// Each journal's end is in the workspace's status: the config, and a record for each event.
async fn heads(cluster: &Cluster, records: u64) -> Result<(), String> {
    let got = cluster.all::<RhizonWorkspace>().get_status("test-steady").await;
    let status = got.map_err(|error| error.to_string())?.status.unwrap_or_default();
    let ends: Vec<u64> = status.chain_heads.iter().map(|head| head.sequence).collect();
    holds(ends == [records, records], format!("{ends:?}"))
}

/// Workspaces of other tests may still be on their way out, which takes writes.
async fn leaving(cluster: &Cluster) -> Result<(), String> {
    let all = cluster.all::<RhizonWorkspace>().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
    let leaving: Vec<String> =
        all.items.iter().filter(|one| one.metadata.deletion_timestamp.is_some()).map(ResourceExt::name_any).collect();
    holds(leaving.is_empty(), format!("{leaving:?}"))
}

/// The API server's own account of who wrote what.
struct Audit(PathBuf);

impl Audit {
    fn open() -> Self {
        Self(PathBuf::from(variable("RHIZON_AUDIT_LOG")))
    }

    fn end(&self) -> u64 {
        self.0.metadata().expect("the audit log").len()
    }

    fn expect_no_writes(&self, mark: u64, when: &str) {
        let mut file = File::open(&self.0).expect("the audit log");
        assert!(self.end() >= mark, "the audit log was rotated; run the test again");
        file.seek(SeekFrom::Start(mark)).expect("the audit log");
        let lines = BufReader::new(file).lines().map(|line| line.expect("the audit log"));
        // The last line may be on its way.
        let writes: Vec<String> = lines.filter_map(|line| write(&serde_json::from_str::<Value>(&line).ok()?)).collect();
        assert!(writes.is_empty(), "{when}: {} writes:\n{}", writes.len(), writes.join("\n"));
    }
}

/// A write of the operator, but for the lease by which it says that it leads.
fn write(entry: &Value) -> Option<String> {
    let verb = entry["verb"].as_str()?;
    let object = &entry["objectRef"];
    let is_write = ["create", "update", "patch", "delete", "deletecollection"].contains(&verb);
    if entry["user"]["username"] != USER || !is_write || object["resource"] == "leases" {
        return None;
    }
    Some(format!("{verb} {} by {}", entry["requestURI"], entry["userAgent"]))
}
