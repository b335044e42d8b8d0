//! A NIC's registers (Virtio 1.2, 4.2 and 5.1) for guests that drive it by hand, as no careful driver would. Before: the
//! guests [`net`](super::net) and [`rings`](super::rings). After: the machine.

use salp_hvc::bootset::{VIRTIO_BASE, VIRTIO_SIZE};

use crate::rt::mmio;

/// Which features the driver takes, 32 at a time.
pub const FEATURES: u64 = 0x020;
/// Which 32.
pub const FEATURES_SELECT: u64 = 0x024;
/// Which queue the next ones are of.
pub const QUEUE_SELECT: u64 = 0x030;
/// How many entries it has.
pub const QUEUE_SIZE: u64 = 0x038;
/// It is set up.
pub const QUEUE_READY: u64 = 0x044;
/// There are buffers in this queue.
pub const NOTIFY: u64 = 0x050;
/// How far the driver is; 0 resets the device.
pub const STATUS: u64 = 0x070;
/// Where the descriptors are.
pub const DESCRIPTORS: u64 = 0x080;
/// Where the ring is that the driver writes.
pub const AVAILABLE: u64 = 0x090;
/// Where the ring is that the device writes.
pub const USED: u64 = 0x0a0;
/// The NIC's address.
pub const MAC: u64 = 0x100;

/// Returns where a register of the NIC with this number is.
pub const fn address(nic: u64, register: u64) -> u64 {
    VIRTIO_BASE + nic * VIRTIO_SIZE + register
}

/// Writes a register.
pub fn write(nic: u64, register: u64, value: u32) {
    mmio::write32(address(nic, register), value);
}

/// Resets a NIC and agrees upon these features.
pub fn negotiate(nic: u64, features: [u32; 2]) {
    for value in [0, 3] {
        write(nic, STATUS, value);
    }
    for (select, features) in (0..).zip(features) {
        write(nic, FEATURES_SELECT, select);
        write(nic, FEATURES, features);
    }
    write(nic, STATUS, 11);
}

/// Says where the parts of a queue are, and that it is set up.
pub fn set_up(nic: u64, queue: u64, size: u64, [descriptors, available, used]: [u64; 3]) {
    write(nic, QUEUE_SELECT, queue as u32);
    write(nic, QUEUE_READY, 0);
    write(nic, QUEUE_SIZE, size as u32);
    for (register, address) in [(DESCRIPTORS, descriptors), (AVAILABLE, available), (USED, used)] {
        write(nic, register, address as u32);
        write(nic, register + 4, (address >> 32) as u32);
    }
    write(nic, QUEUE_READY, 1);
}

/// Returns the NIC's address, byte by byte.
pub fn mac(nic: u64) -> impl Iterator<Item = u8> {
    (0..6).map(move |byte| mmio::read8(address(nic, MAC + byte)))
}
