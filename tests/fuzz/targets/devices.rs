//! Any accesses to the console, the clock, the power button and the map: the state stays valid, and a read gives no more than its width.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_core::addr::Ipa;
use salp_core::dev::{bus, guest};
use salp_core::dev::pl011::Pl011;
use salp_core::dev::pl031::Pl031;
use salp_core::dev::pl061::Pl061;
use salp_core::identity::{Config, Identity, Name};
use salp_core::vgic::AccessSize;

#[derive(arbitrary::Arbitrary, Debug)]
enum Step {
    Find { ipa: u64, vcpus: u8 },
    UartRead { offset: u16, size: u8 },
    UartWrite { offset: u16, size: u8, value: u64 },
    Key(u8),
    ClockRead { offset: u16, size: u8, now: u64 },
    ClockWrite { offset: u16, size: u8, value: u64, now: u64 },
    Tick(u64),
    GpioRead { offset: u16, size: u8 },
    GpioWrite { offset: u16, size: u8, value: u64 },
    Pin { line: u8, level: bool },
    GuestRead { offset: u16, size: u8, config: Vec<u8> },
    GuestWrite { offset: u16, value: u64 },
    Load { value: u64, size: u8, sign_extend: bool, is_64bit: bool },
}

/// An access as the bus lets it through: within the device, and aligned.
fn access(offset: u16, size: u8) -> (u64, AccessSize) {
    let size = AccessSize::from_sas(size.into());
    (u64::from(offset & 0xfff) & !(size.bytes() - 1), size)
}

struct World;

impl guest::World for World {
    fn time(&mut self) -> u64 {
        u64::MAX
    }

    fn random(&mut self) -> u64 {
        u64::MAX
    }
}

fn fits(value: u64, size: AccessSize) -> bool {
    size == AccessSize::Double || value >> (8 * size.bytes()) == 0
}

fuzz_target!(|steps: Vec<Step>| {
    let mut uart = Pl011::new();
    let mut clock = Pl031::new(1_700_000_000);
    let mut gpio = Pl061::new();
    for step in steps {
        match step {
            Step::Find { ipa, vcpus } => {
                if let Some((bus::Device::Gicr(owner), _)) = bus::find(Ipa(ipa), vcpus.into()) {
                    assert!(owner < usize::from(vcpus));
                }
            }
            Step::UartRead { offset, size } => {
                let (offset, size) = access(offset, size);
                assert!(fits(uart.read(offset, size), size));
            }
            Step::UartWrite { offset, size, value } => {
                let (offset, size) = access(offset, size);
                uart.write(offset, size, value);
            }
            Step::Key(byte) => {
                let room = uart.room();
                assert_eq!(uart.push(byte), room > 0);
            }
            Step::ClockRead { offset, size, now } => {
                let (offset, size) = access(offset, size);
                assert!(fits(clock.read(offset, size, now), size));
            }
            Step::ClockWrite { offset, size, value, now } => {
                let (offset, size) = access(offset, size);
                clock.write(offset, size, value, now);
            }
            Step::Tick(now) => {
                clock.tick(now);
                assert_ne!(clock.alarm_in(now), Some(0));
            }
            Step::GpioRead { offset, size } => {
                let (offset, size) = access(offset, size);
                assert!(fits(gpio.read(offset, size), size));
            }
            Step::GpioWrite { offset, size, value } => {
                let (offset, size) = access(offset, size);
                gpio.write(offset, size, value);
            }
            Step::Pin { line, level } => gpio.set(line, level),
            Step::GuestRead { offset, size, config } => {
                let config = Config::new(&config).unwrap_or(Config::EMPTY);
                let name = Name::new(b"fuzz").expect("a name");
                let identity = Identity::of_clone(name, &[7; 32], 1, 0, &config);
                let (offset, size) = access(offset, size);
                assert!(fits(guest::read(&identity, &mut World, offset, size), size));
            }
            Step::GuestWrite { offset, value } => _ = guest::write(offset.into(), value),
            Step::Load { value, size, sign_extend, is_64bit } => {
                let size = AccessSize::from_sas(size.into());
                let loaded = bus::finish_load(value, size, sign_extend, is_64bit);
                assert!(is_64bit || loaded >> 32 == 0);
                assert!(fits(bus::cut(value, size), size));
            }
        }
        assert!(uart.is_valid());
    }
});
