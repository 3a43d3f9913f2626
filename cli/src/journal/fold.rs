//! `rhizon state --at`: what an agent kept at any point of its journal, by folding it up to there.

use std::str::FromStr;

use jiff::Timestamp;
use rhizon_kernel::record::Line;
use rhizon_kernel::replay::Replay;

use super::{Change, Record, Records};
use crate::args::Output;
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::show::{self, Kept};

/// A place in a journal: with this record, or with the last one that was made at this time or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Sequence(u64),
    Time(Timestamp),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(sequence) = text.parse() {
            return Ok(Self::Sequence(sequence));
        }
        let wrong =
            |_| "write a record's sequence, such as 120, or a time as RFC 3339 does: 2026-01-31T12:00:00Z".into();
        text.parse().map(Self::Time).map_err(wrong)
    }
}

impl At {
    fn is_before(self, line: &[u8]) -> Result<bool, Failure> {
        let observed = Line::parse(line).and_then(|line| line.observed());
        let observed = observed.map_err(|error| Failure::NotSo(format!("a record cannot be read: {error}")))?;
        Ok(match self {
            Self::Sequence(sequence) => observed.sequence > sequence,
            Self::Time(time) => observed.time > time,
        })
    }
}

/// One entity, from its own records.
pub(crate) async fn entity(
    client: &mut Client,
    agent: &str,
    entity: &str,
    at: At,
    output: Output,
) -> Result<(), Failure> {
    let path = format!("/v1/agents/{}/entities/{}/history", segment(agent), segment(entity));
    let mut records = Records::of(client.get(&path).await?);
    let mut kept: Option<Kept> = None;
    while let Some(line) = records.next().await? {
        if at.is_before(&line)? {
            break;
        }
        let Some(record) = Record::read(&line)? else { continue };
        let state = match record.change {
            Change::Unchanged => kept.and_then(|kept| kept.state),
            Change::Set(state) => Some(state.into()),
            Change::Deleted => None,
        };
        let time = record.time.map(|time| time.to_string());
        kept =
            Some(Kept { entity: record.entity, version: record.version, hash: record.hash.to_string(), time, state });
    }
    let nothing = || Failure::NotSo(format!("entity '{entity}' had no record yet"));
    show::print_entity(kept.ok_or_else(nothing)?, output)
}

/// All entities, from the whole journals up to there; they are verified on the way.
pub(crate) async fn entities(client: &mut Client, agent: &str, at: At, output: Output) -> Result<(), Failure> {
    let shards = show::agent(client, agent, 0).await?.shards;
    if shards > 1 && matches!(at, At::Sequence(_)) {
        let text =
            format!("agent '{agent}' has {shards} shards, each with sequences of its own: give a time, or an entity");
        return Err(Failure::Usage(text));
    }
    let mut all = Vec::new();
    for shard in 0..shards {
        let replay = replay_to(client, agent, shard, at).await?;
        all.extend(replay.heads().iter().map(|(entity, head)| Kept {
            entity: entity.clone(),
            version: head.version,
            hash: head.hash.to_string(),
            time: head.time.map(|time| time.to_string()),
            state: head.state.clone(),
        }));
    }
    all.sort_by(|a, b| a.entity.cmp(&b.entity));
    show::print_entities(all, output)
}

async fn replay_to(client: &mut Client, agent: &str, shard: u32, at: At) -> Result<Replay, Failure> {
    let path = format!("/v1/agents/{}/journal?shard={shard}", segment(agent));
    let mut records = Records::of(client.get(&path).await?);
    let progress = Progress::start("records", None, 0);
    let mut replay = Replay::default();
    while let Some(line) = records.next().await? {
        if at.is_before(&line)? {
            break;
        }
        replay.push(&line).map_err(|mismatch| Failure::NotSo(format!("the journal is not sound: {mismatch}")))?;
        progress.step();
    }
    progress.finish();
    let end = replay.tail().sequence;
    match at {
        At::Sequence(asked) if asked > end => {
            Err(Failure::NotSo(format!("the journal of agent '{agent}' ends with record {end}")))
        }
        _ => Ok(replay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_sequence_or_a_time() {
        assert_eq!("120".parse(), Ok(At::Sequence(120)));
        assert_eq!("2026-01-31T12:00:00Z".parse(), Ok(At::Time("2026-01-31T12:00:00Z".parse().unwrap())));
        assert!("yesterday".parse::<At>().unwrap_err().contains("RFC 3339"));
    }
}
