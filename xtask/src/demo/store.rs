//! Where the example's agents keep their states and journals, and what has to be there for it.

use std::path::Path;

use anyhow::Result;

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
