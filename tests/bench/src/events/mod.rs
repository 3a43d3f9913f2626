//! `--events`: a log of permits through the example's two agents, in many ways. States are to be those expected in every
//! run, and roots the same wherever they are promised to be.

mod check;
mod gateway;
mod log;
pub(crate) mod matrix;
mod promise;
mod report;
mod workspace;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use rhizon_tests::permits::Expected;

use crate::Options;
use crate::stores::{Database, Store};
use check::{Kept, look};
use log::Workload;
use matrix::Run;
use workspace::Workspace;

#[derive(Clone, Copy, Debug)]
enum Compared {
    Equal,
    /// Nobody has said what is right.
    No,
}

/// What came of one run.
pub(crate) struct Outcome {
    number: usize,
    run: Run,
    /// From the first request to the last effect.
    took: Duration,
    /// Whether they were compared with those expected, or the first difference, or why there are none.
    states: Result<Compared, String>,
    kept: Option<[Kept; 2]>,
}

impl Outcome {
    fn states(&self) -> &str {
        match &self.states {
            Ok(Compared::Equal) => "equal",
            Ok(Compared::No) => "not compared",
            Err(difference) => difference,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    fn rate(&self, events: u64) -> f64 {
        if self.kept.is_some() { events as f64 / self.took.as_secs_f64() } else { 0.0 }
    }
}

pub(crate) async fn run(options: &Options, events: Option<&Path>) -> anyhow::Result<()> {
    let workload = Workload::read(events, options.expect.as_deref())?;
    let stores = options.stores();
    let database = if stores.contains(&Store::Postgres) { Store::Postgres.server().await? } else { None };
    if !options.json {
        report::print_head(&workload);
    }
    let mut outcomes = Vec::new();
    for (number, run) in (1..).zip(options.ways.runs(&stores)) {
        let outcome = outcome(options, &workload, number, run, database.as_ref()).await;
        if !options.json {
            report::print_row(&outcome, workload.events);
        }
        outcomes.push(outcome);
    }
    conclude(options, &workload, &outcomes)
}

/// A run that fails is a row too, and the others go on.
async fn outcome(
    options: &Options,
    workload: &Workload,
    number: usize,
    run: Run,
    database: Option<&Database>,
) -> Outcome {
    match follow(options, workload, number, &run, database).await {
        Ok((took, kept)) => {
            let states = compare(workload.expected.as_ref(), &kept);
            Outcome { number, run, took, states, kept: Some(kept) }
        }
        Err(error) => {
            Outcome { number, run, took: Duration::ZERO, states: Err(format!("the run failed: {error:#}")), kept: None }
        }
    }
}

async fn follow(
    options: &Options,
    workload: &Workload,
    number: usize,
    run: &Run,
    database: Option<&Database>,
) -> anyhow::Result<(Duration, [Kept; 2])> {
    let mut workspace = Workspace::start(options, run, format!("run{number}"), database).await?;
    let began = Instant::now();
    workspace.feed(workload).await?;
    workspace.settled(workload.events).await?;
    let took = began.elapsed();
    let [permits, ledger] = promise::AGENTS.map(|agent| look(&workspace.gateway, agent, run.shards));
    Ok((took, [permits.await?, ledger.await?]))
}

fn compare(expected: Option<&Expected>, [permits, ledger]: &[Kept; 2]) -> Result<Compared, String> {
    let Some(expected) = expected else { return Ok(Compared::No) };
    expected.compare_all(&permits.states, &ledger.states).map(|()| Compared::Equal)
}

/// Says what all runs show together. What must not be ends in an error.
fn conclude(options: &Options, workload: &Workload, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let verdicts = promise::judge(outcomes);
    let wrong = |outcome: &Outcome| Some(format!("run {}: {}", outcome.number, outcome.states.as_ref().err()?));
    let broken = verdicts.iter().flat_map(|verdict| verdict.broken.iter().cloned());
    let failures: Vec<String> = outcomes.iter().filter_map(wrong).chain(broken).collect();
    if options.json {
        println!("{}", report::as_json(workload, outcomes, &verdicts, &failures));
    } else {
        verdicts.iter().for_each(report::print_verdict);
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}
