//! Numbers of bytes for people. Before: whoever refuses something. After: the person who is told.

use core::fmt;

/// Shows a number of bytes for people.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            let one = 1_u64 << shift;
            if self.0 >= one {
                let whole = self.0 >> shift;
                return if self.0.is_multiple_of(one) {
                    write!(f, "{whole} {unit}")
                } else {
                    write!(f, "{:.1} {unit}", self.0 as f64 / one as f64)
                };
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use super::*;
    use alloc::string::ToString;

    #[test]
    fn sizes_are_written_as_people_read_them() {
        assert_eq!(Size(1536 << 20).to_string(), "1.5 GiB");
        assert_eq!(Size(4095).to_string(), "4.0 KiB");
        assert_eq!(Size(12).to_string(), "12 bytes");
    }
}
