//! What an address space needs of the machine: memory and TLBs. `firmware/hw` has the real ones, tests a model.

use super::entry::{ENTRIES, Level};
use crate::addr::{Ipa, Pa};
use crate::frames::GROUP;
use core::ops::Range;

/// What was put into memory that a guest is about to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Zeros: nothing that a guest could mean to execute.
    Zeros,
    /// A copy, which may be code.
    Copy,
}

/// Access to physical memory: nodes of address spaces, and guest memory as bytes.
///
/// Guest memory is only ever copied in and out, never borrowed. Other CPUs may write to it at the same time.
pub trait TableMem {
    /// Returns an entry of a node, in one 64-bit load.
    fn read(&self, node: Pa, index: usize) -> u64;

    /// Reads groups of [`GROUP`] entries of a node, each entry in one 64-bit load.
    fn read_groups(&self, node: Pa, groups: Range<usize>) -> impl Iterator<Item = [u64; GROUP]>;

    /// Reads all entries of a node.
    #[inline]
    fn read_all(&self, node: Pa) -> impl Iterator<Item = [u64; GROUP]> {
        self.read_groups(node, 0..ENTRIES / GROUP)
    }

    /// Writes an entry of a node that no MMU can reach, in one 64-bit store. Needs no order.
    fn write(&self, node: Pa, index: usize, value: u64);

    /// Writes a group of [`GROUP`] entries of a node that no MMU can reach. Needs no order.
    fn write_group(&self, node: Pa, group: usize, values: [u64; GROUP]);

    /// Writes all entries of a node that no MMU can reach: `first`, and each one greater by `step` than the one before.
    /// Needs no order.
    fn write_row(&self, node: Pa, first: u64, step: u64);

    /// Clears these bits in every entry of a node that no MMU can reach. Needs no order.
    fn clear_all(&self, node: Pa, bits: u64);

    /// Writes an entry of a node that MMUs may be walking now. Everything written before, node contents above all, is
    /// visible to every walker before this is (DMB ISHST or a store release), and this is visible to every walker on
    /// return (DSB ISHST).
    fn publish(&self, node: Pa, index: usize, value: u64);

    /// Makes an entry invalid of a node that MMUs may be walking now. Walkers may see the old one until the next
    /// [`TableMem::publish`] or invalidation of a [`Tlb`] that may know it, so that breaking many costs one barrier.
    fn unlink(&self, node: Pa, index: usize, value: u64);

    /// Fills a page with zeros.
    fn zero_page(&self, page: Pa);

    /// Fills a block of 2 MiB with zeros.
    fn zero_block(&self, block: Pa);

    /// Copies a page. No MMU can reach the destination.
    fn copy_page(&self, from: Pa, to: Pa);

    /// Returns a number that is the same for pages of the same contents, and hardly ever for others.
    fn hash_page(&self, page: Pa) -> u64;

    /// Returns true if a page is full of zeros.
    fn is_zero(&self, page: Pa) -> bool;

    /// Returns true if two pages have the same contents.
    fn equal(&self, page: Pa, other: Pa) -> bool;

    /// Makes what was put into `bytes` bytes at `pa` what a guest sees through a new mapping, whatever attributes its own
    /// translation has: without FEAT_S2FWB cleans and invalidates the data cache to the point of coherency; for a copy
    /// makes the instruction caches forget the old contents, as far as CTR_EL0.{DIC, IDC} require it.
    fn sync_for_guest(&self, pa: Pa, bytes: u64, filled: Filled);

    /// Copies bytes out of guest memory. The range does not leave its page.
    fn copy_from_guest(&self, from: Pa, to: &mut [u8]);

    /// Copies bytes into guest memory. The range does not leave its page.
    fn copy_to_guest(&self, to: Pa, from: &[u8]);
}

/// Invalidation of what TLBs remember of one VM: a value of this type knows the VMID. If the VM has none at present there
/// is nothing to invalidate.
///
/// Stores made before are visible to every walker first (DSB ISHST). On return every CPU named has forgotten (DSB), what stages 1 and 2 gave in combination included (Arm ARM D8.16).
pub trait Tlb {
    /// All CPUs (inner shareable) forget the page or block at `ipa`, a leaf of a node at this level.
    fn invalidate_leaf(&self, ipa: Ipa, level: Level);

    /// This CPU forgets the page at `ipa`. Enough after a permission was given in place: another CPU that still
    /// remembers the old one takes a fault, finds nothing to do and forgets it too.
    fn invalidate_leaf_local(&self, ipa: Ipa);

    /// All CPUs forget every leaf and every table in `bytes` bytes from `ipa`: a table entry has changed. With
    /// FEAT_TLBIRANGE by range, else by VMID.
    fn invalidate_range(&self, ipa: Ipa, bytes: u64);

    /// All CPUs forget everything of the VM.
    fn invalidate_vm(&self);
}
