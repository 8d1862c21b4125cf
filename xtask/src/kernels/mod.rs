//! `cargo xtask kernels`: boots Debian's 6.1 and 6.12 kernels in an emulator with the self-test as their only program, and
//! prints one table over them and the kernel that runs.
//!
//! Kernels and busybox are Debian's packages, fetched once into the tools folder. Emulation in software, so that it works
//! without rights over a hypervisor. INVARIANT: a guest that prints no report is a failure, never an empty column.
//! Limits: x86-64 only; a kernel stays the one that was fetched first until its folder is deleted.

mod archive;
mod fetch;
mod table;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{paths, setup, shell};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Change nothing on this machine: list what is missing and end with 3
    #[arg(long)]
    no_install: bool,
    /// Write the table to this file as well
    #[arg(long)]
    save: Option<PathBuf>,
}

/// Longest life of a guest; it usually takes two minutes.
const GUEST_SECONDS_MAX: u64 = 480;
const LOOK: Duration = Duration::from_millis(200);
const MEMORY: &str = "768";
/// Without the timer check: an emulator on a busy machine is too slow for it, and the kernel would give up. Without its remarks on
/// stalls, which would stand in the middle of a report.
const APPEND: &str = "console=ttyS0 loglevel=1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 panic=-1 no_timer_check lsm=landlock,lockdown,yama,bpf";

/// Builds, boots, compares.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::require_kernel()?;
    setup::run_for(setup::Purpose::Ci, args.no_install)?;
    shell::run(shell::cargo()?.args(["build", "--package", "chaperone", "--bins"]))?;
    let (columns, took) = shell::timed(columns)?;
    let text = table::print(&columns);
    print!("{text}");
    println!("kernels: {} tried in {:.0} s", table::kernels(&columns), took.as_secs_f64());
    if let Some(file) = &args.save {
        std::fs::write(file, &text).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    match table::problems(&columns).as_slice() {
        [] => Ok(()),
        problems => bail!("not as it must be:\n  {}", problems.join("\n  ")),
    }
}

/// The reports, oldest kernel first, the running one last.
fn columns() -> Result<Vec<Value>> {
    let folder = paths::tools()?.join("kernels");
    let program = paths::built("debug", "chaperone")?;
    shell::announce(
        "run the self-test here (root step)",
        "the kernel that runs is one of the three",
        "about 40 s",
    );
    let mut here = shell::as_root(&program)?;
    // It ends with 1 when something got out; the table says so then.
    let output = here.args(["selftest", "--standalone", "--json"]).stderr(Stdio::inherit()).output()?;
    let here: Value = serde_json::from_slice(&output.stdout).context("the self-test printed no report")?;
    let kernels = fetch::kernels(&folder)?;
    // A guest waits most of the time: all of them take hardly longer than one.
    let reports: Vec<Result<[Value; 2]>> = std::thread::scope(|scope| {
        let guests = kernels.iter().map(|kernel| scope.spawn(|| try_out(kernel, &folder, &program)));
        let guests: Vec<_> = guests.collect();
        guests.into_iter().map(|guest| guest.join().ok().context("a guest's keeper died")?).collect()
    });
    let reports: Vec<[Value; 2]> = reports.into_iter().collect::<Result<_>>()?;
    Ok(reports.into_iter().flatten().chain([here]).collect())
}

/// Boots one kernel; its two reports.
fn try_out(kernel: &fetch::Kernel, folder: &Path, program: &Path) -> Result<[Value; 2]> {
    shell::announce(
        &format!("boot {} in an emulator", kernel.name),
        "the guard must hold on every kernel that is supported",
        "about two minutes",
    );
    let initramfs = folder.join(format!("{}.cpio", kernel.name));
    archive::build(kernel, program, &initramfs)?;
    let printed = boot(&kernel.image, &initramfs)?;
    guest(&printed).with_context(|| format!("{} printed no report", kernel.name))
}

/// What a guest printed: the report without the programs on security hooks, then that with them, which has those rows and the life
/// of a daemon besides.
fn guest(console: &str) -> Result<[Value; 2]> {
    let mut hooked = report(console, "report")?;
    let unhooked = report(console, "unhooked")?;
    let life: Vec<&str> = console.lines().filter_map(|line| line.trim().strip_prefix("life: ")).collect();
    let fields = hooked.as_object_mut().context("the report is no object")?;
    fields.insert("unhooked".to_owned(), unhooked.get("rows").cloned().unwrap_or_default());
    fields.insert("life".to_owned(), life.into());
    Ok([unhooked, hooked])
}

/// Runs a guest to its end; what its console said.
fn boot(kernel: &Path, initramfs: &Path) -> Result<String> {
    let mut command = Command::new(paths::find_program("qemu-system-x86_64").context("qemu went away")?);
    command.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", MEMORY, "-nodefaults", "-no-reboot"]);
    command.args(["-display", "none", "-serial", "stdio", "-append", APPEND]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start qemu")?;
    let mut console = child.stdout.take().context("qemu has no console")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        console.read_to_end(&mut bytes).map(|_| bytes)
    });
    let mut looks = GUEST_SECONDS_MAX * 1000 / u64::try_from(LOOK.as_millis())?;
    while child.try_wait().context("cannot wait for qemu")?.is_none() {
        if looks == 0 {
            child.kill().context("cannot end qemu")?;
        }
        looks = looks.saturating_sub(1);
        std::thread::sleep(LOOK);
    }
    let bytes =
        reader.join().ok().context("the console's reader died")?.context("cannot read the console")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The report between two marks.
fn report(console: &str, mark: &str) -> Result<Value> {
    let inside = console
        .split_once(&format!("{mark} begins"))
        .and_then(|(_, rest)| rest.split_once(&format!("{mark} ends")))
        .map(|(inside, _)| inside);
    let line = inside.and_then(|text| text.lines().find(|line| line.starts_with('{')));
    match line {
        Some(line) => serde_json::from_str(line).context("the report cannot be read"),
        None => {
            let end: Vec<&str> = console.lines().rev().take(30).collect();
            bail!("its console ends with:\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{guest, report};

    #[test]
    fn a_report_stands_between_its_marks_and_a_console_without_one_is_an_error() {
        let console =
            "noise\r\nreport begins\r\nchaperone: words\r\n{\"kernel\":\"6.1\"}\r\n\r\nreport ends\r\n";
        assert_eq!(report(console, "report").unwrap()["kernel"], "6.1");
        assert!(report(console, "unhooked").is_err() && guest(console).is_err());
        assert!(report("noise\nreport begins\npanic", "report").is_err());
        assert!(report("report begins\n\nreport ends", "report").is_err());
        let more = format!(
            "{console}unhooked begins\n{{\"rows\":[1]}}\nunhooked ends\nlife: ok one\r\nlife: over\n"
        );
        let [without, with] = guest(&more).unwrap();
        assert_eq!((without["rows"][0].as_u64(), with["unhooked"][0].as_u64()), (Some(1), Some(1)));
        assert_eq!((with["kernel"].as_str(), with["life"][1].as_str()), (Some("6.1"), Some("over")));
    }
}
