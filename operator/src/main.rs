//! The operator's command line.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use kube::Client;
use rhizon_operator::{
    check, controller, health, install, leader::Leader, metrics::Metrics, nats::pool::Pool, settings::Settings,
};
use std::time::Duration;

#[derive(Parser)]
#[command(name = "rhizon-operator", version, about = "Brings RhizonWorkspaces and RhizonAgents about")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the controllers, when this replica leads
    Run(Settings),
    /// Prints both custom resource definitions as YAML
    Crds,
    /// Checks that an installation is whole
    Check(Settings),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crds => print_crds(),
        Command::Run(settings) => runtime()?.block_on(run(settings)),
        Command::Check(settings) => runtime()?.block_on(async {
            let client = Client::try_default().await.context("connecting to the API server")?;
            Ok(check::run(&client, &settings).await?)
        }),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the async runtime")
}

fn print_crds() -> anyhow::Result<()> {
    for crd in rhizon_api::crds() {
        print!("---\n{}", serde_norway::to_string(&crd)?);
    }
    Ok(())
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    let client = Client::try_default().await.context("connecting to the API server")?;
    let metrics = Metrics::default();
    let mut leader = Leader::new(&client, &settings);
    tokio::select! {
        served = health::serve(&settings.listen, metrics.clone()) => served.context("serving health and metrics"),
        led = lead(client, &settings, metrics.clone(), &mut leader) => led,
    }
}

/// Waits for its turn, works, and ends when it is asked to or when the lease is lost.
async fn lead(client: Client, settings: &Settings, metrics: Metrics, leader: &mut Leader) -> anyhow::Result<()> {
    tokio::select! {
        () = leader.acquire() => {}
        () = controller::stop() => return Ok(()),
    }
    tracing::info!(identity = settings.identity, "leading");
    metrics.leader.set(1);
    let work = async {
        let (broker, keys) = prepare(&client, settings).await;
        let pool = Pool::new(broker, keys);
        pool.wait_for_broker(BROKER_TIME).await;
        controller::run(client.clone(), settings.clone(), pool, metrics).await;
    };
    tokio::select! {
        () = work => leader.release().await,
        () = leader.hold() => anyhow::bail!("the lease was lost; another replica leads"),
        () = keep_prepared(&client, settings) => {}
    }
    Ok(())
}

/// How long a new leader waits for the broker before it begins without it.
const BROKER_TIME: Duration = Duration::from_secs(10);

/// Tries until the installation's keys are there.
async fn prepare(
    client: &Client,
    settings: &Settings,
) -> (rhizon_operator::nats::connect::Broker, rhizon_operator::nats::keys::Installation) {
    loop {
        match install::prepare(client, settings).await {
            Ok(prepared) => return prepared,
            Err(error) => tracing::warn!(%error, "the installation is not prepared; trying again"),
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

/// The broker's Secret comes back when somebody deletes it, and its certificate is renewed in time.
async fn keep_prepared(client: &Client, settings: &Settings) {
    loop {
        tokio::time::sleep(Duration::from_mins(10)).await;
        if let Err(error) = install::prepare(client, settings).await {
            tracing::warn!(%error, "the broker's Secret was not looked after");
        }
    }
}
