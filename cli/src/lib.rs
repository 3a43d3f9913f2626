//! `rhizon`, also `kubectl rhizon`: publish events to a workspace, look at what its agents keep and how they came to it,
//! verify their journals, deal with dead letters, and run a workspace on this machine.

mod args;
mod client;
mod dead;
mod dev;
mod event;
mod failure;
mod journal;
mod output;
mod progress;
mod publish;
mod show;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command, Output};
use client::Client;
use failure::Failure;
use journal::fold::At;

/// Runs the command line of this process; the exit code says how it went (see `docs/interfaces.md`).
pub fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::Usage(format!("cannot start: {error}")).report(),
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let Args { command, target, output } = args;
    let client = || Client::find(&target);
    match command {
        Command::Dev(dev) => dev::run(&dev, output).await,
        Command::Publish(publish) => publish::run(&mut client().await?, &publish, output).await,
        Command::State { agent, entity, at } => {
            state(&mut client().await?, &agent, entity.as_deref(), at, output).await
        }
        Command::History { agent, entity } => show::history(&mut client().await?, &agent, &entity, output).await,
        Command::Why { agent, entity, field } => {
            journal::why::run(&mut client().await?, &agent, &entity, field.as_deref(), output).await
        }
        Command::Trace { id, source } => {
            journal::trace::run(&mut client().await?, &id, source.as_deref(), output).await
        }
        Command::Event { source, id } => event::run(&mut client().await?, &source, &id, output).await,
        Command::Cancel { source, id, agent } => {
            event::cancel(&mut client().await?, &source, &id, agent.as_deref(), output).await
        }
        Command::Dead(dead) => dead::run(&mut client().await?, dead, output).await,
        Command::Diff { a, b } => journal::diff::run(&a, &b, output),
        Command::Verify { agent: Some(agent), .. } => verify::agent(&mut client().await?, &agent, output).await,
        Command::Verify { file, .. } => verify::file(&file.unwrap_or_default(), output).await,
        Command::Export { agent, shard } => verify::export(&mut client().await?, &agent, shard).await,
        Command::AgentProcess { parent, command } => Err(dev::become_agent(parent, &command)),
        Command::Status => show::status(&mut client().await?, output).await,
    }
}

async fn state(
    client: &mut Client,
    agent: &str,
    entity: Option<&str>,
    at: Option<At>,
    output: Output,
) -> Result<(), Failure> {
    match (entity, at) {
        (None, None) => show::entities(client, agent, output).await,
        (Some(entity), None) => show::entity(client, agent, entity, output).await,
        (None, Some(at)) => journal::fold::entities(client, agent, at, output).await,
        (Some(entity), Some(at)) => journal::fold::entity(client, agent, entity, at, output).await,
    }
}
