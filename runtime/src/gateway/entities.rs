//! An agent's entities as one list in the order of their keys, whichever shards they are in.

use axum::extract::{Path, State};
use axum::response::Response;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::caller::Caller;
use super::problem::Problem;
use super::reader::{After, Question, ReadError, Reply, Verb};
use super::reads::{Page, Readers, json_text, may_ask, problem};

/// Most entities of one page.
const PAGE_ENTITIES: u32 = 1000;

#[derive(Deserialize)]
pub(super) struct EntityPage {
    after: Option<String>,
    limit: Option<u32>,
}

/// Some entities of a shard or of all, and the last of them if there are more.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Listing<T> {
    items: Vec<T>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    entity: String,
}

type Keyed = (String, Box<RawValue>);

/// `GET /v1/agents/{agent}/entities?after=<key>&limit=<n>`
pub(super) async fn entities(
    caller: Caller,
    State(reader): Readers,
    Path(agent): Path<String>,
    page: Page<EntityPage>,
) -> Result<Response, Problem> {
    let EntityPage { after, limit } = may_ask(&caller, &agent, page)?;
    let limit = limit.unwrap_or(PAGE_ENTITIES).clamp(1, PAGE_ENTITIES);
    let question = Question { after: after.map(After::Key), limit: Some(limit), ..Question::default() };
    let ask = async |shard| {
        let question = Question { shard: Some(shard), ..question.clone() };
        read(reader.ask(&agent, Verb::Entities, question).await?)
    };
    let shards = try_join_all((0..caller.agent(&agent)?.shards).map(ask)).await;
    let page = merge(shards.map_err(|error| problem(&caller, &agent, &error))?, limit as usize);
    let text = to_raw_value(&page).map_err(|e| problem(&caller, &agent, &ReadError::Unreadable(e.to_string())))?;
    Ok(json_text(&text))
}

fn read(reply: Reply) -> Result<Listing<Keyed>, ReadError> {
    let unreadable = |e: serde_json::Error| ReadError::Unreadable(e.to_string());
    let text = reply.into_json()?;
    let Listing { items, next } = serde_json::from_str::<Listing<Box<RawValue>>>(text.get()).map_err(unreadable)?;
    let keyed = |item: Box<RawValue>| serde_json::from_str(item.get()).map(|Item { entity }| (entity, item));
    Ok(Listing { items: items.into_iter().map(keyed).collect::<Result<_, _>>().map_err(unreadable)?, next })
}

/// One page: up to where every shard has been read, so that none of its entities is missing in between.
fn merge(shards: Vec<Listing<Keyed>>, limit: usize) -> Listing<Box<RawValue>> {
    let end = shards.iter().filter_map(|shard| shard.next.clone()).min();
    let mut items: Vec<Keyed> = shards.into_iter().flat_map(|shard| shard.items).collect();
    items.sort_by(|(a, _), (b, _)| a.cmp(b));
    let read = end.as_ref().map_or(items.len(), |end| items.partition_point(|(entity, _)| entity <= end));
    let is_last = end.is_none() && read <= limit;
    items.truncate(read.min(limit));
    let next = items.last().filter(|_| !is_last).map(|(entity, _)| entity.clone());
    Listing { items: items.into_iter().map(|(_, item)| item).collect(), next }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shard with these entities answers.
    fn shard(entities: &[&str], after: Option<&str>, limit: usize) -> Listing<Keyed> {
        let rest: Vec<&&str> = entities.iter().filter(|entity| after.is_none_or(|after| **entity > after)).collect();
        let page = &rest[..rest.len().min(limit)];
        let raw = |entity: &str| RawValue::from_string(format!(r#"{{"entity":"{entity}"}}"#)).unwrap();
        Listing {
            items: page.iter().map(|entity| ((**entity).to_owned(), raw(entity))).collect(),
            next: page.last().filter(|_| page.len() == limit).map(|last| (**last).to_owned()),
        }
    }

    #[test]
    fn shards_are_one_list_in_order_whatever_the_pages() {
        let shards: [&[&str]; 3] = [&["a", "b", "c", "g"], &["d", "h"], &["e", "f", "i"]];
        for (page, limit) in (1..=10).flat_map(|page| (1..=10).map(move |limit| (page, limit))) {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let pages = shards.iter().map(|entities| shard(entities, after.as_deref(), page)).collect();
                let Listing { items, next } = merge(pages, limit);
                assert!(items.len() <= limit);
                all.extend(items.iter().map(|item| serde_json::from_str::<Item>(item.get()).unwrap().entity));
                let Some(next) = next else { break };
                assert_eq!(all.last(), Some(&next), "what follows is behind what was given");
                after = Some(next);
            }
            assert_eq!(all.concat(), "abcdefghi", "pages of {page} and {limit}");
        }
    }
}
