//! Where everything lies in the memory of a VM, and the device tree that says so.
//!
//! Comes after [`kernel`](crate::kernel); [`pack`](crate::pack) puts the result in a boot set.
//!
//! | kernel | device tree | initial RAM disk |
//! |---|---|---|
//! | `Image` at its offset from the start of RAM | behind the kernel, at 2 MiB | behind the device tree |
//! | ELF, flat | at the start of RAM (as on QEMU; else behind the kernel) | at half of RAM or 128 MiB, behind the kernel |
//!
//! x0 always holds the device tree's address.

use crate::kernel::{self, FlatPlace, Kernel, Kind, Piece};
use crate::nic::Nic;
use crate::vm::{Restart, Size, VmRequest};
use anyhow::{Context, Result, ensure};
use salp_board::guest::{self, RAM_BASE};
use salp_hvc::bootset::{MAX_SEGMENTS, PAGE};
use std::fs;
use std::path::{Path, PathBuf};

const BLOCK: u64 = 2 << 20;

/// A VM with everything that is in its memory before its first instruction.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Its name.
    pub name: String,
    /// How many vCPUs.
    pub cpus: u32,
    /// RAM in bytes.
    pub memory: u64,
    /// The guest physical address of the first instruction.
    pub entry: u64,
    /// The guest physical address of the device tree: x0.
    pub device_tree: u64,
    /// What happens when it crashes.
    pub restart: Restart,
    /// Whether it gets its memory in pages of 4 KiB only.
    pub small_pages: bool,
    /// Whether it is frozen before its first instruction.
    pub frozen: bool,
    /// Whether it may make management calls.
    pub manager: bool,
    /// Whether it stays when it is off.
    pub stays: bool,
    /// Whether it is off at first.
    pub off: bool,
    /// Its NICs.
    pub nics: Vec<Nic>,
    /// Page-aligned pieces in ascending order, not overlapping.
    pub segments: Vec<Piece>,
}

/// The files of a VM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The boot arguments.
    pub append: String,
}

/// Reads the files of a VM and lays it out.
///
/// # Errors
///
/// A sentence that names the VM, the file and the limit.
pub fn place_files(vm: &VmRequest, files: &Files) -> Result<Placed> {
    vm.check()?;
    let about = |path: &Path, what| format!("VM {}: {what} {}", vm.name, path.display());
    let kernel = fs::read(&files.kernel)
        .map_err(anyhow::Error::from)
        .and_then(|bytes| kernel::read(&bytes, FlatPlace { load: vm.load, entry: vm.entry }, vm.memory))
        .with_context(|| about(&files.kernel, "kernel"))?;
    let initrd = match &files.initrd {
        None => None,
        Some(path) => Some(read_initrd(path, vm.memory).with_context(|| about(path, "initrd"))?),
    };
    place(vm, kernel, initrd, &files.append).with_context(|| match &files.initrd {
        Some(initrd) => format!("{} with initrd {}", about(&files.kernel, "kernel"), initrd.display()),
        None => about(&files.kernel, "kernel"),
    })
}

fn read_initrd(path: &Path, memory: u64) -> Result<Vec<u8>> {
    let length = fs::metadata(path)?.len();
    ensure!(length > 0, "the file is empty");
    ensure!(length <= memory, "it has {}, and the VM's memory is {}", Size(length), Size(memory));
    Ok(fs::read(path)?)
}

/// Lays out a VM.
///
/// # Errors
///
/// A sentence that says what does not fit, and into how much memory.
pub fn place(vm: &VmRequest, kernel: Kernel, initrd: Option<Vec<u8>>, append: &str) -> Result<Placed> {
    let ram_end = RAM_BASE + vm.memory;
    let tree_size = device_tree(vm, initrd.as_ref().map(|_| 0..0), append)?.len() as u64;
    let at_base = kernel.kind != Kind::Image && kernel.pieces.iter().all(|piece| piece.ipa >= RAM_BASE + tree_size);
    let tree_at = if at_base { RAM_BASE } else { kernel.end.next_multiple_of(BLOCK) };
    let tree_end = tree_at + tree_size;
    let behind = kernel.end.max(tree_end);
    let initrd_at = match kernel.kind {
        Kind::Image => behind.next_multiple_of(PAGE),
        Kind::Elf | Kind::Flat => behind.next_multiple_of(PAGE).max(RAM_BASE + (vm.memory / 2).min(128 << 20)),
    }
    .next_multiple_of(PAGE);
    ensure!(
        tree_end <= ram_end,
        "kernel and device tree end at {tree_end:#x}, and the VM's memory of {} at {ram_end:#x}",
        Size(vm.memory)
    );
    let range = initrd.as_ref().map(|bytes| initrd_at..initrd_at + bytes.len() as u64);
    if let Some(range) = &range {
        ensure!(
            range.end <= ram_end,
            "kernel, device tree and initrd end at {:#x}, and the VM's memory of {} at {ram_end:#x}",
            range.end,
            Size(vm.memory)
        );
    }
    let tree = device_tree(vm, range, append)?;
    let mut pieces = kernel.pieces;
    pieces.push(Piece { ipa: tree_at, bytes: tree });
    pieces.extend(initrd.map(|bytes| Piece { ipa: initrd_at, bytes }));
    Ok(Placed {
        name: vm.name.clone(),
        cpus: vm.cpus,
        memory: vm.memory,
        entry: kernel.entry,
        device_tree: tree_at,
        restart: vm.restart,
        small_pages: vm.small_pages,
        frozen: vm.frozen,
        manager: vm.manager,
        stays: vm.stays,
        off: vm.off,
        nics: vm.nics.clone(),
        segments: whole_pages(pieces)?,
    })
}

fn device_tree(vm: &VmRequest, initrd: Option<std::ops::Range<u64>>, append: &str) -> Result<Vec<u8>> {
    let virtio = vm.nics.len() as u32;
    Ok(guest::device_tree(&guest::Guest { vcpus: vm.cpus, memory: vm.memory, bootargs: append, initrd, virtio })?)
}

/// Turns pieces into segments that start at page boundaries; pieces that share a page become one.
fn whole_pages(mut pieces: Vec<Piece>) -> Result<Vec<Piece>> {
    pieces.sort_by_key(|piece| piece.ipa);
    let mut segments: Vec<Piece> = Vec::new();
    for piece in pieces {
        let start = piece.ipa - piece.ipa % PAGE;
        match segments.last_mut() {
            Some(last) if last.end() > piece.ipa => {
                anyhow::bail!("its parts overlap at {:#x}", piece.ipa);
            }
            Some(last) if last.end().next_multiple_of(PAGE) > start => {
                last.bytes.resize((piece.ipa - last.ipa) as usize, 0);
                last.bytes.extend(piece.bytes);
            }
            _ => {
                let mut bytes = vec![0; (piece.ipa - start) as usize];
                bytes.extend(piece.bytes);
                segments.push(Piece { ipa: start, bytes });
            }
        }
    }
    ensure!(
        segments.len() <= MAX_SEGMENTS as usize,
        "it has {} separate parts, and a VM starts with at most {MAX_SEGMENTS}",
        segments.len()
    );
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdt::Fdt;
    use proptest::prelude::*;

    fn vm(memory: u64) -> VmRequest {
        VmRequest { memory, ..VmRequest::new("t", "k") }
    }

    fn kernel(kind: Kind, parts: &[(u64, usize)]) -> Kernel {
        let pieces: Vec<Piece> = parts.iter().map(|&(ipa, size)| Piece { ipa, bytes: vec![0xaa; size] }).collect();
        let end = pieces.iter().map(Piece::end).max().expect("a part");
        Kernel { kind, entry: pieces[0].ipa, end, pieces }
    }

    fn tree(placed: &Placed) -> Vec<u8> {
        let piece = placed.segments.iter().find(|piece| piece.ipa == placed.device_tree).expect("a device tree");
        piece.bytes.clone()
    }

    #[test]
    fn linux_finds_its_tree_and_initrd_behind_the_kernel() {
        let image = Kernel { end: 0x4100_0001, ..kernel(Kind::Image, &[(RAM_BASE, 5000)]) };
        let placed = place(&vm(64 << 20), image, Some(vec![1; 10_000]), "quiet").expect("it fits");
        assert_eq!(placed.device_tree, 0x4120_0000);
        let blob = tree(&placed);
        let fdt = Fdt::new(&blob).expect("a device tree");
        assert_eq!(fdt.chosen().bootargs(), Some("quiet"));
        let initrd = placed.segments.last().expect("an initrd");
        assert!(initrd.ipa > placed.device_tree && initrd.bytes.len() == 10_000);
        let chosen = fdt.find_node("/chosen").expect("chosen");
        let cell = |name| chosen.property(name).and_then(|p| p.value.try_into().ok()).map(u64::from_be_bytes);
        assert_eq!(cell("linux,initrd-start"), Some(initrd.ipa));
        assert_eq!(cell("linux,initrd-end"), Some(initrd.end()));
    }

    #[test]
    fn firmware_finds_its_tree_at_the_start_of_ram() {
        let placed = place(&vm(64 << 20), kernel(Kind::Flat, &[(0x4020_0000, 9)]), None, "").expect("it fits");
        assert_eq!(placed.device_tree, RAM_BASE);
        let placed = place(&vm(64 << 20), kernel(Kind::Elf, &[(RAM_BASE, 9)]), None, "").expect("it fits");
        assert_eq!(placed.device_tree, RAM_BASE + BLOCK);
    }

    #[test]
    fn what_does_not_fit_is_said_with_the_limit() {
        let image = kernel(Kind::Image, &[(RAM_BASE, 1 << 20)]);
        let tight = format!("{:#}", place(&vm(2 << 20), image.clone(), None, "").expect_err("no room"));
        assert!(tight.contains("memory of 2 MiB"), "{tight}");
        let tight = format!("{:#}", place(&vm(4 << 20), image, Some(vec![0; 3 << 20]), "").expect_err("no room"));
        assert!(tight.contains("initrd") && tight.contains("memory of 4 MiB"), "{tight}");
        let many: Vec<(u64, usize)> = (0..17).map(|i| (RAM_BASE + 0x8_0000 + i * 8192, 1)).collect();
        let many = format!("{:#}", place(&vm(4 << 20), kernel(Kind::Elf, &many), None, "").expect_err("too many"));
        assert!(many.contains("at most 16"), "{many}");
        let files = Files { kernel: "/no/such".into(), initrd: None, append: String::new() };
        let missing = format!("{:#}", place_files(&vm(4 << 20), &files).expect_err("no file"));
        assert!(missing.contains("VM t: kernel /no/such"), "{missing}");
    }

    proptest! {
        #[test]
        fn segments_are_whole_pages_and_keep_every_byte(sizes in prop::collection::vec((0_u64..9000, 1_usize..9000), 1..8)) {
            let mut at = RAM_BASE + 0x8_0000;
            let parts: Vec<(u64, usize)> = sizes
                .into_iter()
                .map(|(gap, size)| {
                    let start = at + gap;
                    at = start + size as u64;
                    (start, size)
                })
                .collect();
            let placed = place(&vm(16 << 20), kernel(Kind::Elf, &parts), Some(vec![0xbb; 77]), "x").expect("it fits");
            for pair in placed.segments.windows(2) {
                prop_assert!(pair[0].end().next_multiple_of(PAGE) <= pair[1].ipa);
            }
            for segment in &placed.segments {
                prop_assert!(segment.ipa.is_multiple_of(PAGE) && segment.end() <= RAM_BASE + (16 << 20));
            }
            let total: usize = parts.iter().map(|part| part.1).sum();
            let held = placed.segments.iter().filter(|s| s.ipa != placed.device_tree).flat_map(|s| &s.bytes);
            prop_assert_eq!(held.filter(|&&byte| byte == 0xaa).count(), total);
        }
    }
}
