//! Whom the process becomes, and what it gives up on the way.
//!
//! An account of the agent's own ends with no capability at all. Root keeps a handful for ordinary files and processes; that is
//! root still, and mounts and filters are what holds it. INVARIANT: root is never an account of an agent's own.

use std::path::PathBuf;

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, User, setgid, setgroups, setuid};

use super::error::JailError;

/// Whom the process becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub uid: Uid,
    gid: Gid,
    /// What it is called.
    pub name: String,
    /// Its home.
    pub home: PathBuf,
}

/// Which capabilities are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// None.
    Nothing,
    /// What ordinary work of root on files and processes needs.
    Few,
}

/// What a root agent keeps: ordinary file and process rights, and low ports.
const KEPT: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
];

impl Account {
    /// By name or number.
    ///
    /// # Errors
    /// When there is no such account, or it is root.
    pub fn named(text: &str) -> Result<Self, JailError> {
        let looked_up = |source| JailError::privileges("look up the account", source);
        let known = match text.parse::<u32>() {
            Ok(number) => {
                let uid = Uid::from_raw(number);
                // A number without an account is a fine user of one's own; its group has the same number.
                let own =
                    || Self { uid, gid: Gid::from_raw(number), name: text.to_owned(), home: "/".into() };
                User::from_uid(uid).map_err(looked_up)?.map_or_else(own, Self::of)
            }
            Err(_not_a_number) => match User::from_name(text).map_err(looked_up)? {
                Some(user) => Self::of(user),
                None => return Err(JailError::Account { why: format!("there is no user `{text}`") }),
            },
        };
        if known.uid.is_root() {
            return Err(JailError::Account { why: "`--uid` must name a user other than root".to_owned() });
        }
        Ok(known)
    }

    fn of(user: User) -> Self {
        Self { uid: user.uid, gid: user.gid, name: user.name, home: user.dir }
    }
}

impl Rest {
    /// What is left to root's agent under this account.
    pub(super) fn of(account: Option<&Account>) -> Self {
        account.map_or(Self::Few, |_| Self::Nothing)
    }
}

/// Capabilities first, while there is the right to drop them; ids after.
pub(super) fn give_up(account: Option<&Account>, rest: Rest) -> Result<(), JailError> {
    let kept: caps::CapsHashSet = match rest {
        Rest::Nothing => caps::CapsHashSet::new(),
        Rest::Few => KEPT.into(),
    };
    let reduced = |source| JailError::privileges("reduce the capabilities", source);
    for capability in caps::runtime::thread_all_supported() {
        if !kept.contains(&capability)
            && caps::has_cap(None, CapSet::Bounding, capability).map_err(reduced)?
        {
            caps::drop(None, CapSet::Bounding, capability).map_err(reduced)?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(reduced)?;
    caps::clear(None, CapSet::Inheritable).map_err(reduced)?;
    if let Some(&Account { uid, gid, .. }) = account {
        setgroups(&[]).map_err(|source| JailError::privileges("leave the supplementary groups", source))?;
        setgid(gid).map_err(|source| JailError::privileges("become the account's group", source))?;
        setuid(uid).map_err(|source| JailError::privileges("become the account", source))?;
    }
    let held = caps::read(None, CapSet::Permitted).map_err(reduced)?;
    let rest: caps::CapsHashSet = held.intersection(&kept).copied().collect();
    caps::set(None, CapSet::Effective, &rest).map_err(reduced)?;
    caps::set(None, CapSet::Permitted, &rest).map_err(reduced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_not_a_user_of_ones_own() {
        assert!(Account::named("0").is_err());
        assert!(Account::named("root").is_err());
        assert!(Account::named("no-such-user-here").is_err());
    }

    #[test]
    fn a_user_brings_a_home_and_a_number_without_account_has_none() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        let named = |text: &str| Account::named(text).unwrap();
        assert_eq!(named("nobody").home, nobody.dir);
        assert_eq!(named(&nobody.uid.to_string()), named("nobody"));
        let number = named("64123");
        assert_eq!((number.uid, number.gid), (Uid::from_raw(64_123), Gid::from_raw(64_123)));
        assert_eq!((number.name.as_str(), number.home), ("64123", PathBuf::from("/")));
    }
}
