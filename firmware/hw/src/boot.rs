//! What the boot loader and the packer left for the first Rust function.

use crate::{layout, memory};
use salp_core::addr::Pa;

core::arch::global_asm!(include_str!("entry.S"));

/// The packed area behind the image: its header, by `salp_hvc::packed`.
const PACKED_MAGIC: [u8; 8] = *b"SALPPACK";
const PACKED_HEADER: u64 = 32;

/// What the first CPU was started with.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Where the image was loaded.
    pub image: Pa,
    /// The end of the image proper: code, data, bss.
    pub image_end: Pa,
    /// The end of all that was loaded: the packed area follows the image.
    pub end: Pa,
    /// The device tree.
    pub device_tree: &'static [u8],
    /// The symbol table for backtraces; empty if none was packed.
    pub symbols: &'static [u8],
    /// Where the built-in boot set is, if one was packed: address and length.
    pub boot_set: Option<(Pa, u64)>,
}

/// Reads what was loaded. `device_tree` and `image` are what entry.S passes to the first Rust function.
///
/// # Safety
///
/// Called once, by the first CPU, with the values that it was started with.
pub unsafe fn loaded(device_tree: u64, image: u64) -> Loaded {
    let image_end = layout::to_physical(Pa(image), layout::image_end());
    // SAFETY: the boot protocol puts a device tree at x0; its header is 40 bytes, the total size is the second word.
    let header = unsafe { memory::bytes(device_tree..device_tree + 8) };
    let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]).min(2 << 20);
    // SAFETY: the boot protocol allows 2 MiB for it; the early map covers that.
    let device_tree = unsafe { memory::bytes(device_tree..device_tree + u64::from(size)) };
    // SAFETY: the packer pads the image file: a header or zeros follow the image in the same 2 MiB.
    let packed = unsafe { memory::bytes(image_end.0..image_end.0 + PACKED_HEADER) };
    let mut loaded =
        Loaded { image: Pa(image), image_end, end: image_end, device_tree, symbols: &[], boot_set: None };
    if packed[..8] == PACKED_MAGIC {
        let word = |at: usize| u64::from(u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]]));
        let symbols = image_end.0 + word(8);
        // SAFETY: the packer's own offsets, inside the area.
        loaded.symbols = unsafe { memory::bytes(symbols..symbols + word(12)) };
        loaded.boot_set = (word(20) != 0).then(|| (Pa(image_end.0 + word(16)), word(20)));
        loaded.end = Pa(image_end.0 + (word(24) | word(28) << 32));
    }
    loaded
}
