//! Measures the whole pipeline with real processes: nats-server, a sidecar, an agent. `cargo xtask bench` builds what it
//! needs and runs it.

mod agent;
mod pipeline;
mod report;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Throughput at saturation, and latency of single events.
    Run(Options),
    /// The agent that is measured with: it counts the events of an entity, and emits one for each.
    Agent,
}

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// The rhizon-runtime binary.
    #[arg(long)]
    pub runtime: PathBuf,
    /// Events of one run.
    #[arg(long, default_value_t = 100_000)]
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
                let figures = pipeline::measure(&options).await?;
                report::print(&options, &figures);
                Ok(())
            }
        }
    })
}
