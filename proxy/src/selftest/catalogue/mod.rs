//! The catalogue: every way out that can be tried on one machine, and what must come of it.
//!
//! Numbers are those of `docs/security/bypasses.md`; several ways may share one. A row names the layers that stop it: with
//! all of them switched off it must get out, or the row proves nothing. `open` names the launch methods by which it is
//! known to get out; those are residual risks, printed as such and never as stopped.
//! INVARIANT: names are unique, and the last row is the one that leaves the cgroup.

mod datagrams;
mod handed;
mod kinds;
mod steering;
mod streams;

use super::attempts::{Answer, Scene};
use super::report::{Expected, Layer, Method};

/// Rows that some kernels have nothing for, or refuse to everybody. Any other that cannot be tried was not tested.
pub(super) const MAY_LACK: [&str; 8] =
    ["sctp", "dccp", "smc", "vsock", "alg", "routing-message", "routing-old-message", "upper-layer"];

/// Every row, in the order of trying.
pub(super) fn all() -> impl Iterator<Item = &'static Vector> {
    let themes: [&[Vector]; 5] =
        [&streams::ROWS, &kinds::ROWS, &datagrams::ROWS, &steering::ROWS, &handed::ROWS];
    themes.into_iter().flatten()
}

/// One way out.
#[derive(Debug)]
pub(super) struct Vector {
    pub(super) number: &'static str,
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) expected: Expected,
    pub(super) attempt: fn(&Scene) -> Answer,
    /// Switched off together, they let it out.
    pub(super) layers: &'static [Layer],
    pub(super) more: More,
}

/// What most rows do not need.
#[derive(Debug, Clone, Copy)]
pub(super) struct More {
    pub(super) proof: Proof,
    pub(super) control: Control,
    pub(super) passes: Passes,
    /// Where it is known to get out.
    pub(super) open: &'static [Method],
    /// Where it is known to get out although a layer on security hooks is there and among those that stop it.
    pub(super) open_still: &'static [Method],
    /// Where it is known to get out as well on a kernel without Landlock's scopes, unless that layer is there.
    pub(super) open_unscoped: &'static [Method],
    /// Where it means nothing.
    pub(super) skips: &'static [Method],
    /// The port at which a redirected connection asked to arrive, if it is not the row's own.
    pub(super) lands: u16,
    /// The far side dials in meanwhile.
    pub(super) provoked: bool,
}

/// What shows that it got out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// A frame at the witness, or bytes at a server outside.
    Traffic,
    /// The call itself: nothing that follows could be seen from here.
    Success,
}

/// How it is shown that the attempt works at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    /// The same from a process that is no agent gets out.
    Outsider,
    /// It cannot be shown, and why.
    None(&'static str),
}

/// What an outsider passes with the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passes {
    Nothing,
    Stream,
    Datagram,
    Raw,
    Connected,
    ConnectedDatagram,
}

const PLAIN: More = More {
    proof: Proof::Traffic,
    control: Control::Outsider,
    passes: Passes::Nothing,
    open: &[],
    open_still: &[],
    open_unscoped: &[],
    skips: &[],
    lands: 0,
    provoked: false,
};

const fn row(
    number: &'static str,
    (name, what): (&'static str, &'static str),
    expected: Expected,
    attempt: fn(&Scene) -> Answer,
    layers: &'static [Layer],
) -> Vector {
    Vector { number, name, what, expected, attempt, layers, more: PLAIN }
}

impl Vector {
    /// Where it is known to get out, with the layer on security hooks or without, and with Landlock's scopes or without.
    pub(super) fn open(&self, secured: bool, scoped: bool) -> Vec<Method> {
        if secured && self.layers.contains(&Layer::Security) {
            return self.more.open_still.to_vec();
        }
        let besides = if scoped { &[] } else { self.more.open_unscoped };
        self.more.open.iter().chain(besides).copied().collect()
    }

    /// Whether it joins a group, on a socket of its own or on one that was passed.
    pub(super) fn joins(&self) -> bool {
        self.number == "77" || self.name == "passed-join"
    }

    const fn but(mut self, more: More) -> Self {
        self.more = more;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_the_last_row_leaves() {
        let names: BTreeSet<&str> = super::all().map(|vector| vector.name).collect();
        assert_eq!(names.len(), super::all().count());
        assert_eq!(super::all().last().map(|vector| vector.name), Some("move-out"));
    }
}
