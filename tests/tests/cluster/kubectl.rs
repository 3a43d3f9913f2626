//! The cluster as `kubectl` shows it.

use std::{
    env,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Runs kubectl and gives its output, or what it said instead.
pub(crate) fn try_kubectl(args: &[&str]) -> Result<String, String> {
    run(command(args).stdin(Stdio::null()), None)
}

/// The same where failing is no possible outcome.
pub(crate) fn kubectl(args: &[&str]) -> String {
    try_kubectl(args).unwrap_or_else(|said| panic!("kubectl {} failed: {said}", args.join(" ")))
}

pub(crate) fn apply(manifest: &str) {
    run(&mut command(&["apply", "-f", "-"]), Some(manifest)).unwrap_or_else(|said| panic!("{said}\n{manifest}"));
}

/// Asks until the answer is the expected one, and panics with the last answer when it never is.
pub(crate) fn eventually<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, mut ask: impl FnMut() -> T) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = ask();
        if answer == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: still {answer:?}, expected {expected:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A namespace that goes with the value, also when the test fails.
pub(crate) struct Namespace(pub(crate) &'static str);

impl Namespace {
    /// One of an earlier, interrupted run is removed first.
    pub(crate) fn create(name: &'static str) -> Self {
        kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait"]);
        kubectl(&["create", "namespace", name]);
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = try_kubectl(&["delete", "namespace", self.0, "--wait=false"]);
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("RHIZON_KUBECTL").unwrap_or_else(|| "kubectl".into()));
    command.args(args);
    command
}

fn run(command: &mut Command, input: Option<&str>) -> Result<String, String> {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("kubectl does not start, `cargo xtask test` says where it is: {error}"))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
