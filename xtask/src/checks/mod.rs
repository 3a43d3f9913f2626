//! `cargo xtask test`: every check there is, in order of cost, with a table of how long each took.

mod cargo_test;
mod external;
mod schemas;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::{self, Cluster};
use crate::{dirs, exec, generate, images, packages, ui};
use cargo_test::Counts;

struct Row {
    name: &'static str,
    took: Duration,
    failed: bool,
}

/// What has run, and how many tests cargo counted.
#[derive(Default)]
struct Report {
    rows: Vec<Row>,
    counts: Counts,
}

impl Report {
    /// Runs one check; on failure the error says which, and how to repeat it alone.
    fn check(&mut self, name: &'static str, repeat: &str, work: impl FnOnce(&mut Counts) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let counts = &mut self.counts;
        let result = ui::step(name, || work(counts));
        self.rows.push(Row { name, took: start.elapsed(), failed: result.is_err() });
        result.with_context(|| format!("the check \"{name}\" failed; repeat it with `{repeat}`"))
    }

    fn print(&self) {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
        println!();
        for row in &self.rows {
            let outcome = if row.failed { "failed" } else { "ok" };
            println!("{:width$}  {:>9}  {outcome}", row.name, ui::seconds(row.took));
        }
        // A check that failed before or besides cargo's tests counts as one.
        let failed_checks = u64::from(self.counts.failed == 0 && self.rows.iter().any(|row| row.failed));
        println!("\n{} passed, {} failed", self.counts.passed, self.counts.failed + failed_checks);
    }
}

pub(crate) fn test(fast: bool) -> Result<()> {
    ui::catch_interrupt()?;
    let mut report = Report::default();
    let result = run_all(&mut report, fast);
    report.print();
    result
}

fn run_all(report: &mut Report, fast: bool) -> Result<()> {
    report.check("format", "cargo fmt --all --check", |_| cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    report.check("clippy", &format!("cargo {}", clippy.join(" ")), |_| cargo(&clippy))?;
    report.check("licences, bans, sources", "cargo deny check licenses bans sources", |_| external::cargo_deny())?;
    report.check("generated files", "cargo xtask generate --check", |_| generate::generate(true))?;
    report.check("chart", "helm lint charts/rhizon --strict", |_| external::chart())?;
    report.check("specifications", "openspec validate --all --strict", |_| external::openspec())?;
    report.check("unit, property and contract tests", "cargo build -p ledger && cargo test --workspace", |counts| {
        // Tests start the example's agent, and cargo builds no other package's programs for them.
        cargo(&["build", "--quiet", "--package", "ledger"])?;
        packages::ensure_postgres()?;
        cargo_test::run(&["--workspace"], None, counts)
    })?;
    if fast {
        return Ok(());
    }
    with_cluster(report)
}

/// A cluster that was there before stays; one that was brought up for the tests goes, also when they fail.
fn with_cluster(report: &mut Report) -> Result<()> {
    let was_up = Cluster::locate()?.is_up();
    let result = cluster_tests(report);
    if result.is_err() {
        cluster::diagnose(&Cluster::locate()?);
    }
    if was_up {
        return result;
    }
    ui::forget_interrupt();
    let removed = cluster::down();
    result.and(removed)
}

fn cluster_tests(report: &mut Report) -> Result<()> {
    report.check("cluster", "cargo xtask up", |_| cluster::up().map(drop))?;
    let cluster = Cluster::locate()?;
    report.check("images", "cargo xtask images", |_| images::build_and_load(&cluster, &[]))?;
    let client = ["build", "--release", "--quiet", "--package", "rhizon"];
    report.check("command-line client", &format!("cargo {}", client.join(" ")), |_| cargo(&client))?;
    let mut arguments =
        vec!["--package", "rhizon-tests", "--features", "cluster", "--test", "cluster", "--", "--test-threads=1"];
    if cluster.kind {
        ui::note("left out: steady_state, which counts in the API server's audit log, and kind keeps none");
        arguments.push("--skip=steady_state");
    }
    let repeat = format!("cargo xtask up && cargo xtask images && cargo test {}", arguments.join(" "));
    report.check("cluster tests", &repeat, |counts| cargo_test::run(&arguments, Some(&cluster), counts))
}

fn cargo(arguments: &[&str]) -> Result<()> {
    exec::stream(exec::command("cargo", arguments).current_dir(dirs::repository()))
}
