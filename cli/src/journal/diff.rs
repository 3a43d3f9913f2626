//! `rhizon diff`: two exports of journals, entity by entity. What a run observed besides (times, attempts) does not count.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use rhizon_kernel::chain::{self, Hash};
use rhizon_kernel::record::{Decided, Line, Part};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::args::Output;
use crate::failure::Failure;
use crate::output::{short, table};
use crate::progress::Progress;
use crate::show;

/// Longest value of a field that is shown.
const SHOWN_CHARS: usize = 80;

/// What an export decides of each entity.
#[derive(Debug, Default)]
struct Export {
    entities: BTreeMap<String, Entity>,
}

#[derive(Debug, Default)]
struct Entity {
    version: u64,
    /// Sequence of each record, and the entity chain up to it, computed here.
    chain: Vec<(u64, Hash)>,
}

/// What one of the two has of an entity that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Side {
    version: u64,
    hash: String,
    records: usize,
    /// The first record that differs; absent where the other has more.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Difference {
    entity: String,
    /// Absent when the entity is in the other export only.
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<Side>,
}

impl Export {
    fn read(path: &Path) -> Result<Self, Failure> {
        let progress = Progress::start("records", None, 0);
        let mut export = Self::default();
        each_line(path, |number, line| {
            progress.step();
            export.take(line).map_err(|why| Failure::Usage(format!("{}, line {number}: {why}", path.display())))
        })?;
        progress.finish();
        Ok(export)
    }

    fn take(&mut self, line: &[u8]) -> Result<(), rhizon_kernel::record::NoRecord> {
        let line = Line::parse(line)?;
        let Part::Decided(bytes) = line.part else { return Ok(()) };
        let (decided, sequence) = (Decided::parse(bytes)?, line.observed()?.sequence);
        let entity = self.entities.entry(decided.entity.into_owned()).or_default();
        let hash = entity.head().then(&line.part.hash());
        entity.chain.push((sequence, hash));
        entity.version = decided.after;
        Ok(())
    }

    fn root(&self) -> Hash {
        let leaf = |(key, entity): (&String, &Entity)| chain::leaf(key, entity.version, &entity.head());
        chain::root(&self.entities.iter().map(leaf).collect::<Vec<_>>())
    }
}

impl Entity {
    fn head(&self) -> Hash {
        self.chain.last().map_or(Hash::ZERO, |(_, hash)| *hash)
    }

    fn side(&self, first: usize) -> Side {
        let sequence = self.chain.get(first).map(|(sequence, _)| *sequence);
        Side { version: self.version, hash: self.head().to_string(), records: self.chain.len(), sequence }
    }
}

fn each_line(path: &Path, mut take: impl FnMut(usize, &[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let cannot = |error| Failure::Usage(format!("cannot read {}: {error}", path.display()));
    let mut reader = BufReader::with_capacity(256 << 10, File::open(path).map_err(cannot)?);
    let (mut line, mut number) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line).map_err(cannot)? > 0 {
        number += 1;
        take(number, line.strip_suffix(b"\n").unwrap_or(&line))?;
        line.clear();
    }
    Ok(())
}

fn differences(a: &Export, b: &Export) -> Vec<Difference> {
    let mut keys: Vec<&String> = a.entities.keys().chain(b.entities.keys()).collect();
    keys.sort();
    keys.dedup();
    let of = |key: &String| {
        let (a, b) = (a.entities.get(key), b.entities.get(key));
        let chain =
            |entity: Option<&Entity>| entity.map_or_else(Vec::new, |e| e.chain.iter().map(|(_, h)| *h).collect());
        let (of_a, of_b): (Vec<Hash>, Vec<Hash>) = (chain(a), chain(b));
        let same = of_a.iter().zip(&of_b).take_while(|(a, b)| a == b).count();
        let differs = same < of_a.len().max(of_b.len());
        let side = |entity: Option<&Entity>| entity.map(|entity| entity.side(same));
        differs.then(|| Difference { entity: key.clone(), a: side(a), b: side(b) })
    };
    keys.into_iter().filter_map(of).collect()
}

pub(crate) fn run(a: &Path, b: &Path, output: Output) -> Result<(), Failure> {
    let (of_a, of_b) = (Export::read(a)?, Export::read(b)?);
    let (root_a, root_b) = (of_a.root().to_string(), of_b.root().to_string());
    let differences = differences(&of_a, &of_b);
    if output == Output::Json {
        show::print(&serde_json::json!({
            "same": differences.is_empty(), "roots": {"a": root_a, "b": root_b}, "differences": differences
        }))?;
    } else {
        println!("{}: {} entities, root {root_a}", a.display(), of_a.entities.len());
        println!("{}: {} entities, root {root_b}", b.display(), of_b.entities.len());
    }
    // The earliest record says most: what comes later may follow from it.
    let Some(first) = differences.iter().min_by_key(|difference| earliest(difference)) else { return Ok(()) };
    let what = explain(a, b, first)?;
    if output == Output::Table {
        println!("\n{}", table(["entity", "a", "b"], differences.iter().map(row)).trim_fmt());
    }
    Err(Failure::NotSo(format!("the journals differ in {} entities; first in {what}", differences.len())))
}

fn earliest(Difference { a, b, .. }: &Difference) -> u64 {
    let sequence = |side: &Option<Side>| side.as_ref().and_then(|side| side.sequence);
    sequence(a).into_iter().chain(sequence(b)).min().unwrap_or(u64::MAX)
}

fn row(difference: &Difference) -> [String; 3] {
    let text = |side: &Option<Side>| match side {
        None => "is not there".to_owned(),
        Some(Side { version, hash, sequence, .. }) => {
            let place =
                sequence.map_or_else(|| "ends before".to_owned(), |sequence| format!("from record {sequence} on"));
            format!("version {version} {} {place}", short(hash))
        }
    };
    [difference.entity.clone(), text(&difference.a), text(&difference.b)]
}

/// The first record that differs, and its first field that does.
fn explain(a: &Path, b: &Path, Difference { entity, a: of_a, b: of_b }: &Difference) -> Result<String, Failure> {
    let sequence = |side: &Option<Side>| side.as_ref().and_then(|side| side.sequence);
    let (at_a, at_b) = (sequence(of_a), sequence(of_b));
    let (Some(place_a), Some(place_b)) = (at_a, at_b) else {
        let (path, place) = if let Some(place) = at_a { (a, place) } else { (b, at_b.unwrap_or_default()) };
        return Ok(format!("entity {entity}: record {place} is only in {}", path.display()));
    };
    let (decided_a, decided_b) = (decided(a, place_a)?, decided(b, place_b)?);
    let mut fields: Vec<&String> = decided_a.keys().chain(decided_b.keys()).collect();
    fields.sort();
    let field = fields.into_iter().find(|field| decided_a.get(*field) != decided_b.get(*field));
    let field = field.map_or("its spelling", String::as_str);
    let shown = |decided: &Map<String, Value>| decided.get(field).map_or_else(|| "nothing".to_owned(), shortened);
    let (value_a, value_b) = (shown(&decided_a), shown(&decided_b));
    Ok(format!("entity {entity}, records {place_a} and {place_b}: {field} is {value_a}, and {value_b}"))
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What the record with a sequence decides.
fn decided(path: &Path, sequence: u64) -> Result<Map<String, Value>, Failure> {
    let mut found = Map::new();
    each_line(path, |_, line| {
        if let Ok(line) = Line::parse(line)
            && let Part::Decided(bytes) = line.part
            && line.observed().is_ok_and(|observed| observed.sequence == sequence)
        {
            found = serde_json::from_slice(bytes).unwrap_or_default();
        }
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sequence: u64, entity: &str, version: u64, time: &str) -> String {
        let zero = Hash::ZERO;
        let decided = format!(
            r#"{{"entity":"{entity}","subject":"s","before":{},"after":{version},"outcome":"processed"}}"#,
            version - 1
        );
        format!(
            r#"{{"link":"{zero}","hash":"{zero}","size":{},"decided":{decided},"observed":{{"sequence":{sequence},"stream":1,"time":"{time}","attempts":1,"epoch":1,"revision":"r"}}}}"#,
            decided.len()
        )
    }

    fn export(lines: &[(u64, &str, u64)], time: &str) -> (tempfile::NamedTempFile, Export) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = lines.iter().map(|(n, entity, version)| line(*n, entity, *version, time) + "\n").collect();
        std::fs::write(file.path(), text).unwrap();
        let export = Export::read(file.path()).unwrap();
        (file, export)
    }

    #[test]
    fn times_and_places_are_no_difference() {
        let (_a, a) = export(&[(1, "x", 1), (2, "y", 1), (3, "x", 2)], "2026-01-01T00:00:00Z");
        let (_b, b) = export(&[(1, "y", 1), (2, "x", 1), (3, "x", 2)], "2027-01-01T00:00:00Z");
        assert_eq!(differences(&a, &b), []);
        assert_eq!(a.root(), b.root());
    }

    #[test]
    fn the_first_difference_is_explained() {
        let time = "2026-01-01T00:00:00Z";
        let (file_a, a) = export(&[(1, "x", 1), (2, "y", 1), (3, "x", 2)], time);
        let (file_b, b) = export(&[(1, "x", 1), (2, "x", 7), (3, "z", 1)], time);
        let found = differences(&a, &b);
        let places: Vec<(&str, Option<u64>, Option<u64>)> = found
            .iter()
            .map(|d| (d.entity.as_str(), d.a.as_ref().and_then(|s| s.sequence), d.b.as_ref().and_then(|s| s.sequence)))
            .collect();
        assert_eq!(places, [("x", Some(3), Some(2)), ("y", Some(2), None), ("z", None, Some(3))]);
        let failure = run(file_a.path(), file_b.path(), Output::Table).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "the journals differ in 3 entities; first in entity x, records 3 and 2: after is 2, and 7"
        );
        assert_eq!(failure.code(), 1);
    }
}
