//! Which device answers at a guest physical address, and how a value gets from its register into a general register.
//! Before: [`crate::exit::decode`], a data abort outside RAM; after: [`super::pl011`], [`super::pl031`], [`super::pl061`],
//! [`super::net`], [`super::drive`], [`crate::vgic`].

use crate::addr::Ipa;
use crate::vgic::{AccessSize, DIST_SIZE, MAX_VCPUS, REDIST_SIZE};
use salp_hvc::bootset::{DRIVE, MAX_NICS, VIRTIO_BASE, VIRTIO_INTID, VIRTIO_SIZE};

/// Where the distributor is.
pub const GICD: Ipa = Ipa(0x0800_0000);
/// Where the redistributors are, one after the other by vCPU.
pub const GICR: Ipa = Ipa(0x080a_0000);
/// Where the PL011 is.
pub const UART: Ipa = Ipa(0x0900_0000);
/// Where the PL031 is.
pub const RTC: Ipa = Ipa(0x0901_0000);
/// Where the PL061 is.
pub const GPIO: Ipa = Ipa(0x0903_0000);
/// Where the Salp guest device is.
pub const GUEST: Ipa = Ipa(salp_hvc::device::BASE);
/// The size of the frame of a PrimeCell, in bytes.
pub const PRIMECELL_SIZE: u64 = 0x1000;

/// The interrupt of the PL011: SPI 1.
pub const UART_INTID: u32 = 33;
/// The interrupt of the PL031: SPI 2.
pub const RTC_INTID: u32 = 34;

/// The interrupt of the PL061: SPI 7.
pub const GPIO_INTID: u32 = 39;

/// The interrupt of the drive, edge triggered.
pub const DRIVE_INTID: u32 = VIRTIO_INTID + DRIVE;

/// The two banks of flash below the GIC. They are erased and read-only: what looks for an environment or variables there,
/// as U-Boot does, finds none.
pub const FLASH: core::ops::Range<Ipa> = Ipa(0)..Ipa(0x0800_0000);

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The distributor of the GIC.
    Gicd,
    /// The redistributor of this vCPU.
    Gicr(usize),
    /// The console.
    Uart,
    /// The clock.
    Rtc,
    /// The controller of the power button's line.
    Gpio,
    /// The Salp guest device.
    Guest,
    /// A NIC, by its number.
    Virtio(usize),
    /// The drive.
    Drive,
    /// Erased flash: reads as ones, ignores writes.
    Flash,
}

/// Returns the device at `ipa` in a VM of `vcpus` vCPUs, and the offset of `ipa` in it. `None` where nothing answers: the
/// access is an external abort.
#[inline]
pub fn find(ipa: Ipa, vcpus: usize) -> Option<(Device, u64)> {
    let within = |base: Ipa, size: u64| ipa.0.checked_sub(base.0).filter(|offset| *offset < size);
    if let Some(offset) = within(GICD, DIST_SIZE) {
        return Some((Device::Gicd, offset));
    }
    if let Some(offset) = within(GICR, REDIST_SIZE * vcpus.min(MAX_VCPUS) as u64) {
        return Some((Device::Gicr((offset / REDIST_SIZE) as usize), offset % REDIST_SIZE));
    }
    if let Some(offset) = within(UART, PRIMECELL_SIZE) {
        return Some((Device::Uart, offset));
    }
    if FLASH.contains(&ipa) {
        return Some((Device::Flash, ipa.0));
    }
    if let Some(offset) = within(RTC, PRIMECELL_SIZE) {
        return Some((Device::Rtc, offset));
    }
    if let Some(offset) = within(Ipa(VIRTIO_BASE), VIRTIO_SIZE * u64::from(MAX_NICS)) {
        return Some((Device::Virtio((offset / VIRTIO_SIZE) as usize), offset % VIRTIO_SIZE));
    }
    if let Some(offset) = within(Ipa(VIRTIO_BASE + VIRTIO_SIZE * u64::from(DRIVE)), VIRTIO_SIZE) {
        return Some((Device::Drive, offset));
    }
    if let Some(offset) = within(GPIO, PRIMECELL_SIZE) {
        return Some((Device::Gpio, offset));
    }
    within(GUEST, salp_hvc::device::SIZE).map(|offset| (Device::Guest, offset))
}

/// Returns true if an access does not cross its own size: what a device can answer. Others are an alignment fault on device
/// memory, which the CPU takes by itself with the guest's MMU on; with it off they come here.
pub const fn is_aligned(offset: u64, size: AccessSize) -> bool {
    offset & (size.bytes() - 1) == 0
}

/// Returns what a load leaves in its general register: the value cut to the size of the access, extended by its sign if
/// asked for, and cut to 32 bits if the register is a W (`is_64bit` false).
#[inline]
pub const fn finish_load(value: u64, size: AccessSize, sign_extend: bool, is_64bit: bool) -> u64 {
    let unused = 64 - 8 * size.bytes() as u32;
    let left = value << unused;
    let extended = if sign_extend { (left as i64 >> unused) as u64 } else { left >> unused };
    if is_64bit { extended } else { extended & 0xffff_ffff }
}

/// Returns what a store gives to the device: the register cut to the size of the access.
#[inline]
pub const fn cut(value: u64, size: AccessSize) -> u64 {
    finish_load(value, size, false, true)
}

/// Returns the part that an access of `size` at `offset` reads of a device whose registers are 32 bits wide. A narrow read
/// takes its bytes, a double word its own register and zero above it.
pub(super) const fn part_of_word(register: u32, offset: u64, size: AccessSize) -> u64 {
    cut(register as u64 >> (8 * (offset & 3)), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::tests::{Random, rounds};

    #[test]
    fn the_map_is_that_of_qemu_virt() {
        assert_eq!(find(Ipa(0x0800_0004), 1), Some((Device::Gicd, 4)));
        assert_eq!(find(Ipa(0x0801_0000), 1), None, "no GICv2 CPU interface");
        assert_eq!(find(Ipa(0x080a_0008), 1), Some((Device::Gicr(0), 8)));
        assert_eq!(find(Ipa(0x080d_0080), 2), Some((Device::Gicr(1), 0x1_0080)));
        assert_eq!(find(Ipa(0x080c_0000), 1), None, "no more redistributors than vCPUs");
        assert_eq!(find(Ipa(0x0900_0018), 1), Some((Device::Uart, 0x18)));
        assert_eq!(find(Ipa(0x0900_1000), 1), None);
        assert_eq!(find(Ipa(0x0901_0fff), 1), Some((Device::Rtc, 0xfff)));
        assert_eq!(find(Ipa(0x0903_0414), 1), Some((Device::Gpio, 0x414)));
        assert_eq!(find(Ipa(0x090c_0014), 1), Some((Device::Guest, 0x14)));
        assert_eq!(find(Ipa(0x090c_1000), 1), None);
        assert_eq!(find(Ipa(0x0a00_0670), 1), Some((Device::Virtio(3), 0x70)));
        assert_eq!(find(Ipa(0x0a00_0900), 1), Some((Device::Drive, 0x100)));
        assert_eq!(find(Ipa(0x0a00_0a00), 1), None);
        assert_eq!(find(Ipa(0x4000_0000), 1), None);
        assert_eq!(find(Ipa(0x0400_0000), 1), Some((Device::Flash, 0x0400_0000)), "the second bank");
        assert_eq!(find(Ipa(0x0802_0000), 1), None);
    }

    #[test]
    fn any_address_and_any_number_of_vcpus() {
        let mut random = Random(13);
        for _ in 0..rounds(200_000) {
            let vcpus = random.below(12) as usize;
            let near = [0, GICD.0, GICR.0, UART.0, RTC.0, GUEST.0][random.below(6) as usize];
            if let Some((device, offset)) = find(Ipa(near.wrapping_add(random.spread())), vcpus) {
                assert!(offset < if device == Device::Flash { FLASH.end.0 } else { 0x2_0000 });
                assert!(!matches!(device, Device::Gicr(vcpu) if vcpu >= vcpus));
            }
        }
    }

    #[test]
    fn loads_end_as_the_instruction_says() {
        use AccessSize::{Byte, Double, Half, Word};
        let value = 0x8182_8384_8586_8788;
        for (size, sign_extend, is_64bit, result) in [
            (Byte, false, false, 0x88),
            (Byte, true, false, 0xffff_ff88),
            (Byte, true, true, 0xffff_ffff_ffff_ff88),
            (Half, true, true, 0xffff_ffff_ffff_8788),
            (Half, false, true, 0x8788),
            (Word, false, false, 0x8586_8788),
            (Word, true, true, 0xffff_ffff_8586_8788),
            (Double, false, true, value),
            (Double, true, true, value),
        ] {
            assert_eq!(finish_load(value, size, sign_extend, is_64bit), result);
        }
        assert_eq!(finish_load(0x7f, Byte, true, true), 0x7f);
    }

    #[test]
    fn narrow_reads_take_their_bytes() {
        assert_eq!(part_of_word(0x1122_3344, 1, AccessSize::Byte), 0x33);
        assert_eq!(part_of_word(0x1122_3344, 2, AccessSize::Half), 0x1122);
        assert_eq!(part_of_word(0x1122_3344, 0, AccessSize::Double), 0x1122_3344);
        assert!(is_aligned(4, AccessSize::Word) && !is_aligned(2, AccessSize::Word));
    }
}
