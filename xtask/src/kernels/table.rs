//! One table over several reports of the self-test: which programs load, which ways out are stopped, on which kernel.
//!
//! A cell is about all launch methods of one row. INVARIANT: what got out where it is not known to, a control that was not
//! seen and a program that is not in effect are problems; so is a guest whose security hooks have no program, whose rows there are
//! stopped without one, or whose daemon's life went otherwise. The list of them decides how the command ends.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

/// The whole table.
pub(crate) fn print(columns: &[Value]) -> String {
    let mut text = String::new();
    let mut line = |words: &str| {
        // Writing to a string cannot fail.
        if writeln!(text, "{}", words.trim_end()).is_err() {}
    };
    let row = |first: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:<46}")).collect();
        format!("{first:<30} {cells}")
    };
    line(&row("kernel", columns.iter().map(|one| word(one, "kernel")).collect()));
    line(&row("security modules", columns.iter().map(|one| word(one, "modules")).collect()));
    line(&row("programs in effect", columns.iter().map(programs).collect()));
    line(&row("security hooks", columns.iter().map(hooked).collect()));
    line(&row("life of a daemon", columns.iter().map(life).collect()));
    line("");
    for (at, first) in list(columns.first(), "rows").iter().enumerate() {
        let cells = columns.iter().map(|one| list(Some(one), "rows").get(at).map_or("-".to_owned(), cell));
        line(&row(&format!("{:<4} {}", word(first, "number"), word(first, "name")), cells.collect()));
    }
    text
}

/// The rows that security hooks stop, of those that were tried without.
fn unhooked(column: &Value) -> Vec<&Value> {
    let rows = list(Some(column), "unhooked").iter();
    rows.filter(|row| list(Some(row), "layers").contains(&"security".into())).collect()
}

/// Whether the report is about a kernel on whose security hooks there were programs, which were switched off.
fn is_switched_off(column: &Value) -> bool {
    !list(Some(column), "without").is_empty()
}

/// What must not be of the security hooks: programs there are tested in guests alone.
fn hooks(column: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let listed = word(column, "modules").split(',').any(|module| module == "bpf");
    if is_switched_off(column) {
        return found;
    }
    match (column.get("life").is_some(), listed) {
        (true, false) => found.push("a guest without `bpf` among its security modules".to_owned()),
        (false, false) => return found,
        (_, true) => {}
    }
    let names = list(Some(column), "programs").iter().filter_map(|one| one.get(0).and_then(Value::as_str));
    if !names.into_iter().any(|name| name.starts_with("secure_")) {
        found.push("`bpf` is among its security modules, and no program is on their hooks".to_owned());
    }
    let unhooked = unhooked(column);
    if unhooked.is_empty() {
        found.push("nothing was tried without the programs on security hooks".to_owned());
    }
    // By the launch method with every right, whatever else.
    let expected = |row: &Value| {
        let cell = cell(row);
        cell.starts_with("open: slice") || cell.starts_with("not possible")
    };
    for row in unhooked.iter().filter(|row| !expected(row)) {
        found.push(format!("{} without security hooks: {}", word(row, "name"), cell(row)));
    }
    // An outsider that the programs stop would look like a machine on which nobody can.
    let rows = list(Some(column), "rows");
    let same = |one: &&Value, name: &str| word(one, "name") == name;
    for row in unhooked.iter().filter(|row| cell(row).starts_with("open: ")) {
        let name = word(row, "name");
        let hooked = rows.iter().find(|one| same(one, &name)).map(cell).unwrap_or_default();
        if hooked.starts_with("not possible") {
            found.push(format!("{name}: security hooks stop an outsider too: {hooked}"));
        }
    }
    let life = list(Some(column), "life").iter().filter_map(Value::as_str);
    let (over, seen): (Vec<&str>, Vec<&str>) = life.partition(|line| *line == "over");
    found.extend(seen.iter().filter(|line| !line.starts_with("ok ")).map(|line| format!("life: {line}")));
    if over.is_empty() || seen.len() != super::archive::steps_of_life() {
        found.push(format!("life: {} steps seen, and not to its end as it must be", seen.len()));
    }
    found
}

/// What must not be.
pub(crate) fn problems(columns: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    for column in columns {
        let kernel = word(column, "kernel");
        found.extend(hooks(column).into_iter().map(|problem| format!("{kernel}: {problem}")));
        let without = list(Some(column), "without");
        for program in list(Some(column), "programs") {
            let is_meant = program.get(0).is_some_and(|name| without.contains(name));
            if program.get(1) != Some(&Value::Bool(true)) && !is_meant {
                let name = program.get(0).and_then(Value::as_str).unwrap_or_default();
                found.push(format!("{kernel}: program `{name}` is not in effect"));
            }
        }
        let rows = list(Some(column), "rows");
        if rows.is_empty() {
            found.push(format!("{kernel}: nothing was tried"));
        }
        for row in rows {
            let cell = cell(row);
            if ["OUT", "LOST", "NO PROOF"].iter().any(|bad| cell.contains(bad)) {
                found.push(format!("{kernel}: {}: {cell}", word(row, "name")));
            }
        }
    }
    found
}

/// How many kernels the columns are about.
pub(crate) fn kernels(columns: &[Value]) -> usize {
    columns.iter().map(|one| word(one, "kernel")).collect::<BTreeSet<_>>().len()
}

fn programs(column: &Value) -> String {
    let without = list(Some(column), "without");
    let is_meant = |program: &&Value| program.get(0).is_some_and(|name| !without.contains(name));
    let all: Vec<&Value> = list(Some(column), "programs").iter().filter(is_meant).collect();
    let effective = all.iter().filter(|one| one.get(1) == Some(&Value::Bool(true))).count();
    format!("{effective} of {}", all.len())
}

fn hooked(column: &Value) -> String {
    let programs = list(Some(column), "programs").iter().filter_map(|one| one.get(0).and_then(Value::as_str));
    match (is_switched_off(column), programs.into_iter().any(|name| name.starts_with("secure_"))) {
        (true, _) => "switched off".to_owned(),
        (false, true) => "in effect".to_owned(),
        (false, false) => "not on this kernel".to_owned(),
    }
}

fn life(column: &Value) -> String {
    let seen: Vec<&str> = list(Some(column), "life").iter().filter_map(Value::as_str).collect();
    let good = seen.iter().filter(|line| line.starts_with("ok ")).count();
    if seen.is_empty() { "-".to_owned() } else { format!("{good} of {} as it must be", seen.len() - 1) }
}

/// What a row comes to, over all launch methods.
fn cell(row: &Value) -> String {
    let open: Vec<&str> = list(Some(row), "open").iter().filter_map(Value::as_str).collect();
    let control = row.get("control").map(|control| word(control, "control")).unwrap_or_default();
    let mut known = Vec::new();
    let mut bad = Vec::new();
    let mut redirected = false;
    for pair in list(Some(row), "seen") {
        let method = pair.get(0).and_then(Value::as_str).unwrap_or_default();
        let seen = pair.get(1).map(|seen| word(seen, "seen")).unwrap_or_default();
        redirected |= seen == "redirected";
        if seen == "out" && open.contains(&method) {
            known.push(method);
        } else if seen == "out" {
            bad.push(format!("OUT by {method}"));
        } else if word(row, "expected") == "redirected"
            && seen != "redirected"
            && method != "namespace"
            && control != "impossible"
        {
            bad.push(format!("LOST by {method}"));
        }
    }
    let detail = row.get("control").map(|control| word(control, "detail")).unwrap_or_default();
    if !bad.is_empty() {
        return bad.join(", ");
    }
    match control.as_str() {
        "missed" => format!("NO PROOF: {detail}"),
        "impossible" => format!("not possible: {detail}"),
        _ if !known.is_empty() => format!("open: {}", known.join(" ")),
        "none" => format!("{} (no control)", if redirected { "redirected" } else { "stopped" }),
        _ if redirected => "redirected".to_owned(),
        _ => "stopped".to_owned(),
    }
}

fn word(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list<'v>(value: Option<&'v Value>, key: &str) -> &'v [Value] {
    value.and_then(|value| value.get(key)).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{print, problems};

    fn column(seen: &str, open: &[&str], control: &str, effective: bool) -> Value {
        json!({"kernel": "6.1", "modules": "", "programs": [["agent_egress", effective]], "rows": [{
            "number": "1", "name": "tcp4", "expected": "stopped", "open": open,
            "control": {"control": control, "detail": ""}, "seen": [["slice", {"seen": seen, "detail": ""}]]}]})
    }

    #[test]
    fn what_gets_out_unknown_and_what_is_not_proven_are_problems() {
        assert!(problems(&[column("refused", &[], "seen", true)]).is_empty());
        assert!(problems(&[column("out", &["slice"], "seen", true)]).is_empty());
        assert_eq!(problems(&[column("out", &[], "seen", true)]).len(), 1);
        assert_eq!(problems(&[column("refused", &[], "missed", true)]).len(), 1);
        assert_eq!(problems(&[column("refused", &[], "seen", false)]).len(), 1);
        assert_eq!(problems(&[json!({"kernel": "6.1"})]).len(), 1);
    }

    #[test]
    fn a_guest_with_security_hooks_uses_them_and_shows_what_gets_out_without() {
        let guest = |programs: &str, seen: &str, life: &[&str]| {
            let mut guest = column("refused", &[], "seen", true);
            guest["modules"] = "lockdown,bpf".into();
            guest["programs"] = json!([[programs, true]]);
            guest["unhooked"] = column(seen, &["slice"], "seen", true)["rows"].clone();
            guest["unhooked"][0]["layers"] = json!(["security"]);
            guest["life"] = json!(life);
            problems(&[guest])
        };
        let mut life = vec!["ok one"; super::super::archive::steps_of_life()];
        life.push("over");
        assert_eq!(guest("secure_file", "out", &life), Vec::<String>::new());
        assert_eq!(guest("agent_egress", "out", &life).len(), 1);
        assert_eq!(guest("secure_file", "refused", &life).len(), 1);
        assert_eq!(guest("secure_file", "out", life.split_last().unwrap().1).len(), 1);
        assert_eq!(guest("secure_file", "out", life.split_first().unwrap().1).len(), 1);
        *life.first_mut().unwrap() = "failed one";
        assert_eq!(guest("secure_file", "out", &life).len(), 1);
    }

    #[test]
    fn a_report_without_security_hooks_is_judged_by_what_gets_out_alone() {
        let mut stock = column("refused", &[], "seen", false);
        stock["modules"] = "lockdown,bpf".into();
        stock["without"] = json!(["agent_egress"]);
        assert_eq!(problems(&[stock.clone()]), Vec::<String>::new());
        stock["rows"] = column("out", &[], "seen", true)["rows"].clone();
        assert_eq!(problems(&[stock]).len(), 1);
    }

    #[test]
    fn a_table_has_a_column_for_each_kernel() {
        let text = print(&[column("refused", &[], "seen", true), column("out", &["slice"], "seen", true)]);
        assert!(text.contains("stopped") && text.contains("open: slice") && text.contains("1 of 1"));
    }
}
