//! `rhizon`, also `kubectl rhizon`: publish events to a workspace, look at what its agents keep, verify their journals, and
//! run a workspace on this machine.

mod args;
mod client;
mod dev;
mod failure;
mod output;
mod publish;
mod show;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};
use client::Client;
use failure::Failure;

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
    match command {
        Command::Dev(dev) => dev::run(&dev, output).await,
        Command::Publish(publish) => publish::run(&mut Client::find(&target).await?, &publish, output).await,
        Command::State { agent, entity: None } => {
            show::entities(&mut Client::find(&target).await?, &agent, output).await
        }
        Command::State { agent, entity: Some(entity) } => {
            show::entity(&mut Client::find(&target).await?, &agent, &entity, output).await
        }
        Command::History { agent, entity } => {
            show::history(&mut Client::find(&target).await?, &agent, &entity, output).await
        }
        Command::Verify { agent: Some(agent), .. } => {
            verify::agent(&mut Client::find(&target).await?, &agent, output).await
        }
        Command::Verify { file, .. } => verify::file(&file.unwrap_or_default(), output).await,
        Command::Export { agent } => verify::export(&mut Client::find(&target).await?, &agent).await,
        Command::AgentProcess { parent, command } => Err(dev::become_agent(parent, &command)),
        Command::Status => show::status(&mut Client::find(&target).await?, output).await,
    }
}
