//! The host side of Salp: builds the image, prepares guests, starts QEMU.
//!
//! The binary `salp` is the front door; whole-machine tests and benchmarks use the same functions. On the way from a
//! command line to a running machine:
//!
//! [`vm`] (what is asked for, with its [`nic`]s) → [`kernel`] (file formats) → [`place`] (where everything lies in guest memory, and the
//! device tree) → [`pack`] (the boot set) → [`image`] (EL2, built and flattened, with [`symbols`]) → [`machine`] (QEMU,
//! its [`console`], [`qmp`] and [`monitor`]). [`prepare`] goes the whole way for stock guests and tests; [`management`] adds
//! the management guest. [`keys`] sign a [`bundle`] of the image, and a [`flash`] holds it. Guests come from [`debian`] packages and get an [`initrd`], which may have [`modules`] of the kernel; [`setup`] finds or installs what
//! the host must have; [`paths`] says where files go.

#![forbid(unsafe_code)]

pub mod bundle;
pub mod console;
pub mod debian;
pub mod flash;
pub mod image;
pub mod initrd;
pub mod kernel;
pub mod keys;
pub mod machine;
pub mod management;
pub mod modules;
pub mod monitor;
pub mod nic;
pub mod pack;
pub mod paths;
pub mod place;
pub mod prepare;
pub mod qmp;
pub mod remap;
pub mod setup;
pub mod symbols;
pub mod vm;

/// Says on standard error what is being done, for steps that take long.
pub fn say(what: impl std::fmt::Display) {
    eprintln!("salp: {what}");
}
