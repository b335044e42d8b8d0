//! The first stage's hardware: what it runs on after a reset, and how it leaves for the image. Its code is in the flash, then in
//! RAM at a fixed place (the board's own: `firmware/stage/link.ld`); one CPU runs, without interrupts.

use crate::cfi::Nor;
use crate::uart::Pl011;
use crate::watchdog::{BoardWatchdog, Place};
use crate::{boot, memory, mmu, psci};
use core::fmt;
use salp_board::facts::{Board, BoardError};
use salp_core::addr::{Pa, Va};
use salp_core::slots::Slot;

core::arch::global_asm!(include_str!("stage.S"));

/// Where the device tree is, and how large one may be.
const DEVICE_TREE: u64 = 0x4000_0000;
const DEVICE_TREE_SIZE: u64 = 2 << 20;

/// Where images are loaded, and how large they are with what is zero behind them.
const IMAGE: u64 = 0x4020_0000;

/// The greatest size of an image, in bytes: up to the stage's own code.
pub const IMAGE_SIZE: u64 = 4 << 20;

/// Where stage.S maps the flash.
const FLASH: u64 = 0x1_0000_0000;

unsafe extern "C" {
    /// Leaves for the image that is loaded at `image`.
    fn stage_leave(image: u64) -> !;
}

unsafe extern "Rust" {
    /// The first stage's main function; [`stage_entry!`](crate::stage_entry) defines it.
    safe fn salp_stage_main() -> !;
}

/// Names the first stage's main function: `fn() -> !`.
#[macro_export]
macro_rules! stage_entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn salp_stage_main() -> ! {
            $main()
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::stage::panic(info)
        }
    };
}

#[unsafe(no_mangle)]
extern "C" fn salp_stage_boot() -> ! {
    salp_stage_main()
}

/// Reads the machine's facts.
///
/// # Errors
///
/// Says what the device tree lacks.
pub fn board() -> Result<Board<'static>, BoardError> {
    // SAFETY: RAM that nobody writes; a device tree begins with its size, and what is none is refused.
    Board::from_device_tree(unsafe { memory::bytes(DEVICE_TREE..DEVICE_TREE + DEVICE_TREE_SIZE) })
}

/// The console, for `write!`.
pub struct Console(Pl011);

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.send(b'\r');
            }
            self.0.send(byte);
        }
        Ok(())
    }
}

/// Returns the console.
pub fn console(board: &Board<'_>) -> Console {
    // SAFETY: from the device tree; the map has the first gigabyte as devices, and one CPU runs.
    Console(unsafe { Pl011::new(Pa(board.uart.registers.start)) })
}

/// Returns the flash that the first stage was started from.
pub fn flash(board: &Board<'_>) -> Option<Nor> {
    let bank = board.flash.clone()?;
    // SAFETY: from the device tree, mapped by stage.S, and asked for once.
    unsafe { Nor::new(Va(FLASH + bank.start), bank.end - bank.start) }
}

/// Returns the watchdog, if there is one that Salp knows.
pub fn watchdog(board: &Board<'_>) -> Option<BoardWatchdog> {
    // SAFETY: from the device tree, and stage.S has made the map, which has gigabytes.
    let place = unsafe { Place::find(board.pci.as_ref()?) }?;
    for page in place.pages() {
        // SAFETY: registers, as above.
        unsafe { mmu::map_gigabyte(page.start)? };
    }
    // SAFETY: mapped, and asked for once.
    Some(unsafe { place.drive() })
}

/// Returns the memory that images are loaded to.
pub fn image_memory() -> &'static mut [u8] {
    // SAFETY: RAM between the device tree and the first stage, which nothing else uses, and asked for once.
    unsafe { core::slice::from_raw_parts_mut(IMAGE as *mut u8, IMAGE_SIZE as usize) }
}

/// Starts the image in [`image_memory`], which came from `slot`. `was_expired`: the watchdog made the last reset.
pub fn start(memory: &'static mut [u8], slot: Slot, was_expired: bool) -> ! {
    boot::note(memory, Some(slot), was_expired);
    memory::clean_to_coherency(Pa(IMAGE), IMAGE_SIZE);
    // SAFETY: the memory holds an image that was checked, clean in memory, and nothing of the first stage is used again.
    unsafe { stage_leave(IMAGE) }
}

/// Says on the console why there is no going on, if there is one, and stops.
pub fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Ok(board) = board() {
        let _ = fmt::Write::write_fmt(&mut console(&board), format_args!("salp| first stage: {info}\n"));
    }
    psci::halt()
}

pub use psci::halt;
