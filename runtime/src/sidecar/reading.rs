//! The sidecar's door to people, which is the gateway's: reads by NATS request. Every pod of an agent hears each question,
//! and the one that has the shard answers.

use anyhow::Context as _;
use async_nats::{Client, HeaderMap, Message};
use futures::StreamExt as _;
use rhizon_kernel::subject::partition;

use super::shard::{Desk, READS};
use crate::bus::nats::Connection;
use crate::gateway::Question;
use crate::reads;

/// Answers `rq.<agent>.<verb>` until the connection is closed.
pub(super) async fn serve(
    connection: Connection,
    agent: String,
    shards: usize,
    desks: Vec<Desk>,
) -> anyhow::Result<()> {
    let client = connection.client;
    let requests = client.subscribe(format!("rq.{agent}.>")).await.context("subscribing to reads")?;
    requests.for_each_concurrent(READS as usize, |request| reply(&client, shards, &desks, request)).await;
    Ok(())
}

async fn reply(client: &Client, shards: usize, desks: &[Desk], request: Message) {
    let Some(reply_to) = request.reply else { return };
    let reply = match reads::parse(&request.subject, &request.payload) {
        Some((verb, question)) => {
            let shard = shard_of(&question, shards);
            let Some(desk) = desks.iter().find(|desk| desk.shard == shard) else { return };
            (desk.answer)(verb, question).await
        }
        None => reads::refused("bad_question", "the question is not understood"),
    };
    let mut headers = HeaderMap::new();
    if let Some(next) = reply.next {
        headers.insert(NEXT, next.to_string());
    }
    if let Err(error) = client.publish_with_headers(reply_to, headers, reply.body).await {
        tracing::warn!(%error, "answering a read");
    }
}

/// The shard that is asked: the one that is named, or the entity's.
fn shard_of(question: &Question, shards: usize) -> u32 {
    let shards = u32::try_from(shards).unwrap_or(1).max(1);
    let of_entity = || question.entity.as_deref().map_or(0, |entity| u32::from(partition(entity)) % shards);
    question.shard.unwrap_or_else(of_entity)
}

/// The header that says where the next page begins.
pub const NEXT: &str = "Rhizon-Next";
