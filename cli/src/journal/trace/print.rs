//! The tree as text and as JSON.

use std::collections::HashSet;

use serde::Serialize;

use super::{Event, Events, Handled};

#[derive(Serialize)]
pub(super) struct Node<'a> {
    r#type: &'a str,
    source: &'a str,
    id: &'a str,
    subject: &'a str,
    actor: &'a str,
    /// Whether it is the event that was asked for.
    asked: bool,
    handled: &'a [Handled],
    effects: Vec<Node<'a>>,
}

pub(super) fn json(events: &Events, root: usize, asked: usize) -> Node<'_> {
    node(events, root, asked, &mut HashSet::new())
}

fn node<'a>(events: &'a Events, place: usize, asked: usize, seen: &mut HashSet<usize>) -> Node<'a> {
    seen.insert(place);
    let Event { kind, source, id, subject, actor, effects, handled, .. } = &events.all[place];
    let effects = effects.iter().filter_map(|&effect| {
        let is_new = !seen.contains(&effect);
        is_new.then(|| node(events, effect, asked, seen))
    });
    let effects = effects.collect();
    Node { r#type: kind, source, id, subject, actor, asked: place == asked, handled, effects }
}

/// One line for each event and for each agent that handled it.
pub(super) fn tree(events: &Events, root: usize, asked: usize) -> String {
    let mut lines = Vec::new();
    let root = json(events, root, asked);
    lines.push(title(&root));
    branches(&root, "", &mut lines);
    lines.join("\n")
}

fn branches(node: &Node<'_>, indent: &str, lines: &mut Vec<String>) {
    let mut left = node.handled.len() + node.effects.len();
    let mut fork = || {
        left -= 1;
        if left == 0 { ("└─", "   ") } else { ("├─", "│  ") }
    };
    for Handled { agent, entity, outcome, version, sequence, reason, .. } in node.handled {
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let words = format!("{agent}: {outcome} {entity}, version {version} (record {sequence}){reason}");
        lines.push(format!("{indent}{} {words}", fork().0));
    }
    for effect in &node.effects {
        let (branch, below) = fork();
        lines.push(format!("{indent}{branch} {}", title(effect)));
        branches(effect, &format!("{indent}{below}"), lines);
    }
}

fn title(Node { r#type, source, id, subject, actor, asked, .. }: &Node<'_>) -> String {
    let by = if actor.is_empty() { String::new() } else { format!(" by {actor}") };
    let mark = if *asked { "  ◀" } else { "" };
    format!("{type} {id} of {source} for {subject}{by}{mark}")
}
