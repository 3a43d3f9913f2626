//! `rhizon dead`: the dead letters of an agent, looked at, sent again or dropped.

use std::time::Duration;

use http::Method;
use rhizon_kernel::chain::Hash;

use crate::args::{Choice, Dead, Output, Rate};
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::journal::{Record, Records};
use crate::output::{short, table};
use crate::progress::Progress;
use crate::show;

pub(crate) async fn run(client: &mut Client, dead: Dead, output: Output) -> Result<(), Failure> {
    match dead {
        Dead::List { agent, filter } => list(client, &agent, &Choice { key: None, filter, all: true }, output).await,
        Dead::Show { agent, key } => show(client, &agent, &key, output).await,
        Dead::Redrive { agent, choice, rate } => {
            each(client, &agent, &choice, rate, Method::POST, "redrive", output).await
        }
        Dead::Drop { agent, choice } => each(client, &agent, &choice, None, Method::DELETE, "drop", output).await,
    }
}

/// The open dead letters that are meant, as lines and records.
async fn chosen(client: &mut Client, agent: &str, choice: &Choice) -> Result<Vec<(Vec<u8>, Record)>, Failure> {
    let mut lines = Records::of(client.get(&format!("/v1/agents/{}/dead", segment(agent))).await?);
    let progress = Progress::start("dead letters", None, 0);
    let mut chosen = Vec::new();
    while let Some(line) = lines.next().await? {
        let Some(record) = Record::read(&line)? else { continue };
        if choice.takes(&record) {
            chosen.push((line.to_vec(), record));
        }
        progress.step();
    }
    progress.finish();
    Ok(chosen)
}

impl Choice {
    fn takes(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, got: &str| wanted.as_ref().is_none_or(|wanted| wanted == got);
        let reason = record.reason.as_ref().map_or("", |reason| &reason.code);
        self.key.as_ref().is_none_or(|key| record.key.to_string().starts_with(key.as_str()))
            && is(&self.filter.event_type, &record.event_type())
            && is(&self.filter.reason, reason)
            && is(&self.filter.entity, &record.entity)
    }
}

async fn list(client: &mut Client, agent: &str, choice: &Choice, output: Output) -> Result<(), Failure> {
    let found = chosen(client, agent, choice).await?;
    if output == Output::Json {
        let items: Vec<_> = found.iter().map(|(_, record)| json(record)).collect();
        return show::print(&serde_json::json!({ "items": items }));
    }
    let row = |(_, record): &(Vec<u8>, Record)| {
        let time = record.observed.time.to_string();
        let tries = record.observed.attempts.to_string();
        [short(&record.key.to_string()), time, record.entity.clone(), record.event_type(), tries, record.why()]
    };
    let header = ["key", "time", "entity", "type", "attempts", "reason"];
    println!("{}", table(header, found.iter().map(row)).trim_fmt());
    Ok(())
}

fn json(record: &Record) -> serde_json::Value {
    let event = record.event.as_ref();
    serde_json::json!({
        "key": record.key, "sequence": record.observed.sequence, "time": record.observed.time, "entity": record.entity,
        "type": record.event_type(), "source": event.map(|event| &event.source), "id": event.map(|event| &event.id),
        "actor": record.actor(), "attempts": record.observed.attempts, "reason": record.reason,
    })
}

/// One dead letter, whole.
async fn show(client: &mut Client, agent: &str, key: &str, output: Output) -> Result<(), Failure> {
    let (line, record) = only(client, agent, key).await?;
    if output == Output::Json {
        return show::print_line(&line);
    }
    let event = record.event.as_ref().map(|event| event.to_decided_json().bytes).unwrap_or_default();
    let rows = [
        ["key".to_owned(), record.key.to_string()],
        ["record".to_owned(), record.observed.sequence.to_string()],
        ["time".to_owned(), record.observed.time.to_string()],
        ["entity".to_owned(), record.entity.clone()],
        ["reason".to_owned(), record.why()],
        ["attempts".to_owned(), record.observed.attempts.to_string()],
        ["revision".to_owned(), record.observed.revision.clone()],
        ["config".to_owned(), record.observed.config.map(|hash| hash.to_string()).unwrap_or_default()],
        ["actor".to_owned(), record.actor()],
        ["event".to_owned(), String::from_utf8_lossy(&event).into_owned()],
    ];
    println!("{}", table(["field", "value"], rows).trim_fmt());
    Ok(())
}

/// The dead letter whose key begins so.
async fn only(client: &mut Client, agent: &str, key: &str) -> Result<(Vec<u8>, Record), Failure> {
    let choice = Choice { key: Some(key.to_owned()), ..Choice::default() };
    let mut found = chosen(client, agent, &choice).await?;
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(Failure::NotSo(format!(
            "agent '{agent}' has no open dead letter whose key begins with '{key}'; `rhizon dead list {agent}` has them"
        ))),
        (Some(_), more) => {
            Err(Failure::Usage(format!("{} dead letters have keys that begin with '{key}': give more of it", more + 1)))
        }
    }
}

/// Gives the command for each that is meant, and says which did not go.
async fn each(
    client: &mut Client,
    agent: &str,
    choice: &Choice,
    rate: Option<Rate>,
    method: Method,
    verb: &str,
    output: Output,
) -> Result<(), Failure> {
    if !choice.is_made() {
        return Err(Failure::Usage(format!(
            "which dead letters? Give a key from `rhizon dead list {agent}`, or --type, --reason or --entity, or --all"
        )));
    }
    let keys: Vec<Hash> = match &choice.key {
        Some(key) => vec![only(client, agent, key).await?.1.key],
        None => chosen(client, agent, choice).await?.into_iter().map(|(_, record)| record.key).collect(),
    };
    let progress = Progress::start("dead letters", Some(keys.len() as u64), 0);
    let mut pace = rate.map(|Rate(each)| tokio::time::interval(each));
    let mut failed = Vec::new();
    let mut done = 0_u64;
    for key in keys {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        match command(client, &path(agent, &key, &method), &method, &progress).await {
            Ok(()) => done += 1,
            // It was dealt with meanwhile, or cannot be: the others can.
            Err(failure @ (Failure::NotSo(_) | Failure::Usage(_))) => failed.push((key, failure)),
            Err(failure) => return Err(failure),
        }
        progress.step();
    }
    progress.finish();
    say(verb, done, output)?;
    if failed.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = failed.iter().map(|(key, why)| format!("{}: {why}", short(&key.to_string()))).collect();
    Err(Failure::NotSo(format!("{} were not taken:\n{}", failed.len(), lines.join("\n"))))
}

fn path(agent: &str, key: &Hash, method: &Method) -> String {
    let end = if *method == Method::POST { "/redrive" } else { "" };
    format!("/v1/agents/{}/dead/{key}{end}", segment(agent))
}

/// How often a command is given again while the workspace is full or the broker away. Given twice, it is one.
const TRIES: u32 = 30;

async fn command(client: &mut Client, path: &str, method: &Method, progress: &Progress) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        let answer = client.send(method.clone(), path, &[], bytes::Bytes::new()).await?;
        if answer.status().is_success() {
            crate::client::read(answer).await?;
            return Ok(());
        }
        let problem = crate::client::problem(answer).await?;
        tries += 1;
        if !problem.is_temporary() || tries >= TRIES {
            return Err(problem.into());
        }
        progress.waiting(&problem.into());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn say(verb: &str, done: u64, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return show::print(&serde_json::json!({"command": verb, "accepted": done}));
    }
    let what = if verb == "drop" { "dropped" } else { "sent again" };
    println!("{done} dead letters {what}");
    Ok(())
}
