//! bpf-linker, built against the very LLVM that the nightly compiler ships.
//!
//! A linker with another LLVM cannot read the compiler's bitcode, so the build is repeated when the nightly
//! changes; a stamp file beside the program remembers for which compiler it was made.
//! INVARIANT: the program found in the tools folder matches the installed nightly.
//! Limits: versions of LLVM that bpf-linker 0.13 knows (21 to 23).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Step, rust};
use crate::{paths, shell};

const VERSION: &str = "0.13.0";

/// Names the build when the program is absent or was made for another compiler.
pub(super) fn look() -> Result<Vec<Step>> {
    let program = paths::tool_programs()?.join("bpf-linker");
    let current = rust::version().unwrap_or_default();
    let made_for = std::fs::read_to_string(stamp()?).ok();
    let runs = program.is_file() && shell::succeeds(std::process::Command::new(&program).arg("--version"));
    // A program without a stamp was put there by hand; it counts as long as it starts.
    if runs && made_for.is_none_or(|text| text == current) {
        return Ok(Vec::new());
    }
    Ok(vec![Step {
        what: format!("build bpf-linker {VERSION} into the tools folder"),
        why: "links the kernel programs; it must use the compiler's own LLVM",
        takes: "about 2 minutes on two cores",
        install: Box::new(build),
    }])
}

fn stamp() -> Result<PathBuf> {
    Ok(paths::tools()?.join("bpf-linker.made-for"))
}

fn build() -> Result<()> {
    let version = rust::version()?;
    let major = llvm_major(&version).context("the nightly compiler does not name its LLVM")?;
    let tools = paths::tools()?;
    let libraries = rust::sysroot()?.join("lib");
    let prefix = tools.join("llvm");
    link_library(&libraries, &prefix.join("lib"))?;
    let mut install = shell::as_user("cargo")?;
    // The repository's `rust-toolchain.toml` must not choose here, nor a caller's target folder.
    install.env_remove("CARGO").env_remove("CARGO_TARGET_DIR").env_remove("RUSTUP_TOOLCHAIN");
    install.current_dir(&tools).env("LLVM_PREFIX", &prefix);
    install.env("RUSTFLAGS", format!("-C link-arg=-Wl,-rpath,{}", libraries.display()));
    install.arg(format!("+{}", rust::NIGHTLY)).args(["install", "bpf-linker", "--version", VERSION]);
    install.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{major}"),
        "--locked",
        "--force",
        "--root",
    ]);
    shell::run(install.arg(&tools))?;
    std::fs::write(stamp()?, version).context("cannot write the linker's stamp file")
}

/// `LLVM version: 22.1.4` gives 22.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

/// Makes `PREFIX/lib/libLLVM.so` point at the real library, not at the linker script beside it.
fn link_library(libraries: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let entries =
        std::fs::read_dir(libraries).with_context(|| format!("cannot list `{}`", libraries.display()))?;
    let real = entries
        .filter_map(std::result::Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM.so."))
        .context("the nightly toolchain ships no shared LLVM library")?;
    let link = folder.join("libLLVM.so");
    match std::fs::remove_file(&link) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot replace the old link to LLVM"),
    }
    std::os::unix::fs::symlink(real.path(), &link).context("cannot link to LLVM")
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn the_compilers_llvm_is_read_from_its_description() {
        assert_eq!(llvm_major("rustc 1.97.0-nightly\nLLVM version: 22.1.4\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.97.0-nightly\n"), None);
    }
}
