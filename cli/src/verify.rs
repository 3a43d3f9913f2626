//! `rhizon verify` and `export`: the journal, checked here by the kernel's own rules. Nobody has to be trusted but this
//! program.

use std::path::Path;

use bytes::{Buf as _, Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rhizon_kernel::replay::{Mismatch, Replay};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::args::Output;
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::show;

/// How often the end of a journal is looked for while its agent goes on working.
const TRIES: usize = 20;

/// The lines of an NDJSON answer, as they arrive.
pub(crate) struct Records {
    body: Incoming,
    buffer: BytesMut,
    /// Up to here the buffer has no line feed.
    searched: usize,
}

impl Records {
    pub(crate) fn of(answer: Response<Incoming>) -> Self {
        Self { body: answer.into_body(), buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line without its line feed; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(found) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(self.searched + found).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(Failure::Unreachable(format!("the journal broke off: {error}"))),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Failure::Unreachable("the journal ends within a record".to_owned())),
            }
        }
    }
}

/// Checks a journal in a workspace, and that its end is what the sidecar says it is.
pub(crate) async fn agent(client: &mut Client, agent: &str, output: Output) -> Result<(), Failure> {
    let mut replay = Replay::default();
    for _ in 0..TRIES {
        let path = format!("/v1/agents/{}/journal?after={}", segment(agent), replay.tail().sequence);
        let mut records = Records::of(client.get(&path).await?);
        while let Some(line) = records.next().await? {
            replay.push(&line).map_err(|mismatch| wrong(agent, &mismatch, output))?;
        }
        let show::Agent { records: count, root, .. } = show::agent(client, agent).await?;
        let Some(root) = root else {
            return Err(Failure::Unreachable(format!("the sidecar of agent '{agent}' does not say where it is")));
        };
        // More records are there by now: the agent works. Fewer: it is not the same journal.
        if count <= replay.tail().sequence {
            return compare(agent, &replay, count, &root, output);
        }
    }
    Err(Failure::Unreachable(format!("agent '{agent}' works faster than its journal can be read; try again later")))
}

fn compare(agent: &str, replay: &Replay, count: u64, root: &str, output: Output) -> Result<(), Failure> {
    let end = |field: &str, expected: String, got: String| Mismatch {
        sequence: replay.tail().sequence,
        field: field.to_owned(),
        expected,
        got,
    };
    let computed = replay.root().to_string();
    if count != replay.tail().sequence {
        return Err(wrong(
            agent,
            &end("the store's count", replay.tail().sequence.to_string(), count.to_string()),
            output,
        ));
    }
    if computed != root {
        return Err(wrong(agent, &end("the store's root", computed, root.to_owned()), output));
    }
    say_sound(agent, replay, output);
    Ok(())
}

/// Checks a journal in a file.
pub(crate) async fn file(path: &Path, output: Output) -> Result<(), Failure> {
    let cannot = |error| Failure::Usage(format!("cannot read {}: {error}", path.display()));
    let mut reader = BufReader::with_capacity(256 << 10, tokio::fs::File::open(path).await.map_err(cannot)?);
    let name = path.display().to_string();
    let mut replay = Replay::default();
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await.map_err(cannot)? > 0 {
        let record = line.strip_suffix(b"\n").unwrap_or(&line);
        replay.push(record).map_err(|mismatch| wrong(&name, &mismatch, output))?;
        line.clear();
    }
    say_sound(&name, &replay, output);
    Ok(())
}

/// Writes the journal as it is.
pub(crate) async fn export(client: &mut Client, agent: &str) -> Result<(), Failure> {
    let mut records = Records::of(client.get(&format!("/v1/agents/{}/journal", segment(agent))).await?);
    while let Some(line) = records.next().await? {
        show::print_line(&line)?;
    }
    Ok(())
}

fn say_sound(name: &str, replay: &Replay, output: Output) {
    let (records, entities, root) = (replay.tail().sequence, replay.heads().len(), replay.root().to_string());
    match output {
        Output::Json => println!(
            "{}",
            serde_json::json!({"journal": name, "sound": true, "records": records, "entities": entities, "root": root})
        ),
        Output::Table => println!("{name}: {records} records of {entities} entities are sound; root {root}"),
    }
}

fn wrong(name: &str, mismatch: &Mismatch, output: Output) -> Failure {
    if output == Output::Json {
        let Mismatch { sequence, field, expected, got } = mismatch;
        let report = serde_json::json!({
            "journal": name, "sound": false, "sequence": sequence, "field": field, "expected": expected, "got": got
        });
        println!("{report}");
    }
    Failure::NotSo(format!("the journal of {name} is not sound: {mismatch}"))
}
