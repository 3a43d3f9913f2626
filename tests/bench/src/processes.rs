//! Processes of a run. Each ends with its value, and has a file for what it says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rhizon_api::settings::Sidecar;
use rhizon_tests::nats::free_port;
use serde::Serialize;
use tokio::process::{Child, Command};

use crate::streams::nats;

/// On a loaded machine a start takes long.
const STARTS_WITHIN: Duration = Duration::from_mins(1);
/// How much of what a process has said is of interest when it fails.
const LAST_LINES: usize = 5;

pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn spawn(command: &mut Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
        let child =
            command.spawn().with_context(|| format!("starting {}", command.as_std().get_program().display()))?;
        Ok(Self { child, log })
    }

    /// An agent, once it listens.
    pub(crate) async fn agent(command: &mut Command, port: u16, log: PathBuf) -> anyhow::Result<Self> {
        let mut agent = Self::spawn(command.env("RHIZON_LISTEN", format!("127.0.0.1:{port}")), log)?;
        agent.listens(port).await?;
        Ok(agent)
    }

    /// The runtime with these settings, once it listens on the port; `pod` says which of an agent's pods it plays.
    pub(crate) async fn runtime(
        program: &Path,
        verb: &str,
        settings: &impl Serialize,
        pod: &str,
        dir: &Path,
        port: u16,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join("settings.json");
        std::fs::write(&file, serde_json::to_vec(settings)?)?;
        let mut command = Command::new(program);
        command.args([verb, "--settings"]).arg(&file).env("RUST_LOG", "error").env("POD_NAME", pod);
        let mut runtime = Self::spawn(&mut command, dir.join("log"))?;
        runtime.listens(port).await?;
        Ok(runtime)
    }

    async fn listens(&mut self, port: u16) -> anyhow::Result<()> {
        let began = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it has ended ({status}): {}", self.last_words());
            }
            if began.elapsed() > STARTS_WITHIN {
                bail!("nobody listens on port {port} after {} s", STARTS_WITHIN.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("it has ended")
    }

    /// As a crash would, with SIGKILL.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

/// Gives a process ports of its own, and tells it where broker and agent are.
pub(crate) fn bring_here(settings: &mut Sidecar, broker: &str, agent_port: u16) {
    settings.nats = nats(&settings.nats.user, broker);
    settings.agent_url = format!("http://127.0.0.1:{agent_port}");
    settings.health_listen = format!("127.0.0.1:{}", free_port());
    settings.drain_listen = format!("127.0.0.1:{}", free_port());
}

/// The port that a process with these settings answers `/readyz` on.
pub(crate) fn health_port(settings: &Sidecar) -> anyhow::Result<u16> {
    let (_, port) = settings.health_listen.rsplit_once(':').context("a health address with a port")?;
    Ok(port.parse()?)
}
