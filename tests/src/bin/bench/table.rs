//! The table of results: one row per load, one column per way, and the ratio that matters.
//!
//! Printed as Markdown, so that the same text goes to the terminal and to the report.

use std::fmt::Write;

/// Rows and remarks, in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<(String, &'static str, Vec<f64>)>,
    notes: Vec<String>,
    only: Option<String>,
}

impl Table {
    /// A table for the loads whose title has this text; for all of them without one.
    pub(crate) fn only(text: Option<&str>) -> Self {
        Self { only: text.map(str::to_owned), ..Self::default() }
    }

    /// Whether a load of this title is to be measured.
    pub(crate) fn wants(&self, title: &str) -> bool {
        self.only.as_deref().is_none_or(|text| title.contains(text))
    }

    /// Adds a row: direct, pgbouncer, Chaperone.
    pub(crate) fn add(&mut self, title: &str, unit: &'static str, values: &[f64]) {
        self.rows.push((title.to_owned(), unit, values.to_vec()));
    }

    /// Adds a remark below the table.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// The whole report.
    pub(crate) fn to_markdown(&self, machine: &str, seconds: u32) -> String {
        let mut text = String::from("# Benchmarks\n\nWritten by `cargo xtask bench postgres`. ");
        text.push_str(
            "Three ways to the same server, taking turns in one run: direct, through pgbouncer in session\n",
        );
        text.push_str("mode, and captured by Chaperone with policy, masking and record on. Ratios compare within the run only.\n\n");
        text.push_str("| load | unit | direct | pgbouncer | Chaperone | Chaperone / pgbouncer |\n|---|---|---:|---:|---:|---:|\n");
        for (title, unit, values) in &self.rows {
            let cell = |index: usize| values.get(index).copied().unwrap_or(0.0);
            let (direct, pooled, ours) = (cell(0), cell(1), cell(2));
            let ratio = if pooled > 0.0 { format!("{:.2}", ours / pooled) } else { "-".to_owned() };
            let direct = if direct > 0.0 { number(direct) } else { "-".to_owned() };
            // Writing into a string cannot fail.
            let written = writeln!(
                text,
                "| {title} | {unit} | {direct} | {} | {} | {ratio} |",
                number(pooled),
                number(ours)
            );
            debug_assert!(written.is_ok(), "a string takes every write");
        }
        text.push('\n');
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text.push_str(&format!(
            "\n## Machine\n\n{machine}\n## Again\n\n`cargo xtask bench postgres --seconds {seconds}`\n"
        ));
        text
    }
}

/// Whole numbers from a hundred on, one digit behind the point below.
fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_row_shows_the_ratio_to_the_peer() {
        let mut table = Table::default();
        table.add("load", "x/s", &[400.0, 200.0, 300.0]);
        table.add("memory", "KiB", &[0.0, 10.0, 20.0]);
        let text = table.to_markdown("- none\n", 10);
        assert!(text.contains("| load | x/s | 400 | 200 | 300 | 1.50 |"), "{text}");
        assert!(text.contains("| memory | KiB | - | 10.0 | 20.0 | 2.00 |"), "{text}");
    }
}
