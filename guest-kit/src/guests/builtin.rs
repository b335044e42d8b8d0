//! The friendly guest that is packed in the image: a small shell on the console. Boot argument `exit`: says hello and
//! turns off.
//!
//! Between lines it sleeps in WFI until the console's interrupt, so an idle one costs nothing.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::rt::ram::Ram;
use crate::rt::{cpu, ram, sysreg};
use crate::{gic, input, machine, print, println, psci, timer};

struct Command {
    name: &'static str,
    help: &'static str,
    run: fn(),
}

const COMMANDS: &[Command] = &[
    Command { name: "help", help: "lists the commands", run: help },
    Command { name: "info", help: "tells what machine this is", run: info },
    Command { name: "time", help: "tells how long this guest has been running", run: time },
    Command { name: "cpus", help: "starts every vCPU and lets each say hello", run: cpus },
    Command { name: "mem", help: "writes and reads back a word of every free page", run: memory },
    Command { name: "reset", help: "starts this guest again", run: || psci::system_reset() },
    Command { name: "off", help: "turns this guest off", run: || psci::system_off() },
];

static GREETED: AtomicU64 = AtomicU64::new(0);

/// Runs the guest.
pub fn main() {
    println!("\nSalp builtin guest: {} vCPU, {} MiB", machine::cpu_count(), ram_bytes() >> 20);
    if machine::has("exit") {
        return;
    }
    println!("Type help for the commands.");
    gic::init();
    input::init();
    loop {
        print!("salp> ");
        let line = input::read_line();
        let word = line.trim_ascii();
        match COMMANDS.iter().find(|command| command.name == word) {
            Some(command) => (command.run)(),
            None if word.is_empty() => {}
            None => println!("{word}: no such command; help lists them"),
        }
    }
}

fn help() {
    for command in COMMANDS {
        println!("  {}: {}", command.name, command.help);
    }
}

fn ram_bytes() -> u64 {
    machine::ram_end() - machine::ram_start()
}

fn info() {
    println!("  vCPUs   {}, MIDR {:#010x}", machine::cpu_count(), sysreg::midr());
    println!("  memory  {} MiB at {:#x}", ram_bytes() >> 20, machine::ram_start());
    println!("  image   {} bytes at {:#x}", ram::loaded_bytes(), ram::image().0);
    println!("  timer   {} Hz", sysreg::cntfrq());
    let version = psci::call(smccc::psci::PSCI_VERSION, [0; 3]) as u64;
    println!("  PSCI    {}.{}", version >> 16, version & 0xffff);
    println!("  boot    {}", machine::bootargs());
}

fn time() {
    let microseconds = timer::microseconds(sysreg::cntvct());
    println!("  {}.{:06} s", microseconds / 1_000_000, microseconds % 1_000_000);
}

fn cpus() {
    println!("  vCPU {} says hello", cpu::index());
    for other in (0..machine::cpu_count()).filter(|&other| other != cpu::index()) {
        let before = GREETED.load(Ordering::Acquire);
        let answer = cpu::start(other, greet, other as u64) as u64;
        let greeted = answer == psci::SUCCESS as u64
            && timer::wait_until(5000, || GREETED.load(Ordering::Acquire) > before)
            && cpu::wait_off(other, 5000);
        if !greeted {
            println!("  vCPU {other} does not come: PSCI says {answer:#x}");
        }
    }
}

fn greet(context: u64) {
    println!("  vCPU {context} says hello");
    GREETED.fetch_add(1, Ordering::Release);
}

fn memory() {
    let ram = Ram::largest();
    let (mut pages, mut wrong) = (0u64, 0u64);
    for round in 0..2 {
        let mut page = ram.start();
        while page < ram.end() {
            if round == 0 {
                ram.write(page, !page);
                pages += 1;
            } else {
                wrong += u64::from(ram.read(page) != !page);
            }
            page += 4096;
        }
    }
    println!("  {pages} pages written, {wrong} wrong");
}
