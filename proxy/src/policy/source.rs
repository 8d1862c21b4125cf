//! Reads a bundle's files from its directory and fingerprints them.
//!
//! Takes `*.cedar` in the directory itself (no subdirectories) and `columns.toml`. Refuses a directory without policies
//! or without `columns.toml`: a deleted file must not turn into "nothing is sensitive".
//! INVARIANT: the hash covers every byte that can change a decision, with file names and lengths.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::error::{Finding, PolicyError};
use crate::model::BundleHash;

/// One file of a bundle.
#[derive(Debug, Clone)]
pub(super) struct SourceFile {
    pub(super) name: String,
    pub(super) text: Arc<str>,
}

impl SourceFile {
    pub(super) fn finding(&self, span: (usize, usize), message: String) -> Finding {
        Finding::at(&self.name, &self.text, span, message)
    }
}

/// All files of a bundle, as read.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) policies: Vec<SourceFile>,
    pub(super) columns: SourceFile,
    pub(super) hash: BundleHash,
}

/// Name of the file with the columns' classes.
pub(super) const COLUMNS: &str = "columns.toml";
/// A bundle is written by people; more files than this is a wrong directory.
const FILES_MAX: usize = 256;
/// Ten thousand long policies fit in this; more is not a policy file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl Bundle {
    pub(super) fn read(dir: &Path) -> Result<Self, PolicyError> {
        let names = policy_names(dir)?;
        let mut findings = Vec::new();
        let mut policies = Vec::new();
        if names.is_empty() {
            findings.push(Finding::whole("*.cedar", "there is no policy file in the directory".to_owned()));
        }
        if names.len() > FILES_MAX {
            let message =
                format!("the directory has {} policy files; at most {FILES_MAX} are read", names.len());
            return Err(PolicyError::Invalid { findings: vec![Finding::whole("*.cedar", message)] });
        }
        for name in names {
            match read(dir, &name) {
                Ok(file) => policies.push(file),
                Err(finding) => findings.push(finding),
            }
        }
        let columns = match read(dir, COLUMNS) {
            Ok(file) => file,
            Err(finding) => {
                findings.push(finding.with_help("if no column is sensitive, write an empty `columns.toml`"));
                return Err(PolicyError::Invalid { findings });
            }
        };
        if !findings.is_empty() {
            return Err(PolicyError::Invalid { findings });
        }
        let hash = fingerprint(policies.iter().chain(std::iter::once(&columns)));
        Ok(Self { policies, columns, hash })
    }
}

fn policy_names(dir: &Path) -> Result<Vec<String>, PolicyError> {
    let refuse =
        |error: &std::io::Error| PolicyError::Directory { dir: dir.to_owned(), reason: error.to_string() };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| refuse(&error))? {
        let entry = entry.map_err(|error| refuse(&error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Hidden files are editors' leftovers.
        if name.ends_with(".cedar") && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn read(dir: &Path, name: &str) -> Result<SourceFile, Finding> {
    let refuse = |reason: String| Finding::whole(name, reason);
    let file = File::open(dir.join(name)).map_err(|error| refuse(format!("cannot open: {error}")))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(|error| refuse(format!("cannot read: {error}")))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(refuse(format!("the file is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(SourceFile { name: name.to_owned(), text: Arc::from(text) })
}

fn fingerprint<'a>(files: impl Iterator<Item = &'a SourceFile>) -> BundleHash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"chaperone policy bundle 1\n");
    for file in files {
        context.update(format!("{} {} {}\n", file.name.len(), file.name, file.text.len()).as_bytes());
        context.update(file.text.as_bytes());
    }
    let digest = context.finish();
    BundleHash(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}
