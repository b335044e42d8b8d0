//! The EL2 image: it names the concrete hardware and starts the machine. Read on in `salp-core`, whose modules follow
//! the path of a guest's exit.
//!
//! - [`machine`]: what there is one of: the frame table, the scheduler, the console, the VMs.
//! - [`vm`]: a VM put together from core's parts; [`vcpu`]: one CPU's loop; [`exits`]: what a guest asked for.
//! - [`manage`]: what managers ask for by calls; [`operation`]: doing it to VMs that stand still; [`fork`]: making VMs
//!   out of VMs; [`merge`]: making their equal pages one.
//! - [`make`]: VMs that managers describe, their power, and the [`images`] that they are made from.
//! - [`host`]: what managers ask of the machine itself; [`drive`]: media for VMs.
//! - [`life`]: what managers ask for their own lives, and at VMs' consoles; [`keep`]: what outlives them;
//!   [`watch`]: bringing back managers that fail.
//! - [`handover`]: another image in the place of this one, under the same VMs.
//! - [`events`]: what becomes of VMs, told to managers.
//! - [`update`]: the flash and its slots; [`watchdog`]: the board's, which resets the machine when this image hangs.
//! - [`net`]: NICs, and frames from one VM to others.
//! - [`console`]: the line of people; [`monitor`]: the line of programs; [`commands`]: what both may say.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod commands;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod drive;
#[cfg(target_os = "none")]
mod events;
#[cfg(target_os = "none")]
mod exits;
#[cfg(target_os = "none")]
mod fork;
#[cfg(target_os = "none")]
mod handover;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod images;
#[cfg(target_os = "none")]
mod keep;
#[cfg(target_os = "none")]
mod life;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod make;
#[cfg(target_os = "none")]
mod manage;
#[cfg(target_os = "none")]
mod merge;
#[cfg(target_os = "none")]
mod monitor;
#[cfg(target_os = "none")]
mod net;
#[cfg(target_os = "none")]
mod operation;
#[cfg(target_os = "none")]
mod update;
#[cfg(target_os = "none")]
mod vcpu;
#[cfg(target_os = "none")]
mod vm;
#[cfg(target_os = "none")]
mod watch;
#[cfg(target_os = "none")]
mod watchdog;

#[cfg(target_os = "none")]
salp_hw::entry!(machine::main);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is the EL2 image: `cargo run` at the top of the tree builds and starts it");
    std::process::exit(2);
}
