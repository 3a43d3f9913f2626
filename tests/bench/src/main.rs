//! Measures the whole pipeline with real processes: nats-server, a sidecar, an agent. `cargo xtask bench` builds what it
//! needs and runs it.

mod agent;
mod cases;
mod limits;
mod load;
mod pipeline;
mod report;
mod rig;
mod stores;
mod usage;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum as _};

use cases::{CASES, Case};
use stores::Store;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Throughput at saturation, and latency of single events and at half load, with each store.
    Run(Options),
    /// The agent that is measured with: it counts the events of an entity, and emits one for each.
    Agent,
}

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// The rhizon-runtime binary.
    #[arg(long)]
    pub runtime: PathBuf,
    /// Stores to measure; all when none is given.
    #[arg(long = "store", value_enum)]
    pub stores: Vec<Store>,
    /// Cases to measure, by the beginning of their names; all when none is given.
    #[arg(long = "case")]
    pub cases: Vec<String>,
    /// Events of the plain case; the others have a share of it.
    #[arg(long, default_value_t = 60_000)]
    pub events: usize,
    /// Leave out the latencies.
    #[arg(long)]
    pub throughput_only: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn count(&self, case: Case) -> usize {
        ((self.events as f64 * case.share) as usize).max(100)
    }

    fn stores(&self) -> Vec<Store> {
        if self.stores.is_empty() { Store::value_variants().to_vec() } else { self.stores.clone() }
    }

    fn wants(&self, case: &Case) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|name| case.name.starts_with(name.as_str()))
    }
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let threads = match cli.command {
        Command::Agent => 1,
        Command::Run(_) => 2,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Agent => agent::serve().await,
            Command::Run(options) => run(&options).await,
        }
    })
}

async fn run(options: &Options) -> anyhow::Result<()> {
    eprintln!("measuring the limits");
    let mut idle = Vec::new();
    for store in options.stores() {
        idle.push((store, pipeline::idle(options, store).await?));
    }
    let sqlite = (options.events, limits::sqlite(options.events).await?);
    let limits = report::Limits { sqlite, replayed: limits::replay(options.events)?, idle };
    let mut measured = Vec::new();
    for case in CASES.into_iter().filter(|case| options.wants(case)) {
        let mut columns = Vec::new();
        for store in options.stores() {
            eprintln!("measuring {} with {}, {} events", case.name, store.name(), options.count(case));
            columns.push((store, pipeline::measure(options, case, store).await?));
        }
        measured.push(columns);
    }
    report::print(options, &limits, &measured);
    Ok(())
}
