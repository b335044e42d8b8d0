//! A VM's files in its memory, with the device tree that says where they are; [`salp_board::layout`] knows where.
//!
//! Comes after [`kernel`](crate::kernel); [`pack`](crate::pack) puts the result in a boot set.

use crate::kernel::{self, FlatPlace, Kernel, Piece};
use crate::nic::Nic;
use crate::vm::{Restart, Size, VmRequest};
use anyhow::{Context, Result, ensure};
use salp_board::{guest, layout};
use std::fs;
use std::path::{Path, PathBuf};

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
    let size = |bytes: &Vec<u8>| bytes.len() as u64;
    let tree_size = size(&device_tree(vm, initrd.as_ref().map(|_| 0..0), append)?);
    let places = layout::place(&kernel.plan(), vm.memory, tree_size, initrd.as_ref().map(size))?;
    let tree = device_tree(vm, places.initrd.clone(), append)?;
    let mut pieces = kernel.pieces;
    pieces.push(Piece { ipa: places.tree, bytes: tree });
    pieces.extend(places.initrd.zip(initrd).map(|(range, bytes)| Piece { ipa: range.start, bytes }));
    Ok(Placed {
        name: vm.name.clone(),
        cpus: vm.cpus,
        memory: vm.memory,
        entry: kernel.entry,
        device_tree: places.tree,
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
fn whole_pages(pieces: Vec<Piece>) -> Result<Vec<Piece>> {
    let ranges: Vec<_> = pieces.iter().map(|piece| piece.ipa..piece.end()).collect();
    let segment = |run: layout::Run| {
        let mut bytes = Vec::with_capacity((run.end - run.ipa) as usize);
        for piece in run.pieces.into_iter().map(|index| &pieces[index]) {
            bytes.resize((piece.ipa - run.ipa) as usize, 0);
            bytes.extend(&piece.bytes);
        }
        Piece { ipa: run.ipa, bytes }
    };
    Ok(layout::runs(&ranges)?.into_iter().map(segment).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kind;
    use salp_board::guest::RAM_BASE;
    use salp_hvc::bootset::PAGE;

    const BLOCK: u64 = 2 << 20;
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
