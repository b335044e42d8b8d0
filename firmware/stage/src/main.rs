//! The first stage: what a machine runs after a reset from its flash. It chooses a slot, checks the bundle in it, loads the image
//! and starts it as a boot loader would. All that it decides is in [`salp_core::slots::boot`], all that it touches in
//! `salp_hw::stage`; here they meet, and a person is told.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod stage;

#[cfg(target_os = "none")]
salp_hw::stage_entry!(stage::main);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is the first stage: `cargo run -- flash` at the top of the tree puts it into a flash image");
    std::process::exit(2);
}
