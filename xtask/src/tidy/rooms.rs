//! Who imports whom: reads the table in `rooms.toml` and compares it with the paths in `proxy/src`.
//!
//! Refuses: an edge the table does not have, a room the table does not name, a table that points upwards or in
//! a circle, and I/O in the files that must stay pure (`wire`, `engine`, `operation`, `reply`).
//! INVARIANT: a room may import only rooms listed before it, so the allowed graph has no cycle.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::source::Source;
use super::{Finding, Tree};

const TABLE: &str = "xtask/rooms.toml";

/// Files that turn bytes into meaning and must not do I/O.
const PURE: [&str; 4] = ["wire", "engine", "operation", "reply"];

/// The import table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    room: Vec<Room>,
    #[serde(default)]
    departure: Vec<Departure>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Room {
    name: String,
    may: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Departure {
    from: String,
    to: String,
    why: String,
}

impl Table {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).with_context(|| format!("`{TABLE}` is not what it should be"))
    }

    pub(crate) fn len(&self) -> usize {
        self.room.len()
    }

    /// The room of a path below `proxy/src`: the longest name that is its beginning.
    fn room_of(&self, path: &[String]) -> Option<&str> {
        (1..=path.len()).rev().find_map(|length| {
            let name = path.get(..length)?.join("::");
            self.room.iter().find(|room| room.name == name).map(|room| room.name.as_str())
        })
    }

    fn allows(&self, from: &str, to: &str) -> bool {
        let listed = self.room.iter().find(|room| room.name == from);
        let by_rule =
            listed.is_some_and(|room| room.may.iter().any(|may| may == to || (may == "*" && to != "cli")));
        by_rule || self.departure.iter().any(|edge| edge.from == from && edge.to == to)
    }

    /// What is wrong with the table itself.
    pub(crate) fn contradictions(&self) -> Vec<Finding> {
        let order: BTreeMap<&str, usize> =
            self.room.iter().enumerate().map(|(index, room)| (room.name.as_str(), index)).collect();
        let rules = self.room.iter().flat_map(|room| room.may.iter().map(move |to| (&room.name, to)));
        let extra = self.departure.iter().map(|edge| (&edge.from, &edge.to));
        let mut findings: Vec<Finding> = rules
            .chain(extra)
            .filter(|(_, to)| *to != "*")
            .filter(|(from, to)| match (order.get(from.as_str()), order.get(to.as_str())) {
                (Some(from), Some(to)) => to >= from,
                _ => true,
            })
            .map(|(from, to)| {
                Finding::new(TABLE, format!("`{from}` may not import `{to}`: it is not a lower room"))
            })
            .collect();
        let silent = self.departure.iter().filter(|edge| edge.why.trim().len() < 10);
        findings.extend(silent.map(|edge| {
            Finding::new(
                TABLE,
                format!("the departure from `{}` to `{}` gives no reason", edge.from, edge.to),
            )
        }));
        findings
    }
}

/// Edges the table does not allow, rooms it does not know, and circles among the edges there are.
pub(crate) fn edges(tree: &Tree, table: &Table) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in tree.rust() {
        let Some(module) = module_of(path) else { continue };
        let Some(from) = table.room_of(&module) else {
            findings.push(Finding::new(path, format!("`{}` is not in `{TABLE}`", module.join("::"))));
            continue;
        };
        for target in Source::new(text).crate_paths(&module) {
            let Some(to) = table.room_of(&target) else { continue };
            if to == from {
                continue;
            }
            graph.entry(from.to_owned()).or_default().insert(to.to_owned());
            if !table.allows(from, to) {
                findings.push(Finding::new(
                    path,
                    format!("`{from}` imports `{to}`, which `{TABLE}` does not allow"),
                ));
            }
        }
    }
    findings.extend(circles(&graph));
    findings
}

/// One finding per room that reaches itself.
fn circles(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<Finding> {
    let reaches_itself = |start: &String| {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<&String> = graph.get(start).into_iter().flatten().collect();
        while let Some(room) = todo.pop() {
            if seen.insert(room) {
                todo.extend(graph.get(room).into_iter().flatten());
            }
        }
        seen.contains(start)
    };
    let rooms = graph.keys().filter(|room| reaches_itself(room));
    rooms
        .map(|room| Finding::new("proxy/src", format!("`{room}` imports itself through other rooms")))
        .collect()
}

/// I/O inside files that must stay pure.
pub(crate) fn pure_files(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let Some(module) = module_of(path) else { continue };
        let pure = module.first().is_some_and(|room| room == "protocol")
            && module.iter().any(|part| PURE.contains(&part.as_str()));
        if !pure {
            continue;
        }
        let source = Source::new(text);
        let io = source.crate_paths(&module).into_iter().filter_map(|path| path.into_iter().next());
        let mut banned: BTreeSet<String> = io.filter(|room| room == "gate" || room == "net").collect();
        if source
            .code()
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word.starts_with("tokio"))
        {
            banned.insert("tokio".to_owned());
        }
        findings.extend(
            banned.into_iter().map(|name| Finding::new(path, format!("a pure file must not use `{name}`"))),
        );
    }
    findings
}

/// `proxy/src/sql/facts.rs` is `sql::facts`; `None` for files outside and for the crate's roots.
fn module_of(path: &str) -> Option<Vec<String>> {
    let inner = path.strip_prefix("proxy/src/")?.strip_suffix(".rs")?;
    if inner == "lib" || inner == "main" {
        return None;
    }
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    parts.pop_if(|last| last == "mod");
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::{Table, edges, pure_files};
    use crate::tidy::Tree;

    const TABLE: &str = "[[room]]\nname=\"model\"\nmay=[]\n[[room]]\nname=\"gate\"\nmay=[\"model\"]\n\
        [[room]]\nname=\"protocol\"\nmay=[\"gate\"]\n[[room]]\nname=\"protocol::postgres\"\nmay=[\"protocol\"]\n\
        [[room]]\nname=\"protocol::mysql\"\nmay=[\"protocol\"]\n";

    fn found(path: &str, text: &str) -> Vec<String> {
        let tree = Tree::of(&[(path, text)]);
        edges(&tree, &Table::parse(TABLE).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_edge_outside_the_table_is_found() {
        assert!(found("proxy/src/gate/mod.rs", "use crate::model::Id;").is_empty());
        let [one] = found("proxy/src/model/mod.rs", "use crate::gate::Gate;").try_into().unwrap();
        assert!(one.contains("`model` imports `gate`"), "{one}");
    }

    #[test]
    fn a_plug_in_may_not_import_its_sibling() {
        let text = "use crate::protocol::mysql::X;";
        assert_eq!(found("proxy/src/protocol/postgres/wire.rs", text).len(), 1);
        assert!(found("proxy/src/protocol/postgres/wire.rs", "use crate::protocol::Contract;").is_empty());
    }

    #[test]
    fn an_unknown_room_is_found() {
        assert_eq!(found("proxy/src/utils.rs", "").len(), 1);
    }

    #[test]
    fn a_departure_allows_one_edge() {
        let text =
            format!("{TABLE}[[departure]]\nfrom=\"protocol\"\nto=\"model\"\nwhy=\"a reason long enough\"\n");
        let tree = Tree::of(&[("proxy/src/protocol/mod.rs", "use crate::model::Id;")]);
        assert_eq!(edges(&tree, &Table::parse(TABLE).unwrap()).len(), 1);
        assert!(edges(&tree, &Table::parse(&text).unwrap()).is_empty());
    }

    #[test]
    fn a_circle_is_found() {
        let tree = Tree::of(&[
            ("proxy/src/gate/mod.rs", "use crate::protocol::X;"),
            ("proxy/src/protocol/mod.rs", "use crate::gate::Y;"),
        ]);
        let findings = edges(&tree, &Table::parse(TABLE).unwrap());
        assert!(findings.iter().any(|finding| finding.message.contains("itself")), "{findings:?}");
    }

    #[test]
    fn a_table_that_points_upwards_is_found() {
        let table =
            Table::parse("[[room]]\nname=\"a\"\nmay=[\"b\"]\n[[room]]\nname=\"b\"\nmay=[]\n").unwrap();
        assert_eq!(table.contradictions().len(), 1);
        assert!(Table::parse(TABLE).unwrap().contradictions().is_empty());
    }

    #[test]
    fn a_departure_without_a_reason_is_found() {
        let text = format!("{TABLE}[[departure]]\nfrom=\"protocol\"\nto=\"model\"\nwhy=\"\"\n");
        assert_eq!(Table::parse(&text).unwrap().contradictions().len(), 1);
    }

    #[test]
    fn io_in_a_pure_file_is_found() {
        for text in ["use tokio::io::AsyncRead;", "use crate::gate::Permit;", "use crate::net::Prefixed;"] {
            let pure = Tree::of(&[("proxy/src/protocol/postgres/engine/simple.rs", text)]);
            assert_eq!(pure_files(&pure).len(), 1, "{text}");
            let driver = Tree::of(&[("proxy/src/protocol/postgres/mod.rs", text)]);
            assert!(pure_files(&driver).is_empty(), "{text}");
        }
    }
}
