//! What the guard does not cover for the agents that run now: read from their processes, one line for each agent.
//!
//! An agent here is a cgroup right below the agents' parent: the folder of its runs, or a unit. A right over network or kernel is
//! a way out and bad; what a launcher should have closed besides is told with its meaning and the fix.
//! Known limits: a process that starts after the look is not seen; rights inside a user namespace of the agent's own are no
//! rights here and are left out; what a program could gain by being set-uid is told as "may gain rights".

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::Finding;
use crate::intercept::{Cgroup, InterceptError, Tree};

/// More processes of one agent than this are not looked at one by one: the first ones tell enough.
const PROCESSES_MAX: usize = 4096;

/// Rights that lead past the guard: number, name, what they are good for. The last three lead nowhere where programs are on security
/// hooks, which refuse the sockets, the calls and the processes of others.
const RIGHTS: [(u32, &str, &str); 7] = [
    (12, "CAP_NET_ADMIN", "detaches programs and rewrites routes"),
    (21, "CAP_SYS_ADMIN", "takes the guard away"),
    (16, "CAP_SYS_MODULE", "loads code into the kernel"),
    (17, "CAP_SYS_RAWIO", "writes to the kernel's memory"),
    (13, "CAP_NET_RAW", "puts frames on the wire that no program sees"),
    (39, "CAP_BPF", "opens the guard's programs and tables"),
    (19, "CAP_SYS_PTRACE", "acts through processes that are no agents"),
];
/// How many of them lead on with programs on security hooks.
const RIGHTS_STILL: usize = 4;

/// What one process may do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Powers {
    rights: u64,
    root: bool,
    unfiltered: bool,
    may_gain: bool,
}

/// One finding for each agent that runs.
pub(super) fn findings(parent: &Path, secured: bool) -> Vec<Finding> {
    // That the tree cannot be read is the guard's finding.
    look(parent, secured).unwrap_or_default()
}

fn look(parent: &Path, secured: bool) -> Result<Vec<Finding>, InterceptError> {
    let parent = Tree::find()?.open(parent)?;
    let mut found = Vec::new();
    for (name, _) in parent.children()? {
        // A cgroup that went away meanwhile has no processes.
        let Some(cgroup) = parent.at_child(&name) else { continue };
        let powers: Vec<Powers> = powers(&cgroup);
        found.extend(judge(&name, &powers, secured));
    }
    Ok(found)
}

fn powers(cgroup: &Cgroup) -> Vec<Powers> {
    let own = fs::read_link("/proc/self/ns/user").ok();
    let processes = cgroup.processes().into_iter().take(PROCESSES_MAX);
    let looked = processes.filter_map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mut powers = read(&text)?;
        if fs::read_link(format!("/proc/{pid}/ns/user")).ok() != own {
            powers.rights = 0;
        }
        Some(powers)
    });
    looked.collect()
}

/// Reads `/proc/PID/status`; `None` for a process that has ended.
fn read(status: &str) -> Option<Powers> {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    if field("State")?.starts_with(['Z', 'X']) {
        return None;
    }
    let mask = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
    Some(Powers {
        // What is permitted can be made effective at any time.
        rights: mask("CapEff")? | mask("CapPrm")?,
        root: field("Uid")?.split_whitespace().any(|uid| uid == "0"),
        unfiltered: field("Seccomp")? == "0",
        may_gain: field("NoNewPrivs")? == "0",
    })
}

fn judge(name: &str, processes: &[Powers], secured: bool) -> Option<Finding> {
    let count = processes.len();
    if count == 0 {
        return None;
    }
    let has = |test: fn(&Powers) -> bool| processes.iter().any(test);
    let rights = processes.iter().fold(0, |all, one| all | one.rights);
    let many = if secured { RIGHTS_STILL } else { RIGHTS.len() };
    let kept: Vec<_> = RIGHTS.iter().take(many).filter(|(bit, _, _)| rights >> bit & 1 == 1).collect();
    let mut seen: Vec<String> =
        kept.iter().map(|(_, right, meaning)| format!("keeps {right} ({meaning})")).collect();
    let mut fixes = BTreeSet::new();
    if !kept.is_empty() {
        fixes.insert("`CapabilityBoundingSet=`");
    }
    if has(|one| one.root) {
        seen.push("runs as root (may write pins, cgroup files and `core_pattern`)".to_owned());
        fixes.insert("`User=` with an account of its own");
    }
    if has(|one| one.unfiltered) && !secured {
        seen.push("has no seccomp filter (vsock, packet and kernel-crypto sockets are not seen)".to_owned());
        fixes.insert("`RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK`");
    }
    if has(|one| one.may_gain) {
        seen.push("may gain rights (set-uid programs give it theirs)".to_owned());
        fixes.insert("`NoNewPrivileges=yes`");
    }
    let name = crate::cli::shown(name);
    if seen.is_empty() {
        return Some(Finding::good("agent", format!("{name}: {count} processes without rights, filtered")));
    }
    let seen = format!("{name}: {}", seen.join("; "));
    let fixes: Vec<&str> = fixes.into_iter().collect();
    let fix = format!("in its unit: {}; or start it with `chaperone run --uid`", fixes.join(", "));
    Some(if kept.is_empty() { Finding::note("agent", seen, fix) } else { Finding::bad("agent", seen, fix) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(caps: &str, uid: &str, seccomp: u8, no_new: u8) -> String {
        format!(
            "Name:\tx\nState:\tS (sleeping)\nUid:\t{uid}\nCapPrm:\t{caps}\nCapEff:\t0000000000000000\n\
             NoNewPrivs:\t{no_new}\nSeccomp:\t{seccomp}\n"
        )
    }

    #[test]
    fn a_process_that_could_pass_the_guard_is_bad_and_says_how() {
        let raw = read(&status("0000000000002000", "7\t7\t7\t7", 2, 1)).unwrap();
        let processes = [Powers::default(), raw];
        let found = judge("reporter.service", &processes, false).unwrap();
        assert!(!found.good && found.seen.contains("CAP_NET_RAW"), "{}", found.seen);
        assert!(found.fix.unwrap().contains("CapabilityBoundingSet="));
        // Programs on security hooks refuse what it is good for; other rights lead on with them as well.
        assert!(judge("reporter.service", &processes, true).unwrap().good);
        let admin = read(&status("0000000000203000", "7\t7\t7\t7", 0, 1)).unwrap();
        let found = judge("reporter.service", &[admin], true).unwrap();
        assert!(!found.good && found.seen.contains("CAP_NET_ADMIN") && found.seen.contains("CAP_SYS_ADMIN"));
        assert!(!found.seen.contains("CAP_NET_RAW") && !found.seen.contains("seccomp"), "{}", found.seen);
    }

    #[test]
    fn what_a_launcher_left_open_is_told_with_its_meaning_and_its_fix() {
        let loose = read(&status("0000000000000000", "7\t0\t7\t7", 0, 0)).unwrap();
        let found = judge("loose", &[loose], false).unwrap();
        assert!(found.good, "no way out by itself");
        for word in ["root", "seccomp", "gain rights"] {
            assert!(found.seen.contains(word), "{word}: {}", found.seen);
        }
        let fix = found.fix.unwrap();
        for word in ["User=", "RestrictAddressFamilies=", "NoNewPrivileges=", "chaperone run"] {
            assert!(fix.contains(word), "{word}: {fix}");
        }
    }

    #[test]
    fn a_confined_agent_is_good_and_one_without_processes_is_not_mentioned() {
        let confined = read(&status("0000000000000000", "7\t7\t7\t7", 2, 1)).unwrap();
        let found = judge("worker", &[confined], false).unwrap();
        assert!(found.good && found.fix.is_none());
        assert!(judge("worker", &[], false).is_none());
    }

    #[test]
    fn a_process_that_has_ended_is_not_counted() {
        assert_eq!(read("State:\tZ (zombie)\nUid:\t0\n"), None);
        assert_eq!(read(""), None);
    }
}
