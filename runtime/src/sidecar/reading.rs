//! The sidecar's door to people, which is the gateway's: reads by NATS request.

use anyhow::Context as _;
use async_nats::HeaderMap;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;

use crate::bus::nats::Connection;
use crate::driver::Report;
use crate::gateway::Reply;
use crate::reads;
use crate::store::EventStore;

/// How many reads are answered side by side.
const READS: usize = 4;

/// Answers `rq.<agent>.<verb>` until the connection is closed.
pub(super) async fn serve(
    connection: Connection,
    agent: String,
    store: impl EventStore,
    report: watch::Receiver<Report>,
) -> anyhow::Result<()> {
    let client = connection.client;
    let requests = client.subscribe(format!("rq.{agent}.>")).await.context("subscribing to reads")?;
    requests
        .for_each_concurrent(READS, |request| {
            let (client, store, report) = (&client, &store, report.borrow().clone());
            async move {
                let Some(reply_to) = request.reply else { return };
                let reply = match reads::parse(&request.subject, &request.payload) {
                    Some((verb, question)) => reads::answer(store, report, verb, question).await,
                    None => Reply {
                        body: Bytes::from_static(
                            br#"{"error":{"code":"bad_question","detail":"the question is not understood"}}"#,
                        ),
                        next: None,
                    },
                };
                let mut headers = HeaderMap::new();
                if let Some(next) = reply.next {
                    headers.insert(NEXT, next.to_string());
                }
                if let Err(error) = client.publish_with_headers(reply_to, headers, reply.body).await {
                    tracing::warn!(%error, "answering a read");
                }
            }
        })
        .await;
    Ok(())
}

/// The header that says where the next page begins.
pub const NEXT: &str = "Rhizon-Next";
