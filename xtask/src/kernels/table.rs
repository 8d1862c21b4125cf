//! One table over several reports of the self-test: which programs load, which ways out are stopped, on which kernel.
//!
//! A cell is about all launch methods of one row. INVARIANT: what got out where it is not known to, a control that was not
//! seen and a program that is not in effect are problems; the list of them decides how the command ends.

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
    line("");
    for (at, first) in list(columns.first(), "rows").iter().enumerate() {
        let cells = columns.iter().map(|one| list(Some(one), "rows").get(at).map_or("-".to_owned(), cell));
        line(&row(&format!("{:<4} {}", word(first, "number"), word(first, "name")), cells.collect()));
    }
    text
}

/// What must not be.
pub(crate) fn problems(columns: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    for column in columns {
        let kernel = word(column, "kernel");
        for program in list(Some(column), "programs") {
            if program.get(1) != Some(&Value::Bool(true)) {
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

fn programs(column: &Value) -> String {
    let all = list(Some(column), "programs");
    let effective = all.iter().filter(|one| one.get(1) == Some(&Value::Bool(true))).count();
    format!("{effective} of {}", all.len())
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
    fn a_table_has_a_column_for_each_kernel() {
        let text = print(&[column("refused", &[], "seen", true), column("out", &["slice"], "seen", true)]);
        assert!(text.contains("stopped") && text.contains("open: slice") && text.contains("1 of 1"));
    }
}
