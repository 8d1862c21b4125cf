//! Builds the kernel programs and leaves the objects in `$OUT_DIR`, where `intercept` embeds them.
//!
//! The programs need a nightly compiler and `bpf-linker`; `cargo xtask setup` installs both. The linker is the
//! one `CHAPERONE_BPF_LINKER` names, else the one `cargo xtask setup` installed, else the first on the PATH.
//! The child starts with none of the outer build's compiler settings: its target and toolchain are others.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TARGET: &str = "bpfel-unknown-none";
/// The crates of kernel programs, beside this one, and the object that each makes.
const OBJECTS: [(&str, &str); 2] = [("proxy-ebpf", "chaperone-ebpf"), ("proxy-lsm", "chaperone-lsm")];
/// Outer settings that would reach the inner build and break it.
const FOREIGN: [&str; 8] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "CLIPPY_ARGS",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("cargo::error={problem}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let beside = directory("CARGO_MANIFEST_DIR")?.join("..");
    println!("cargo::rerun-if-env-changed=CHAPERONE_BPF_LINKER");
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rerun-if-changed={}", beside.join("proxy-common/src").display());
    let linker = linker()?;
    for (room, object) in OBJECTS {
        for watched in ["src", "Cargo.toml", "Cargo.lock"] {
            println!("cargo::rerun-if-changed={}", beside.join(room).join(watched).display());
        }
        compile(&beside.join(room), object, &linker)?;
    }
    Ok(())
}

fn compile(source: &Path, object: &str, linker: &Path) -> Result<(), String> {
    let out = directory("OUT_DIR")?;
    // One folder for all, which share the core library.
    let target_dir = out.join("ebpf");
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", "cargo", "build", "--locked", "--release", "--target", TARGET])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(&target_dir)
        .current_dir(source);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let foreign = FOREIGN.contains(&text.as_ref())
            || text.starts_with("CARGO_") && !["CARGO_HOME", "CARGO_NET_OFFLINE"].contains(&text.as_ref());
        if foreign {
            command.env_remove(&name);
        }
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(linker));
    let output = command
        .output()
        .map_err(|problem| format!("`rustup` did not start ({problem}); run `cargo xtask setup` first"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("is not installed") || said.contains("rust-src") {
            return Err("a nightly compiler with `rust-src` is missing; run `cargo xtask setup`".to_owned());
        }
        for line in said.lines() {
            println!("cargo::warning={line}");
        }
        return Err("the kernel programs did not build; the lines above say why".to_owned());
    }
    let built = target_dir.join(TARGET).join("release").join(object);
    fs::copy(&built, out.join(object))
        .map(drop)
        .map_err(|problem| format!("`{}` could not be copied: {problem}", built.display()))
}

/// Flags of the inner build, in cargo's encoding, which survives spaces in paths.
fn flags(linker: &Path) -> OsString {
    let mut flags = OsString::from("-Cdebuginfo=2\u{1f}-Clink-arg=--btf\u{1f}-Clinker=");
    flags.push(linker);
    flags
}

fn directory(variable: &str) -> Result<PathBuf, String> {
    env::var_os(variable).map(PathBuf::from).ok_or_else(|| format!("cargo did not set `{variable}`"))
}

fn linker() -> Result<PathBuf, String> {
    if let Some(named) = env::var_os("CHAPERONE_BPF_LINKER") {
        let named = PathBuf::from(named);
        return if named.is_file() {
            Ok(named)
        } else {
            Err(format!("`CHAPERONE_BPF_LINKER` names `{}`, which is not a file", named.display()))
        };
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .map(|cache| cache.join("chaperone-tools").join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    cache
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| "`bpf-linker` is missing; run `cargo xtask setup`".to_owned())
}
