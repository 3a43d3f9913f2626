//! Event logs with known results.

use std::fs;
use std::path::{Path, PathBuf};

use rhizon_tests::permits::{self, Expected, States};
use tempfile::TempDir;

pub(crate) struct Log {
    pub(crate) events: PathBuf,
    pub(crate) expected: PathBuf,
    /// Parts of the log as files, while the value lives.
    dir: TempDir,
}

impl Log {
    /// The example's own small log.
    pub(crate) fn sample() -> Self {
        Self::of(permits::Log::sample())
    }

    /// The real log where it is at hand, and the sample elsewhere.
    pub(crate) fn real() -> Self {
        Self::of(permits::Log::at_hand())
    }

    fn of(permits::Log { events, expected }: permits::Log) -> Self {
        Self { events, expected, dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn total(&self) -> u64 {
        self.lines().len() as u64
    }

    fn lines(&self) -> Vec<String> {
        read(&self.events).lines().map(str::to_owned).collect()
    }

    /// The log as so many files, in order.
    pub(crate) fn parts(&self, count: usize) -> Vec<PathBuf> {
        let lines = self.lines();
        let parts = lines.chunks(lines.len().div_ceil(count));
        let write = |(index, part): (usize, &[String])| {
            let file = self.dir.path().join(format!("part-{index}.ndjson"));
            fs::write(&file, part.join("\n") + "\n").expect("writing a part of the log");
            file
        };
        parts.enumerate().map(write).collect()
    }

    /// What agents `permits` and `ledger` must have in the end.
    pub(crate) fn states(&self) -> [States; 2] {
        let Expected { permits, ledger } = Expected::read(&self.expected).expect("the expected result");
        [permits, ledger]
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}
