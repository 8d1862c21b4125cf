//! Where fields lie in the running kernel's structures, by its own type information (BTF).
//!
//! Format: <https://docs.kernel.org/bpf/btf.html>. Read for the programs on security hooks alone, which follow pointers that no
//! stable context gives them. INVARIANT: a field that is not found is an error; nothing is guessed. Limit: the machine's byte order.

use std::io;
use std::path::Path;

use proxy_common::offsets::Offsets;

const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u32 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// How deep anonymous structures may lie in each other.
const DEPTH_MAX: usize = 8;
/// Bytes of a type before what its kind adds.
const HEAD: usize = 12;
/// Bytes of a member of a structure.
const MEMBER: usize = 12;

/// The type information of a kernel.
#[derive(Debug)]
pub(super) struct Types {
    bytes: Vec<u8>,
    /// Where each type starts; the first is the one with number 1.
    starts: Vec<usize>,
    strings: usize,
}

impl Types {
    /// That of the kernel that runs.
    pub(super) fn of_kernel() -> io::Result<Self> {
        let told = |problem: io::Error| io::Error::new(problem.kind(), format!("`{KERNEL}`: {problem}"));
        let bytes = std::fs::read(Path::new(KERNEL)).map_err(told)?;
        Self::parse(bytes).ok_or_else(|| told(io::Error::other("is no type information that is known here")))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut types = Self { bytes, starts: Vec::new(), strings: 0 };
        if types.word(0)? & 0xffff != MAGIC {
            return None;
        }
        let head = types.place(4)?;
        let mut at = head.checked_add(types.place(8)?)?;
        let end = at.checked_add(types.place(12)?)?;
        types.strings = head.checked_add(types.place(16)?)?;
        while at < end {
            types.starts.push(at);
            at = at.checked_add(HEAD)?.checked_add(types.extra(at)?)?;
        }
        Some(types)
    }

    /// Where the programs find what they read.
    pub(super) fn offsets(&self) -> io::Result<Offsets> {
        let (sock_kernel, sock_kernel_mask) = self.bit("sock", "sk_kern_sock")?;
        Ok(Offsets {
            sock_kernel,
            sock_kernel_mask,
            sock_allocation: self.find(&[("sock", "sk_allocation")])?,
            socket_sk: self.find(&[("socket", "sk")])?,
            sock_family: self.find(&[("sock", "__sk_common"), ("sock_common", "skc_family")])?,
            sock_cgroup: self.find(&[("sock", "sk_cgrp_data"), ("sock_cgroup_data", "cgroup")])?,
            cgroup_level: self.find(&[("cgroup", "level")])?,
            cgroup_ancestors: self.find(&[("cgroup", "ancestors")])?,
            cgroup_node: self.find(&[("cgroup", "kn")])?,
            node_id: self.find(&[("kernfs_node", "id")])?,
            task_cgroups: self.find(&[("task_struct", "cgroups")])?,
            css_set_cgroup: self.find(&[("css_set", "dfl_cgrp")])?,
            file_inode: self.find(&[("file", "f_inode")])?,
            file_data: self.find(&[("file", "private_data")])?,
            inode_mode: self.find(&[("inode", "i_mode")])?,
            unix_address: self.find(&[("unix_sock", "addr")])?,
            unix_path: self.find(&[("unix_address", "name"), ("sockaddr_un", "sun_path")])?,
        })
    }

    /// Where a field lies: each step is one in the structure before.
    fn find(&self, steps: &[(&str, &str)]) -> io::Result<u32> {
        steps.iter().try_fold(0_u32, |sum, (structure, field)| {
            let bits = self.field(structure, field).filter(|bits| bits % 8 == 0);
            let found = bits.and_then(|bits| sum.checked_add(bits / 8));
            found.ok_or_else(|| missing(structure, field))
        })
    }

    /// In which byte of a structure a field of one bit lies, and which bit it is.
    fn bit(&self, structure: &str, field: &str) -> io::Result<(u32, u32)> {
        let bits = self.field(structure, field).ok_or_else(|| missing(structure, field))?;
        let within = if cfg!(target_endian = "little") { bits % 8 } else { 7 - bits % 8 };
        Ok((bits / 8, 1 << within))
    }

    /// Bits from the start of a structure to a field of it.
    fn field(&self, structure: &str, field: &str) -> Option<u32> {
        self.starts
            .iter()
            .filter(|start| self.kind(**start) == Some(STRUCT) && self.is_named(**start, structure))
            .find_map(|start| self.bits(*start, field, DEPTH_MAX))
    }

    /// Bits from the start of a structure to a field of it, or of a nameless one in it.
    fn bits(&self, start: usize, field: &str, depth: usize) -> Option<u32> {
        let depth = depth.checked_sub(1)?;
        let info = self.word(start.checked_add(4)?)?;
        let members = (0..info & 0xffff).map_while(|index| {
            let skipped = usize::try_from(index).ok()?.checked_mul(MEMBER)?;
            start.checked_add(HEAD)?.checked_add(skipped)
        });
        // With this flag the upper byte of an offset is the size of a bit field.
        let mask = if info >> 31 == 0 { u32::MAX } else { 0x00ff_ffff };
        members.into_iter().find_map(|at| {
            let offset = self.word(at.checked_add(8)?)? & mask;
            if self.is_named(at, field) {
                return Some(offset);
            }
            let inner = self.start_of(self.word(at.checked_add(4)?)?)?;
            let nameless = self.is_named(at, "") && matches!(self.kind(inner), Some(STRUCT | UNION));
            let further = if nameless { self.bits(inner, field, depth) } else { None };
            further.and_then(|further| offset.checked_add(further))
        })
    }

    fn start_of(&self, number: u32) -> Option<usize> {
        self.starts.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
    }

    fn kind(&self, start: usize) -> Option<u32> {
        Some(self.word(start.checked_add(4)?)? >> 24 & 0x1f)
    }

    /// Whether a type or a member, which both begin with where their name is, has this one.
    fn is_named(&self, start: usize, name: &str) -> bool {
        let at = self.place(start).and_then(|place| self.strings.checked_add(place));
        let text = at.and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Bytes that the kind of a type adds to its head; none for a kind that is not known, whose size nobody can tell.
    fn extra(&self, start: usize) -> Option<usize> {
        let info = self.word(start.checked_add(4)?)?;
        let each = match info >> 24 & 0x1f {
            // Numbers, variables and tags of declarations have one word more; arrays have three.
            1 | 14 | 17 => return Some(4),
            3 => return Some(12),
            // Structures, unions, sections, wide enumerations.
            STRUCT | UNION | 15 | 19 => MEMBER,
            // Enumerations, parameters of functions.
            6 | 13 => 8,
            2 | 7..=12 | 16 | 18 => 0,
            _ => return None,
        };
        usize::try_from(info & 0xffff).ok()?.checked_mul(each)
    }

    fn place(&self, at: usize) -> Option<usize> {
        usize::try_from(self.word(at)?).ok()
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    }
}

fn missing(structure: &str, field: &str) -> io::Error {
    io::Error::other(format!("this kernel's `{structure}` has no `{field}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { long first; union { struct inner { int a; int b; } ; }; int flag : 4; }` and the number `int`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0first\0b\0flag\0a\0";
        let at = |name: &str| {
            let whole = format!("\0{name}\0");
            let found = strings.windows(whole.len()).position(|part| part == whole.as_bytes()).unwrap();
            u32::try_from(found + 1).unwrap()
        };
        let types: Vec<u32> = [
            vec![at("int"), 1 << 24, 4, 32],
            vec![0, STRUCT << 24 | 2, 8, at("a"), 1, 0, at("b"), 1, 32],
            vec![0, UNION << 24 | 1, 8, 0, 2, 0],
            vec![
                at("outer"),
                1 << 31 | STRUCT << 24 | 3,
                24,
                at("first"),
                1,
                0,
                0,
                3,
                64,
                at("flag"),
                1,
                4 << 24 | 129,
            ],
        ]
        .concat();
        let (types_length, strings_length) =
            (u32::try_from(types.len() * 4).unwrap(), u32::try_from(strings.len()).unwrap());
        let head = [0x0001_0000 | MAGIC, 24, 0, types_length, types_length, strings_length];
        let words = head.into_iter().chain(types).flat_map(u32::to_ne_bytes);
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn fields_are_found_in_nameless_structures_and_bits_with_their_byte() {
        let types = Types::parse(sample()).unwrap();
        assert_eq!(types.field("outer", "first"), Some(0));
        assert_eq!(types.find(&[("outer", "b")]).unwrap(), 12);
        assert!(types.find(&[("outer", "flag")]).is_err(), "not at a byte");
        assert_eq!(types.bit("outer", "flag").unwrap(), (16, 2));
        assert_eq!(types.field("outer", "int"), None);
        assert_eq!(types.field("inner", "a"), None);
    }

    #[test]
    fn what_is_cut_short_or_unknown_gives_no_offsets_and_no_panic() {
        let whole = sample();
        for length in 0..whole.len() {
            if let Some(types) = Types::parse(whole.get(..length).unwrap().to_vec()) {
                assert!(types.offsets().is_err());
            }
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            *bent.get_mut(at).unwrap() = 0xff;
            if let Some(types) = Types::parse(bent) {
                assert!(types.offsets().is_err());
            }
        }
    }

    #[test]
    fn the_kernel_that_runs_tells_where_everything_is() {
        let offsets = Types::of_kernel().unwrap().offsets().unwrap();
        assert!(offsets.sock_cgroup > offsets.sock_family && offsets.cgroup_ancestors > 0, "{offsets:?}");
    }
}
