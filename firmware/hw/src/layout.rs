//! Where the image lies: addresses that the linker script defines.

use salp_core::addr::{Pa, Va};

macro_rules! symbols {
    ($($(#[$doc:meta])* $function:ident = $symbol:ident;)*) => {
        unsafe extern "C" {
            $(static $symbol: u8;)*
        }
        $(
            $(#[$doc])*
            pub fn $function() -> Va {
                Va(&raw const $symbol as u64)
            }
        )*
    };
}

symbols! {
    /// Returns the start of the image.
    image_start = __image_start;
    /// Returns the end of code.
    text_end = __text_end;
    /// Returns the end of constants; data follows.
    rodata_end = __rodata_end;
    /// Returns the start of data.
    data_start = __data_start;
    /// Returns what data was when the image was started first.
    first_data = __first_data;
    /// Returns the end of data; what the packer appended follows.
    packed_start = __packed_start;
    /// Returns the start of what is not in the file: early tables, the first CPU's stack, bss.
    zeros_start = __zeros_start;
    /// Returns the end of the image.
    image_end = __image_end;
    /// Returns the page that is mapped as itself and executable.
    idmap = __idmap_start;
    /// Returns the page below the first CPU's stack.
    boot_stack_guard = __boot_stack_guard;
}

/// Returns the physical address of `address` in the image that was loaded at `image`.
pub fn to_physical(image: Pa, address: Va) -> Pa {
    Pa(image.0 + (address.0 - image_start().0))
}
