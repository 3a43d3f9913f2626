//! Measures the whole pipeline with real processes: nats-server, a sidecar, an agent; or shows that a log has the same effects
//! whatever is between. `cargo xtask bench` builds what it needs and runs it.

mod agent;
mod cases;
mod events;
mod limits;
mod load;
mod pipeline;
mod processes;
mod relay;
mod report;
mod rig;
mod stores;
mod streams;
mod usage;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum as _};

use cases::{CASES, Case};
use events::matrix::Ways;
use stores::Store;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Throughput at saturation, and latency of single events and at half load, with each store.
    Run(Box<Options>),
    /// The agent that is measured with: it counts the events of an entity, and emits one for each.
    Agent,
}

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// The rhizon-runtime binary.
    #[arg(long)]
    pub runtime: PathBuf,
    /// Stores to measure; all when none is given.
    #[arg(long = "store", value_enum, ignore_case = true)]
    pub stores: Vec<Store>,
    /// Cases to measure, by the beginning of their names; all when none is given.
    #[arg(long = "case")]
    pub cases: Vec<String>,
    /// Events of the plain case; the others have a share of it.
    #[arg(long, default_value_t = 60_000)]
    pub count: usize,
    /// Run a log of permits through the agents of the example instead, in many ways, and compare states and roots. Without a
    /// file it is the real log where that is at hand, and the example's sample elsewhere.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "absent, without a file, with one")]
    events: Option<Option<PathBuf>>,
    /// What every entity's state must be in the end; without it, the result that stands beside the log.
    #[arg(long, value_name = "FILE", requires = "events")]
    pub expect: Option<PathBuf>,
    /// Leave out the latencies.
    #[arg(long)]
    pub throughput_only: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub ways: Ways,
}

impl Options {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn events_of(&self, case: Case) -> usize {
        ((self.count as f64 * case.share) as usize).max(100)
    }

    pub(crate) fn stores(&self) -> Vec<Store> {
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
            Command::Run(options) => match &options.events {
                Some(log) => events::run(&options, log.as_deref()).await,
                None => run(&options).await,
            },
        }
    })
}

async fn run(options: &Options) -> anyhow::Result<()> {
    eprintln!("measuring the limits");
    let mut idle = Vec::new();
    for store in options.stores() {
        idle.push((store, pipeline::idle(options, store).await?));
    }
    let count = options.count.min(limits::EVENTS);
    let sqlite = (count, limits::sqlite(count).await?);
    let limits = report::Limits { sqlite, replayed: limits::replay(count)?, idle };
    let mut measured = Vec::new();
    for case in CASES.into_iter().filter(|case| options.wants(case)) {
        let mut columns = Vec::new();
        for store in options.stores() {
            eprintln!("measuring {} with {}, {} events", case.name, store.name(), options.events_of(case));
            columns.push((store, pipeline::measure(options, case, store).await?));
        }
        measured.push(columns);
    }
    report::print(options, &limits, &measured);
    Ok(())
}
