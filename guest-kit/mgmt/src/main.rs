//! The program of the management guest. On a host it is an empty program, so that checks of the whole workspace pass.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod guest;

/// Runs the guest; called by the runtime with the machine ready.
#[cfg(target_os = "none")]
#[unsafe(no_mangle)]
fn guest_main() {
    guest::main();
}

#[cfg(not(target_os = "none"))]
fn main() {}
