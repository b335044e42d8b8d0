//! From one image of the hypervisor to another: the header that both write to, doors at which CPUs wait, the jump, and the way back
//! of an image that fails before it runs the VMs.
//!
//! Before: [`crate::boot`], which finds the header that an image was started with. After: the firmware, which reads the records.
//!
//! Until an image that was handed over to [is trusted](trust), its exceptions go to the vectors of the image before, by physical
//! address, and so does the interrupt of its timer: whatever it does, the one before is back by the deadline.

use crate::crash::{self, Left};
use crate::sysreg::{dsb, isb, write};
use crate::{boot, cpu, gic, layout, lock, memory};
use core::fmt::{self, Write};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use heapless::Vec;
use salp_board::facts::MAX_CPUS;
use salp_core::addr::{PAGE_SIZE, Pa, Va};
use salp_core::handover::{Sheet, Source};
use salp_hvc::handover::{CPUS, Door, FAILED_EXCEPTION, FAILED_HANG, Header, IMAGE_ROOM, MAGIC, PAGE};

const _: () = assert!(
    offset_of!(Header, starting) == 12
        && offset_of!(Header, sides) == 16
        && offset_of!(Header, device_tree) == 192
        && offset_of!(Header, failed) == 296
        && offset_of!(Header, exception) == 304
        && offset_of!(Header, doors) == 640
        && FAILED_EXCEPTION == 3
        && FAILED_HANG == 4
);

unsafe extern "C" {
    static leave_image: u8;
    static wait_at_door: u8;
}

/// The header of a hand-over as long as an exception goes back to the image before; else 0.
static ON_TRIAL: AtomicU64 = AtomicU64::new(0);

/// The header of a hand-over, in a frame of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    at: Pa,
}

impl Head {
    /// Makes a header. The frame comes from core's frame table, allocated for this call.
    pub fn new(frame: Pa, header: &Header) -> Self {
        let head = Self { at: frame };
        // SAFETY: a frame that the caller gives away.
        unsafe { memory::zero(frame, PAGE_SIZE) };
        head.put(header);
        head
    }

    /// Returns its frame.
    pub fn frame(self) -> Pa {
        self.at
    }

    /// Returns what it says. What a CPU at a door has said is seen.
    #[inline(never)] // A kilobyte, copied in one place.
    pub fn get(self) -> Header {
        memory::clean_and_forget(self.at, PAGE as u64);
        // SAFETY: a frame that holds a header as long as there is a `Head`; any bytes are one. It is copied: others write to it.
        unsafe { (self.at.0 as *const Header).read() }
    }

    /// Changes what it says, also for who looks with caches off.
    #[inline(never)]
    pub fn put(self, header: &Header) {
        // SAFETY: as above.
        unsafe { (self.at.0 as *mut Header).write(*header) };
        memory::clean_and_forget(self.at, PAGE as u64);
    }

    /// Returns true if CPU `index` waits at its door.
    pub fn is_waiting(self, index: usize) -> bool {
        self.get().doors.get(index).is_some_and(|door| door.is_waiting == 1)
    }

    fn door(self, index: usize) -> Pa {
        Pa(self.at.0 + (offset_of!(Header, doors) + index % CPUS * size_of::<Door>()) as u64)
    }

    /// Sends the CPU that waits at door `index` to a physical address with this argument in x0.
    pub fn open(self, index: usize, entry: Pa, argument: Pa) {
        let door = self.door(index);
        // SAFETY: a door of this header; its CPU reads `entry` last, with caches off.
        unsafe {
            let place = door.0 as *mut Door;
            core::ptr::write_volatile(&raw mut (*place).argument, argument.0);
            core::ptr::write_volatile(&raw mut (*place).entry, entry.0);
        }
        memory::clean_and_forget(door, size_of::<Door>() as u64);
        cpu::send_event();
    }

    /// Lets this CPU, `index`, wait at its door. It comes back as a CPU that is started does.
    pub fn wait(self, index: usize) -> ! {
        let door = self.door(index);
        memory::clean_and_forget(door, size_of::<Door>() as u64);
        // SAFETY: the routine lies in the page that is mapped as itself; it uses nothing but the door from then on.
        unsafe {
            core::arch::asm!(
                "br {to}", to = in(reg) in_idmap(&raw const wait_at_door as u64), in("x0") door.0, options(noreturn)
            )
        }
    }

    /// Starts the side that the header says, on this CPU.
    pub fn start(self) -> ! {
        let header = self.get();
        let side = header.sides[usize::from(header.starting != 0)];
        write!(cnthp_ctl_el2, 0u64);
        if header.starting != 0 {
            write!(tpidrro_el0, self.at.0);
            write!(vbar_el2, header.way_back + PAGE_SIZE / 2);
            // Nothing but the deadline interrupts.
            gic::listen_to_timer_alone(true);
            cpu::set_alarm(Some(header.deadline));
            isb!();
        }
        // SAFETY: as in `wait`; the image was copied whole and is clean, its entry takes what `entry.S` says.
        unsafe {
            core::arch::asm!(
                "br {to}",
                to = in(reg) in_idmap(&raw const leave_image as u64),
                in("x0") header.device_tree, in("x1") self.at.0, in("x2") u64::from_le_bytes(MAGIC), in("x5") side.image,
                options(noreturn)
            )
        }
    }
}

/// Returns the physical address of something in the page that is mapped as itself.
fn in_idmap(address: u64) -> u64 {
    layout::to_physical(boot::get().loaded.image, Va(address)).0
}

/// Returns the page by which the exceptions of a next image come back to this one.
pub fn way_back() -> Pa {
    Pa(in_idmap(layout::idmap().0))
}

/// Returns the header that this image was started with, if it was handed over to or has come back.
///
/// # Safety
///
/// `at` is what entry.S found: 0, or the address of a header.
pub(crate) unsafe fn begin(at: u64) -> Option<Head> {
    let head = Head { at: Pa((at != 0).then_some(at)?) };
    let header = head.get();
    if header.starting != 0 {
        ON_TRIAL.store(at, Ordering::Relaxed);
        cpu::unmask_interrupts(true);
    }
    Some(head)
}

/// Returns true as long as an exception goes back to the image before.
pub fn is_on_trial() -> bool {
    ON_TRIAL.load(Ordering::Relaxed) != 0
}

/// Returns true if this image has failed while it was on trial: its CPUs are to wait for the one before.
pub fn has_failed() -> bool {
    let at = ON_TRIAL.load(Ordering::Relaxed);
    at != 0 && Head { at: Pa(at) }.get().starting == 0
}

/// Ends that: from here on the image before has nothing that would still be true.
pub fn trust() {
    cpu::unmask_interrupts(false);
    cpu::set_alarm(None);
    cpu::set_vectors();
    gic::listen_to_timer_alone(false);
    let at = ON_TRIAL.swap(0, Ordering::Relaxed);
    if at != 0 {
        boot::get().forget_way_back(Pa(Head { at: Pa(at) }.get().way_back));
    }
}

/// Goes back to the image before, if that is possible still, and tells it why. A CPU that is not the first tells the first, and
/// waits.
pub fn go_back(failed: u32, why: fmt::Arguments<'_>) {
    let at = ON_TRIAL.load(Ordering::Relaxed);
    if at == 0 {
        return;
    }
    cpu::unmask_interrupts(false);
    let head = Head { at: Pa(at) };
    let mut header = head.get();
    header.failed = failed;
    say(&mut header, why);
    let index = boot::get().cpu();
    if index != 0 {
        head.put(&header);
        head.wait(index);
    }
    header.starting = 0;
    head.put(&header);
    cpu::send_event();
    head.start()
}

/// Says in a header why, as much as there is room for.
pub fn say(header: &mut Header, why: fmt::Arguments<'_>) {
    let _ = Text { header }.write_fmt(why);
}

/// What is said of a failure, as much of it as there is room for.
struct Text<'a> {
    header: &'a mut Header,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(place) = self.header.reason.get_mut(self.header.reason_length as usize) {
                *place = if byte.is_ascii_control() { b' ' } else { byte };
                self.header.reason_length += 1;
            }
        }
        Ok(())
    }
}

/// Returns what CPUs have [left](crate::crash::Left) behind that do not come back to it. If all others wait at the doors of this
/// header, this CPU takes locks from then on that they hold.
pub fn take_left(head: Head) -> Vec<Left, MAX_CPUS> {
    let left = crash::take_left();
    let (this, count) = (boot::get().cpu(), boot::get().board.cpus.len());
    if !left.is_empty() && (0..count).all(|index| index == this || head.is_waiting(index)) {
        lock::abandon_all();
    }
    left
}

/// Frames of records, for who reads them: `is_frame` says which those are.
#[derive(Clone, Copy)]
pub struct Sheets<F>(pub F);

impl<'a, F: Fn(Pa) -> bool> Source<'a> for Sheets<F> {
    fn sheet(&self, at: Pa) -> Option<&'a Sheet> {
        // SAFETY: a frame of EL2's own in RAM, mapped as itself, that nobody writes until the hand-over is over; any bytes are one.
        (self.0)(at).then(|| unsafe { &*(at.0 as *const Sheet) })
    }
}

/// Returns a frame for records. It comes from core's frame table, allocated for this call.
pub fn sheet(frame: Pa) -> &'static mut Sheet {
    // SAFETY: a frame that the caller gives away, mapped as itself; any bytes are one.
    unsafe { &mut *(frame.0 as *mut Sheet) }
}

/// Copies the running image, as it was at its start, to the blocks at `to`. Returns its size.
///
/// The blocks come from core's frame table, allocated for this call.
pub fn copy_self(to: Pa) -> u64 {
    let loaded = &boot::get().loaded;
    let size = loaded.end.0 - loaded.image.0;
    let code = layout::data_start().0 - layout::image_start().0;
    let packed = layout::packed_start().0 - layout::image_start().0;
    for (from, at) in [(layout::image_start(), 0..code), (layout::first_data(), code..packed)] {
        for offset in (0..at.end - at.start).step_by(PAGE) {
            // SAFETY: pages of the image, mapped at its link address, and of the caller's blocks.
            unsafe { memory::copy_page(Pa(from.0 + offset), Pa(to.0 + at.start + offset)) };
        }
    }
    for offset in (packed..size).step_by(PAGE) {
        // SAFETY: what is packed is mapped as itself; as above.
        unsafe { memory::copy_page(Pa(loaded.image.0 + offset), Pa(to.0 + offset)) };
    }
    size
}

/// Returns the blocks at `at`, for an image. They come from core's frame table, allocated for this call.
pub fn image_memory(at: Pa) -> &'static mut [u8] {
    // SAFETY: blocks that the caller gives away, mapped as themselves; any bytes will do.
    unsafe { core::slice::from_raw_parts_mut(at.0 as *mut u8, IMAGE_ROOM as usize) }
}

/// Makes an image that was copied to the blocks at `at` ready to be started: what is behind its `size` bytes is zero, and nothing
/// of it is in caches alone.
pub fn finish_copy(at: Pa, size: u64) {
    let end = at.0 + IMAGE_ROOM;
    let start = (at.0 + size).next_multiple_of(PAGE_SIZE);
    // SAFETY: in the caller's blocks, behind the image.
    unsafe { memory::zero(Pa(start), end - start) };
    memory::clean_and_forget(at, IMAGE_ROOM);
    memory::forget_instructions();
    dsb!("sy");
}
