//! Any registers, rings, chains and frames, against a NIC and the switch: bounded work, nothing outside memory, and a frame
//! that leaves has the port's address.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_core::addr::Ipa;
use salp_core::dev::net::{Delivery, Nic, Taken};
use salp_core::dev::virtq::GuestMem;
use salp_core::net::packet::Packet;
use salp_core::net::port::{Port, Rules};
use salp_core::stage2::Fault;
use salp_core::vgic::AccessSize;

const RAM: u64 = 0x4000_0000;
const SIZE: usize = 0x1_0000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

struct Mem {
    bytes: Vec<u8>,
    accesses: usize,
}

impl Mem {
    fn range(&mut self, at: Ipa, length: usize) -> Result<std::ops::Range<usize>, Fault> {
        self.accesses += 1;
        let start = at.0.checked_sub(RAM).ok_or(Fault::OutsideRam)?;
        let end = start.checked_add(length as u64).filter(|&end| end <= SIZE as u64).ok_or(Fault::OutsideRam)?;
        Ok(start as usize..end as usize)
    }
}

impl GuestMem for Mem {
    fn read(&mut self, at: Ipa, to: &mut [u8]) -> Result<(), Fault> {
        let range = self.range(at, to.len())?;
        to.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write(&mut self, at: Ipa, from: &[u8]) -> Result<(), Fault> {
        let range = self.range(at, from.len())?;
        self.bytes[range].copy_from_slice(from);
        Ok(())
    }

    fn holds(&self, at: Ipa, bytes: u64) -> bool {
        at.0 >= RAM && at.0.saturating_add(bytes) <= RAM + SIZE as u64
    }
}

#[derive(arbitrary::Arbitrary, Debug)]
enum Step {
    /// A register, by its number.
    Register {
        register: u8,
        value: u32,
    },
    /// Sets a queue up at a good place and starts the device.
    SetUp {
        features: u32,
        size: u8,
    },
    Poke {
        at: u16,
        bytes: Vec<u8>,
    },
    /// A descriptor at a good place.
    Describe {
        queue: bool,
        index: u8,
        at: u16,
        length: u16,
        flags: u8,
        next: u8,
    },
    /// Chains that are available.
    Offer {
        queue: bool,
        head: u8,
        index: u8,
    },
    /// A frame that is over, or waits.
    Take {
        waits: bool,
    },
    /// The wait is over.
    Retry,
    Deliver {
        length: u16,
        may_wait: bool,
    },
    Clone,
    Acknowledge,
}

fuzz_target!(|steps: Vec<Step>| {
    let mut nic = Nic::new(Port::new(MAC, Rules::default()));
    let mut mem = Mem { bytes: vec![0; SIZE], accesses: 0 };
    let mut packet = Box::new(Packet::EMPTY);
    let mut now = 0;
    for step in steps {
        now += 1000;
        let base = |queue: bool| if queue { 0x4000usize } else { 0 };
        match step {
            Step::Register { register, value } => {
                nic.write(u64::from(register) * 4, AccessSize::Word, value.into());
                nic.read(u64::from(register) * 4, AccessSize::Word);
            }
            Step::SetUp { features, size } => {
                let mut write = |offset: u64, value: u64| nic.write(offset, AccessSize::Word, value);
                for (offset, value) in
                    [(0x70, 0), (0x70, 3), (0x20, (features & 0x3001_99a3).into()), (0x24, 1), (0x20, 1), (0x70, 11)]
                {
                    write(offset, value);
                }
                for queue in [0u64, 1] {
                    let at = RAM + 0x4000 * queue;
                    let size = 1 << (size % 8);
                    for (offset, value) in
                        [(0x30, queue), (0x38, size), (0x80, at), (0x90, at + 0x2000), (0xa0, at + 0x3000), (0x44, 1)]
                    {
                        write(offset, value);
                    }
                }
                write(0x70, 15);
            }
            Step::Poke { at, bytes } => {
                let at = usize::from(at);
                let end = (at + bytes.len()).min(SIZE);
                mem.bytes[at..end].copy_from_slice(&bytes[..end - at]);
            }
            Step::Describe { queue, index, at, length, flags, next } => {
                let word = u128::from(RAM + u64::from(at))
                    | u128::from(length) << 64
                    | u128::from(flags & 7) << 96
                    | u128::from(next) << 112;
                let place = base(queue) + usize::from(index) * 16;
                mem.bytes[place..place + 16].copy_from_slice(&word.to_le_bytes());
            }
            Step::Offer { queue, head, index } => {
                let ring = base(queue) + 0x2000;
                mem.bytes[ring + 2..ring + 4].copy_from_slice(&u16::from(index).to_le_bytes());
                let place = ring + 4 + 2 * usize::from(index);
                mem.bytes[place..place + 2].copy_from_slice(&u16::from(head).to_le_bytes());
            }
            Step::Take { waits } => {
                mem.accesses = 0;
                let sent = nic.port.counters.sent;
                let taken = nic.take(&mut mem, &mut packet, now);
                assert!(mem.accesses < 2000, "{} accesses", mem.accesses);
                match taken {
                    Ok(Taken::Frame(addresses, _)) => {
                        assert_eq!(addresses.from, MAC);
                        if waits {
                            assert!(nic.wait(now).is_some());
                            assert_eq!(nic.port.counters.sent, sent);
                        } else {
                            nic.settle();
                            // To itself: what of it was not copied is in the same memory.
                            if nic.deliver(&mut mem, &mut packet, 0, false).is_err() {
                                nic.give_up();
                            }
                        }
                    }
                    Ok(_) => {}
                    Err(_) => drop(nic.give_up()),
                }
                assert!(mem.accesses < 100_000, "{} accesses", mem.accesses);
                let _ = nic.finish_taking(&mut mem);
            }
            Step::Retry => nic.retry(),
            Step::Deliver { length, may_wait } => {
                mem.accesses = 0;
                packet.room().fill(0);
                if packet.fill(usize::from(length)) {
                    let delivery = nic.deliver(&mut mem, &mut packet, 0, may_wait);
                    assert!(may_wait || delivery != Ok(Delivery::Full));
                    if delivery == Ok(Delivery::Full) {
                        let _ = nic.has_more_room(&mut mem);
                    }
                    if delivery.is_err() {
                        nic.give_up();
                    }
                }
                assert!(mem.accesses < 100_000, "{} accesses", mem.accesses);
            }
            Step::Clone => {
                let clone = nic.of_clone([2, 0, 0, 0, 0, 9]);
                assert!(clone.is_valid() && !clone.is_link_up());
            }
            Step::Acknowledge => drop(nic.acknowledge()),
        }
        assert!(nic.is_valid());
    }
});
