//! Where the example's agents keep their states and journals, and what has to be there for it.

use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum as _;

use crate::cluster::Cluster;
use crate::exec;

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum Store {
    #[default]
    #[value(name = "SQLite")]
    Sqlite,
    #[value(name = "JetStream")]
    JetStream,
    #[value(name = "Postgres")]
    Postgres,
}

impl Store {
    /// An agent's store can't be changed: of an earlier demo's agents it must be this one.
    pub(crate) fn check(self, cluster: &Cluster, workspace: &str) -> Result<()> {
        let path = "jsonpath={.items[*].spec.store.kind}";
        let mut get = cluster.kubectl(["get", "rhizonagents", "--namespace", workspace, "-o", path])?;
        // On a new cluster there is no such kind of resource.
        let kinds = exec::output(&mut get).unwrap_or_default();
        let wanted = self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        match kinds.split_whitespace().find(|kind| *kind != wanted) {
            None => Ok(()),
            Some(other) => bail!(
                "the agents of an earlier demo keep their states in {other}, and an agent's store can't be changed; \
                 `cargo xtask down` removes them with their cluster"
            ),
        }
    }

    /// Brings up what this store needs besides Rhizon, in the workspace that is there.
    pub(super) fn prepare(self, cluster: &Cluster, examples: &Path) -> Result<()> {
        let Self::Postgres = self else { return Ok(()) };
        exec::run(cluster.kubectl(["apply", "-f"])?.arg(examples.join("postgres")))?;
        let args = ["rollout", "status", "statefulset/postgres", "--namespace", "databases", "--timeout", "120s"];
        exec::run(&mut cluster.kubectl(args)?)
    }

    /// The agents' YAML with this store.
    pub(super) fn choose(self, agents: &str) -> String {
        let store = match self {
            Self::Sqlite => return agents.to_owned(),
            Self::JetStream => "kind: JetStream",
            Self::Postgres => "kind: Postgres, secretRef: database",
        };
        agents.replace("\nspec:\n", &format!("\nspec:\n  store: {{{store}}}\n"))
    }
}
