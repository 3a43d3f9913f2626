//! `rhizon verify` and `export`: the journal, checked here by the kernel's own rules. Nobody has to be trusted but this
//! program.

use std::path::Path;

use rhizon_kernel::replay::{Mismatch, Replay};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::args::Output;
use crate::client::{ChainHead, Client, segment};
use crate::failure::Failure;
use crate::journal::Records;
use crate::progress::Progress;
use crate::show;

/// How often the end of a journal is looked for while its agent goes on working.
const TRIES: usize = 20;

/// Checks the journals of an agent's shards.
pub(crate) async fn agent(client: &mut Client, agent: &str, output: Output) -> Result<(), Failure> {
    let shards = show::agent(client, agent, 0).await?.shards;
    for index in 0..shards {
        let name = if shards == 1 { agent.to_owned() } else { format!("{agent}, shard {index}") };
        shard(client, agent, index, &name, output).await?;
    }
    Ok(())
}

/// Checks a journal in a workspace, and that its end is what the sidecar says it is.
async fn shard(client: &mut Client, agent: &str, shard: u32, name: &str, output: Output) -> Result<(), Failure> {
    let mut replay = Replay::default();
    // Noted before the journal is read: it must have come so far.
    let noted = client.chain_head(agent, shard).await;
    for _ in 0..TRIES {
        let path = format!("/v1/agents/{}/journal?shard={shard}&after={}", segment(agent), replay.tail().sequence);
        let mut records = Records::of(client.get(&path).await?);
        while let Some(line) = records.next().await? {
            replay.push(&line).map_err(|mismatch| wrong(name, &mismatch, output))?;
            check_noted(&replay, noted.as_ref()).map_err(|mismatch| wrong(name, &mismatch, output))?;
        }
        let show::Agent { records: count, root, .. } = show::agent(client, agent, shard).await?;
        let Some(root) = root else {
            return Err(Failure::Unreachable(format!("the sidecar of agent '{agent}' does not say where it is")));
        };
        // More records are there by now: the agent works. Fewer: it is not the same journal.
        if count <= replay.tail().sequence {
            check_end(name, &replay, noted.as_ref())?;
            return compare(name, &replay, count, &root, output);
        }
    }
    Err(Failure::Unreachable(format!("agent '{agent}' works faster than its journal can be read; try again later")))
}

/// The record whose link stands in the workspace's status is the same record.
fn check_noted(replay: &Replay, noted: Option<&ChainHead>) -> Result<(), Mismatch> {
    let tail = replay.tail();
    match noted {
        Some(noted) if noted.sequence == tail.sequence && noted.link != tail.link => Err(Mismatch {
            sequence: tail.sequence,
            field: "the link that the workspace's status has noted".to_owned(),
            expected: noted.link.to_string(),
            got: tail.link.to_string(),
        }),
        _ => Ok(()),
    }
}

fn check_end(agent: &str, replay: &Replay, noted: Option<&ChainHead>) -> Result<(), Failure> {
    let end = replay.tail().sequence;
    match noted {
        Some(ChainHead { sequence, time, .. }) if *sequence > end => Err(Failure::NotSo(format!(
            "the newest records are missing from the journal of {agent}: it ends with record {end}, and record {sequence} \
             was there at {time}, as the workspace's status has noted; its store was lost or rolled back, or somebody cut it off"
        ))),
        _ => Ok(()),
    }
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
pub(crate) async fn export(client: &mut Client, agent: &str, shard: u32) -> Result<(), Failure> {
    let mut records = Records::of(client.get(&format!("/v1/agents/{}/journal?shard={shard}", segment(agent))).await?);
    let progress = Progress::start("records", None, 0);
    while let Some(line) = records.next().await? {
        show::print_line(&line)?;
        progress.step();
    }
    progress.finish();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_was_cut_off_or_replaced_is_told_by_what_was_noted() {
        let noted = |sequence: u64, link: &[u8]| -> ChainHead {
            let link = rhizon_kernel::chain::Hash::of(&[link]);
            let head = serde_json::json!({"agent": "a", "sequence": sequence, "link": link, "time": "noon"});
            serde_json::from_value(head).unwrap()
        };
        let empty = Replay::default();
        let cut = check_end("a", &empty, Some(&noted(3, b""))).unwrap_err();
        assert!(cut.to_string().contains("the newest records are missing"), "{cut}");
        assert_eq!(check_end("a", &empty, None), Ok(()));
        assert_eq!(check_end("a", &empty, Some(&noted(0, b""))), Ok(()));
        let other = check_noted(&empty, Some(&noted(0, b"other"))).unwrap_err();
        assert_eq!(other.got, empty.tail().link.to_string());
        assert_eq!(check_noted(&empty, Some(&noted(3, b"other"))), Ok(()));
    }
}
