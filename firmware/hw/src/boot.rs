//! From the first Rust instruction to the firmware's main function: what was loaded, the machine's facts, the map of
//! memory, and then the same for every other CPU.

use crate::handover::{self, Head};
use crate::mmu::{Bump, CRASH_STACK_PAGES, Map, STACK_PAGES, Stacks};
use crate::{cpu, crash, layout, memory, mmu, psci, watchdog};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use heapless::Vec;
use salp_board::facts::{Board, MAX_BANKS, MAX_CPUS};
use salp_core::addr::{PAGE_SIZE, Pa, Va};
use salp_core::frames::Frames;
use salp_core::place;
use salp_core::sched::{Node, VCPUS_PER_VM};
use salp_core::slots::Slot;
use salp_hvc::handover::{IMAGE_ROOM, MAGIC, ROOM, Side, VERSIONS};
use spin::{Mutex, Once};

core::arch::global_asm!(include_str!("entry.S"), LEAST = const VERSIONS[0], GREATEST = const VERSIONS[1]);

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
    /// The watchdog made the last reset, as the first stage has seen.
    pub was_expired: bool,
}

/// Where the first stage notes what it knows: a field of the `Image` header that loaders leave as it is. First the slot: 0 is none,
/// then A, B; then 1 if the watchdog made the last reset.
const NOTE: u64 = 48;

/// Notes in an image, whose first bytes these are, the slot that it comes from, and whether the watchdog made the last reset.
pub fn note(image: &mut [u8], slot: Option<Slot>, was_expired: bool) {
    let at = NOTE as usize;
    if let Some(place) = image.get_mut(at..at + size_of::<u64>()) {
        let slot = slot.map_or(0, |slot| slot.index() as u64 + 1);
        place.copy_from_slice(&(slot | u64::from(was_expired) << 8).to_le_bytes());
    }
}

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
    // SAFETY: in the 4 MiB of the image, which the loader has set aside (`image_size`) and the early map covers.
    let packed = unsafe { memory::bytes(area..area + PACKED_HEADER) };
    // SAFETY: the image's header, in the same 4 MiB.
    let note = unsafe { memory::bytes(image + NOTE..image + NOTE + 8) };
    let slot = note.first().and_then(|note| Slot::from_index(u32::from(*note).checked_sub(1)?));
    let was_expired = note.get(1) == Some(&1);
    let mut loaded =
        Loaded { image: Pa(image), parts, end: Pa(area), device_tree, symbols: &[], boot_set: None, slot, was_expired };
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
    /// How this image was handed over to, or has come back.
    pub handed: Option<Head>,
    /// The memory that this image has for itself.
    pub side: Side,
    watchdog: Option<watchdog::Place>,
    areas: Areas,
    are_tables_taken: AtomicBool,
    is_merger_taken: AtomicBool,
    room: Mutex<Range<u64>>,
    root: Pa,
    stacks: [Stacks; MAX_CPUS],
    scratch: [Pa; MAX_CPUS],
}

/// Where EL2's own memory is, beside the image.
#[derive(Clone, Debug)]
struct Areas {
    early: Range<u64>,
    frames: Range<u64>,
    nodes: Range<u64>,
    merger: Range<u64>,
    room: Range<u64>,
}

impl Areas {
    /// Finds room that nobody has.
    fn place(loaded: &Loaded, board: &Board<'_>, taken: &mut Vec<Range<u64>, 32>) -> Self {
        let cpus = board.cpus.len() as u64;
        // Tables and stacks come from the image's gigabyte, which the early map has.
        let gigabyte = loaded.image.0 >> 30 << 30..((loaded.image.0 >> 30) + 1) << 30;
        let pages = early_bytes(cpus);
        let early = place::find(&board.ram, taken, gigabyte, pages, PAGE_SIZE).expect("no room for EL2's tables");
        let early = early..early + pages;
        taken.push(early.clone()).expect("there is room for two more");
        let banks = banks(board);
        let words = Frames::words_needed(&banks).unwrap_or_else(|error| panic!("RAM is unusable: {error:?}"));
        let merger_bytes = page_up((words as u64 / FRAMES_PER_MERGER_SLOT) * 16);
        let bytes = page_up(words as u64 * 8) + page_up(NODES_BYTES) + merger_bytes + room_bytes(cpus);
        let table = place::find(&board.ram, taken, 0..u64::MAX, bytes, PAGE_SIZE).expect("no room for the frame table");
        taken.push(table..table + bytes).expect("there is room for one more");
        let room = table + bytes - room_bytes(cpus)..table + bytes;
        let merger = room.start - merger_bytes..room.start;
        let nodes = merger.start - page_up(NODES_BYTES)..merger.start;
        Self { early, frames: table..nodes.start, nodes, merger, room }
    }

    /// Returns the memory of an image that a boot loader has started.
    fn side(&self, loaded: &Loaded) -> Side {
        let of = |area: &Range<u64>| [area.start, area.end];
        let packed_end = loaded.boot_set.as_ref().map_or(loaded.end.0, |set| set.start);
        Side {
            image: loaded.image.0,
            early: of(&self.early),
            nodes: of(&self.nodes),
            room: of(&self.room),
            parts: [[loaded.image.0, page_up(packed_end)], of(&loaded.parts[1])],
        }
    }

    /// Finds what the image before has set aside, or what this one had before it handed over.
    fn of(head: Head, board: &Board<'_>) -> Self {
        let header = head.get();
        let is_known = (VERSIONS[0].into()..=VERSIONS[1].into()).contains(&header.version);
        assert!(header.magic == MAGIC && is_known, "this is no hand-over of a version from {VERSIONS:?}");
        let range = |[start, end]: [u64; 2]| start..end;
        let Side { early, nodes, room, .. } = header.sides[usize::from(header.starting != 0)];
        let this = Self {
            early: range(early),
            frames: range(header.frames),
            nodes: range(nodes),
            merger: range(header.merger),
            room: range(room),
        };
        let words = Frames::words_needed(&banks(board)).unwrap_or_else(|error| panic!("RAM is unusable: {error:?}"));
        let cpus = board.cpus.len() as u64;
        let wanted = [early_bytes(cpus), words as u64 * 8, NODES_BYTES, 0, room_bytes(cpus)];
        for (area, least) in [&this.early, &this.frames, &this.nodes, &this.merger, &this.room].into_iter().zip(wanted)
        {
            let is_ram = |bank: &Range<u64>| bank.start <= area.start && area.end <= bank.end;
            let is_sound = area.start.is_multiple_of(PAGE_SIZE) && area.end.checked_sub(area.start) >= Some(least);
            assert!(is_sound && board.ram.iter().any(is_ram), "there is no room at {area:#x?}");
        }
        this
    }
}

const fn page_up(at: u64) -> u64 {
    at.next_multiple_of(PAGE_SIZE)
}

/// How much tables and stacks take.
const fn early_bytes(cpus: u64) -> u64 {
    (TABLE_PAGES + (STACK_PAGES + CRASH_STACK_PAGES + 1) * cpus) * PAGE_SIZE
}

const fn room_bytes(cpus: u64) -> u64 {
    page_up(ROOM_BYTES + cpus * ROOM_BYTES_PER_CPU)
}

fn banks(board: &Board<'_>) -> Vec<Range<Pa>, MAX_BANKS> {
    board.ram.iter().map(|bank| Pa(bank.start)..Pa(bank.end)).collect()
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
extern "C" fn salp_boot(device_tree: u64, image: u64, handed: u64) -> ! {
    // SAFETY: what entry.S found.
    let handed = unsafe { handover::begin(handed) };
    // SAFETY: entry.S calls this once with what it was started with.
    let loaded = unsafe { loaded(device_tree, image) };
    let board = Board::from_device_tree(loaded.device_tree).unwrap_or_else(|error| panic!("{error}"));
    let mut taken: Vec<Range<u64>, 32> = Vec::new();
    let mut take = |range: Range<u64>| taken.push(range).expect("the lists of the board are shorter");
    // The packed boot set is the last thing packed. It is not part of what stays reserved: VMs use its frames.
    let packed_end = loaded.boot_set.as_ref().map_or(loaded.end.0, |set| set.start);
    take(loaded.image.0..page_up(packed_end));
    take(loaded.parts[1].clone());
    let remains = remains(&board);
    take(remains.0..remains.0 + PAGE_SIZE);
    let tree = loaded.device_tree.as_ptr() as u64;
    take(tree / PAGE_SIZE * PAGE_SIZE..page_up(tree + loaded.device_tree.len() as u64));
    let sets = board.boot_set.iter().chain(&loaded.boot_set);
    sets.map(|set| set.start..page_up(set.end)).chain(board.reserved.iter().cloned()).for_each(&mut take);

    let areas = match handed {
        Some(head) => Areas::of(head, &board),
        None => Areas::place(&loaded, &board, &mut taken),
    };
    let early = areas.early.clone();

    // SAFETY: `early` was placed apart from everything else and is noted as taken.
    let tables = unsafe { Bump::new(early.start..early.start + TABLE_PAGES * PAGE_SIZE) };
    // SAFETY: as above, the other part.
    let mut stacks_and_scratch = unsafe { Bump::new(early.start + TABLE_PAGES * PAGE_SIZE..early.end) };
    let scratch =
        core::array::from_fn(|index| if index < board.cpus.len() { stacks_and_scratch.take(1) } else { Pa(0) });
    let mut map = Map::new(tables, stacks_and_scratch);
    // The packed area is read, never written, as RAM; the image proper has no alias.
    // So is the page by which exceptions go back to the image before.
    let way_back = handed.filter(|_| handover::is_on_trial()).map(|head| Pa(head.get().way_back));
    let mut apart: Vec<Range<u64>, 3> = loaded.parts.iter().cloned().collect();
    apart.extend(way_back.map(|page| page.0..page.0 + PAGE_SIZE));
    apart.sort_unstable_by_key(|part| part.start);
    for bank in &board.ram {
        map.map_ram(bank.clone(), &apart);
    }
    way_back.into_iter().for_each(|page| map.map_way_back(page));
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
    // SAFETY: from the device tree, and the early map is the running one.
    let watchdog = board.pci.as_ref().and_then(|bus| unsafe { watchdog::Place::find(bus) });
    watchdog.iter().flat_map(|place| place.pages()).for_each(|page| map.map_device(page));
    let mut stacks = [Stacks { top: Va(0), crash_top: Va(0) }; MAX_CPUS];
    for (index, stack) in stacks.iter_mut().enumerate().take(board.cpus.len()) {
        *stack = map.map_stacks(index);
    }
    let root = map.root();
    let side = handed.map_or_else(
        || areas.side(&loaded),
        |head| {
            let header = head.get();
            header.sides[usize::from(header.starting != 0)]
        },
    );
    let room = Mutex::new(areas.room.clone());
    let (are_tables_taken, is_merger_taken) = (AtomicBool::new(false), AtomicBool::new(false));
    let top = stacks[0].top;
    let image = loaded.image;
    BOOT.call_once(|| Boot {
        loaded,
        board,
        taken,
        handed,
        side,
        watchdog,
        areas,
        are_tables_taken,
        is_merger_taken,
        room,
        root,
        stacks,
        scratch,
    });
    // SAFETY: the map holds all that EL2 uses, and nothing of this stack is used again.
    unsafe { mmu::switch_to(root, image, top, enter_main) }
}

/// Returns the page that last words are written to: the last one of RAM, where no image or boot loader puts anything, so that it is
/// found again whichever image starts.
fn remains(board: &Board<'_>) -> Pa {
    Pa(board.ram.iter().map(|bank| bank.end).max().map_or(0, |end| end / PAGE_SIZE * PAGE_SIZE - PAGE_SIZE))
}

/// Redistributors that are mapped: CPUs are found among the first of them by their affinity.
const MAX_REDISTRIBUTORS: u64 = 64;

extern "C" fn enter_main(index: u64) -> ! {
    let boot = get();
    cpu::init(boot.stacks[index as usize].crash_top, index == 0);
    if index == 0 {
        crash::prepare(Pa(boot.board.uart.registers.start), boot.loaded.symbols, remains(&boot.board));
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
    /// Returns which of the board's CPUs this one is.
    pub(crate) fn cpu(&self) -> usize {
        let affinity = cpu::affinity();
        self.board.cpus.iter().position(|&mpidr| mpidr == affinity).unwrap_or(0)
    }

    /// Returns where the boot set is: the boot loader's, else the packed one.
    pub fn boot_set(&self) -> Option<Range<u64>> {
        self.board.boot_set.clone().or(self.loaded.boot_set.clone())
    }

    /// Returns the memory for the frame table and for the scheduler, once. The table is as the image before left it, if there was
    /// one, else zeroed.
    pub fn take_tables(&self) -> Option<(&'static mut [u64], &'static mut [Node])> {
        if self.are_tables_taken.swap(true, Ordering::Relaxed) {
            return None;
        }
        let first = self.areas.nodes.start as *mut Node;
        for index in 0..NODES {
            // SAFETY: placed apart from everything else, mapped, large enough, and handed out once.
            unsafe { first.add(index).write(Node::default()) };
        }
        // SAFETY: as above, initialised just now.
        let nodes = unsafe { core::slice::from_raw_parts_mut(first, NODES) };
        let frames = self.areas.frames.clone();
        // SAFETY: as above; the other part is claimed apart from it, once.
        let frames = unsafe { if self.handed.is_some() { memory::adopt(frames) } else { memory::claim(frames) } };
        Some((frames, nodes))
    }

    /// Returns the memory for the table of merging, once: zeroed, or as the image before left it.
    pub fn take_merger_table(&self, is_new: bool) -> Option<&'static mut [u64]> {
        if self.is_merger_taken.swap(true, Ordering::Relaxed) {
            return None;
        }
        let range = self.areas.merger.clone();
        // SAFETY: placed apart from everything else, mapped, and handed out once.
        Some(unsafe { if is_new { memory::claim(range) } else { memory::adopt(range) } })
    }

    /// Returns where the tables of frames and of merging are.
    pub fn shared_tables(&self) -> [[u64; 2]; 2] {
        [&self.areas.frames, &self.areas.merger].map(|area| [area.start, area.end])
    }

    /// Returns the memory of the image at `image`, with what it needs besides in a block at `block`.
    pub fn next_side(&self, image: Pa, block: Pa) -> Side {
        let cpus = self.board.cpus.len() as u64;
        let early = block.0 + early_bytes(cpus);
        let nodes = early + page_up(NODES_BYTES);
        let room = nodes + room_bytes(cpus);
        assert!(room - block.0 <= ROOM, "the room of an image is too small");
        Side {
            image: image.0,
            early: [block.0, early],
            nodes: [early, nodes],
            room: [nodes, block.0 + ROOM],
            parts: [[image.0, image.0 + IMAGE_ROOM], [0; 2]],
        }
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

    /// Returns where the stack of CPU `index` begins, which grows down.
    pub(crate) fn stack(&self, index: usize) -> Va {
        self.stacks[index].top
    }

    /// Makes the page by which exceptions went to the image before RAM as any other.
    pub(crate) fn forget_way_back(&self, page: Pa) {
        // SAFETY: the finished map, in which this image has mapped the page for that; this CPU's vectors are its own again, and the
        // other CPUs never used it.
        unsafe { mmu::make_data(self.root, page) };
    }

    /// Starts CPU `index`, which comes to the firmware's main function, the one that waits at a door of `door` if there is one.
    ///
    /// # Errors
    ///
    /// Says that the firmware below refused.
    pub fn start_cpu(&self, index: usize, door: Option<Head>) -> Result<(), smccc::psci::Error> {
        let stack = self.stacks[index].top;
        let mpidr = self.board.cpus[index];
        // SAFETY: the finished map, a mapped stack and a scratch page of this CPU's own.
        unsafe {
            cpu::start(
                mpidr,
                self.loaded.image,
                self.root,
                stack,
                self.scratch[index],
                index as u64,
                door.map(|head| (head, index)),
                enter_main,
            )
        }
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

/// Returns the watchdog, if there is one that Salp knows.
pub fn watchdog() -> Option<watchdog::BoardWatchdog> {
    let place = get().watchdog?;
    // SAFETY: mapped; the firmware asks once and keeps it behind a lock.
    Some(unsafe { place.drive() })
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
