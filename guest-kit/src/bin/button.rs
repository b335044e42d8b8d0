//! The program of the guest of the same name in `guest_kit::guests`.
#![cfg_attr(target_os = "none", no_std, no_main)]

guest_kit::program!(button);
