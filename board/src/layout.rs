//! Where everything lies in the memory of a VM. Before: [`kernel`](crate::kernel). After: whoever writes the VM's record.
//!
//! | kernel | device tree | initial RAM disk |
//! |---|---|---|
//! | `Image` at its offset from the start of RAM | behind the kernel, at 2 MiB | behind the device tree |
//! | ELF, flat | at the start of RAM (as on QEMU; else behind the kernel) | at half of RAM or 128 MiB, behind the kernel |
//!
//! x0 always holds the device tree's address.

extern crate alloc;

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use salp_hvc::bootset::{MAX_SEGMENTS, PAGE};

use crate::guest::RAM_BASE;
use crate::kernel::{Kernel, Kind, Unfit, unfit};
use crate::size::Size;

const BLOCK: u64 = 2 << 20;

/// Where device tree and initial RAM disk lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The guest physical address of the device tree.
    pub tree: u64,
    /// Where the initial RAM disk lies, as guest physical addresses.
    pub initrd: Option<Range<u64>>,
}

/// Places a device tree and an initial RAM disk of these sizes beside a kernel, in a VM with `memory` bytes of RAM.
///
/// # Errors
///
/// A sentence that says what does not fit, and into how much memory.
pub fn place(kernel: &Kernel, memory: u64, tree_size: u64, initrd_size: Option<u64>) -> Result<Layout, Unfit> {
    let ram_end = RAM_BASE + memory;
    let at_base = kernel.kind != Kind::Image && kernel.parts.iter().all(|part| part.ipa >= RAM_BASE + tree_size);
    let tree = if at_base { RAM_BASE } else { kernel.end.next_multiple_of(BLOCK) };
    let tree_end = tree + tree_size;
    let behind = kernel.end.max(tree_end).next_multiple_of(PAGE);
    let start = match kernel.kind {
        Kind::Image => behind,
        Kind::Elf | Kind::Flat => behind.max(RAM_BASE + (memory / 2).min(128 << 20)),
    }
    .next_multiple_of(PAGE);
    if tree_end > ram_end {
        return unfit(format!(
            "kernel and device tree end at {tree_end:#x}, and the VM's memory of {} at {ram_end:#x}",
            Size(memory)
        ));
    }
    let initrd = initrd_size.map(|size| start..start.saturating_add(size));
    if let Some(range) = initrd.as_ref().filter(|range| range.end > ram_end) {
        return unfit(format!(
            "kernel, device tree and initrd end at {:#x}, and the VM's memory of {} at {ram_end:#x}",
            range.end,
            Size(memory)
        ));
    }
    Ok(Layout { tree, initrd })
}

/// A run of bytes that starts at a page boundary, made of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The guest physical address of the first byte.
    pub ipa: u64,
    /// The guest physical address behind the last byte.
    pub end: u64,
    /// Which pieces lie in it, in ascending order.
    pub pieces: Vec<usize>,
}

/// Turns pieces into runs that start at page boundaries; pieces that share a page are in one run.
///
/// # Errors
///
/// If pieces overlap, or there are more runs than a VM has segments.
pub fn runs(pieces: &[Range<u64>]) -> Result<Vec<Run>, Unfit> {
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by_key(|&index| pieces[index].start);
    let mut runs: Vec<Run> = Vec::new();
    for index in order {
        let piece = &pieces[index];
        let start = piece.start - piece.start % PAGE;
        match runs.last_mut() {
            Some(last) if last.end > piece.start => {
                return unfit(format!("its parts overlap at {:#x}", piece.start));
            }
            Some(last) if last.end.next_multiple_of(PAGE) > start => {
                last.end = piece.end;
                last.pieces.push(index);
            }
            _ => runs.push(Run { ipa: start, end: piece.end, pieces: vec![index] }),
        }
    }
    if runs.len() > MAX_SEGMENTS as usize {
        let count = runs.len();
        return unfit(format!("it has {count} separate parts, and a VM starts with at most {MAX_SEGMENTS}"));
    }
    Ok(runs)
}
