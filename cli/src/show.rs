//! `rhizon state`, `history` and `status`: what agents keep, and how they came to it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::args::Output;
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::journal::{Record, Records};
use crate::output::{short, table};

/// One entity, and what its agent keeps for it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) entity: String,
    pub(crate) version: u64,
    pub(crate) hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) time: Option<String>,
    pub(crate) state: Option<Arc<RawValue>>,
}

#[derive(Serialize, Deserialize)]
struct Items<T> {
    items: Vec<T>,
    #[serde(skip_serializing)]
    next: Option<String>,
}

/// All entities, page by page.
async fn all_entities(client: &mut Client, agent: &str) -> Result<Vec<Kept>, Failure> {
    let path = format!("/v1/agents/{}/entities", segment(agent));
    let mut all = Vec::new();
    let mut page: Items<Kept> = client.get_json(&path).await?;
    loop {
        all.append(&mut page.items);
        let Some(after) = page.next else { return Ok(all) };
        page = client.get_json(&format!("{path}?after={}", segment(&after))).await?;
    }
}

pub(crate) async fn entities(client: &mut Client, agent: &str, output: Output) -> Result<(), Failure> {
    print_entities(all_entities(client, agent).await?, output)
}

pub(crate) fn print_entities(items: Vec<Kept>, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => print(&Items { items, next: None }),
        Output::Table => {
            let row = |item: Kept| [item.entity, item.version.to_string(), short(&item.hash), text(item.state)];
            println!("{}", table(["entity", "version", "hash", "state"], items.into_iter().map(row)).trim_fmt());
            Ok(())
        }
    }
}

/// Every entity's state; `null` for one that has none.
pub(crate) async fn states(client: &mut Client, agent: &str) -> Result<BTreeMap<String, Value>, Failure> {
    let state = |item: Kept| {
        let state = item.state.map_or(Value::Null, |text| serde_json::from_str(text.get()).unwrap_or_default());
        (item.entity, state)
    };
    Ok(all_entities(client, agent).await?.into_iter().map(state).collect())
}

pub(crate) async fn entity(client: &mut Client, agent: &str, entity: &str, output: Output) -> Result<(), Failure> {
    let path = format!("/v1/agents/{}/entities/{}", segment(agent), segment(entity));
    print_entity(client.get_json(&path).await?, output)
}

pub(crate) fn print_entity(item: Kept, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => print(&item),
        Output::Table => {
            let rows = [
                ["entity".to_owned(), item.entity],
                ["version".to_owned(), item.version.to_string()],
                ["hash".to_owned(), item.hash],
                ["time".to_owned(), item.time.unwrap_or_default()],
                ["state".to_owned(), text(item.state)],
            ];
            println!("{}", table(["field", "value"], rows).trim_fmt());
            Ok(())
        }
    }
}

/// One entity's records: as a table, or as they are.
pub(crate) async fn history(client: &mut Client, agent: &str, entity: &str, output: Output) -> Result<(), Failure> {
    let path = format!("/v1/agents/{}/entities/{}/history", segment(agent), segment(entity));
    let mut records = Records::of(client.get(&path).await?);
    let mut rows = Vec::new();
    while let Some(line) = records.next().await? {
        match output {
            Output::Json => print_line(&line)?,
            Output::Table => rows.extend(Record::read(&line)?.as_ref().map(history_row)),
        }
    }
    if output == Output::Table {
        let header =
            ["sequence", "version", "time", "outcome", "type", "actor", "outputs", "revision", "config", "reason"];
        println!("{}", table(header, rows).trim_fmt());
    }
    Ok(())
}

fn history_row(record: &Record) -> [String; 10] {
    [
        record.observed.sequence.to_string(),
        record.version.to_string(),
        record.time.map(|time| time.to_string()).unwrap_or_default(),
        record.outcome.clone(),
        record.event_type(),
        record.actor(),
        record.outputs.len().to_string(),
        record.observed.revision.clone(),
        record.observed.config.map(|hash| short(&hash.to_string())).unwrap_or_default(),
        record.why(),
    ]
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Agent {
    pub(crate) name: String,
    #[serde(default = "one")]
    pub(crate) shards: u32,
    pub(crate) ready: bool,
    pub(crate) position: u64,
    pub(crate) records: u64,
    pub(crate) entities: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) root: Option<String>,
}

fn one() -> u32 {
    1
}

/// One agent's shard, as its sidecar says it is.
pub(crate) async fn agent(client: &mut Client, agent: &str, shard: u32) -> Result<Agent, Failure> {
    client.get_json(&format!("/v1/agents/{}?shard={shard}", segment(agent))).await
}

/// The workspace's agents.
pub(crate) async fn agents(client: &mut Client) -> Result<Vec<Agent>, Failure> {
    Ok(client.get_json::<Items<Agent>>("/v1/agents").await?.items)
}

pub(crate) async fn status(client: &mut Client, output: Output) -> Result<(), Failure> {
    let items = agents(client).await?;
    if output == Output::Json {
        return print(&Items { items, next: None });
    }
    let row = |Agent { name, ready, position, records, entities, root, .. }: Agent| {
        let counts = [position, records, entities].map(|count| count.to_string());
        let [position, records, entities] = counts;
        [name, if ready { "yes" } else { "no" }.to_owned(), position, records, entities, root.unwrap_or_default()]
    };
    let header = ["agent", "ready", "position", "records", "entities", "root"];
    println!("{}", table(header, items.into_iter().map(row)).trim_fmt());
    Ok(())
}

fn text(state: Option<Arc<RawValue>>) -> String {
    state.map(|state| state.get().to_owned()).unwrap_or_default()
}

pub(crate) fn print(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec(value).map_err(|error| Failure::Usage(error.to_string()))?;
    print_line(&text)
}

/// A reader that has seen enough closes the pipe; that is its right.
pub(crate) fn print_line(line: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(line).and_then(|()| out.write_all(b"\n"));
    written.map_err(|error| Failure::Interrupted(format!("cannot write to standard output: {error}")))
}
