//! A sidecar as a process, perhaps with a failpoint.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rhizon_runtime::failpoint::{Step, VARIABLE};
use tokio::process::{Child, Command};

use crate::wait::until;

/// What happens at a step when it is reached the n-th time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    Killed(Step, u32),
    Stopped(Step, u32),
}

pub(crate) struct Sidecar {
    process: Child,
    log: PathBuf,
}

impl Sidecar {
    pub(crate) fn spawn(settings: &Path, log: PathBuf, fate: Option<Fate>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rhizon-runtime"));
        command.args(["sidecar", "--settings", settings.to_str().unwrap()]);
        if let Some(fate) = fate {
            let (step, time, what) = match fate {
                Fate::Killed(step, time) => (step, time, "kill"),
                Fate::Stopped(step, time) => (step, time, "stop"),
            };
            command.env(VARIABLE, format!("{}:{time}:{what}", step as u8));
        }
        let process =
            command.stdin(Stdio::null()).stderr(File::create(&log).unwrap()).kill_on_drop(true).spawn().unwrap();
        Self { process, log }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Whether it has come to the step that it was to be killed or stopped at.
    pub(crate) fn has_reached(&self, step: Step) -> bool {
        self.log().contains(&format!("failpoint: step {} ", step as u8))
    }

    /// Whether it is dead by now. It must have died at the step, and of nothing else.
    pub(crate) fn is_killed_at(&mut self, step: Step) -> bool {
        let Some(status) = self.process.try_wait().unwrap() else { return false };
        assert_eq!(status.signal(), Some(9), "{step:?}: {status}: {}", self.log());
        assert!(self.has_reached(step), "{step:?}: {}", self.log());
        true
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().expect("a process that has not ended")
    }

    /// Whether the kernel has stopped it.
    pub(crate) fn stands_still(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit(')').next().is_some_and(|fields| fields.starts_with(" T"))
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let process = &mut self.process;
        let log = &self.log;
        let look = async || process.try_wait().unwrap();
        until(look, || format!("the end of a sidecar: {}", std::fs::read_to_string(log).unwrap())).await
    }

    pub(crate) async fn signal(&self, name: &str) {
        assert!(
            Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().await.unwrap().success()
        );
    }

    /// SIGTERM, and exit code 0.
    pub(crate) async fn stop(mut self) {
        self.signal("TERM").await;
        let status = self.ended().await;
        assert!(status.success(), "{status}: {}", self.log());
    }
}
