//! A process of its own for the tests of the kernel guard: `launch` starts an agent as `chaperone run` does, `mount` installs
//! a guard where no BPF file system is mounted. Both are told what to do by the environment, and end with 0 only if it worked.
//! Not part of the product.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use chaperone::cli::run;
use chaperone::identity::Steps;
use chaperone::intercept::{Guard, Ingress, SecurityHooks, Sentinel, Settings, Tree, UnixSockets, uninstall};
use chaperone::jail;

fn main() -> Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("launch") => launch(),
        Some("mount") => mount().map(|()| ExitCode::SUCCESS),
        other => anyhow::bail!("`launch` or `mount`, not {other:?}"),
    }
}

fn of(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

/// Becomes the agent; returns only if it could not.
fn launch() -> Result<ExitCode> {
    let settings = Settings {
        parent: of("LAUNCH_PARENT")?.into(),
        pin_dir: of("LAUNCH_PINS")?.into(),
        port: of("LAUNCH_PORT")?.parse()?,
        dns_port: None,
        sentinel: Sentinel::Off,
        unix_sockets: UnixSockets::DeniedUnlessRoot,
        ingress: Ingress::Closed,
        security_hooks: SecurityHooks::On,
    };
    let uid = of("LAUNCH_UID")?;
    let args = run::Args {
        agent: "reporter".to_owned(),
        step: Some("test".to_owned()),
        relayed: false,
        uid: (!uid.is_empty()).then_some(uid),
        command: ["python3".into(), "-c".into(), of("LAUNCH_SCRIPT")?.into()].into(),
    };
    let code = {
        // The test's folder is a BPF file system, which takes no files; where there is no folder, nothing is noted.
        let steps = Steps::new(&Path::new(&of("LAUNCH_RUNTIME")?).join("steps"), &settings.parent);
        let jail = jail::Settings {
            keep: Vec::new(),
            tmp: jail::Tmp::Private,
            uring: jail::Uring::Refused,
            hidden: Vec::new(),
            launchers: BTreeMap::new(),
            accounts: BTreeMap::new(),
            processes: BTreeMap::new(),
        };
        run::run(args, &settings, &steps, &jail)?
    };
    println!("launcher ended: {code:?}");
    Ok(ExitCode::FAILURE)
}

/// Installs a guard whose pins lie on a file system that is not mounted yet, and takes it away again.
fn mount() -> Result<()> {
    let name = format!("chaperone-test-{}", std::process::id());
    let home = Tree::find()?.own()?;
    let pin_dir: PathBuf = Path::new("/sys/fs/bpf").join(&name);
    let settings = Settings {
        parent: name.into(),
        pin_dir,
        port: of("LAUNCH_PORT")?.parse()?,
        dns_port: None,
        sentinel: Sentinel::Off,
        unix_sockets: UnixSockets::DeniedUnlessRoot,
        ingress: Ingress::Closed,
        security_hooks: SecurityHooks::On,
    };
    let guard = Guard::install(&settings);
    let effective = guard.as_ref().is_ok_and(|guard| guard.effective().iter().all(|status| status.effective));
    Tree::find()?.open(&home)?.admit(std::process::id())?;
    let seen = format!("{guard:?}");
    drop(guard);
    uninstall(&settings, false)?;
    ensure!(effective, "not every program is effective: {seen}");
    ensure!(!settings.pin_dir.exists(), "pins are left behind");
    Ok(())
}
