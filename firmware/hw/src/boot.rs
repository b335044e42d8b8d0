//! From the first Rust instruction to the firmware's main function: what was loaded, the machine's facts, the map of
//! memory, and then the same for every other CPU.

use crate::mmu::{Bump, CRASH_STACK_PAGES, Map, STACK_PAGES, Stacks};
use crate::{cpu, crash, layout, memory, mmu, psci};
use core::ops::Range;
use heapless::Vec;
use salp_board::facts::{Board, MAX_BANKS, MAX_CPUS};
use salp_core::addr::{PAGE_SIZE, Pa};
use salp_core::frames::Frames;
use salp_core::place;
use salp_core::sched::{Node, VCPUS_PER_VM};
use salp_core::slots::Slot;
use spin::{Mutex, Once};

core::arch::global_asm!(include_str!("entry.S"));

/// The packed area behind the image: its header, by `salp_hvc::packed`.
const PACKED_MAGIC: [u8; 8] = *b"SALPPACK";
const PACKED_HEADER: u64 = 32;

/// What the first CPU was started with.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where the image was loaded.
    pub image: Pa,
    /// Where the image proper is: code and data, then what was zero. The packed area is in between.
    pub parts: [Range<u64>; 2],
    /// The end of the packed area.
    pub end: Pa,
    /// The device tree.
    pub device_tree: &'static [u8],
    /// The symbol table for backtraces; empty if none was packed.
    pub symbols: &'static [u8],
    /// Where the built-in boot set is, if one was packed.
    pub boot_set: Option<Range<u64>>,
    /// The slot of the flash that it comes from, if the first stage loaded it.
    pub slot: Option<Slot>,
}

/// Where the first stage notes the slot: a field of the `Image` header that loaders leave as it is. 0 is none, then A, B.
pub(crate) const SLOT_NOTE: u64 = 32;

/// Reads what was loaded. `device_tree` and `image` are what entry.S passes to the first Rust function.
///
/// # Safety
///
/// Called once, by the first CPU, with the values that it was started with.
unsafe fn loaded(device_tree: u64, image: u64) -> Loaded {
    let at = |address| layout::to_physical(Pa(image), address).0;
    let area = at(layout::packed_start());
    let parts = [image..area, at(layout::zeros_start())..at(layout::image_end())];
    // SAFETY: the boot protocol puts a device tree at x0; its header is 40 bytes, the total size is the second word.
    let header = unsafe { memory::bytes(device_tree..device_tree + 8) };
    let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]).min(2 << 20);
    // SAFETY: the boot protocol allows 2 MiB for it; the early map covers that.
    let device_tree = unsafe { memory::bytes(device_tree..device_tree + u64::from(size)) };
    // SAFETY: in the 3 MiB of the image, which the loader has set aside (`image_size`) and the early map covers.
    let packed = unsafe { memory::bytes(area..area + PACKED_HEADER) };
    // SAFETY: the image's header, in the same 3 MiB.
    let note = unsafe { memory::bytes(image + SLOT_NOTE..image + SLOT_NOTE + 8) };
    let slot = note.first().and_then(|note| Slot::from_index(u32::from(*note).checked_sub(1)?));
    let mut loaded = Loaded { image: Pa(image), parts, end: Pa(area), device_tree, symbols: &[], boot_set: None, slot };
    if packed[..8] == PACKED_MAGIC {
        let word =
            |at: usize| u64::from(u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]]));
        let symbols = area + word(8);
        // SAFETY: the packer's own offsets, inside the area.
        loaded.symbols = unsafe { memory::bytes(symbols..symbols + word(12)) };
        loaded.boot_set = (word(20) != 0).then(|| {
            let start = area + word(16);
            start..start + word(20).next_multiple_of(PAGE_SIZE)
        });
        loaded.end = Pa(area + (word(24) | word(28) << 32));
    }
    loaded
}

/// The machine, as the firmware's main function finds it.
pub struct Boot {
    /// What the boot loader and the packer left.
    pub loaded: Loaded,
    /// The facts of the device tree.
    pub board: Board<'static>,
    /// RAM that is in use before the frame table exists, to be reserved in it.
    pub taken: Vec<Range<u64>, 32>,
    storage: Mutex<Option<(Range<u64>, Range<u64>)>>,
    merger: Mutex<Option<Range<u64>>>,
    room: Mutex<Range<u64>>,
    root: Pa,
    stacks: [Stacks; MAX_CPUS],
    scratch: [Pa; MAX_CPUS],
}

static BOOT: Once<Boot> = Once::new();

/// The greatest number of VMs. With 8-bit VMIDs there are 255.
pub const MAX_VMS: usize = 1024;
const NODES: usize = MAX_VMS * VCPUS_PER_VM;
const NODES_BYTES: u64 = (NODES * size_of::<Node>()) as u64;

/// What is set aside for EL2's own large data: the switch, the directory, the log, the flash; and a packet for each CPU.
const ROOM_BYTES: u64 = 176 << 10;
const ROOM_BYTES_PER_CPU: u64 = 66 << 10;

/// For how many frames merging remembers one page.
const FRAMES_PER_MERGER_SLOT: u64 = 32;

/// Tables of EL2's map, in pages: identity, devices and image, with room for scattered devices.
const TABLE_PAGES: u64 = 40;

unsafe extern "Rust" {
    /// The firmware's main function, once on each CPU; [`entry!`](crate::entry) defines it.
    safe fn salp_main(cpu: usize) -> !;
}

/// Names the firmware's main function: `fn(cpu: usize) -> !`, called on every CPU with its index.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn salp_main(cpu: usize) -> ! {
            $main(cpu)
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::crash::panic(info)
        }
    };
}

#[unsafe(no_mangle)]
extern "C" fn salp_boot(device_tree: u64, image: u64) -> ! {
    // SAFETY: entry.S calls this once with what it was started with.
    let loaded = unsafe { loaded(device_tree, image) };
    let board = Board::from_device_tree(loaded.device_tree).unwrap_or_else(|error| panic!("{error}"));
    let page_up = |at: u64| at.next_multiple_of(PAGE_SIZE);
    let mut taken: Vec<Range<u64>, 32> = Vec::new();
    let mut take = |range: Range<u64>| taken.push(range).expect("the lists of the board are shorter");
    // The packed boot set is the last thing packed. It is not part of what stays reserved: VMs use its frames.
    let packed_end = loaded.boot_set.as_ref().map_or(loaded.end.0, |set| set.start);
    take(loaded.image.0..page_up(packed_end));
    take(loaded.parts[1].clone());
    let tree = loaded.device_tree.as_ptr() as u64;
    take(tree / PAGE_SIZE * PAGE_SIZE..page_up(tree + loaded.device_tree.len() as u64));
    let sets = board.boot_set.iter().chain(&loaded.boot_set);
    sets.map(|set| set.start..page_up(set.end)).chain(board.reserved.iter().cloned()).for_each(&mut take);

    // Tables and stacks come from the image's gigabyte, which the early map has.
    let gigabyte = loaded.image.0 >> 30 << 30..((loaded.image.0 >> 30) + 1) << 30;
    let cpus = board.cpus.len() as u64;
    let stack_pages = (STACK_PAGES + CRASH_STACK_PAGES + 1) * cpus;
    let pages = (TABLE_PAGES + stack_pages) * PAGE_SIZE;
    let early = place::find(&board.ram, &taken, gigabyte, pages, PAGE_SIZE).expect("no room for EL2's tables");
    taken.push(early..early + pages).expect("there is room for two more");

    let banks: Vec<Range<Pa>, MAX_BANKS> = board.ram.iter().map(|bank| Pa(bank.start)..Pa(bank.end)).collect();
    let words = Frames::words_needed(&banks).unwrap_or_else(|error| panic!("RAM is unusable: {error:?}"));
    let merger_bytes = page_up((words as u64 / FRAMES_PER_MERGER_SLOT) * 16);
    let room_bytes = page_up(ROOM_BYTES + cpus * ROOM_BYTES_PER_CPU);
    let bytes = page_up(words as u64 * 8) + page_up(NODES_BYTES) + merger_bytes + room_bytes;
    let table = place::find(&board.ram, &taken, 0..u64::MAX, bytes, PAGE_SIZE).expect("no room for the frame table");
    taken.push(table..table + bytes).expect("there is room for one more");
    let room = table + bytes - room_bytes;
    let merger = room - merger_bytes..room;
    let nodes = merger.start - page_up(NODES_BYTES);

    // SAFETY: `early` was placed apart from everything else and is noted as taken.
    let tables = unsafe { Bump::new(early..early + TABLE_PAGES * PAGE_SIZE) };
    // SAFETY: as above, the other part.
    let mut stacks_and_scratch = unsafe { Bump::new(early + TABLE_PAGES * PAGE_SIZE..early + pages) };
    let scratch =
        core::array::from_fn(|index| if index < board.cpus.len() { stacks_and_scratch.take(1) } else { Pa(0) });
    let mut map = Map::new(tables, stacks_and_scratch);
    // The packed area is read, never written, as RAM; the image proper has no alias.
    for bank in &board.ram {
        map.map_ram(bank.clone(), &loaded.parts);
    }
    map.map_image(loaded.image);
    map.map_device(board.gic.distributor.clone());
    let redistributors = &board.gic.redistributors;
    let used = redistributors.end.min(redistributors.start + MAX_REDISTRIBUTORS * 0x2_0000);
    map.map_device(redistributors.start..used);
    map.map_device(board.uart.registers.clone());
    if let Some(rtc) = board.rtc {
        map.map_device(rtc..rtc + PAGE_SIZE);
    }
    for device in &board.virtio {
        // Several share a page.
        map.map_device(device.registers.start / PAGE_SIZE * PAGE_SIZE..page_up(device.registers.end));
    }
    if let Some(flash) = &board.flash {
        map.map_flash(flash.clone());
    }
    let mut stacks = [Stacks { top: salp_core::addr::Va(0), crash_top: salp_core::addr::Va(0) }; MAX_CPUS];
    for (index, stack) in stacks.iter_mut().enumerate().take(board.cpus.len()) {
        *stack = map.map_stacks(index);
    }
    let root = map.root();
    let storage = Mutex::new(Some((table..nodes, nodes..nodes + NODES_BYTES)));
    let merger = Mutex::new(Some(merger));
    let room = Mutex::new(room..room + room_bytes);
    let top = stacks[0].top;
    let image = loaded.image;
    BOOT.call_once(|| Boot { loaded, board, taken, storage, merger, room, root, stacks, scratch });
    // SAFETY: the map holds all that EL2 uses, and nothing of this stack is used again.
    unsafe { mmu::switch_to(root, image, top, enter_main) }
}

/// Redistributors that are mapped: CPUs are found among the first of them by their affinity.
const MAX_REDISTRIBUTORS: u64 = 64;

extern "C" fn enter_main(index: u64) -> ! {
    let boot = get();
    cpu::init(boot.stacks[index as usize].crash_top);
    if index == 0 {
        crash::prepare(Pa(boot.board.uart.registers.start), boot.loaded.symbols);
    }
    salp_main(index as usize)
}

/// Returns what the machine was found to be.
///
/// # Panics
///
/// Before the first CPU has found it.
pub fn get() -> &'static Boot {
    BOOT.get().expect("the first CPU sets it before anything else runs")
}

impl Boot {
    /// Returns where the boot set is: the boot loader's, else the packed one.
    pub fn boot_set(&self) -> Option<Range<u64>> {
        self.board.boot_set.clone().or(self.loaded.boot_set.clone())
    }

    /// Returns the memory for the frame table and for the scheduler, once.
    pub fn take_tables(&self) -> Option<(&'static mut [u64], &'static mut [Node])> {
        let (frames, nodes) = self.storage.lock().take()?;
        let first = nodes.start as *mut Node;
        for index in 0..NODES {
            // SAFETY: placed apart from everything else, mapped, large enough, and handed out once.
            unsafe { first.add(index).write(Node::default()) };
        }
        // SAFETY: as above, initialised just now; the other part is claimed apart from it.
        Some(unsafe { (memory::claim(frames), core::slice::from_raw_parts_mut(first, NODES)) })
    }

    /// Returns the memory for the table of merging, zeroed, once.
    pub fn take_merger_table(&self) -> Option<&'static mut [u64]> {
        let range = self.merger.lock().take()?;
        // SAFETY: placed apart from everything else, mapped, and handed out once.
        Some(unsafe { memory::claim(range) })
    }

    /// Puts a value that is too large for the image, and for a stack, into memory that was set aside at boot.
    ///
    /// # Panics
    ///
    /// If there is no room: each such value is made once, and there is room for all.
    #[inline(always)] // A constant is made in place, if it is written as one: `const { … }`.
    pub fn keep<T: Send + Sync>(&self, value: T) -> &'static T {
        const { assert!(align_of::<T>() <= 64) };
        let place = {
            let mut room = self.room.lock();
            let start = room.start;
            room.start += (size_of::<T>() as u64).next_multiple_of(64);
            assert!(room.start <= room.end, "no room for EL2's own data");
            start as *mut T
        };
        // SAFETY: RAM placed apart from everything else, mapped, aligned, and given out once.
        unsafe { place.write(value) };
        // SAFETY: as above, initialised just now; nobody else refers to it.
        unsafe { &*place }
    }

    /// Starts CPU `index`, which comes to the firmware's main function.
    ///
    /// # Errors
    ///
    /// Says that the firmware below refused.
    pub fn start_cpu(&self, index: usize) -> Result<(), smccc::psci::Error> {
        let stack = self.stacks[index].top;
        let mpidr = self.board.cpus[index];
        // SAFETY: the finished map, a mapped stack and a scratch page of this CPU's own.
        unsafe { cpu::start(mpidr, self.loaded.image, self.root, stack, self.scratch[index], index as u64, enter_main) }
    }
}

/// Returns the physical console.
pub fn console() -> crate::uart::Pl011 {
    // SAFETY: from the device tree and mapped; the caller keeps it behind the console's lock.
    unsafe { crate::uart::Pl011::new(Pa(get().board.uart.registers.start)) }
}

/// Returns the physical GIC.
///
/// # Errors
///
/// Says what is wrong with the hardware.
pub fn gic() -> Result<crate::gic::Gic, &'static str> {
    // SAFETY: from the device tree and mapped; the firmware asks once.
    unsafe { crate::gic::Gic::new(&get().board.gic, get().board.cpus.len()) }
}

/// Returns the flash, if there is one that Salp knows.
pub fn flash() -> Option<crate::cfi::Nor> {
    let bank = get().board.flash.clone()?;
    // SAFETY: from the device tree and mapped; the firmware asks once and keeps it behind a lock.
    unsafe { crate::cfi::Nor::new(salp_core::addr::Va(mmu::FLASH), bank.end - bank.start) }
}

/// Returns seconds since 1970 from the PL031 at `base` (Arm DDI 0224: RTCDR is the first register).
pub fn read_rtc(base: u64) -> u64 {
    // SAFETY: from the device tree and mapped; reading it has no effect.
    u64::from(unsafe { core::ptr::read_volatile(base as *const u32) })
}

/// Returns the bytes of a boot set, which nobody writes: guests get its frames copy-on-write.
pub fn boot_set_bytes(range: Range<u64>) -> &'static [u8] {
    // SAFETY: RAM that the boot loader or the packer filled, and that is reserved from then on.
    unsafe { memory::bytes(range) }
}

/// Ends the machine.
pub use psci::{system_off, system_reset};
