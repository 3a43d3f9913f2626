//! The workspace's gateway as a process, and a client of it.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rhizon_api::settings::{self, Access, Sidecar};
use rhizon_kernel::Limits;
use rhizon_tests::nats::free_port;
use rhizon_tests::tokens::{ISSUER, Issuer};
use serde::de::DeserializeOwned;

use crate::processes::Process;
use crate::streams;

/// Who sends and reads, as in the example's YAML.
const CLERK: &str = "system:serviceaccount:permits:clerk";
pub(super) const WORKSPACE: &str = "permits";

pub(super) struct Gateway {
    _process: Process,
    url: String,
    token: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Gateway {
    pub(super) async fn start(program: &Path, dir: &Path, broker: &str, agents: &[&Sidecar]) -> anyhow::Result<Self> {
        let (issuer, port) = (Issuer::new(), free_port());
        let agent = |sidecar: &&Sidecar| settings::Agent {
            name: sidecar.kernel.agent.clone(),
            subscribes: sidecar.kernel.subscribes.clone(),
            shards: u32::try_from(sidecar.shards.len()).unwrap_or(1),
        };
        let settings = settings::Gateway {
            workspace: WORKSPACE.into(),
            listen: format!("127.0.0.1:{port}"),
            health_listen: format!("127.0.0.1:{}", free_port()),
            nats: streams::nats("gateway", broker),
            issuers: vec![settings::Issuer { issuer: ISSUER.into(), jwks: issuer.jwks() }],
            access: vec![access()?],
            limits: Limits::default(),
            agents: agents.iter().map(agent).collect(),
        };
        let process = Process::runtime(program, "gateway", &settings, "gateway", dir, port).await;
        Ok(Self {
            _process: process.context("the gateway")?,
            url: format!("http://127.0.0.1:{port}"),
            token: issuer.token(CLERK, &format!("rhizon/{WORKSPACE}")),
            client: Client::builder(TokioExecutor::new()).build_http(),
        })
    }

    /// Events as they stand in a log, in one request: it is answered when the broker has them on disk.
    pub(super) async fn publish(&self, lines: &[String]) -> anyhow::Result<()> {
        let body = format!("[{}]", lines.join(","));
        let request = http::Request::post(format!("{}/v1/events", self.url))
            .header("content-type", "application/cloudevents-batch+json");
        self.call(request, body.into()).await.map(drop).context("publishing")
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        let request = http::Request::get(format!("{}{path}", self.url));
        self.call(request, Bytes::new()).await.with_context(|| format!("GET {path}"))
    }

    pub(super) async fn get_json<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }

    async fn call(&self, request: http::request::Builder, body: Bytes) -> anyhow::Result<Bytes> {
        let request = request.header("authorization", format!("Bearer {}", self.token)).body(Full::from(body))?;
        let answer = self.client.request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }
}

fn access() -> anyhow::Result<Access> {
    Ok(Access {
        issuer: ISSUER.into(),
        subject: CLERK.into(),
        roles: vec!["clerk".into()],
        send: vec!["cmd.permit.record".parse()?],
        sources: vec!["/".into()],
        read: true,
    })
}
