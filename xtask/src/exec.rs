//! Running other programs, with errors that say which program failed and what it said.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::ui;

/// A command from its words; programs that `up` needs are looked for in the usual system folders too.
pub(crate) fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args).env("PATH", search_path());
    command
}

/// The caller's PATH and the folders of system programs, which a shell of an ordinary user may lack.
pub(crate) fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

pub(crate) fn exists(program: &str) -> bool {
    search_path().split(':').any(|folder| std::path::Path::new(folder).join(program).is_file())
}

/// Runs it quietly. On failure the error carries what it said.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs it quietly and gives its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", words(command)))?;
    checked(command, &output)
}

/// The same, with `input` on standard input.
pub(crate) fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", words(command)))?;
    let mut stdin = child.stdin.take().context("the child has no standard input")?;
    stdin.write_all(input.as_bytes()).with_context(|| format!("cannot write to {}", words(command)))?;
    drop(stdin);
    let output = child.wait_with_output()?;
    checked(command, &output)
}

/// Runs it with the caller's output, for commands whose lines a person wants to see as they come.
pub(crate) fn stream(command: &mut Command) -> Result<()> {
    let status = status(command.stdin(Stdio::null()))?;
    ui::check_interrupt()?;
    if !status.success() {
        bail!("`{}` failed ({status})", words(command));
    }
    Ok(())
}

pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("cannot start {}", words(command)))
}

/// Whether it ran and succeeded; its output does not matter.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

fn checked(command: &Command, output: &Output) -> Result<String> {
    ui::check_interrupt()?;
    if !output.status.success() {
        let said = [&output.stderr, &output.stdout].map(|bytes| tail(&String::from_utf8_lossy(bytes))).join("\n");
        bail!("`{}` failed ({}):\n{}", words(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines are where a program says why it failed.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// The command as one would type it, shortened.
pub(crate) fn words(command: &Command) -> String {
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    let text = all.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    if text.chars().count() > 300 { format!("{} …", text.chars().take(300).collect::<String>()) } else { text }
}
