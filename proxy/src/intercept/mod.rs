//! Room under construction: kernel programs.

use std::path::PathBuf;

/// What is captured and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The agents' parent cgroup below the cgroup2 mount, `agents.slice`.
    pub parent: PathBuf,
    /// Directory on bpffs for pins, `/sys/fs/bpf/chaperone`.
    pub pin_dir: PathBuf,
    /// TCP port of the proxy on 127.0.0.1 and ::1; below the ephemeral range.
    pub port: u16,
}
