//! The list of an agent's entities: its shards' lists as one, in the order of keys.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::caller::Caller;
use super::problem::Problem;
use super::reader::{After, Question, ReadError, Reader, Verb};
use super::reads::{Page, may_ask, problem};

/// Most entities of one page.
const PAGE_ENTITIES: u32 = 1000;

#[derive(Deserialize)]
pub(super) struct Span {
    after: Option<String>,
    limit: Option<u32>,
}

/// Entities as sidecars answer them, and the key behind which there are more.
#[derive(Debug, Deserialize, Serialize)]
struct Listed {
    items: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// `GET /v1/agents/{agent}/entities?after=<key>&limit=<n>`
pub(super) async fn entities(
    caller: Caller,
    State(reader): State<Arc<dyn Reader>>,
    Path(agent): Path<String>,
    span: Page<Span>,
) -> Result<Response, Problem> {
    let Span { after, limit } = may_ask(&caller, &agent, span)?;
    let limit = limit.unwrap_or(PAGE_ENTITIES).clamp(1, PAGE_ENTITIES);
    let question = Question { after: after.map(After::Key), limit: Some(limit), ..Question::default() };
    let shards = 0..caller.agent(&agent)?.shards;
    let pages = try_join_all(shards.map(|shard| ask(reader.as_ref(), &agent, shard, question.clone()))).await;
    let merged = pages.and_then(|pages| merge(pages, limit as usize));
    let text = serde_json::to_string(&merged.map_err(|error| problem(&caller, &agent, &error))?);
    Ok(([(CONTENT_TYPE, "application/json")], text.expect("a page has only string keys")).into_response())
}

async fn ask(reader: &dyn Reader, agent: &str, shard: u32, question: Question) -> Result<Listed, ReadError> {
    let question = Question { shard: Some(shard), ..question };
    let text = reader.ask(agent, Verb::Entities, question).await?.into_json()?;
    serde_json::from_str(text.get()).map_err(|error| ReadError::Unreadable(error.to_string()))
}

/// Up to where the first of the pages ends that has more behind it: what comes then, its shard has not said yet.
fn merge(pages: Vec<Listed>, limit: usize) -> Result<Listed, ReadError> {
    let end = pages.iter().filter_map(|page| page.next.clone()).min();
    let mut items = Vec::new();
    for item in pages.into_iter().flat_map(|page| page.items) {
        let entity = key(&item)?;
        if end.as_ref().is_none_or(|end| entity <= *end) {
            items.push((entity, item));
        }
    }
    items.sort_by(|(a, _), (b, _)| a.cmp(b));
    let is_last = end.is_none() && items.len() <= limit;
    items.truncate(limit);
    let next = items.last().filter(|_| !is_last).map(|(entity, _)| entity.clone());
    Ok(Listed { items: items.into_iter().map(|(_, item)| item).collect(), next })
}

fn key(item: &RawValue) -> Result<String, ReadError> {
    #[derive(Deserialize)]
    struct Item {
        entity: String,
    }
    let item: Item = serde_json::from_str(item.get()).map_err(|error| ReadError::Unreadable(error.to_string()))?;
    Ok(item.entity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(entities: &[&str], next: Option<&str>) -> Listed {
        let item = |entity: &&str| RawValue::from_string(format!(r#"{{"entity":"{entity}"}}"#)).unwrap();
        Listed { items: entities.iter().map(item).collect(), next: next.map(str::to_owned) }
    }

    fn merged(pages: Vec<Listed>, limit: usize) -> (Vec<String>, Option<String>) {
        let Listed { items, next } = merge(pages, limit).unwrap();
        (items.iter().map(|item| key(item).unwrap()).collect(), next)
    }

    #[test]
    fn shards_are_listed_in_the_order_of_keys() {
        let whole = merged(vec![page(&["b", "d"], None), page(&[], None), page(&["a", "c"], None)], 4);
        assert_eq!(whole, (["a", "b", "c", "d"].map(str::to_owned).to_vec(), None));
    }

    #[test]
    fn nothing_is_passed_over_where_a_page_ends() {
        let cut = |limit| merged(vec![page(&["b", "d"], Some("d")), page(&["a", "c", "e"], None)], limit);
        assert_eq!(cut(10), (["a", "b", "c", "d"].map(str::to_owned).to_vec(), Some("d".to_owned())));
        assert_eq!(cut(3), (["a", "b", "c"].map(str::to_owned).to_vec(), Some("c".to_owned())));
    }
}
