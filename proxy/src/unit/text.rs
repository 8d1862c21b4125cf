//! The drop-in's text.
//!
//! Lists that a unit may have are emptied first where ours must be the whole of them; where the unit may be stricter (system
//! calls) ours only takes away. INVARIANT: a path is written only if a unit file reads it as it is: no specifiers, no quotes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Facts, Plan, UnitError, slice};
use crate::jail::{self, Tmp};

/// How our own drop-ins are recognised.
pub(super) const FIRST_LINE: &str = "# Written by `chaperone attach`; `chaperone detach` removes it.";

/// What holds for every agent.
const ALWAYS: &str = "\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictAddressFamilies=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=~clone3:ENOSYS
KeyringMode=private
Delegate=no
PrivateMounts=yes
PrivateIPC=yes
ProtectControlGroups=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectProc=invisible
TemporaryFileSystem=/run:mode=0755,size=16m,nodev,nosuid /dev/shm:mode=1777,nodev,nosuid
InaccessiblePaths=-/sys/fs/bpf
";
const RESOLVER: &str = "/etc/resolv.conf";

pub(super) fn compose(plan: &Plan<'_>, facts: &Facts) -> Result<String, UnitError> {
    let mut text = format!(
        "{FIRST_LINE}\n[Unit]\nWants=chaperone.service\nAfter=chaperone.service\n\n[Service]\nSlice={}\n",
        slice(&plan.intercept.parent)?
    );
    let mut line = |key: &str, value: &str| {
        // Writing to a string does not fail.
        let _written = writeln!(text, "{key}={value}");
    };
    // Before anything of the unit's own runs: ends the start unless the kernel guards this very cgroup.
    line("ExecCondition", &format!("+{} guarded --config {}", plain(plan.program)?, plain(plan.config)?));
    for name in jail::refused_calls(plan.jail.uring) {
        line("SystemCallFilter", &format!("~{name}"));
    }
    match plan.jail.tmp {
        Tmp::Private => line("PrivateTmp", "yes"),
        Tmp::Shared => {}
    }
    let resolver = std::fs::canonicalize(RESOLVER).ok().filter(|path| path.starts_with("/run"));
    let notify = facts.notifies.then(|| PathBuf::from("/run/systemd/notify"));
    for path in resolver.iter().chain(&notify) {
        line("BindReadOnlyPaths", &format!("-{}", plain(path)?));
    }
    for path in facts.runtime_directories.iter().chain(&plan.jail.keep) {
        line("BindPaths", &format!("-{}", plain(path)?));
    }
    for path in plan.jail.hidden.iter().map(PathBuf::as_path).chain([plan.config]) {
        line("InaccessiblePaths", &format!("-{}", plain(path)?));
    }
    text.push_str(ALWAYS);
    Ok(text)
}

fn plain(path: &Path) -> Result<&str, UnitError> {
    let sign =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'@' | b'+');
    let text = path.to_str().filter(|text| text.starts_with('/') && text.bytes().all(sign));
    text.ok_or_else(|| UnitError::Path { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::intercept::{self, Sentinel};
    use crate::jail::Uring;

    fn text(jail: &jail::Settings) -> Result<String, UnitError> {
        let intercept = intercept::Settings {
            parent: "agents.slice".into(),
            pin_dir: "/sys/fs/bpf/chaperone".into(),
            port: 15_432,
            dns_port: Some(15_433),
            sentinel: Sentinel::On,
            unix_sockets: intercept::UnixSockets::Open,
            ingress: intercept::Ingress::Open,
            security_hooks: intercept::SecurityHooks::Off,
        };
        let (program, config) = (Path::new("/usr/bin/chaperone"), Path::new("/etc/chaperone/chaperone.toml"));
        let facts = Facts { notifies: true, runtime_directories: vec!["/run/reporter".into()] };
        compose(&Plan { jail, intercept: &intercept, program, config }, &facts)
    }

    fn settings() -> jail::Settings {
        jail::Settings {
            keep: vec!["/run/postgresql".into()],
            tmp: Tmp::Private,
            uring: Uring::Refused,
            hidden: vec!["/var/lib/chaperone".into()],
            launchers: BTreeMap::new(),
            accounts: BTreeMap::new(),
            processes: BTreeMap::new(),
        }
    }

    #[test]
    fn a_drop_in_says_what_the_settings_say() {
        let closed = text(&settings()).unwrap();
        for expected in [
            "Slice=agents.slice\n",
            "ExecCondition=+/usr/bin/chaperone guarded --config /etc/chaperone/chaperone.toml\n",
            "SystemCallFilter=~bpf\n",
            "SystemCallFilter=~io_uring_setup\n",
            "PrivateTmp=yes\n",
            "BindReadOnlyPaths=-/run/systemd/notify\n",
            "BindPaths=-/run/reporter\n",
            "BindPaths=-/run/postgresql\n",
            "InaccessiblePaths=-/var/lib/chaperone\n",
        ] {
            assert!(closed.contains(expected), "{expected}\n{closed}");
        }
        let open = text(&jail::Settings { tmp: Tmp::Shared, uring: Uring::Allowed, ..settings() }).unwrap();
        assert!(!open.contains("PrivateTmp") && !open.contains("io_uring"), "{open}");
    }

    #[test]
    fn a_path_that_a_unit_file_reads_differently_is_refused() {
        for wrong in ["/run/a b", "/run/%n", "/run/\"", "/run/a\nUser=root", "relative"] {
            let jail = jail::Settings { keep: vec![wrong.into()], ..settings() };
            assert!(matches!(text(&jail), Err(UnitError::Path { .. })), "{wrong}");
        }
    }
}
