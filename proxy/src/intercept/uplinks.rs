//! Agents whose packets the guard cannot see: processes that may administer a namespace with a device to elsewhere.
//!
//! The guard looks at what sockets send. Whoever has `NET_ADMIN` or `NET_RAW` over a namespace can make the kernel copy, forward or
//! send packets that no guarded socket sent; with a device to elsewhere these leave. Nothing here closes that: it is for `doctor`.
//! With programs on security hooks there is no packet socket, and `NET_RAW` alone sends nothing that no guarded socket sent.
//! Looks at what a process could ever have (its bounding set). Processes that cannot be looked at are passed over.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Settings;
use super::cgroup::Tree;
use super::entry::{account_in, place_of};
use super::error::InterceptError;
use super::guard::effective;
use super::namespaces::pids_below;
use super::security::secured;

/// Bits of `CAP_NET_ADMIN` and `CAP_NET_RAW`.
const ADMIN: u64 = 1 << 12;
const RAW: u64 = 1 << 13;

/// An agent's process with rights over devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Name of the cgroup right below the agents' parent.
    pub account: String,
    /// One process of possibly many.
    pub pid: u32,
    /// The rights that it has or may get.
    pub rights: &'static str,
    /// The devices in its namespace, loopback aside.
    pub devices: Vec<String>,
}

/// One such process for each account that has any.
///
/// # Errors
/// When the tree of cgroups cannot be read.
pub fn uplinks(settings: &Settings) -> Result<Vec<Uplink>, InterceptError> {
    let parent = Tree::find()?.open(&settings.parent)?;
    let harmless = if secured(&effective(settings, &parent)?) { RAW } else { 0 };
    let mut found = BTreeMap::new();
    for pid in pids_below(parent.path()) {
        if let Some(uplink) = uplink_of(pid, &settings.parent, harmless) {
            found.entry(uplink.account.clone()).or_insert(uplink);
        }
    }
    Ok(found.into_values().collect())
}

fn uplink_of(pid: u32, parent: &Path, harmless: u64) -> Option<Uplink> {
    let directory = Path::new("/proc").join(pid.to_string());
    let own = Path::new("/proc/self");
    let shares = |name: &str| Some(place_of(&directory.join(name)).ok()? == place_of(&own.join(name)).ok()?);
    // Rights in a user namespace of one's own are none over the host's network.
    if shares("ns/net")? && !shares("ns/user")? {
        return None;
    }
    let text = |name: &str| fs::read_to_string(directory.join(name)).ok();
    let rights = rights_in(&text("status")?, harmless)?;
    let devices = devices_in(&text("net/dev")?);
    let account = account_in(&text("cgroup")?, parent)?;
    (!devices.is_empty()).then_some(Uplink { account, pid, rights, devices })
}

/// What the text of `/proc/PID/status` grants at most, but for what does no harm.
fn rights_in(status: &str, harmless: u64) -> Option<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    let bounding = u64::from_str_radix(line.trim(), 16).ok()? & !harmless;
    match (bounding & ADMIN != 0, bounding & RAW != 0) {
        (true, true) => Some("NET_ADMIN and NET_RAW"),
        (true, false) => Some("NET_ADMIN"),
        (false, true) => Some("NET_RAW"),
        (false, false) => None,
    }
}

/// The devices in the text of `/proc/PID/net/dev` that lead elsewhere, or may.
fn devices_in(table: &str) -> Vec<String> {
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.filter(|name| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_devices_are_read_as_the_kernel_writes_them() {
        assert_eq!(rights_in("Name:\tx\nCapBnd:\t000001ffffffffff\n", 0), Some("NET_ADMIN and NET_RAW"));
        assert_eq!(rights_in("CapBnd:\t00000000a80425fb\n", 0), Some("NET_RAW"));
        assert_eq!(rights_in("CapBnd:\t00000000a80425fb\n", RAW), None);
        assert_eq!(rights_in("CapBnd:\t000001ffffffffff\n", RAW), Some("NET_ADMIN"));
        assert_eq!(rights_in("CapBnd:\t0000000020000420\n", 0), None);
        assert_eq!(rights_in("", 0), None);
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 2\n  eth0: 3 4\n";
        assert_eq!(devices_in(table), ["eth0"]);
    }
}
