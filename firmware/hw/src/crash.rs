//! The last words of EL2: cause, registers, a symbolised backtrace; then the machine is reset, and the next start tells them.

use crate::lock::Mutex;
use crate::sysreg::read;
use crate::uart::Pl011;
use crate::{boot, cpu, gic, handover, layout, memory, psci, switch};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use heapless::Vec;
use salp_board::facts::MAX_CPUS;
use salp_core::addr::{PAGE_SIZE, Pa};
use salp_core::remains::Remains;
use salp_core::vgic::ListRegisters;
use salp_hvc::handover::{FAILED_EXCEPTION, FAILED_PANIC};
use spin::Once;

/// After how many milliseconds a CPU that waits does not believe any more that what it waits for is another one's that goes on.
const LEAVE_MS: u64 = 10;

static UART: AtomicU64 = AtomicU64::new(0);
static SYMBOLS: AtomicU64 = AtomicU64::new(0);
static SYMBOLS_LENGTH: AtomicU64 = AtomicU64::new(0);
static REMAINS: AtomicU64 = AtomicU64::new(0);
static CRASHING: AtomicBool = AtomicBool::new(false);

/// Tells where to print, the symbol table that the packer appended (`salp_hvc::packed`), and the page for the last words.
pub fn prepare(uart: Pa, symbols: &'static [u8], remains: Pa) {
    REMAINS.store(remains.0, Ordering::Relaxed);
    UART.store(uart.0, Ordering::Relaxed);
    SYMBOLS.store(symbols.as_ptr() as u64, Ordering::Relaxed);
    SYMBOLS_LENGTH.store(symbols.len() as u64, Ordering::Relaxed);
}

/// Returns the page with the words before the last reset, if there was one, and clears it.
pub fn take_remains() -> [u8; PAGE_SIZE as usize] {
    let page = Pa(REMAINS.load(Ordering::Relaxed));
    let mut taken = [0; PAGE_SIZE as usize];
    if page.0 != 0 {
        // SAFETY: the page that was set aside for this, in RAM that is mapped as itself; only a crash writes it.
        taken.copy_from_slice(unsafe { memory::bytes(page.0..page.0 + PAGE_SIZE) });
        // SAFETY: as above, and the copy was made.
        unsafe { memory::zero(page, PAGE_SIZE) };
    }
    taken
}

struct Output {
    uart: Option<Pl011>,
    remains: Option<Remains<'static>>,
}

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(remains) = &mut self.remains {
            remains.write_str(text)?;
        }
        if let Some(uart) = &self.uart {
            for byte in text.bytes() {
                if byte == b'\n' {
                    uart.send(b'\r');
                }
                uart.send(byte);
            }
        }
        Ok(())
    }
}

/// What a CPU leaves behind that cannot go on.
pub struct Left {
    /// The CPU.
    pub cpu: usize,
    /// What its list registers hold. The registers of a vCPU that it had are saved.
    pub lrs: ListRegisters,
}

/// Why a CPU cannot go on.
pub struct Failure {
    /// `FAILED_…`.
    pub failed: u32,
    /// ESR, PC, FAR of an exception.
    pub exception: [u64; 3],
    /// As much of what it said as there is room for.
    pub why: heapless::String<160>,
}

/// What can be done before the machine is reset.
#[derive(Clone, Copy)]
pub struct Rescue {
    /// Whether it can be done now. The CPU has little of its stack left.
    pub is_possible: fn() -> bool,
    /// Does it on a CPU that has left everything behind: the first one, which says why, and those that waited for it. It comes back
    /// if it cannot be done.
    pub act: fn(usize, Option<Failure>),
}

static RESCUE: Once<Rescue> = Once::new();
/// The CPUs that have left everything behind, one bit each.
static LEAVERS: AtomicU8 = AtomicU8::new(0);
/// Since when, by the counter: which CPUs that wait still wait for one of those. 0 if there is none.
static LEFT_SINCE: AtomicU64 = AtomicU64::new(0);
/// What they leave.
static LEFT: Mutex<Vec<Left, MAX_CPUS>> = Mutex::new(Vec::new());
/// Why the first one did.
static FAILURE: Mutex<Option<Failure>> = Mutex::new(None);

/// Tells what is to be done before the machine is reset.
pub fn set_rescue(rescue: Rescue) {
    RESCUE.call_once(|| rescue);
}

/// Does that, if it is possible, or takes part in it.
fn rescue(failed: u32, exception: [u64; 3], why: fmt::Arguments<'_>) {
    let is_possible = RESCUE.get().is_some_and(|rescue| (rescue.is_possible)());
    if is_left() || is_possible {
        let mut said = Said(heapless::String::new());
        let _ = said.write_fmt(why);
        leave(Some(Failure { failed, exception, why: said.0 }));
    }
}

/// Leaves everything behind if what this CPU waits for may be another one's that has done so. It returns if this CPU has left before.
#[inline]
pub(crate) fn leave_too() {
    let since = LEFT_SINCE.load(Ordering::Relaxed);
    if since != 0 && cpu::counter().wrapping_sub(since) > cpu::counter_frequency() / 1000 * LEAVE_MS {
        leave(None);
    }
}

/// Leaves everything behind, the stack included. It returns if this CPU has done that before.
fn leave(failure: Option<Failure>) {
    let cpu = boot::get().cpu();
    let before = LEAVERS.fetch_or(1 << cpu, Ordering::AcqRel);
    if before >> cpu & 1 != 0 {
        return;
    }
    if before == 0 {
        LEFT_SINCE.store(cpu::counter(), Ordering::Relaxed);
    }
    // SAFETY: this CPU does not return to what it did.
    unsafe { switch::abandon(cpu) };
    let _ = LEFT.lock().push(Left { cpu, lrs: gic::abandoned() });
    if before == 0 {
        *FAILURE.lock() = failure;
    }
    // SAFETY: a mapped stack of this CPU's own; nothing of what is on it is used again.
    unsafe {
        core::arch::asm!(
            "mov sp, {top}", "mov x29, xzr", "mov x30, xzr", "b {to}",
            top = in(reg) boot::get().stack(cpu).0, to = sym begin_again, in("x0") cpu, in("x1") u64::from(before == 0), options(noreturn)
        )
    }
}

extern "C" fn begin_again(cpu: usize, is_first: u64) -> ! {
    let failure = if is_first != 0 { FAILURE.lock().take() } else { None };
    if let Some(rescue) = RESCUE.get() {
        (rescue.act)(cpu, failure);
    }
    report(|out| _ = writeln!(out, "\nsalp| PANIC on CPU {:#x}: there is no way back", cpu::affinity()))
}

/// Words, cut off where there is no more room.
struct Said(heapless::String<160>);

impl Write for Said {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.0.push(c)).map_err(|_| fmt::Error)
    }
}

/// Returns true if a CPU has left everything behind.
fn is_left() -> bool {
    LEAVERS.load(Ordering::Acquire) != 0
}

/// Returns what CPUs have left behind, once.
pub(crate) fn take_left() -> Vec<Left, MAX_CPUS> {
    core::mem::take(&mut *LEFT.lock())
}

/// Registers at an exception of EL2 itself; laid out by switch.S.
#[repr(C)]
struct CrashFrame {
    x: [u64; 31],
    sp: u64,
    what: u64,
    pc: u64,
    pstate: u64,
}

/// Reports a panic and resets the machine, or goes back to the image before.
pub fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let frame: u64;
    handover::go_back(FAILED_PANIC, format_args!("{info}"));
    rescue(FAILED_PANIC, [0; 3], format_args!("{info}"));
    // SAFETY: reads the frame pointer.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    report(|out| {
        let _ = writeln!(out, "\nsalp| PANIC on CPU {:#x}: {info}", cpu::affinity());
        backtrace(out, frame);
    })
}

#[unsafe(no_mangle)]
extern "C" fn salp_el2_exception(frame: &CrashFrame) -> ! {
    let (esr, far) = (read!(esr_el2), read!(far_el2));
    handover::go_back(FAILED_EXCEPTION, format_args!("ESR {esr:#x}  PC {:#x}", frame.pc));
    rescue(FAILED_EXCEPTION, [esr, frame.pc, far], format_args!("CPU {:#x}", cpu::affinity()));
    report(|out| {
        const WHAT: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];
        let what = WHAT.get(frame.what as usize).copied().unwrap_or("exception");
        let _ = writeln!(out, "\nsalp| PANIC on CPU {:#x}: {what} in EL2", cpu::affinity());
        let _ = writeln!(
            out,
            "salp|   ESR {:#x}  FAR {:#x}  PC {:#x}  SP {:#x}  PSTATE {:#x}",
            esr, far, frame.pc, frame.sp, frame.pstate
        );
        for (row, values) in frame.x.chunks(4).enumerate() {
            let _ = write!(out, "salp|  ");
            for (column, value) in values.iter().enumerate() {
                let _ = write!(out, " x{:<2} {value:016x}", row * 4 + column);
            }
            let _ = writeln!(out);
        }
        line(out, frame.pc);
        backtrace(out, frame.x[29]);
    })
}

fn report(tell: impl FnOnce(&mut Output)) -> ! {
    // One CPU speaks; a crash in the crash path must not start over.
    if CRASHING.swap(true, Ordering::AcqRel) {
        psci::halt();
    }
    let uart = UART.load(Ordering::Relaxed);
    // SAFETY: the console's address, from the device tree; whoever drove it has crashed or is stopped by the reset.
    let uart = (uart != 0).then(|| unsafe { Pl011::new(Pa(uart)) });
    let page = REMAINS.load(Ordering::Relaxed);
    // SAFETY: the page that was set aside for this, in RAM that is mapped as itself; one CPU comes here, once.
    let remains = (page != 0).then(|| Remains::new(unsafe { &mut *(page as *mut [u8; PAGE_SIZE as usize]) }));
    let mut out = Output { uart, remains };
    tell(&mut out);
    if let Some(remains) = &mut out.remains {
        remains.seal();
        memory::clean_to_coherency(Pa(page), PAGE_SIZE);
    }
    let _ = writeln!(out, "salp| resetting the machine");
    psci::system_reset()
}

/// Walks frame records (AAPCS64 6.4.6) while they lie in EL2's stacks.
fn backtrace(out: &mut Output, mut frame: u64) {
    const STACKS: core::ops::Range<u64> = 0xff80_0000_0000..0xff80_8000_0000;
    for _ in 0..32 {
        if !frame.is_multiple_of(16) || !STACKS.contains(&frame) {
            return;
        }
        // SAFETY: inside EL2's stacks or image, which are mapped; a broken chain ends at a value outside.
        let [next, return_address] = unsafe { *(frame as *const [u64; 2]) };
        if return_address == 0 {
            return;
        }
        line(out, return_address - 4);
        if next <= frame {
            return;
        }
        frame = next;
    }
}

fn line(out: &mut Output, address: u64) {
    let Some(offset) = address.checked_sub(layout::image_start().0) else { return };
    let _ = match symbol(offset as u32) {
        Some((name, start)) => writeln!(out, "salp|   {address:#x} {name}+{:#x}", offset - u64::from(start)),
        None => writeln!(out, "salp|   {address:#x}"),
    };
}

/// Finds the function that holds `offset` of the image.
fn symbol(offset: u32) -> Option<(&'static str, u32)> {
    let start = SYMBOLS.load(Ordering::Relaxed);
    if start == 0 {
        return None;
    }
    // SAFETY: the bytes given to `prepare`, part of the image.
    let table = unsafe { memory::bytes(start..start + SYMBOLS_LENGTH.load(Ordering::Relaxed)) };
    let word = |at: usize| table.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let count = word(0)? as usize;
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if word(4 + middle * 8)? <= offset { low = middle + 1 } else { high = middle }
    }
    let entry = 4 + low.checked_sub(1)? * 8;
    let name = table.get(4 + count * 8 + word(entry + 4)? as usize..)?;
    let name = name.split(|&byte| byte == 0).next()?;
    Some((core::str::from_utf8(name).ok()?, word(entry)?))
}
