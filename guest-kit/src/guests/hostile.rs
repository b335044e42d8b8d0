//! Torture, repeatable by its seed: what a guest gone mad, or bad, could try on EL2 and on its neighbours. It must get
//! what the architecture says, and it must survive itself to say so.
//!
//! Boot arguments: `seed=N` (default 1); `count=N` (default 20000) random attempts of each case on each vCPU;
//! `cpus=N` vCPUs at work at once (default all). `only=devices,instructions,calls,branches`.
//!
//! What it spares is only what would end this guest and prove nothing: the registers that say where its memory and
//! vectors are, instructions that zero memory at a random address, waiting for ever, the PSCI calls that turn vCPUs
//! or the machine off, and freezing. With the management capability it does to others what it likes, and clones itself
//! never. Nor does it set the virtual timer further ahead than 2^63 ticks: QEMU before 8.2 adds CNTVOFF_EL2 without a look
//! at the carry, takes the deadline for one that is past, and then does nothing else for ever. No hypervisor can keep
//! a guest from that register without FEAT_ECV.

use core::sync::atomic::{AtomicU64, Ordering};

use salp_hvc::{calls, device, manager};

use crate::random::Random;
use crate::rt::exception::{self, catch};
use crate::rt::generated::{self, REGISTERS, SNIPPETS, Snippets};
use crate::rt::ram::Ram;
use crate::rt::{console, cpu, mmio, sysreg};
use crate::test::Outcome;
use crate::{cases, check, gic, machine, println, salp, timer};

/// A run of device registers.
struct Window {
    base: u64,
    size: u64,
}

const WINDOWS: [Window; 8] = [
    Window { base: gic::GICD, size: 0x1_0000 },
    Window { base: gic::GICR, size: 0x2_0000 * machine::MAX_CPUS as u64 },
    Window { base: console::BASE, size: 0x1000 },
    // PL031.
    Window { base: 0x0901_0000, size: 0x1000 },
    // Salp's guest device.
    Window { base: device::BASE, size: device::SIZE },
    // The page with the VM generation id.
    Window { base: device::GENERATION_PAGE, size: 0x1000 },
    // virtio-mmio.
    Window { base: 0x0a00_0000, size: 0x4000 },
    // Nothing.
    Window { base: 0x0b00_0000, size: 0x10_0000 },
];

/// Runs the guest.
pub fn main() {
    println!("hostile: seed {}", seed());
    sysreg::mask_all();
    exception::set_irq_hook(Some(|frame| frame.spsr |= 0x3c0));
    cases!(devices, instructions, calls, branches);
}

fn seed() -> u64 {
    machine::number("seed", 1)
}

fn count() -> u64 {
    machine::number("count", 20_000)
}

static FINISHED: AtomicU64 = AtomicU64::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Runs `attack` on the vCPUs at once, each with its own numbers.
fn on_all(attack: fn(u64)) -> Outcome {
    let workers = machine::number("cpus", machine::cpu_count() as u64).clamp(1, machine::cpu_count() as u64);
    FINISHED.store(0, Ordering::Release);
    FAULTS.store(0, Ordering::Release);
    for other in 1..workers as usize {
        let answer = cpu::start(other, attack, other as u64);
        check!(answer == 0, "CPU_ON of vCPU {other}: {answer}");
    }
    attack(0);
    // The attack may have changed the timers and the console, but not the counter.
    let finished = timer::wait_until(600_000, || FINISHED.load(Ordering::Acquire) == workers);
    console::init();
    println!();
    check!(finished, "a vCPU did not survive");
    for other in 1..workers as usize {
        check!(cpu::wait_off(other, 10_000), "vCPU {other} does not go off");
    }
    println!("  {} exceptions on {workers} vCPUs", FAULTS.load(Ordering::Acquire));
    Ok(())
}

fn finish(faults: u64) {
    FAULTS.fetch_add(faults, Ordering::AcqRel);
    FINISHED.fetch_add(1, Ordering::AcqRel);
}

/// Returns a number of the kinds that find mistakes: random, small, all ones, an address of RAM or of a device.
fn operand(random: &mut Random) -> u64 {
    let number = random.draw();
    match number & 7 {
        0 => number >> 60,
        1 => u64::MAX << (number >> 58),
        2 => 1 << (number >> 58),
        3 => machine::ram_start() + (number >> 20 & 0xfff_fff8),
        4 => (number >> 33) & 0x3fff_ffff,
        _ => random.draw(),
    }
}

fn registers(random: &mut Random) -> [u64; REGISTERS] {
    core::array::from_fn(|_| operand(random))
}

fn devices() -> Outcome {
    on_all(|context| {
        let mut random = Random::new(seed() ^ 0xd0 ^ context << 32);
        let mut faults = 0;
        for _ in 0..count() {
            let window = &WINDOWS[random.below(WINDOWS.len() as u64) as usize];
            let size = random.below(4);
            let mut offset = random.below(window.size - 8);
            // Mostly aligned, because the rest ends before the device.
            if random.below(8) != 0 {
                offset &= !((1 << size) - 1);
            }
            let (address, mut value, write) = (window.base + offset, operand(&mut random), random.below(2) == 0);
            if window.base == console::BASE && offset < 8 {
                // What is printed stays on the line.
                value = u64::from(b'~');
            }
            if window.base == device::BASE
                && offset & !3 == device::COMMAND
                && value as u8 == device::COMMAND_FREEZE as u8
            {
                value = device::COMMAND_ACKNOWLEDGE.into();
            }
            if window.base == gic::GICR && (0x70..0x80).contains(&(offset & 0x1_ffff)) {
                // Where there are LPIs: their tables must not lie over this guest.
                value |= 0xc000_0000;
            }
            let fault = catch(|| match (size, write) {
                (0, true) => mmio::write8(address, value as u8),
                (1, true) => mmio::write16(address, value as u16),
                (2, true) => mmio::write32(address, value as u32),
                (3, true) => mmio::write64(address, value),
                (0, false) => _ = mmio::read8(address),
                (1, false) => _ = mmio::read16(address),
                (2, false) => _ = mmio::read32(address),
                (_, _) => _ = mmio::read64(address),
            });
            faults += u64::from(fault.is_some());
        }
        finish(faults);
    })
}

/// The fields of a system instruction (Arm ARM C4.1.94), as one number of 17 bits: L, op0, op1, CRn, CRm, op2.
fn system_instruction(fields: u32) -> u32 {
    0xd500_0000 | fields << 5
}

/// Returns true if executing this would end the guest.
fn spared(fields: u32) -> bool {
    let (read, op0, op1) = (fields >> 16 & 1 == 1, fields >> 14 & 3, fields >> 11 & 7);
    let (crn, crm, op2) = (fields >> 7 & 15, fields >> 3 & 15, fields & 7);
    match (read, op0, op1, crn, crm, op2) {
        // WFE, WFI, WFET, WFIT: wait for ever. (Hints ignore Rt only if it is 31; others are UNDEFINED, but not all
        // emulators look.)
        (false, 0, 3, 2, 0, 2..=3) | (false, 0, 3, 1, 0, _) => true,
        // DC ZVA, GVA, GZVA write memory; DC IVAC and the like drop what is not written back yet.
        (false, 1, 3, 7, 4, _) | (false, 1, 0, 7, 6, _) => true,
        // MDSCR_EL1: steps through what comes next.
        (false, 2, 0, 0, 2, 2) => true,
        // SCTLR, CPACR, TTBR, TCR, keys, MAIR, VBAR, RMR and what else says how this guest's memory is seen.
        (false, 3, 0, 1 | 2 | 10, _, _) | (false, 3, 0, 12, 0, _) => true,
        _ => false,
    }
}

/// Returns true if this writes CNTV_TVAL_EL0 or CNTV_CVAL_EL0.
fn sets_virtual_timer(fields: u32) -> bool {
    fields & !2 == 3 << 14 | 3 << 11 | 14 << 7 | 3 << 3
}

fn code_page() -> Snippets {
    Snippets::new(own_page(0))
}

fn request_page() -> Ram {
    own_page(1)
}

/// Returns a page of each vCPU's own; there is more free RAM than that in the smallest guest.
fn own_page(which: usize) -> Ram {
    let ram = Ram::largest();
    let page = which * machine::MAX_CPUS + cpu::index();
    ram.from(ram.start() + page as u64 * 4096, 4096).unwrap_or_else(|| panic!("no free RAM"))
}

/// Every encoding once, in an order that the seed decides; then as many at random.
fn instructions() -> Outcome {
    on_all(|context| {
        let mut random = Random::new(seed() ^ 0x15 ^ context << 32);
        let page = code_page();
        let start = random.draw() as u32;
        let mut batch = [0; SNIPPETS];
        let mut faults = 0;
        let total = (1 << 17) + count() as u32;
        for first in (0..total).step_by(SNIPPETS) {
            let mut filled = 0;
            // What goes into the registers of each.
            let mut masks = [u64::MAX; SNIPPETS];
            for number in first..(first + SNIPPETS as u32).min(total) {
                // An odd factor visits every encoding of 17 bits once.
                let fields = number.wrapping_add(start).wrapping_mul(0x9e35) & 0x1_ffff;
                if !spared(fields) {
                    batch[filled] = system_instruction(fields) | random.below(18) as u32;
                    if sets_virtual_timer(fields) {
                        masks[filled] = !(1 << 63 | 1 << 31);
                    }
                    filled += 1;
                }
            }
            page.load(&batch[..filled]);
            for (index, mask) in masks.iter().enumerate().take(filled) {
                faults +=
                    u64::from(page.run(index, &registers(&mut random).map(|value| value & mask)).exception.is_some());
            }
            if context == 0 && first % (SNIPPETS as u32 * 64) == 0 {
                println!("  {first} of {total}");
            }
        }
        finish(faults);
    })
}

/// PSCI functions, in both conventions, that end or stop this guest or a vCPU of it: SUSPEND, OFF, ON, SYSTEM_OFF,
/// SYSTEM_RESET, FREEZE, DEFAULT_SUSPEND, SYSTEM_SUSPEND, SYSTEM_RESET2.
const ENDING: [u32; 9] = [1, 2, 3, 8, 9, 0xb, 0xc, 0xe, 0x12];

/// Returns registers for one of Salp's calls: identifiers that exist or might, addresses, requests that are nearly good.
fn salp_call(random: &mut Random, page: &Ram, own: u64) -> [u64; REGISTERS] {
    let id = if random.below(2) == 0 { random.below(32) } else { operand(random) };
    // No name, one that is good, or anything.
    let name = [0, 0x61 + random.below(26), random.draw()][random.below(3) as usize];
    let request = [id, random.below(4) | random.below(120) << 32, name, 0, 0, 0];
    for (place, value) in (page.start()..).step_by(8).zip(request) {
        page.write(place, value);
    }
    // Records must not be written over this guest: an address of RAM is one of the page.
    let address = match operand(random) {
        ram if (machine::ram_start()..machine::ram_end()).contains(&ram) => page.start() + (ram & 0xfff),
        other => other,
    };
    let mut values = registers(random);
    let mut function = calls::FREEZE + random.below(0x38) as u32;
    if [calls::VM_DESTROY, manager::VM_STOP].contains(&function) && random.below(16) != 0 {
        // Else there would soon be nobody to harm.
        function = calls::VM_SNAPSHOT;
    }
    let (first, second) = match function {
        calls::VM_SNAPSHOT => (id, page.start() + 16),
        calls::VM_CLONE => (page.start() + (random.below(8) & 4), random.below(128)),
        calls::MACHINE => (address, id),
        manager::VM_CREATE => (page.start(), random.below(256)),
        manager::IMAGE_CREATE => (page.start() + (random.below(8) & 4), id),
        manager::IMAGE_WRITE | manager::IMAGE_READ => (id, random.below(8)),
        _ => (id, address),
    };
    // Where bytes of images go, and how many.
    values[3..5].copy_from_slice(&[page.start(), random.below(0x1000)]);
    // What is done to itself would end it.
    let is_spared = function == calls::FREEZE || own != 0 && id == own;
    values[..3].copy_from_slice(&[if is_spared { calls::VM_NEXT } else { function }.into(), first, second]);
    values
}

/// Returns this VM's identifier if it may know it.
fn own_identifier() -> u64 {
    let own = salp::name();
    let mut last = 0;
    while let Ok(info) = salp::vm_next(last) {
        last = info.id.get();
        if own == Ok(salp::Name(info.name)) {
            return last;
        }
    }
    0
}

fn calls() -> Outcome {
    on_all(|context| {
        let mut random = Random::new(seed() ^ 0xca ^ context << 32);
        let (page, request, own) = (code_page(), request_page(), own_identifier());
        // HVC with the immediate of the convention and with others, and SMC.
        page.load(&[0xd400_0002, 0xd400_0003, 0xd400_0022, 0xd41f_ffe2, 0xd400_0001]);
        let mut faults = 0;
        // The first numbers of every owner and kind of call, then at random.
        for number in 0..(1 << 14) + count() {
            let function = if number < 1 << 14 {
                (number as u32 & 0xff) << 24 | number as u32 >> 8 & 0x3f
            } else {
                operand(&mut random) as u32
            };
            if function & 0xbfff_ffe0 == 0x8400_0000 && ENDING.contains(&(function & 0x1f)) {
                continue;
            }
            let mut values = registers(&mut random);
            values[0] = u64::from(function) | (random.draw() & 0xffff_ffff) << 32;
            // Salp's own, which can do more harm, are called with more care.
            if function & !(1 << 16 | 0x3f) == calls::FREEZE & !0x3f || random.below(4) == 0 {
                values = salp_call(&mut random, &request, own);
            }
            let way = if random.below(4) == 0 { random.below(5) as usize } else { 0 };
            faults += u64::from(page.run(way, &values).exception.is_some());
        }
        finish(faults);
    })
}

fn branches() -> Outcome {
    on_all(|context| {
        let mut random = Random::new(seed() ^ 0xb1 ^ context << 32);
        let mut faults = 0;
        for _ in 0..count() / 4 {
            let address = operand(&mut random);
            if address < machine::ram_start() || address >= machine::ram_end() {
                faults += u64::from(generated::branch(address, &registers(&mut random)).exception.is_some());
            }
        }
        finish(faults);
    })
}
