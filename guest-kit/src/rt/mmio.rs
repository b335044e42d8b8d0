//! Loads and stores to device registers: everything below RAM. Before: `gic`, `console` and tests. After: the devices.

use core::arch::asm;

/// The first address that is not a device's.
pub const END: u64 = 0x4000_0000;

macro_rules! access {
    ($($read:ident $write:ident $ty:ty, $load:literal $store:literal;)*) => {$(
        #[doc = concat!("Returns the ", stringify!($ty), " at `address`, which is below RAM, by one `", $load, "`.")]
        #[inline(always)]
        pub fn $read(address: u64) -> $ty {
            assert!(address < END);
            let value: u64;
            // SAFETY: only devices live below RAM, so nothing that Rust owns is read; a fault is taken by the vectors.
            // Written as an instruction, because hypervisors emulate only the simple forms.
            unsafe { asm!($load, out("x0") value, in("x1") address, options(nostack)) };
            value as $ty
        }

        #[doc = concat!("Writes the ", stringify!($ty), " at `address`, which is below RAM, by one `", $store, "`.")]
        #[inline(always)]
        pub fn $write(address: u64, value: $ty) {
            assert!(address < END);
            // SAFETY: only devices live below RAM, and none of them can write memory; a fault is taken by the vectors.
            unsafe { asm!($store, in("x0") u64::from(value), in("x1") address, options(nostack)) };
        }
    )*};
}

access! {
    read8 write8 u8, "ldrb w0, [x1]" "strb w0, [x1]";
    read16 write16 u16, "ldrh w0, [x1]" "strh w0, [x1]";
    read32 write32 u32, "ldr w0, [x1]" "str w0, [x1]";
    read64 write64 u64, "ldr x0, [x1]" "str x0, [x1]";
}
