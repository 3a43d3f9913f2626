//! Measures the whole pipeline with real processes: nats-server, a sidecar, an agent. `cargo xtask bench` builds what it
//! needs and runs it.

mod agent;
mod load;
mod pipeline;
mod report;
mod stores;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum as _};

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
    pub stores: Vec<stores::Store>,
    /// Events of one run.
    #[arg(long, default_value_t = 60_000)]
    pub events: usize,
    #[arg(long, default_value_t = 1_000)]
    pub entities: usize,
    /// Bytes of an event's data.
    #[arg(long, default_value_t = 64)]
    pub bytes: usize,
    #[arg(long, default_value_t = 500)]
    pub batch: usize,
    #[arg(long, default_value_t = 500)]
    pub concurrency: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
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
            Command::Run(options) => {
                let stores = if options.stores.is_empty() {
                    stores::Store::value_variants().to_vec()
                } else {
                    options.stores.clone()
                };
                let mut measured = Vec::with_capacity(stores.len());
                for store in stores {
                    eprintln!("measuring with {}, {} events", store.name(), options.events);
                    measured.push((store, pipeline::measure(&options, store).await?));
                }
                report::print(&options, &measured);
                Ok(())
            }
        }
    })
}
