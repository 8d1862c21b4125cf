//! What was tried and what came of it: plain data, its judgement, and a table for people.
//!
//! A row is stopped only if the witness saw the same attempt get out when nothing stood in its way. What could not be tried
//! is said with the reason and counts as neither. INVARIANT: anything that got out where it is not known to is a failure,
//! and so is a row whose control was not seen.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::catalogue::MAY_LACK;
use crate::intercept;

/// How the process that tried was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// In the agents' cgroup with every right of root, so that only kernel programs stand in the way.
    Slice,
    /// By `chaperone run`, as root.
    RunRoot,
    /// By `chaperone run`, under an account of its own.
    RunUid,
    /// In the agents' cgroup, in user and network namespaces of its own, with a road to the outside.
    Namespace,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Slice, Self::RunRoot, Self::RunUid, Self::Namespace];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Slice => "slice",
            Self::RunRoot => "run-root",
            Self::RunUid => "run-uid",
            Self::Namespace => "namespace",
        }
    }

    /// The method of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// What must come of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// It arrives at the proxy with the destination that was asked for; in a foreign namespace it is refused.
    Redirected,
    /// It is refused, or nothing comes of it.
    Stopped,
    /// One of both.
    Caught,
}

/// A layer that stops attempts, by the names of its programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Packets that leave.
    Egress,
    /// Packets that arrive.
    Ingress,
    /// Sockets that are made.
    Create,
    /// Options that are set.
    Option,
    /// Ports that are bound.
    Bind,
    /// Connections.
    Connect,
    /// Datagrams without a connection.
    Sendmsg,
    /// Sockets made outside.
    Sentinel,
    /// The kernel's security hooks, where it lets programs have them.
    Security,
    /// Capabilities, accounts and system calls; no kernel program.
    Jail,
}

impl Layer {
    /// The layer of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }

    /// Its kernel programs.
    #[must_use]
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Egress => &["agent_egress"],
            Self::Ingress => &["agent_ingress"],
            Self::Create => &["agent_create"],
            Self::Option => &["agent_option"],
            Self::Bind => &["agent_bind4", "agent_bind6"],
            Self::Connect => &["agent_connect4", "agent_connect6"],
            Self::Sendmsg => &["agent_sendmsg4", "agent_sendmsg6"],
            Self::Sentinel => &["sentinel_conn4", "sentinel_conn6", "sentinel_send4", "sentinel_send6"],
            Self::Security => intercept::SECURITY_PROGRAMS,
            Self::Jail => &[],
        }
    }
}

/// What was seen of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "seen", content = "detail")]
pub enum Seen {
    /// It got out, and this shows it.
    Out(String),
    /// It arrived at the proxy.
    Redirected,
    /// The kernel said no.
    Refused(String),
    /// Nothing was refused and nothing was seen.
    Silent(String),
}

/// The same attempt without a guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "control", content = "detail")]
pub enum Shown {
    /// It got out.
    Seen(String),
    /// It cannot be done on this machine at all.
    Impossible(String),
    /// There is no control, and why.
    None(String),
    /// It should have got out and did not.
    Missed(String),
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Number in the catalogue.
    pub number: String,
    /// Name.
    pub name: String,
    /// In words.
    pub what: String,
    /// What must come of it.
    pub expected: Expected,
    /// The control.
    pub control: Shown,
    /// What was seen, by launch method.
    pub seen: Vec<(Method, Seen)>,
    /// Where it is known to get out.
    pub open: Vec<Method>,
    /// The layers that stop it.
    pub layers: Vec<Layer>,
}

/// What a cell comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Good,
    /// It got out, as is known.
    Known,
    /// It got out, or did not arrive where it must.
    Bad,
    /// It could not be tried.
    Untried,
}

impl Row {
    /// What one launch method comes to.
    #[must_use]
    pub fn verdict(&self, method: Method) -> Verdict {
        let Some((_, seen)) = self.seen.iter().find(|(one, _)| *one == method) else {
            return Verdict::Untried;
        };
        match (seen, self.expected) {
            (Seen::Out(_), _) if self.open.contains(&method) => Verdict::Known,
            (Seen::Out(_), _) => Verdict::Bad,
            _ if matches!(self.control, Shown::Impossible(_)) => Verdict::Untried,
            (Seen::Redirected, _) | (_, Expected::Stopped | Expected::Caught) => Verdict::Good,
            (Seen::Refused(_) | Seen::Silent(_), Expected::Redirected) if method == Method::Namespace => {
                Verdict::Good
            }
            (Seen::Refused(_) | Seen::Silent(_), Expected::Redirected) => Verdict::Bad,
        }
    }

    /// Whether the row is as it must be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let held = self.seen.iter().all(|(method, _)| self.verdict(*method) != Verdict::Bad);
        held && !matches!(self.control, Shown::Missed(_))
    }
}

/// The whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// Its security modules, as it lists them.
    pub modules: String,
    /// Kernel programs, and whether they are in effect.
    pub programs: Vec<(String, bool)>,
    /// Programs that were switched off for this run.
    pub without: Vec<String>,
    /// One row for each way out.
    pub rows: Vec<Row>,
    /// Rows of the catalogue that are not tried here, and why.
    pub untried: Vec<(String, String, String)>,
}

impl Report {
    /// What got out, is not proven, or is not in effect, by name.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let programs = self.programs.iter().filter(|(_, effective)| !effective).map(|(name, _)| name.clone());
        let rows = self.rows.iter().filter(|row| !row.is_good()).map(|row| row.name.clone());
        programs.chain(rows).collect()
    }

    /// Whether nothing got out that must not, and every row is proven.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.rows.is_empty() && self.faults().is_empty()
    }

    /// Rows that could not be tried here although every supported kernel has what they need.
    #[must_use]
    pub fn untested(&self) -> Vec<&str> {
        let could_not = |row: &&Row| matches!(row.control, Shown::Impossible(_));
        let names = self.rows.iter().filter(could_not).map(|row| row.name.as_str());
        names.filter(|name| !MAY_LACK.contains(name)).collect()
    }

    /// How many cells are good, known, bad, untried.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let cells = self.rows.iter().flat_map(|row| row.seen.iter().map(|(method, _)| row.verdict(*method)));
        cells.filter(|cell| *cell == verdict).count()
    }

    /// The launch methods that were tried.
    fn tried(&self) -> Vec<Method> {
        let was = |method: &Method| self.rows.iter().any(|row| row.seen.iter().any(|(one, _)| one == method));
        Method::ALL.into_iter().filter(was).collect()
    }

    /// How many known ways out there are by each launch method that was tried.
    fn known(&self) -> String {
        let count = |method: &Method| {
            let rows = self.rows.iter();
            rows.filter(|row| row.verdict(*method) == Verdict::Known).count()
        };
        let tried = self.tried();
        let each = tried.iter().map(|method| format!("{} {}", count(method), method.name()));
        each.collect::<Vec<_>>().join(", ")
    }

    /// How many of the known ways out a layer on security hooks would close; none where there is one.
    fn closable(&self) -> Option<usize> {
        let names = Layer::Security.programs();
        let there = |name: &&str| self.programs.iter().any(|(one, effective)| one == name && *effective);
        if names.iter().all(|name| there(name) && !self.without.iter().any(|one| one == name)) {
            return None;
        }
        let rows = self.rows.iter().filter(|row| row.layers.contains(&Layer::Security));
        let cells =
            rows.flat_map(|row| row.seen.iter().filter(|(method, _)| row.verdict(*method) == Verdict::Known));
        Some(cells.count())
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let mut line = |words: String| {
            if writeln!(text, "{}", words.trim_end()).is_err() {}
        };
        let methods = self.tried();
        let columns: String = methods.iter().map(|method| format!("{:<20}", method.name())).collect();
        line(format!("{:<4} {:<23} {:<11} {columns}{}", "no", "vector", "expected", "control"));
        for row in &self.rows {
            let cells: String = methods.iter().map(|method| format!("{:<20}", cell(row, *method))).collect();
            let expected = match row.expected {
                Expected::Redirected => "redirected",
                Expected::Stopped => "stopped",
                Expected::Caught => "caught",
            };
            line(format!(
                "{:<4} {:<23} {expected:<11} {cells}{}",
                row.number,
                row.name,
                control(&row.control)
            ));
        }
        for (number, what, why) in &self.untried {
            line(format!("{number:<4} {what}: not tried here: {why}"));
        }
        line(format!(
            "kernel {}: {} as they must be, {} known ways out ({}), {} NOT STOPPED, {} cannot be tried on this machine",
            self.kernel,
            self.count(Verdict::Good),
            self.count(Verdict::Known),
            self.known(),
            self.count(Verdict::Bad),
            self.count(Verdict::Untried),
        ));
        line(match self.closable() {
            None => "security hooks: in effect".to_owned(),
            Some(count) => {
                format!("security hooks: not in effect; they would close up to {count} of the known ways out")
            }
        });
        text
    }
}

fn cell(row: &Row, method: Method) -> String {
    let Some((_, seen)) = row.seen.iter().find(|(one, _)| *one == method) else { return "-".to_owned() };
    match (row.verdict(method), seen) {
        (Verdict::Known, _) => "out (known)".to_owned(),
        (Verdict::Bad, Seen::Out(_)) => "OUT".to_owned(),
        (Verdict::Bad, Seen::Refused(why) | Seen::Silent(why)) => format!("LOST {why}"),
        (Verdict::Untried, _) => "-".to_owned(),
        (_, Seen::Redirected) => "redirected".to_owned(),
        (_, Seen::Refused(why)) => why.clone(),
        (_, Seen::Silent(word)) => format!("dropped ({word})"),
        (Verdict::Good, Seen::Out(_)) => "out".to_owned(),
    }
}

fn control(control: &Shown) -> String {
    match control {
        Shown::Seen(_) => "seen".to_owned(),
        Shown::Impossible(why) => format!("not possible here: {why}"),
        Shown::None(why) => format!("no control: {why}"),
        Shown::Missed(why) => format!("NOT SEEN ({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(expected: Expected, control: Shown, seen: Seen, open: &[Method]) -> Row {
        Row {
            number: "1".to_owned(),
            name: "a".to_owned(),
            what: "b".to_owned(),
            expected,
            control,
            seen: vec![(Method::Slice, seen)],
            open: open.to_vec(),
            layers: Vec::new(),
        }
    }

    fn seen() -> Shown {
        Shown::Seen(String::new())
    }

    #[test]
    fn what_gets_out_is_bad_unless_it_is_known_to() {
        let out = || Seen::Out("a frame".to_owned());
        assert!(!row(Expected::Stopped, seen(), out(), &[]).is_good());
        assert!(!row(Expected::Caught, Shown::Impossible(String::new()), out(), &[]).is_good());
        let known = row(Expected::Stopped, seen(), out(), &[Method::Slice]);
        assert!(known.is_good());
        assert_eq!(known.verdict(Method::Slice), Verdict::Known);
    }

    #[test]
    fn a_row_whose_control_was_missed_is_bad_and_one_that_cannot_be_tried_is_not_good() {
        let refused = || Seen::Refused("EPERM".to_owned());
        assert!(!row(Expected::Stopped, Shown::Missed(String::new()), refused(), &[]).is_good());
        let impossible = row(Expected::Stopped, Shown::Impossible(String::new()), refused(), &[]);
        assert_eq!(impossible.verdict(Method::Slice), Verdict::Untried);
    }

    #[test]
    fn what_security_hooks_would_close_is_counted_until_they_are_in_effect() {
        let out = || Seen::Out("a frame".to_owned());
        let mut held = row(Expected::Stopped, seen(), out(), &[Method::Slice]);
        held.layers = vec![Layer::Jail, Layer::Security];
        let mut report = Report {
            kernel: String::new(),
            modules: String::new(),
            programs: Vec::new(),
            without: Vec::new(),
            rows: vec![held, row(Expected::Stopped, seen(), out(), &[Method::Slice])],
            untried: Vec::new(),
        };
        assert_eq!(report.closable(), Some(1));
        report.programs = Layer::Security.programs().iter().map(|name| ((*name).to_owned(), true)).collect();
        assert_eq!(report.closable(), None);
        report.without = vec!["secure_bpf".to_owned()];
        assert_eq!(report.closable(), Some(1));
    }

    #[test]
    fn a_connection_that_does_not_arrive_at_the_proxy_is_bad() {
        let refused = || Seen::Refused("ECONNREFUSED".to_owned());
        assert!(!row(Expected::Redirected, seen(), refused(), &[]).is_good());
        assert!(row(Expected::Redirected, seen(), Seen::Redirected, &[]).is_good());
        assert!(row(Expected::Caught, seen(), refused(), &[]).is_good());
    }
}
