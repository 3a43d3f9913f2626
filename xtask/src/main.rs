//! `cargo xtask`: everything around the product that is not the product. Cluster, images, demo, tests.

mod bench;
mod checks;
mod cluster;
mod demo;
mod dirs;
mod exec;
mod generate;
mod images;
mod netpol;
mod packages;
mod simulate;
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
    /// Run the permits example on a cluster and check its result; the cluster stays up
    Demo {
        /// CloudEvents, one a line; without it a small sample
        #[arg(long, value_name = "FILE")]
        events: Option<PathBuf>,
        /// What every entity's state must be in the end
        #[arg(long, value_name = "FILE")]
        expect: Option<PathBuf>,
        /// Where the agents keep their states and journals; fixed once they are there. For Postgres a server comes with it
        #[arg(long, value_enum, default_value_t, ignore_case = true)]
        store: demo::Store,
    },
    /// Run all checks and tests
    Test {
        /// Leave out the tests on a cluster
        #[arg(long)]
        fast: bool,
    },
    /// Bring up a cluster: with Docker and kind where they work, otherwise as processes of this machine (Linux, root)
    Up,
    /// Remove the cluster and everything it made; built tools stay in the cache
    Down,
    /// Print how to point kubectl at the cluster
    Kubeconfig,
    /// Build the images and load them into the cluster
    Images {
        /// Only these: operator, runtime, ledger, permits, nats, tools, postgres
        parts: Vec<String>,
    },
    /// Write what is generated from code: the custom resource definitions
    Generate {
        /// Write nothing, fail when a file is outdated
        #[arg(long)]
        check: bool,
    },
    /// Measure throughput and latency with real processes, without a cluster; with --events, run a log in many ways
    Bench {
        /// For the benchmark, such as --count 100000 --json, or --events
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the driver in a simulated world, seed after seed
    Simulate {
        /// For the simulation, such as --seeds 100000 --from 1000, or --seeds 1 --from 17 --trace
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
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
        Command::Demo { events, expect, store } => demo::demo(events, expect, store),
        Command::Test { fast } => checks::test(fast),
        Command::Generate { check } => generate::generate(check),
        Command::Up => cluster::up().map(drop),
        Command::Down => cluster::down(),
        Command::Kubeconfig => cluster::print_kubeconfig(),
        Command::Images { parts } => images::images(&parts),
        Command::Bench { arguments } => bench::bench(&arguments),
        Command::Simulate { arguments } => simulate::simulate(&arguments),
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
