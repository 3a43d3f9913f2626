//! `cargo xtask`: everything around the product that is not the product. Cluster, images, demo, tests.

mod cluster;
mod dirs;
mod exec;
mod images;
mod netpol;
mod tools;
mod ui;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, runs and tests Rhizon", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring up a cluster: with Docker and kind where they work, otherwise as processes of this machine (Linux, root)
    Up,
    /// Remove the cluster and everything it made; built tools stay in the cache
    Down,
    /// Print how to point kubectl at the cluster
    Kubeconfig,
    /// Build the images and load them into the cluster
    Images {
        /// Only these: operator, runtime, ledger, permits, nats, tools
        parts: Vec<String>,
    },
    /// Build all pinned tools into the cache and print where they are
    Tools,
    /// The cluster's own helper, started by `up`
    #[command(hide = true)]
    Addons {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        state: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Up => cluster::up().map(drop),
        Command::Down => cluster::down(),
        Command::Kubeconfig => cluster::print_kubeconfig(),
        Command::Images { parts } => images::images(&parts),
        Command::Tools => tools::build_all(),
        Command::Addons { socket, state } => cluster::run_addons(&socket, &state),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
