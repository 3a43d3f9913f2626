//! Background processes of the cluster: started detached, found again by a recorded pid, ended by nothing else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::exec;

/// A process, and when it started: the kernel gives a pid to another process later, but not the two together.
#[derive(Serialize, Deserialize)]
struct Record {
    pid: u32,
    /// Clock ticks since boot, from `/proc/<pid>/stat`.
    started: u64,
}

pub(super) struct Daemons {
    state: PathBuf,
}

impl Daemons {
    pub(super) fn new(state: &Path) -> Self {
        Self { state: state.to_owned() }
    }

    pub(super) fn is_alive(&self, name: &str) -> bool {
        self.recorded(name).is_some()
    }

    /// Starts it unless it runs. It gets a session of its own: Ctrl-C at the caller's terminal does not reach it.
    /// With `namespace`, it runs in that network namespace.
    pub(super) fn ensure(&self, name: &str, namespace: Option<&Path>, command: &Command) -> Result<()> {
        if self.is_alive(name) {
            return Ok(());
        }
        let log_path = self.log(name);
        for path in [&log_path, &self.record(name)] {
            fs::create_dir_all(path.parent().context("a file in the state folder has a parent")?)?;
        }
        let log = File::options().create(true).append(true).open(&log_path)?;
        let mut detached = exec::command("setsid", [] as [&str; 0]);
        if let Some(namespace) = namespace {
            detached.arg("nsenter").arg(format!("--net={}", namespace.display())).arg("--");
        }
        detached.arg(command.get_program()).args(command.get_args()).current_dir("/");
        for (key, value) in command.get_envs() {
            detached.env(key, value.unwrap_or_default());
        }
        let child = detached
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let started =
            start_time(child.id()).with_context(|| format!("{name} ended at once; see {}", log_path.display()))?;
        let record = Record { pid: child.id(), started };
        fs::write(self.record(name), serde_json::to_string(&record)?)?;
        Ok(())
    }

    /// An error with the end of its log if it is no longer there.
    pub(super) fn check(&self, name: &str) -> Result<()> {
        if self.is_alive(name) {
            return Ok(());
        }
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(12)..].join("\n");
        bail!("{name} has ended; the end of {}:\n{end}", self.log(name).display())
    }

    /// Asks it to end, and after ten seconds makes it.
    pub(super) fn stop(&self, name: &str) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(10);
        let mut signal = "TERM";
        while let Some(pid) = self.recorded(name) {
            send_signal(signal, &[pid])?;
            let next = Instant::now() + Duration::from_secs(1);
            while Instant::now() < next && self.is_alive(name) {
                std::thread::sleep(Duration::from_millis(20));
            }
            if Instant::now() > limit {
                signal = "KILL";
            }
        }
        remove_file(&self.record(name))
    }

    /// The names of all that were ever started here.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state.join("pids")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.path().file_stem().map(|name| name.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.state.join("logs").join(format!("{name}.log"))
    }

    fn record(&self, name: &str) -> PathBuf {
        self.state.join("pids").join(format!("{name}.json"))
    }

    fn recorded(&self, name: &str) -> Option<u32> {
        let record: Record = serde_json::from_str(&fs::read_to_string(self.record(name)).ok()?).ok()?;
        (start_time(record.pid) == Some(record.started)).then_some(record.pid)
    }
}

/// There is no safe call for this in the standard library, and one program more is cheaper than a crate.
pub(super) fn send_signal(signal: &str, pids: &[u32]) -> Result<()> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let script = format!("kill -{signal} {} 2>/dev/null || true", pids.join(" "));
    exec::run(&mut exec::command("sh", ["-c", &script]))
}

pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// When a running process started; nothing for one that has ended, also if nobody has waited for it yet.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}
