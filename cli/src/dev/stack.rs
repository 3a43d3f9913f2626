//! Everything that runs in `rhizon dev`, started and stopped in order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rhizon_runtime::agent::http::HttpAgent;
use rhizon_runtime::bus::local::LocalStream;
use rhizon_runtime::gateway::local::{Agents, Stream};
use rhizon_runtime::gateway::{Gateway, Metrics, Policy};
use rhizon_runtime::telemetry::{Tracer, Traces};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::agent::Agent;
use super::manifest::Manifest;
use crate::args;
use crate::failure::Failure;

type Tasks = JoinSet<Result<(), Failure>>;

pub(super) struct Stack {
    url: String,
    gateway: CancellationToken,
    gateway_tasks: Tasks,
    agents: watch::Sender<bool>,
    agent_tasks: Tasks,
    traces: Traces,
    up: Vec<HttpAgent>,
}

impl Stack {
    pub(super) async fn start(manifest: &Manifest, state: &Path, args: &args::Dev) -> Result<Self, Failure> {
        let cannot =
            |what: &str, error: &dyn std::fmt::Display| Failure::Unreachable(format!("cannot {what}: {error}"));
        let listen = format!("listen on {}", args.listen);
        let listener = TcpListener::bind(args.listen).await.map_err(|error| cannot(&listen, &error))?;
        let address = listener.local_addr().map_err(|error| cannot(&listen, &error))?;
        let stream = LocalStream::open(&state.join("stream.sqlite")).await;
        let stream = stream.map_err(|error| cannot("open the stream", &error))?;

        let mut agents = Vec::new();
        for described in &manifest.agents {
            agents.push(Agent::open(described, &manifest.workspace, state, &stream).await?);
        }
        let traces = Traces::from_env("gateway").map_err(|error| cannot("trace", &error))?;
        let gateway = gateway(manifest, args, stream, &agents, traces.tracer())?;
        let stop_gateway = CancellationToken::new();
        let mut gateway_tasks = JoinSet::new();
        let token = stop_gateway.clone();
        gateway_tasks.spawn(async move {
            let served = gateway.serve(listener, token).await;
            served.map_err(|error| Failure::Unreachable(format!("the gateway has ended: {error}")))
        });

        let (stop_agents, _) = watch::channel(false);
        let up = agents.iter().map(Agent::http).collect();
        let mut agent_tasks = JoinSet::new();
        for agent in agents {
            agent_tasks.spawn(agent.run(manifest.dir.clone(), stop_agents.subscribe()));
        }
        let url = format!("http://{address}");
        Ok(Self { url, gateway: stop_gateway, gateway_tasks, agents: stop_agents, agent_tasks, traces, up })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until every agent answers.
    pub(super) fn agents_up(&self) -> impl Future<Output = ()> + use<> {
        let agents = self.up.clone();
        async move {
            for agent in agents {
                while agent.describe().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Waits for the end of a part, none of which should end by itself.
    pub(super) async fn broken(&mut self) -> Failure {
        let ended = tokio::select! {
            Some(ended) = self.gateway_tasks.join_next() => ended,
            Some(ended) = self.agent_tasks.join_next() => ended,
            else => return std::future::pending().await,
        };
        match outcome(ended) {
            Ok(()) => Failure::Unreachable("a part has ended by itself".to_owned()),
            Err(failure) => failure,
        }
    }

    /// The gateway first, so that nothing new comes in; then the drivers, and each agent after its driver.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        self.gateway.cancel();
        while let Some(ended) = self.gateway_tasks.join_next().await {
            result = result.and(outcome(ended));
        }
        self.agents.send_replace(true);
        while let Some(ended) = self.agent_tasks.join_next().await {
            result = result.and(outcome(ended));
        }
        self.traces.close().await;
        result
    }
}

fn gateway(
    manifest: &Manifest,
    args: &args::Dev,
    stream: LocalStream,
    agents: &[Agent],
    tracer: Tracer,
) -> Result<Gateway, Failure> {
    let known = agents.iter().map(Agent::known).collect();
    let caller = manifest.caller(args.caller.as_deref())?;
    let policy = Policy::local(manifest.workspace.clone(), caller, manifest.access.clone(), known);
    let readers: BTreeMap<_, _> =
        agents.iter().map(|agent| (agent.name().to_owned(), (agent.store(), agent.report()))).collect();
    Ok(Gateway {
        policy: watch::channel(Arc::new(policy)).1,
        publisher: Arc::new(Stream(stream)),
        reader: Arc::new(Agents(readers)),
        metrics: Metrics::unregistered(),
        tracer,
    })
}

fn outcome(ended: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    ended.unwrap_or_else(|died| Err(Failure::Unreachable(format!("a part died: {died}"))))
}
