//! What the parts can do by themselves: the limits that the pipeline is compared with.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rhizon_api::agent::Protocol;
use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::{self, Draft, Reaction, StateChange};
use rhizon_kernel::ingress;
use rhizon_kernel::record::{Line, Observed, Part, Tail};
use rhizon_kernel::replay::Replay;
use rhizon_runtime::agent::http::HttpAgent;
use rhizon_runtime::agent::{Agent as _, Item};
use rhizon_runtime::telemetry::TraceContext;
use serde_json::value::RawValue;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, QueryBuilder, SqliteConnection};

use crate::cases::{Case, PLAIN};
use crate::rig::{DONE, Rig, config, event};

/// How many events show a limit; their records are in memory at once.
pub(crate) const EVENTS: usize = 200_000;

/// Calls of the agent with nothing between: the same requests that the sidecar makes.
pub(crate) async fn agent(rig: &Rig, count: usize) -> anyhow::Result<Duration> {
    let (config, batch) = (config()?, rig.case().batch);
    let agent = HttpAgent::new(&format!("http://127.0.0.1:{}", rig.agent_port), Protocol::Rhizon, batch);
    let item = |n: usize| {
        let message = rig.event(n);
        let arrival = ingress::decode(&config, &message.subject, &message.payload);
        Item::new(&config, &arrival, &Head::default(), 1, &TraceContext::default()).context("an event")
    };
    let calls: Vec<Vec<Item>> = (0..count)
        .collect::<Vec<_>>()
        .chunks(batch)
        .map(|chunk| chunk.iter().map(|n| item(*n)).collect())
        .collect::<anyhow::Result<_>>()?;
    let began = Instant::now();
    for items in calls {
        agent.call(items).await?;
    }
    Ok(began.elapsed())
}

/// Lines of a journal in a table with nothing else, in transactions as large as the pipeline's.
pub(crate) async fn sqlite(count: usize) -> anyhow::Result<Duration> {
    let dir = tempfile::tempdir()?;
    let options = SqliteConnectOptions::new()
        .filename(dir.path().join("raw.sqlite"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::query("CREATE TABLE journal (sequence INTEGER PRIMARY KEY, line BLOB)").execute(&mut connection).await?;
    let lines = journal(PLAIN, PLAIN.batch.min(count))?;
    let began = Instant::now();
    for _ in 0..count / PLAIN.batch {
        let mut insert = QueryBuilder::new("INSERT INTO journal (line) ");
        insert.push_values(&lines, |mut row, line| {
            row.push_bind(&line[..]);
        });
        insert.build().execute(&mut connection).await?;
    }
    Ok(began.elapsed())
}

pub(crate) struct Replayed {
    pub records: usize,
    pub bytes: usize,
    /// Both chains computed again.
    pub hashes: Duration,
    /// Each decision made again, too.
    pub decisions: Duration,
}

/// On one core, from memory.
pub(crate) fn replay(count: usize) -> anyhow::Result<Replayed> {
    let lines = journal(PLAIN, count)?;
    let began = Instant::now();
    let (mut tail, mut heads) = (Hash::ZERO, HashMap::<&[u8], Hash>::new());
    for bytes in &lines {
        let line = Line::parse(bytes)?;
        let part = line.part.hash();
        tail = line.link_behind(&tail, &part);
        ensure!(tail == line.link, "the audit chain");
        if let Part::Decided(decided) = line.part {
            // {"entity":"entity-17","subject":…
            let name = decided[11..].split(|byte| *byte == b'"').next().unwrap_or_default();
            let head = heads.entry(name).or_insert(Hash::ZERO);
            *head = head.then(&part);
            ensure!(*head == line.hash, "an entity's chain");
        }
    }
    let hashes = began.elapsed();
    let began = Instant::now();
    let mut replay = Replay::default();
    for line in &lines {
        replay.push(line)?;
    }
    let decisions = began.elapsed();
    Ok(Replayed { records: lines.len(), bytes: lines.iter().map(Vec::len).sum(), hashes, decisions })
}

/// What the kernel writes for these events and an agent that counts.
fn journal(case: Case, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let config = config()?;
    let mut tail = Tail::default();
    let observed = |sequence: u64| Observed {
        sequence,
        stream: sequence,
        time: "2030-01-01T00:00:00Z".parse().unwrap_or_default(),
        attempts: 1,
        epoch: 1,
        revision: "bench".into(),
        config: Some(config.hash()),
        traceparent: None,
        tracestate: None,
    };
    let mut lines = vec![tail.append_config(&config, &observed(1))];
    let mut heads = vec![Head::default(); case.entities];
    for n in 0..count {
        let message = event(case, n);
        let arrival = ingress::decode(&config, &message.subject, &message.payload);
        let head = &mut heads[n % case.entities];
        let number = || RawValue::from_string((head.version + 1).to_string());
        let output =
            Draft { event_type: DONE.into(), subject: None, target: None, deliver_at: None, data: Some(number()?) };
        let reaction = Reaction { outputs: vec![output], state: StateChange::Set(number()?) };
        let commit = egress::react(&config, head, &arrival, reaction)?;
        lines.push(tail.append_commit(&commit, &observed(tail.sequence + 1)));
        *head = commit.head;
    }
    Ok(lines)
}
