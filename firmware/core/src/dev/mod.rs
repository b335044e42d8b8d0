//! The devices that EL2 emulates in whole, each plain data: a fork copies it, a record holds it. Before: [`bus`], which
//! finds the device of a guest physical address; the interrupts they raise go to [`crate::vgic`].
//!
//! - [`bus`]: the map of DESIGN section 5, and the way of a value between a device and a general register.
//! - [`pl011`]: the console.
//! - [`pl031`]: the clock.
//! - [`pl061`]: the power button.
//! - [`net`]: a NIC, on [`virtio_mmio`] and [`virtq`], which other virtio devices stand on too.
//! - [`drive`]: a drive for media, on the same two.
//! - [`guest`]: who the VM is, and its wish to be frozen.

pub mod bus;
pub mod drive;
pub mod guest;
pub mod net;
pub mod pl011;
pub mod pl031;
pub mod pl061;
pub mod virtio_mmio;
pub mod virtq;

/// What the identification registers of a PrimeCell say, from offset 0xfe0: PeriphID0 to 3, then PCellID0 to 3 (the value
/// that AMBA drivers look for).
const fn primecell_id(part: u16, revision: u8, offset: u64) -> Option<u32> {
    const ARM: u32 = 0x41;
    let part = part as u32;
    Some(match offset {
        0xfe0 => part & 0xff,
        0xfe4 => part >> 8 & 0xf | (ARM & 0xf) << 4,
        0xfe8 => ARM >> 4 | (revision as u32) << 4,
        0xfec => 0,
        0xff0 => 0x0d,
        0xff4 => 0xf0,
        0xff8 => 0x05,
        0xffc => 0xb1,
        _ => return None,
    })
}
