//! An agent's process: started with the command of its YAML, started again when it ends, its output shown with its name.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::manifest::Described;
use crate::failure::Failure;

/// Between the end of a process and its next start.
const PAUSE: Duration = Duration::from_secs(1);

/// Between asking a process to end and ending it.
const STOP_TIME: Duration = Duration::from_secs(5);

pub(super) struct Child {
    described: Described,
    folder: PathBuf,
    listen: String,
    process: tokio::process::Child,
    output: JoinSet<()>,
}

impl Child {
    pub(super) fn start(described: Described, folder: PathBuf, listen: String) -> Result<Self, Failure> {
        let mut output = JoinSet::new();
        let process = spawn(&described, &folder, &listen, &mut output)?;
        Ok(Self { described, folder, listen, process, output })
    }

    /// Starts it again whenever it ends. The driver waits meanwhile, and no event is charged for it.
    pub(super) async fn supervise(&mut self) -> Failure {
        loop {
            let ended = self.process.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            eprintln!("{} | ended ({ended}); starting it again", self.described.name);
            tokio::time::sleep(PAUSE).await;
            match spawn(&self.described, &self.folder, &self.listen, &mut self.output) {
                Ok(process) => self.process = process,
                Err(failure) => return failure,
            }
        }
    }

    /// Asks it and what it has started to end, and ends what does not.
    pub(super) async fn stop(mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(STOP_TIME, self.process.wait()).await.is_err() {
            self.signal(Signal::KILL);
            let _ = self.process.wait().await;
        }
    }

    fn signal(&self, signal: Signal) {
        let group = self.process.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(group) = group {
            // It fails when the process has ended by itself.
            let _ = kill_process_group(group, signal);
        }
    }
}

fn spawn(
    described: &Described,
    folder: &Path,
    listen: &str,
    output: &mut JoinSet<()>,
) -> Result<tokio::process::Child, Failure> {
    let Described { name, command, environment, .. } = described;
    let cannot =
        |error: std::io::Error| Failure::Usage(format!("agent {name}: cannot start `{}`: {error}", command.join(" ")));
    let own = std::env::current_exe().map_err(cannot)?;
    let mut process = Command::new(own)
        .args(["agent-process", &std::process::id().to_string(), "--"])
        .args(command)
        .current_dir(folder)
        .env("RHIZON_LISTEN", listen)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: Ctrl-C reaches `rhizon dev` alone, which stops the agent after its driver.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)?;
    if let Some(stdout) = process.stdout.take() {
        output.spawn(show(name.clone(), stdout));
    }
    if let Some(stderr) = process.stderr.take() {
        output.spawn(show(name.clone(), stderr));
    }
    Ok(process)
}

/// The process of an agent, before it is one: it asks the system to end it when `rhizon dev` ends, however that ends, and
/// becomes the agent's command.
pub(crate) fn become_agent(parent: u32, command: &[OsString]) -> Failure {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return Failure::Usage(format!("cannot bind the agent's life to that of rhizon dev: {error}"));
    }
    if std::os::unix::process::parent_id() != parent {
        return Failure::Interrupted("rhizon dev has ended already".to_owned());
    }
    let Some((program, arguments)) = command.split_first() else { return Failure::Usage("no command".to_owned()) };
    let error = std::process::Command::new(program).args(arguments).exec();
    Failure::Usage(format!("cannot start {}: {error}", program.display()))
}

async fn show(name: String, stream: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{} | {line}", console::style(&name).cyan().for_stderr());
    }
}
