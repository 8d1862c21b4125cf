//! How many connections one account may have open at once, and all of them together.
//!
//! Every connection costs the daemon descriptors and memory. An agent that opens connections without end runs into its own
//! limit, and one agent's limit is at most half of what there is: the others go on.
//! INVARIANT: a slot is counted exactly as long as it lives. An account without slots is not remembered.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The slots of all accounts. Clones share them.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    each: usize,
    all: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    accounts: HashMap<u64, usize>,
}

/// One connection's slot.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    account: u64,
}

/// No slot is free; the text is for the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The account has its share.
    #[error("the agent has {0} connections open, which is its limit")]
    Account(usize),
    /// All are taken.
    #[error("{0} connections of all agents are open, which is the daemon's limit")]
    All(usize),
}

impl Slots {
    /// At most `each` for an account and `all` together; nobody gets more than half of all.
    #[must_use]
    pub fn new(each: usize, all: usize) -> Self {
        let each = each.min(all / 2).max(1);
        Self(Arc::new(Shared { each, all, taken: Mutex::default() }))
    }

    /// A slot for a connection of this account.
    ///
    /// # Errors
    /// When the account, or all together, have as many as they may.
    pub fn take(&self, account: u64) -> Result<Slot, Full> {
        let Shared { each, all, taken } = &*self.0;
        let mut taken = taken.lock();
        if taken.all >= *all {
            return Err(Full::All(*all));
        }
        let of_account = taken.accounts.entry(account).or_insert(0);
        if *of_account >= *each {
            return Err(Full::Account(*each));
        }
        *of_account = of_account.saturating_add(1);
        taken.all = taken.all.saturating_add(1);
        drop(taken);
        Ok(Slot { slots: self.clone(), account })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.0.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(of_account) = taken.accounts.get_mut(&self.account) {
            *of_account = of_account.saturating_sub(1);
            if *of_account == 0 {
                taken.accounts.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_at_its_limit_is_refused_and_another_is_served() {
        let slots = Slots::new(2, 10);
        let held: Vec<Slot> = (0..2).map(|_| slots.take(7).unwrap()).collect();
        assert_eq!(slots.take(7).unwrap_err(), Full::Account(2));
        let _other = slots.take(8).unwrap();
        drop(held);
        let _again = slots.take(7).unwrap();
    }

    #[test]
    fn one_account_gets_at_most_half_of_all() {
        let slots = Slots::new(1000, 4);
        let _held: Vec<Slot> = (0..2).map(|_| slots.take(7).unwrap()).collect();
        assert_eq!(slots.take(7).unwrap_err(), Full::Account(2));
        let _others: Vec<Slot> = (8..10).map(|account| slots.take(account).unwrap()).collect();
        assert_eq!(slots.take(10).unwrap_err(), Full::All(4));
    }

    #[test]
    fn a_refusal_and_a_slot_that_is_given_up_leave_nothing_behind() {
        let slots = Slots::new(1, 2);
        let slot = slots.take(7).unwrap();
        assert!(slots.take(7).is_err());
        drop(slot);
        let taken = slots.0.taken.lock();
        assert_eq!((taken.all, taken.accounts.len()), (0, 0));
    }
}
