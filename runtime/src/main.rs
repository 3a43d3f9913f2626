//! The binary that runs beside an agent, and as a workspace's gateway.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// A batch of events is made and dropped in other orders, which glibc's allocator answers with splitting and joining of
/// blocks: a third of the CPU. SQLite's C goes by this one too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(name = "rhizon-runtime", version, about = "Rhizon's runtime: an agent's sidecar, or a workspace's gateway")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run beside an agent: take its events, ask it, make the effect durable, publish its outputs.
    Sidecar {
        /// The settings that the operator has written.
        #[arg(long, default_value = rhizon_api::settings::paths::SETTINGS)]
        settings: PathBuf,
    },
    /// Run a workspace's gateway: CloudEvents in, states and journals out.
    Gateway {
        #[arg(long, default_value = rhizon_api::settings::paths::SETTINGS)]
        settings: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    rhizon_runtime::telemetry::init_logs();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = stop_signal()?;
        match cli.command {
            Command::Sidecar { settings } => rhizon_runtime::sidecar::run(read(&settings)?, stop).await,
            Command::Gateway { settings } => rhizon_runtime::gateway::cluster::run(settings, stop).await,
        }
    })
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| format!("reading the settings {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("the settings {} are not understood", path.display()))
}

/// Becomes true at SIGTERM or Ctrl-C.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (stop, stopped) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stop.send_replace(true);
    });
    Ok(stopped)
}
