//! Reads a log line by line, and cuts it into batches.

use std::path::Path;

use bytes::Bytes;
use serde::de::IgnoredAny;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

use crate::failure::Failure;

/// A request stays below what the gateway takes.
const BATCH_BYTES: usize = 4 << 20;

/// Lines that are not empty.
pub(super) struct Lines {
    reader: Box<dyn AsyncBufRead + Unpin + Send>,
    /// Number of the line that was read last.
    number: u64,
    /// Read, and too large for the batch before.
    waiting: Option<(u64, String)>,
    /// How many events there are, where that can be known before.
    pub(super) total: Option<u64>,
}

/// Events of one request.
#[derive(Debug, Default)]
pub(super) struct Batch {
    lines: Vec<(u64, String)>,
}

impl Lines {
    pub(super) async fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::new(Box::new(BufReader::new(tokio::io::stdin())), None));
        }
        let cannot = |error| Failure::Usage(format!("cannot read {}: {error}", path.display()));
        let total = count(path).await.map_err(cannot)?;
        let file = tokio::fs::File::open(path).await.map_err(cannot)?;
        Ok(Self::new(Box::new(BufReader::with_capacity(256 << 10, file)), Some(total)))
    }

    #[cfg(test)]
    pub(super) fn of(text: &'static [u8]) -> Self {
        Self::new(Box::new(text), None)
    }

    fn new(reader: Box<dyn AsyncBufRead + Unpin + Send>, total: Option<u64>) -> Self {
        Self { reader, number: 0, waiting: None, total }
    }

    /// The next event; it is JSON, and the gateway judges the rest.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, String)>, Failure> {
        if let Some(line) = self.waiting.take() {
            return Ok(Some(line));
        }
        let mut line = String::new();
        loop {
            line.clear();
            self.number += 1;
            let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("line {}: {error}", self.number));
            if self.reader.read_line(&mut line).await.map_err(|error| wrong(&error))? == 0 {
                return Ok(None);
            }
            let text = line.trim();
            if !text.is_empty() {
                serde_json::from_str::<IgnoredAny>(text).map_err(|error| wrong(&error))?;
                return Ok(Some((self.number, text.to_owned())));
            }
        }
    }

    /// Up to `events` events, or `None` at the end.
    pub(super) async fn batch(&mut self, events: usize) -> Result<Option<Batch>, Failure> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.lines.len() < events {
            let Some((number, line)) = self.next().await? else { break };
            bytes += line.len() + 1;
            if bytes > BATCH_BYTES && !batch.lines.is_empty() {
                self.waiting = Some((number, line));
                break;
            }
            batch.lines.push((number, line));
        }
        Ok(if batch.lines.is_empty() { None } else { Some(batch) })
    }
}

impl Batch {
    pub(super) fn events(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|(_, line)| line.as_str())
    }

    /// A JSON array of the lines as they are.
    pub(super) fn body(&self) -> Bytes {
        let mut body = Vec::with_capacity(self.events().map(|line| line.len() + 1).sum::<usize>() + 2);
        for (index, line) in self.events().enumerate() {
            body.push(if index == 0 { b'[' } else { b',' });
            body.extend_from_slice(line.as_bytes());
        }
        body.push(b']');
        body.into()
    }

    /// Where the event stands in the file, from 1.
    pub(super) fn line(&self, index: usize) -> Option<u64> {
        self.lines.get(index).map(|(number, _)| *number)
    }
}

async fn count(path: &Path) -> std::io::Result<u64> {
    let mut reader = BufReader::with_capacity(256 << 10, tokio::fs::File::open(path).await?);
    let (mut line, mut events) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line).await? > 0 {
        events += u64::from(!line.trim_ascii().is_empty());
        line.clear();
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_keep_the_order_and_the_lines_numbers() {
        let mut lines = Lines::of(b"1\n\n2\r\n3");
        let first = lines.batch(2).await.unwrap().unwrap();
        assert_eq!((first.body().as_ref(), first.line(1)), (b"[1,2]".as_slice(), Some(3)));
        let second = lines.batch(2).await.unwrap().unwrap();
        assert_eq!((second.body().as_ref(), second.line(0)), (b"[3]".as_slice(), Some(4)));
        assert!(lines.batch(2).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_line_that_is_no_json_is_named() {
        let failure = Lines::of(b"{}\n{\n").batch(9).await.unwrap_err();
        assert!(failure.to_string().starts_with("line 2: "), "{failure}");
        assert_eq!(failure.code(), 2);
    }
}
