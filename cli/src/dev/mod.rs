//! `rhizon dev`: a workspace on this machine, from the same YAML as in a cluster.
//!
//! ```text
//!  client ──HTTP──▶ gateway ──▶ stream (a file) ──▶ driver ──HTTP──▶ agent (a child process)
//!                                    ▲                │ ▲
//!                                    └── outputs ◀────┘ └─▶ store (SQLite)      everything but the agents in this process
//! ```
//!
//! Kernel, driver, stores and gateway are those of a cluster. Broker, operator and containers are not there, so nothing
//! of isolation is: this is for writing agents.

mod agent;
mod child;
mod expect;
mod manifest;
mod stack;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::args::{self, Output, Target};
use crate::client::Client;
use crate::failure::Failure;
use crate::publish;
pub(crate) use child::become_agent;
use manifest::Manifest;
use stack::Stack;

/// Streams and stores stand here, in the folder of the YAML.
const STATE: &str = ".rhizon";

/// Runs until Ctrl-C, or with `--once` until what was asked for is done.
pub(crate) async fn run(args: &args::Dev, output: Output) -> Result<(), Failure> {
    init_logs();
    let manifest = Manifest::read(&args.dir)?;
    let state = args.state.clone().unwrap_or_else(|| args.dir.join(STATE));
    let _lock = lock(&state)?;
    let mut stop = stop_signal()?;

    let mut stack = Stack::start(&manifest, &state, args).await?;
    say_what_runs(&manifest, stack.url());
    let url = stack.url().to_owned();
    let up = stack.agents_up();
    let result = tokio::select! {
        done = job(&manifest, &url, up, args, output) => done,
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        failure = stack.broken() => Err(failure),
    };
    eprintln!("stopping");
    let stopped = stack.stop().await;
    // What was under way at Ctrl-C ends with an error of its own, and was asked to.
    if *stop.borrow() { stopped } else { result.and(stopped) }
}

/// What `--events` and `--expect` ask for; without `--once` it never ends by itself.
async fn job(
    manifest: &Manifest,
    url: &str,
    agents_up: impl Future<Output = ()>,
    args: &args::Dev,
    output: Output,
) -> Result<(), Failure> {
    agents_up.await;
    eprintln!("all agents are up");
    let begun = Instant::now();
    let mut client = Client::find(&Target::of_gateway(url)).await?;
    if let Some(events) = &args.events {
        publish::run(&mut client, &args::Publish::of_file(events), output).await?;
    }
    if let Some(file) = &args.expect {
        expect::check(&mut client, manifest, file, begun, output).await?;
    }
    if args.once { Ok(()) } else { std::future::pending().await }
}

fn say_what_runs(manifest: &Manifest, url: &str) {
    eprintln!("workspace {}", manifest.workspace);
    for agent in &manifest.agents {
        let (takes, gives) = (agent.spec.subscribes.join(", "), agent.spec.publishes.join(", "));
        let arrow = if gives.is_empty() { String::new() } else { format!(" -> {gives}") };
        eprintln!("  agent {}: {takes}{arrow}   ({})", agent.name, agent.command.join(" "));
    }
    eprintln!("  gateway {url}");
    eprintln!("  try:  rhizon --gateway {url} publish FILE");
    if let Some(agent) = manifest.agents.first() {
        eprintln!("        rhizon --gateway {url} state {}", agent.name);
    }
    eprintln!("Ctrl-C stops; the next start goes on from the stores");
}

/// Two processes on the same stores would take them from each other again and again.
fn lock(state: &Path) -> Result<File, Failure> {
    let cannot = |error: &dyn std::fmt::Display| Failure::Usage(format!("cannot use {}: {error}", state.display()));
    std::fs::create_dir_all(state).map_err(|error| cannot(&error))?;
    let file = File::create(state.join("lock")).map_err(|error| cannot(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(cannot(&"another `rhizon dev` runs with it; stop that, or give --state")),
        Err(TryLockError::Error(error)) => Err(cannot(&error)),
    }
}

/// Becomes true at Ctrl-C or SIGTERM.
fn stop_signal() -> Result<watch::Receiver<bool>, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::Usage(format!("cannot listen to signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        stop.send_replace(true);
    });
    Ok(stopped)
}

fn init_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,rhizon_runtime=warn"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    // It fails only when there is a subscriber already, which then does the same.
    let _ = logs.try_init();
}
