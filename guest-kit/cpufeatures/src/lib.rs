//! What the CPU has, as RustCrypto's crates ask for it: the macro of the crate `cpufeatures`, version 0.3, which finds nothing
//! where there is no operating system to ask.
//!
//! The management guest reads the identification registers (Arm ARM, ID_AA64ISAR0_EL1). EL2 has no vector registers of its own,
//! so it has none of these features; a host asks its standard library.
#![no_std]

#[doc(hidden)]
#[cfg(not(target_os = "none"))]
pub extern crate std;

/// Makes a module that says whether the CPU has these target features.
#[macro_export]
macro_rules! new {
    ($name:ident, $($feature:tt),+ $(,)?) => {
        mod $name {
            /// Stands for the answer, which never changes.
            #[derive(Clone, Copy, Debug)]
            pub struct InitToken(());

            #[allow(dead_code)]
            impl InitToken {
                #[inline]
                pub fn init() -> Self {
                    Self(())
                }

                #[inline]
                pub fn init_get() -> (Self, bool) {
                    (Self(()), get())
                }

                #[inline]
                pub fn get(&self) -> bool {
                    get()
                }
            }

            #[allow(dead_code)]
            #[inline]
            pub fn init_get() -> (InitToken, bool) {
                InitToken::init_get()
            }

            #[allow(dead_code)]
            #[inline]
            pub fn init() -> InitToken {
                InitToken::init()
            }

            #[inline]
            pub fn get() -> bool {
                $($crate::has!($feature))&&+
            }
        }
    };
}

/// Says whether the CPU has a target feature.
#[cfg(target_os = "none")]
#[macro_export]
#[doc(hidden)]
macro_rules! has {
    ($feature:tt) => {
        cfg!(target_feature = $feature) || $crate::machine::has($feature)
    };
}

/// Says whether the CPU has a target feature.
#[cfg(all(not(target_os = "none"), any(target_arch = "x86", target_arch = "x86_64")))]
#[macro_export]
#[doc(hidden)]
macro_rules! has {
    ($feature:tt) => {
        $crate::std::arch::is_x86_feature_detected!($feature)
    };
}

/// Says whether the CPU has a target feature.
#[cfg(all(not(target_os = "none"), target_arch = "aarch64"))]
#[macro_export]
#[doc(hidden)]
macro_rules! has {
    ($feature:tt) => {
        $crate::std::arch::is_aarch64_feature_detected!($feature)
    };
}

#[doc(hidden)]
#[cfg(all(target_os = "none", target_abi = "softfloat"))]
pub mod machine {
    /// Returns whether the CPU may be used so: with vector registers, which are the guests'.
    #[inline]
    pub const fn has(_: &str) -> bool {
        false
    }
}

#[doc(hidden)]
#[cfg(all(target_os = "none", not(target_abi = "softfloat")))]
pub mod machine {
    use core::sync::atomic::{AtomicU8, Ordering};

    const AES: u8 = 1;
    const SHA2: u8 = 1 << 1;
    const SHA3: u8 = 1 << 2;
    const IS_KNOWN: u8 = 1 << 7;

    /// Returns whether the CPU has a target feature of this name.
    #[inline]
    pub fn has(feature: &str) -> bool {
        let bit = match feature {
            "aes" => AES,
            "sha2" => SHA2,
            "sha3" => SHA3,
            _ => 0,
        };
        static KNOWN: AtomicU8 = AtomicU8::new(0);
        let mut known = KNOWN.load(Ordering::Relaxed);
        if known == 0 {
            known = read();
            KNOWN.store(known, Ordering::Relaxed);
        }
        known & bit != 0
    }

    /// Reads what there is; a feature of rustc's is several of the architecture's.
    #[cold]
    fn read() -> u8 {
        let register = guest_kit::rt::sysreg::id_aa64isar0();
        let is_least = |shift: u32, level: u64| register >> shift & 0xf >= level;
        // FEAT_AES with FEAT_PMULL; FEAT_SHA1 with FEAT_SHA256; FEAT_SHA3 with FEAT_SHA512.
        let all = [
            (AES, is_least(4, 2)),
            (SHA2, is_least(8, 1) && is_least(12, 1)),
            (SHA3, is_least(32, 1) && is_least(12, 2)),
        ];
        all.iter().filter(|(_, is_there)| *is_there).fold(IS_KNOWN, |known, (bit, _)| known | bit)
    }
}

#[cfg(all(test, not(target_os = "none")))]
mod tests {
    crate::new!(one, "aes");
    crate::new!(both, "aes", "sse4.1");

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_host_says_what_its_standard_library_does() {
        use super::std::arch::is_x86_feature_detected as detected;
        assert_eq!((one::get(), one::InitToken::init().get()), (detected!("aes"), detected!("aes")));
        assert_eq!(both::init_get().1, detected!("aes") && detected!("sse4.1"));
    }
}
