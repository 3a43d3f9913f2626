//! Reads a consumer from a place to what was the end when it was opened. Nothing is acknowledged: each reading says anew
//! where it begins.

use std::time::Duration;

use super::super::nats::Connection;
use super::super::{BusError, Message, Result};
use super::feed::Feed;
use super::{ask, subject};

/// How many messages one pull may bring.
const PAGE: u64 = 500;
/// What is there comes at once, unless somebody else has got it.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Reader {
    connection: Connection,
    feed: Feed,
    pending: u64,
}

impl Reader {
    /// Begins with the first message at `from` or behind it.
    pub(crate) async fn open(connection: &Connection, stream: &str, consumer: &str, from: u64) -> Result<Self> {
        let generation = connection.connected().await?;
        let api = |verb| subject(verb, stream, consumer);
        // The answer tells how much there is at this very moment.
        let info = ask(connection, "reset the consumer", api("RESET"), format!("{{\"seq\":{from}}}")).await?;
        if info.delivered.is_some_and(|delivered| delivered.consumer_seq > 0) {
            return Err(BusError::Gap("somebody else reads through the same consumer".into()));
        }
        let feed = Feed::open(connection, api("MSG.NEXT"), from.saturating_sub(1), generation).await?;
        Ok(Self { connection: connection.clone(), feed, pending: info.num_pending })
    }

    /// The next messages; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Vec<Message>> {
        if self.pending == 0 {
            return Ok(Vec::new());
        }
        // No more than there are: a pull that waits would take messages from whoever reads next.
        let max = usize::try_from(self.pending.min(PAGE)).unwrap_or(usize::MAX);
        let pulled = tokio::time::timeout(PATIENCE, self.feed.pull(&self.connection, max)).await;
        let pulled = pulled.map_err(|_| BusError::Gap("messages that are there do not come".into()))??;
        self.pending -= pulled.len() as u64;
        Ok(pulled.into_iter().map(|(message, _)| message).collect())
    }

    /// The same, and then all that the pull still brings: nothing is under way afterwards.
    pub(crate) async fn next_and_rest(&mut self) -> Result<Vec<Message>> {
        let mut page = self.next().await?;
        let rest = tokio::time::timeout(PATIENCE, self.feed.rest()).await;
        let rest = rest.map_err(|_| BusError::Gap("messages that are there do not come".into()))??;
        self.pending -= rest.len() as u64;
        page.extend(rest.into_iter().map(|(message, _)| message));
        Ok(page)
    }
}
