//! `rhizon event` and `rhizon cancel`: what became of an event, and taking back one that is not due yet.

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::args::Output;
use crate::client::{self, Client, segment};
use crate::failure::Failure;
use crate::output::table;
use crate::show;

#[derive(Serialize, Deserialize)]
pub(crate) struct Answer {
    source: String,
    id: String,
    outcomes: Vec<Outcome>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    silent: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    agent: String,
    #[serde(flatten)]
    rest: rhizon_runtime::gateway::Outcome,
}

pub(crate) async fn run(client: &mut Client, source: &str, id: &str, output: Output) -> Result<(), Failure> {
    let answer: Answer = client.get_json(&path(source, id, None)).await?;
    answer.print(output)
}

impl Answer {
    pub(crate) fn print(self, output: Output) -> Result<(), Failure> {
        if output == Output::Json {
            return show::print(&self);
        }
        let header = ["agent", "outcome", "entity", "version", "sequence", "time", "outputs", "reason"];
        println!("{}", table(header, self.outcomes.iter().map(row)).trim_fmt());
        if !self.silent.is_empty() {
            eprintln!("these agents do not answer: {}", self.silent.join(", "));
        }
        Ok(())
    }
}

fn row(Outcome { agent, rest }: &Outcome) -> [String; 8] {
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let reason = rest.reason.as_ref().map(ToString::to_string);
    let until = rest.until.map(|until| format!("until {until}"));
    [
        agent.clone(),
        rest.outcome.clone(),
        rest.entity.clone(),
        number(rest.version),
        number(rest.sequence),
        rest.time.map(|time| time.to_string()).unwrap_or_default(),
        rest.outputs.len().to_string(),
        reason.or(until).unwrap_or_default(),
    ]
}

pub(crate) async fn cancel(
    client: &mut Client,
    source: &str,
    id: &str,
    agent: Option<&str>,
    output: Output,
) -> Result<(), Failure> {
    let answer = client.send(Method::DELETE, &path(source, id, agent), &[], Bytes::new()).await?;
    if !answer.status().is_success() {
        return Err(client::problem(answer).await?.into());
    }
    let body = client::read(answer).await?;
    if output == Output::Json {
        return show::print_line(&body);
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    for cancelled in body["cancelled"].as_array().into_iter().flatten() {
        let text = |field: &str| cancelled[field].as_str().unwrap_or_default().to_owned();
        println!("agent {} was told not to deliver it to {} at {}", text("agent"), text("entity"), text("until"));
    }
    Ok(())
}

fn path(source: &str, id: &str, agent: Option<&str>) -> String {
    let agent = agent.map(|agent| format!("&agent={}", segment(agent))).unwrap_or_default();
    format!("/v1/events?source={}&id={}{agent}", segment(source), segment(id))
}
