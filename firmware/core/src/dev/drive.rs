//! virtio-blk (Virtio 1.2, 5.2), read-only: the drive of a guest, for media that managers put in. Before:
//! [`super::virtio_mmio`] and [`super::virtq`]; after: an image ([`crate::images`]), of which the medium is a view.
//!
//! A drive without a medium has no sectors; the guest is told when that changes. Behind the last byte of an image its last
//! sector reads as zeros.

use super::virtio_mmio::{EVENT_IDX, Effect, INDIRECT_DESC, Kind, Registers, Transport, VERSION_1};
use super::virtq::{GuestMem, QueueError, Virtq};
use crate::addr::PAGE_SIZE;
use crate::vgic::AccessSize;
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

const QUEUE: [u16; 1] = [128];

const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const FEATURES: u64 = VERSION_1 | EVENT_IDX | INDIRECT_DESC | SIZE_MAX | SEG_MAX | READ_ONLY;

/// The most bytes of a buffer, and the most buffers of a request: what one exit may have to copy.
const MAX_BUFFER: u32 = 64 << 10;
const MAX_BUFFERS: u32 = 16;
const MAX_REQUEST: u64 = MAX_BUFFER as u64 * MAX_BUFFERS as u64;

/// The size of a sector, in bytes.
const SECTOR: u64 = 512;

/// What a request asks for.
const IN: u32 = 0;
const OUT: u32 = 1;
const GET_ID: u32 = 8;

/// What the driver learns from [`GET_ID`], padded with zeros.
const ID: [u8; 20] = *b"salp-virtual-media\0\0";

/// How a request went.
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// What is in a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// The image's identifier.
    pub image: u64,
    /// Its size, in bytes.
    pub size: u64,
}

/// A drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drive {
    /// What is in it.
    medium: Option<Medium>,
    transport: Transport<1>,
}

/// What a hand-over has of a drive.
#[derive(Debug, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DriveRecord {
    queue: Virtq,
    registers: Registers,
    /// The image that is in it; 0 for none.
    pub image: u64,
}

/// The bytes of images.
pub trait Media {
    /// Copies bytes of an image out. Returns false if they are not there.
    fn read(&self, image: u64, offset: u64, to: &mut [u8]) -> bool;
}

impl Drive {
    /// Returns what is in the drive.
    pub const fn medium(&self) -> Option<Medium> {
        self.medium
    }

    /// Puts another medium in, or none. Returns what was in it.
    pub const fn replace(&mut self, medium: Option<Medium>) -> Option<Medium> {
        let before = core::mem::replace(&mut self.medium, medium);
        self.transport.tell_config();
        before
    }

    /// Returns what a hand-over has of it.
    pub fn record(&self) -> DriveRecord {
        let [queue] = &self.transport.queues;
        let image = self.medium.map_or(0, |medium| medium.image);
        DriveRecord { queue: queue.clone(), registers: self.transport.registers(), image }
    }

    /// Returns the drive in a record, with its medium. `None` if there is no such drive.
    pub fn restored(record: &DriveRecord, medium: Option<Medium>) -> Option<Self> {
        let drive = Self { medium, transport: Transport::restored([record.queue.clone()], &record.registers) };
        drive.transport.is_valid(&Self::kind(&[0; 16])).then_some(drive)
    }

    /// Forgets what the guest has set up: it starts again.
    pub fn restart(&mut self) {
        self.transport = Transport::default();
    }

    /// Returns the level of the interrupt line.
    #[inline]
    pub const fn interrupt(&self) -> bool {
        self.transport.interrupt()
    }

    /// Stops the device: its driver broke the rules.
    pub const fn give_up(&mut self) {
        self.transport.give_up();
    }

    /// How many sectors there are.
    fn sectors(&self) -> u64 {
        self.medium.map_or(0, |medium| medium.size.div_ceil(SECTOR))
    }

    /// The configuration: capacity, the most bytes of a buffer, and the most buffers of a request.
    fn config(&self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.sectors().to_le_bytes();
        let [i, j, k, l] = MAX_BUFFER.to_le_bytes();
        let [m, n, o, p] = MAX_BUFFERS.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    const fn kind(config: &[u8; 16]) -> Kind<'_> {
        Kind { id: 2, features: FEATURES, queues: &QUEUE, config }
    }

    /// Returns what a load of `size` at `offset` gives.
    pub fn read(&self, offset: u64, size: AccessSize) -> u64 {
        self.transport.read(&Self::kind(&self.config()), offset, size)
    }

    /// Writes the register at `offset`. Returns true if there are requests to [serve](Self::serve).
    pub fn write(&mut self, offset: u64, size: AccessSize, value: u64) -> bool {
        matches!(self.transport.write(&Self::kind(&[0; 16]), offset, size, value), Effect::Notify(_))
    }

    /// Answers the next request. Returns false if there is none, and the guest tells of the next.
    ///
    /// # Errors
    ///
    /// The driver broke the rules, or there is no memory: then the request is there as before.
    pub fn serve(
        &mut self,
        mem: &mut impl GuestMem,
        media: &impl Media,
        page: &mut [u8; PAGE_SIZE as usize],
    ) -> Result<bool, QueueError> {
        if !self.transport.is_live() {
            return Ok(false);
        }
        let mark = self.transport.queues[0].mark();
        let served = self.answer(mem, media, page);
        if served.is_err() {
            self.transport.queues[0].rewind(mark);
        }
        served
    }

    fn answer(
        &mut self,
        mem: &mut impl GuestMem,
        media: &impl Media,
        page: &mut [u8; PAGE_SIZE as usize],
    ) -> Result<bool, QueueError> {
        let (medium, sectors) = (self.medium, self.sectors());
        let queue = &mut self.transport.queues[0];
        let Some(mut chain) = queue.pop(mem)? else { return queue.arm(mem) };
        let mut header = [0; 16];
        let is_whole = chain.read(mem, &mut header)? == header.len();
        let room = chain.clone().skip(mem, u64::MAX)?;
        // The last byte says how it went.
        let mut written = 0;
        if let Some(length) = room.checked_sub(1).filter(|_| is_whole) {
            let [a, b, c, d, _, _, _, _, sector @ ..] = header;
            let start = u64::from_le_bytes(sector).saturating_mul(SECTOR);
            let fits = length <= MAX_REQUEST
                && length.is_multiple_of(SECTOR)
                && start.checked_add(length).is_some_and(|end| end <= sectors * SECTOR);
            let status = match (u32::from_le_bytes([a, b, c, d]), medium) {
                (IN, Some(medium)) if fits => {
                    let mut done = 0;
                    while done < length {
                        let part = page.get_mut(..(length - done).min(PAGE_SIZE) as usize).unwrap_or_default();
                        let at = start + done;
                        let there = medium.size.saturating_sub(at).min(part.len() as u64) as usize;
                        let (bytes, behind) = part.split_at_mut(there);
                        behind.fill(0);
                        if !bytes.is_empty() && !media.read(medium.image, at, bytes) {
                            break;
                        }
                        // Buffers may be other ones by now: then less fits.
                        if chain.write(mem, part)? < part.len() {
                            break;
                        }
                        done += part.len() as u64;
                    }
                    written = done;
                    if done == length { OK } else { IO_ERROR }
                }
                (GET_ID, _) => {
                    let id = ID.get(..ID.len().min(length as usize)).unwrap_or_default();
                    written = chain.write(mem, id)? as u64;
                    OK
                }
                (IN | OUT, _) => IO_ERROR,
                _ => UNSUPPORTED,
            };
            chain.skip(mem, length.saturating_sub(written))?;
            written += chain.write(mem, &[status])? as u64;
        }
        queue.push(mem, chain.head, written as u32)?;
        queue.publish(mem)?;
        if queue.should_interrupt(mem)? {
            self.transport.tell_used();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::virtq::tests::{Driver, Mem, RAM};
    use super::super::virtq::{Breach, QueueError};
    use super::*;
    use proptest::prelude::*;

    const WRITE: u16 = 2;
    const RING: u64 = RAM + 0x1000;
    const HEADER: u64 = RAM + 0x1_0000;
    const DATA: u64 = RAM + 0x1_1000;
    const STATUS: u64 = RAM + 0x3_0000;

    /// An image whose bytes say where they are.
    struct Numbers;

    fn number(at: u64) -> u8 {
        (at / 512 + at) as u8
    }

    impl Media for Numbers {
        fn read(&self, image: u64, offset: u64, to: &mut [u8]) -> bool {
            to.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = number(at));
            image == 7
        }
    }

    struct World {
        drive: Drive,
        mem: Mem,
        driver: Driver,
    }

    fn world(medium: Option<Medium>) -> World {
        let mut drive = Drive::default();
        drive.replace(medium);
        let driver = Driver::new(RING, 16);
        let mut write = |offset: u64, value: u64| drive.write(offset, AccessSize::Word, value);
        for (register, value) in [(0x70, 3), (0x24, 1), (0x20, VERSION_1 >> 32), (0x70, 11), (0x30, 0)] {
            write(register, value);
        }
        let registers =
            [(0x38, driver.size.into()), (0x80, driver.at), (0x90, driver.available()), (0xa0, driver.used())];
        for (register, value) in registers.into_iter().chain([(0x44, 1), (0x70, 15)]) {
            write(register, value);
        }
        assert!(write(0x50, 0), "it is asked to serve");
        World { drive, mem: Mem::new(), driver }
    }

    fn medium(size: u64) -> Option<Medium> {
        Some(Medium { image: 7, size })
    }

    impl World {
        /// Asks, and returns the status.
        fn ask(&mut self, kind: u32, sector: u64, length: u32) -> Result<u8, QueueError> {
            let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
            self.mem.put(HEADER, &header);
            self.mem.put(STATUS, &[0xff]);
            let mut buffers = vec![(HEADER, 16, 0)];
            buffers.extend((length > 0).then_some((DATA, length, WRITE)));
            buffers.push((STATUS, 1, WRITE));
            self.driver.chain(&mut self.mem, 0, &buffers);
            self.driver.offer(&mut self.mem, 0);
            let served = self.drive.serve(&mut self.mem, &Numbers, &mut [0; 4096])?;
            assert!(served && !self.drive.serve(&mut self.mem, &Numbers, &mut [0; 4096])?);
            Ok(self.mem.get::<1>(STATUS)[0])
        }
    }

    #[test]
    fn a_guest_reads_what_is_in_the_drive() {
        let mut world = world(medium(10_000));
        assert_eq!(world.ask(IN, 3, 8192), Ok(OK));
        let read: [u8; 8192] = world.mem.get(DATA);
        assert!(read.iter().zip(1536..).all(|(&byte, at)| byte == number(at)));
        assert!(world.drive.interrupt());
        assert_eq!(world.drive.read(0x100, AccessSize::Double), 20);
        assert_eq!(world.ask(IN, 19, 512), Ok(OK));
        let last: [u8; 512] = world.mem.get(DATA);
        assert_eq!((last[271], &last[272..]), (number(9999), &[0; 240][..]), "zeros behind the end");
        assert_eq!(world.ask(GET_ID, 0, 20), Ok(OK));
        assert_eq!(world.mem.get::<20>(DATA), ID);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let mut world = world(medium(10_240));
        for (kind, sector, length, status) in [
            (IN, 20, 512, IO_ERROR),
            (IN, 19, 1024, IO_ERROR),
            (IN, u64::MAX, 512, IO_ERROR),
            (IN, 0, 511, IO_ERROR),
            (OUT, 0, 0, IO_ERROR),
            (4, 0, 0, UNSUPPORTED),
        ] {
            assert_eq!(world.ask(kind, sector, length), Ok(status), "{kind} {sector} {length}");
        }
    }

    #[test]
    fn a_guest_is_told_of_another_medium() {
        let mut world = world(None);
        assert_eq!((world.drive.read(0x100, AccessSize::Double), world.drive.interrupt()), (0, false));
        assert_eq!(world.ask(IN, 0, 512), Ok(IO_ERROR));
        world.drive.write(0x64, AccessSize::Word, 3);
        assert_eq!(world.drive.replace(medium(512)), None);
        assert_eq!((world.drive.read(0x60, AccessSize::Word), world.ask(IN, 0, 512)), (2, Ok(OK)));
        assert_eq!(world.drive.replace(Some(Medium { image: 8, size: 512 })), medium(512));
        assert_eq!(world.ask(IN, 0, 512), Ok(IO_ERROR), "its bytes are gone");
    }

    #[test]
    fn without_memory_a_request_waits() {
        let (mut world, page) = (world(medium(4096)), &mut [0; 4096]);
        world.mem.put(HEADER, &[0; 16]);
        world.driver.chain(&mut world.mem, 0, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
        world.driver.offer(&mut world.mem, 0);
        world.mem.has_memory = false;
        let failed = world.drive.serve(&mut world.mem, &Numbers, page);
        assert!(matches!(failed, Err(QueueError::NoMemory(_))), "{failed:?}");
        world.mem.has_memory = true;
        assert_eq!(world.drive.serve(&mut world.mem, &Numbers, page), Ok(true));
        assert_eq!(world.mem.get::<1>(STATUS), [OK]);
    }

    #[test]
    fn a_request_outside_memory_is_a_breach() {
        let mut world = world(medium(4096));
        world.driver.chain(&mut world.mem, 0, &[(HEADER, 16, 0), (8, 513, WRITE)]);
        world.driver.offer(&mut world.mem, 0);
        let broken = world.drive.serve(&mut world.mem, &Numbers, &mut [0; 4096]);
        assert_eq!(broken, Err(QueueError::Breach(Breach::Outside)));
        world.drive.give_up();
        assert_eq!(world.drive.serve(&mut world.mem, &Numbers, &mut [0; 4096]), Ok(false));
    }

    proptest! {
        #[test]
        fn any_chain_is_answered_or_a_breach(
            header in proptest::array::uniform16(any::<u8>()),
            kind in 0u8..10,
            sector in 0u8..20,
            buffers in proptest::collection::vec((0u64..0x5_0000, 0u32..70_000, 0u16..4), 1..6),
        ) {
            let mut world = world(medium(9000));
            let mut header = header;
            if kind < 9 {
                header = [0; 16];
                (header[0], header[8]) = (kind, sector);
            }
            world.mem.put(HEADER, &header);
            let mut chain = vec![(HEADER, 16, 0)];
            chain.extend(buffers.iter().map(|&(at, bytes, flags)| (RAM + at, bytes, flags & WRITE)));
            world.driver.chain(&mut world.mem, 0, &chain);
            world.driver.offer(&mut world.mem, 0);
            let _ = world.drive.serve(&mut world.mem, &Numbers, &mut [0; 4096]);
        }
    }
}
