//! Lines of the journal: many in a row, since a row costs more than a line that is in it.
//!
//! ```text
//! sequence │ lines
//!        1 │ line 1 ⏎ line 2 ⏎ … line 40      a row ends when it has so many bytes, and with its append
//!       41 │ line 41 ⏎ …
//! ```

use bytes::Bytes;

use super::super::rows::{bytes, failed, number, signed};
use super::super::{Entry, Result, Row};
use super::transaction::{Entries, Tx, execute, json};

/// A line is read with all of its row.
const ROW_BYTES: usize = 32 << 10;
/// SQLite makes a copy of what it is given.
const BLOB_BYTES: usize = 512 << 10;
/// Rows that are in memory at a time.
const TOGETHER: usize = 32;
const DOING: &str = "read the journal";

/// Many rows in one blob, and where each of them is.
pub(super) async fn insert(tx: &mut Tx, entries: impl Entries<'_>) -> Result<()> {
    let sql = "INSERT INTO journal SELECT value ->> 0, substr(?1, value ->> 1, value ->> 2) FROM json_each(?2)";
    let (entries, mut part) = (entries.into_iter().collect::<Vec<_>>(), Part::default());
    for entry in entries {
        if part.lines.len() >= BLOB_BYTES {
            let Part { lines, rows, .. } = std::mem::take(&mut part);
            execute(tx, sqlx::query(sql).bind(lines).bind(json(&rows)), "append records").await?;
        }
        part.push(entry);
    }
    let Part { lines, rows, .. } = part;
    execute(tx, sqlx::query(sql).bind(lines).bind(json(&rows)), "append records").await
}

/// Some rows: of each its sequence, where it begins, counted from 1, and how long it is.
#[derive(Default)]
struct Part {
    lines: Vec<u8>,
    rows: Vec<(u64, usize, usize)>,
    next: u64,
}

impl Part {
    fn push(&mut self, Entry { sequence, line, .. }: &Entry) {
        match self.rows.last_mut().filter(|(.., length)| *length < ROW_BYTES && self.next == *sequence) {
            Some((.., length)) => {
                self.lines.push(b'\n');
                *length += 1 + line.len();
            }
            None => self.rows.push((*sequence, self.lines.len() + 1, line.len())),
        }
        self.lines.extend_from_slice(line);
        self.next = sequence + 1;
    }
}

/// Lines behind a record: at least one, if there is one, and then as many as fit.
pub(in super::super) async fn behind(tx: &mut Tx, after: u64, most: usize, limit_bytes: usize) -> Result<Vec<Row>> {
    let sql = "SELECT sequence, lines FROM journal WHERE sequence >= ifnull((SELECT max(sequence) FROM journal WHERE sequence <= ?1), 0) \
               ORDER BY sequence LIMIT ?2";
    // A row may end with what is not wanted.
    let together = (most.min(limit_bytes / ROW_BYTES) + 2).min(TOGETHER);
    let mut lines = Lines { most, limit_bytes, ..Lines::default() };
    let mut last = after;
    loop {
        let from = last;
        let query = sqlx::query(sql).bind(signed(from.saturating_add(1))).bind(signed(together as u64));
        let rows = query.fetch_all(&mut *tx).await.map_err(|e| failed(DOING, &e))?;
        for row in &rows {
            for line in split(number(row, 0)?, &bytes(row, 1)?).filter(|line| line.sequence > from) {
                last = line.sequence;
                if !lines.push(line) {
                    return Ok(lines.rows);
                }
            }
        }
        if rows.len() < together {
            return Ok(lines.rows);
        }
    }
}

/// The lines of these records, as far as they are there, in order: at least one, and then as many as fit.
pub(in super::super) async fn of(tx: &mut Tx, sequences: &[u64], limit_bytes: usize) -> Result<Vec<Row>> {
    let sql = "SELECT sequence, lines FROM journal WHERE sequence IN \
               (SELECT (SELECT max(sequence) FROM journal WHERE sequence <= value) FROM json_each(?)) ORDER BY sequence";
    let mut lines = Lines { most: sequences.len(), limit_bytes, ..Lines::default() };
    for wanted in sequences.chunks(TOGETHER) {
        let rows = sqlx::query(sql).bind(json(&wanted)).fetch_all(&mut *tx).await.map_err(|e| failed(DOING, &e))?;
        for row in &rows {
            for line in split(number(row, 0)?, &bytes(row, 1)?).filter(|line| wanted.contains(&line.sequence)) {
                // Not with all of its row in memory.
                if !lines.push(Row { line: Bytes::copy_from_slice(&line.line), ..line }) {
                    return Ok(lines.rows);
                }
            }
        }
    }
    Ok(lines.rows)
}

#[derive(Default)]
struct Lines {
    rows: Vec<Row>,
    bytes: usize,
    most: usize,
    limit_bytes: usize,
}

impl Lines {
    /// Answers whether more fit.
    fn push(&mut self, row: Row) -> bool {
        self.bytes += row.line.len();
        if self.rows.len() >= self.most || (!self.rows.is_empty() && self.bytes > self.limit_bytes) {
            return false;
        }
        self.rows.push(row);
        true
    }
}

fn split(first: u64, lines: &Bytes) -> impl Iterator<Item = Row> {
    (first..)
        .zip(lines.split(|byte| *byte == b'\n'))
        .map(|(sequence, line)| Row { sequence, line: lines.slice_ref(line) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(entries: &[(u64, usize)]) -> Part {
        let mut part = Part::default();
        for (sequence, length) in entries {
            part.push(&Entry { sequence: *sequence, line: vec![b'x'; *length].into(), decision: None });
        }
        part
    }

    #[test]
    fn lines_that_follow_each_other_are_one_row_until_it_is_full() {
        let Part { lines, rows, .. } = part(&[(7, 3), (8, ROW_BYTES), (9, 5), (11, 1), (12, 1)]);
        assert_eq!(rows, [(7, 1, ROW_BYTES + 4), (9, ROW_BYTES + 5, 5), (11, ROW_BYTES + 10, 3)]);
        assert_eq!(lines.len(), ROW_BYTES + 12);
    }

    #[test]
    fn a_row_is_taken_apart_as_it_was() {
        let rows: Vec<Row> = split(41, &Bytes::from_static(b"a\nbc\nd")).collect();
        assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [41, 42, 43]);
        assert_eq!(rows[1].line, "bc");
    }
}
