//! `rhizon` as a user starts it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

pub(crate) fn rhizon() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rhizon"));
    command.env_remove("RHIZON_GATEWAY").env_remove("RHIZON_TOKEN");
    command
}

pub(crate) fn dev(folder: &Path, state: &Path) -> Command {
    let mut command = rhizon();
    command.arg("dev").arg(folder).arg("--state").arg(state).args(["--listen", "127.0.0.1:0"]);
    command
}

pub(crate) fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// A `rhizon dev` that is stopped, or killed, in the end.
pub(crate) struct Running {
    pub(crate) process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    seen: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, lines, seen: String::new() }
    }

    /// The line that has the words.
    pub(crate) fn wait_for(&mut self, words: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.contains(words) {
                return line;
            }
        }
        panic!("'{words}' was not said:\n{}", self.seen);
    }

    pub(crate) fn interrupt(mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
