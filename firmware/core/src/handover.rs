//! The records of a hand-over ([`salp_hvc::handover`]), written by one image of the hypervisor and read by the next: untrusted
//! bytes, all of them checked before anything is made of the first.
//!
//! Before: everything that is plain data: [`crate::frames`], [`crate::stage2`], [`crate::vgic`], the devices. After: the next image,
//! which makes all of it anew.

use crate::addr::{PAGE_SIZE, Pa};
use crate::agent::Agent;
use crate::bootset::VmSpec;
use crate::calls::psci::Power;
use crate::context::Context;
use crate::dev::drive::{Drive, DriveRecord};
use crate::dev::net::{Nic, NicRecord};
use crate::dev::pl011::Pl011;
use crate::dev::pl031::Pl031;
use crate::dev::pl061::Pl061;
use crate::frames::{Frames, Kind};
use crate::identity::Identity;
use crate::sched::Activity;
use crate::stage2::AddressSpace;
use crate::vgic::Vgic;
use core::fmt;
use salp_hvc::bootset::MAX_NICS;
use salp_hvc::handover::{self, ALIGN, OPTIONAL, PAGE, Record, kind};
use versions::Layout;
pub use versions::common;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

mod versions;

/// A frame of records.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
pub struct Sheet(pub [u8; PAGE]);

/// The size of the header of a frame, and of a record.
const HEAD: usize = size_of::<handover::Page>();

/// A vCPU.
#[derive(Debug, TryFromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VcpuRecord {
    /// What is not in its registers.
    pub about: handover::Vcpu,
    /// Its registers.
    pub context: Context,
}

/// There is no frame left for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Writes records into frames, which `take` gives with their addresses, for a reader that knows this version of hand-overs.
pub struct Writer<'a, T> {
    take: T,
    version: u16,
    page: Option<&'a mut Sheet>,
    used: usize,
    /// The address of the first frame, and how many were taken.
    first: Pa,
    pages: u64,
}

impl<'a, T: FnMut() -> Option<(Pa, &'a mut Sheet)>> Writer<'a, T> {
    /// Begins.
    pub const fn new(version: u16, take: T) -> Self {
        Self { take, version, page: None, used: PAGE, first: Pa(0), pages: 0 }
    }

    /// Writes a record whose body is these parts, one behind the other: of the newest version that the reader knows. Nothing is
    /// written of a kind that came later.
    ///
    /// # Errors
    ///
    /// There is no frame left.
    pub fn write(&mut self, kind: u16, index: u64, parts: &[&[u8]]) -> Result<(), Full> {
        match versions::written(kind, self.version) {
            Some(layout) => self.put(&layout, index, parts),
            None => Ok(()),
        }
    }

    fn put(&mut self, layout: &Layout, index: u64, parts: &[&[u8]]) -> Result<(), Full> {
        let size = HEAD + layout.length.next_multiple_of(ALIGN);
        if self.used + size > PAGE {
            self.turn()?;
        }
        let head = Record { kind: layout.kind, version: layout.version, length: layout.length as u32, index };
        let page = self.page.as_mut().ok_or(Full)?;
        let place = page.0.get_mut(self.used..self.used + size).ok_or(Full)?;
        let (head_place, body) = place.split_at_mut(HEAD);
        head_place.copy_from_slice(head.as_bytes());
        (layout.lay)(parts, body);
        self.used += size;
        Ok(())
    }

    /// Begins the next frame.
    fn turn(&mut self) -> Result<(), Full> {
        let (next, page) = (self.take)().ok_or(Full)?;
        self.close(next);
        if self.pages == 0 {
            self.first = next;
        }
        self.pages += 1;
        self.page = Some(page);
        self.used = HEAD;
        Ok(())
    }

    fn close(&mut self, next: Pa) {
        let head = handover::Page { next: next.0, used: self.used as u32, reserved: 0 };
        if let Some(place) = self.page.take().and_then(|page| page.0.get_mut(..HEAD)) {
            place.copy_from_slice(head.as_bytes());
        }
    }

    /// Ends. Returns the address of the first frame, and how many there are. A frame more, if there is one, is linked behind them.
    ///
    /// # Errors
    ///
    /// There is no frame left.
    pub fn finish(mut self) -> Result<(Pa, u64), Full> {
        self.write(kind::END, 0, &[])?;
        let behind = (self.take)().map_or(Pa(0), |(frame, _)| frame);
        self.close(behind);
        Ok((self.first, self.pages))
    }
}

/// Why records are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A frame of records is not where it should be, or says that it is longer than it is; or there are more than were told of.
    Frame(Pa),
    /// A record is cut off, or there is no last one.
    Cut,
    /// Nothing is known of a record of this kind, version and length.
    Unknown(Record),
    /// What a record of this kind says cannot be.
    Wrong(u16),
    /// A VM lacks a part of this kind.
    Lacks(u16),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(at) => write!(f, "the frame of records at {at} is none"),
            Self::Cut => f.write_str("its records are cut off"),
            Self::Unknown(Record { kind, version, length, .. }) => {
                write!(f, "records of kind {kind}, version {version}, {length} bytes are not known")
            }
            Self::Wrong(kind) => write!(f, "what a record of kind {kind} says cannot be"),
            Self::Lacks(kind) => write!(f, "a VM has no record of kind {kind}"),
        }
    }
}

/// Where frames of records are found.
pub trait Source<'a> {
    /// Returns the frame at this address, if it is one that may hold records.
    fn sheet(&self, at: Pa) -> Option<&'a Sheet>;
}

/// The records, one by one; those that are optional and not known are passed over.
struct Records<'s, 'a> {
    source: &'s dyn Source<'a>,
    next: Pa,
    left: u64,
    rest: &'a [u8],
    is_over: bool,
}

impl<'a> Records<'_, 'a> {
    fn next(&mut self) -> Result<Option<(Record, &'a [u8])>, Refusal> {
        loop {
            if self.is_over {
                return Ok(None);
            }
            if self.rest.is_empty() {
                self.turn()?;
            }
            let (head, rest) = Record::read_from_prefix(self.rest).map_err(|_| Refusal::Cut)?;
            let length = head.length as usize;
            let (body, _) = rest.split_at_checked(length).ok_or(Refusal::Cut)?;
            self.rest = rest.get(length.next_multiple_of(ALIGN)..).ok_or(Refusal::Cut)?;
            if versions::is_known(&head) {
                self.is_over = head.kind == kind::END;
                if !self.is_over {
                    return Ok(Some((head, body)));
                }
            } else if head.kind & OPTIONAL == 0 {
                return Err(Refusal::Unknown(head));
            }
        }
    }

    fn turn(&mut self) -> Result<(), Refusal> {
        let at = self.next;
        let wrong = Refusal::Frame(at);
        self.left = self.left.checked_sub(1).ok_or(if at.0 == 0 { Refusal::Cut } else { wrong })?;
        let sheet = self.source.sheet(at).filter(|_| at.is_aligned(PAGE_SIZE)).ok_or(wrong)?;
        let (head, _) = handover::Page::read_from_prefix(&sheet.0).map_err(|_| wrong)?;
        let used = head.used as usize;
        self.rest = sheet.0.get(HEAD..used).filter(|_| used.is_multiple_of(ALIGN)).ok_or(wrong)?;
        self.next = Pa(head.next);
        if self.rest.is_empty() { Err(wrong) } else { Ok(()) }
    }
}

/// What the records tell of.
#[derive(Debug)]
pub enum Part<'v, 'a> {
    /// What there is one of.
    Machine(&'a handover::Machine),
    /// The frame table.
    Frames(&'a handover::Frames),
    /// The table of merging.
    Merging(&'a handover::Merging),
    /// An image.
    Image(&'a handover::Image),
    /// A record that a manager keeps, and its number.
    Kept(u64, &'a handover::Pages),
    /// Frames for drivers.
    Pool(&'a [u64]),
    /// What managers may still read of what became of VMs.
    Events(&'a handover::Events),
    /// The position and the bytes of a part of EL2's log.
    Log(u64, &'a [u8]),
    /// Where kept records are in the flash.
    Store(&'a handover::Store),
    /// A VM.
    Vm(&'v SavedVm<'a>),
}

/// A VM or a snapshot, or the checkpoint of the VM before it: all of its records.
#[derive(Debug)]
pub struct SavedVm<'a> {
    /// What it is.
    pub about: &'a handover::Vm,
    /// Its description.
    pub spec: Option<&'a VmSpec>,
    /// Who it is.
    pub identity: Option<&'a handover::Identity>,
    /// Its memory; none while it is off.
    pub memory: Option<&'a handover::Memory>,
    /// Its interrupt controller.
    pub vgic: Option<&'a Vgic>,
    /// Which vCPUs are on, as it lies there: the version and the body.
    power: Option<(u16, &'a [u8])>,
    /// Its console.
    pub uart: Option<&'a Pl011>,
    /// Its clock.
    pub rtc: Option<&'a Pl031>,
    /// Its power button.
    pub gpio: Option<&'a Pl061>,
    /// What its console has written.
    pub written: Option<&'a handover::Pages>,
    /// Its NICs.
    pub nics: [Option<&'a NicRecord>; MAX_NICS as usize],
    /// Its vCPUs.
    pub vcpus: [Option<&'a VcpuRecord>; 8],
    /// What it is by itself, if it has started as something else, and whether it is that until it is off.
    pub own: Option<(&'a VmSpec, bool)>,
    /// Its drive.
    pub drive: Option<&'a DriveRecord>,
    /// What its guest's agent has told.
    pub agent: Option<&'a handover::Agent>,
    /// How many parts it has.
    #[cfg(feature = "next-formats")]
    pub parts: Option<&'a handover::Parts>,
}

fn typed<T: TryFromBytes + KnownLayout + Immutable>(kind: u16, body: &[u8]) -> Result<&T, Refusal> {
    T::try_ref_from_bytes(body).map_err(|_| Refusal::Wrong(kind))
}

fn put<T>(place: Option<&mut Option<T>>, kind: u16, value: T) -> Result<(), Refusal> {
    // Nothing is said twice.
    match place {
        Some(place @ None) => *place = Some(value),
        _ => return Err(Refusal::Wrong(kind)),
    }
    Ok(())
}

impl<'a> SavedVm<'a> {
    fn new(about: &'a handover::Vm) -> Self {
        Self {
            about,
            spec: None,
            identity: None,
            memory: None,
            vgic: None,
            power: None,
            uart: None,
            rtc: None,
            gpio: None,
            written: None,
            nics: [None; MAX_NICS as usize],
            vcpus: [const { None }; 8],
            own: None,
            drive: None,
            agent: None,
            #[cfg(feature = "next-formats")]
            parts: None,
        }
    }

    /// Takes a record that is a part of a VM.
    fn add(&mut self, head: &Record, body: &'a [u8]) -> Result<(), Refusal> {
        let (kind, index) = (head.kind, head.index as usize);
        match kind {
            kind::SPEC => put(Some(&mut self.spec), kind, VmSpec::restored(body).ok_or(Refusal::Wrong(kind))?),
            kind::IDENTITY => put(Some(&mut self.identity), kind, typed(kind, body)?),
            kind::MEMORY => put(Some(&mut self.memory), kind, typed(kind, body)?),
            kind::VGIC => put(Some(&mut self.vgic), kind, typed(kind, body)?),
            kind::POWER => put(Some(&mut self.power), kind, (head.version, body)),
            kind::UART => put(Some(&mut self.uart), kind, typed(kind, body)?),
            kind::RTC => put(Some(&mut self.rtc), kind, typed(kind, body)?),
            kind::GPIO => put(Some(&mut self.gpio), kind, typed(kind, body)?),
            kind::WRITTEN => put(Some(&mut self.written), kind, typed(kind, body)?),
            kind::NIC => put(self.nics.get_mut(index), kind, typed(kind, body)?),
            kind::VCPU => put(self.vcpus.get_mut(index), kind, typed(kind, body)?),
            kind::OWN if index < 2 => {
                let own = VmSpec::restored(body).ok_or(Refusal::Wrong(kind))?;
                put(Some(&mut self.own), kind, (own, index == 1))
            }
            kind::DRIVE => put(Some(&mut self.drive), kind, typed(kind, body)?),
            kind::AGENT => put(Some(&mut self.agent), kind, typed(kind, body)?),
            #[cfg(feature = "next-formats")]
            kind::PARTS => put(Some(&mut self.parts), kind, typed(kind, body)?),
            _ => Err(Refusal::Wrong(kind)),
        }
    }

    /// Returns which vCPUs are on.
    pub fn power(&self) -> Option<handover::Power> {
        self.power.and_then(|(version, body)| versions::power(version, body))
    }

    /// Checks that the VM is whole, and that what it says can be, with this table of frames.
    ///
    /// # Errors
    ///
    /// Says what is wrong.
    pub fn check(&self, frames: &Frames<'_>) -> Result<(), Refusal> {
        let spec = self.spec.ok_or(Refusal::Lacks(kind::SPEC))?;
        let identity = self.identity.ok_or(Refusal::Lacks(kind::IDENTITY))?;
        let vgic = self.vgic.ok_or(Refusal::Lacks(kind::VGIC))?;
        self.power.ok_or(Refusal::Lacks(kind::POWER))?;
        let uart = self.uart.ok_or(Refusal::Lacks(kind::UART))?;
        self.rtc.ok_or(Refusal::Lacks(kind::RTC))?;
        self.gpio.ok_or(Refusal::Lacks(kind::GPIO))?;
        let wrong = |is_right: bool, kind| if is_right { Ok(()) } else { Err(Refusal::Wrong(kind)) };
        let drive = self.drive.ok_or(Refusal::Lacks(kind::DRIVE))?;
        wrong(self.about.slot < 1024, kind::VM)?;
        wrong(Identity::restored(identity).is_some(), kind::IDENTITY)?;
        wrong(vgic.is_valid() && vgic.vcpus() == spec.vcpus(), kind::VGIC)?;
        let power = self.power().and_then(|power| Power::restored(spec.vcpus(), &power));
        wrong(power.is_some(), kind::POWER)?;
        wrong(uart.is_valid(), kind::UART)?;
        wrong(Drive::restored(drive, None).is_some(), kind::DRIVE)?;
        let fits = |(own, _): (&VmSpec, bool)| own.starting_as(spec).is_some();
        wrong(self.own.is_none_or(fits), kind::OWN)?;
        let is_agent = |agent: &handover::Agent| is_frame(frames, agent.frame) && Agent::restored(agent).is_some();
        wrong(self.agent.is_none_or(is_agent), kind::AGENT)?;
        #[cfg(feature = "next-formats")]
        if let Some(parts) = self.parts {
            let counts = (spec.vcpus(), spec.nics().count());
            wrong((parts.vcpus as usize, parts.nics as usize) == counts, kind::PARTS)?;
        }
        if let Some(memory) = self.memory {
            let memory = AddressSpace::restored(frames, memory);
            wrong(memory.is_some_and(|memory| memory.ram() == spec.ram()), kind::MEMORY)?;
        }
        let is_own = |at: u64| at == 0 || is_frame(frames, at);
        wrong(self.written.is_none_or(|written| written.pages.iter().all(|&at| is_own(at))), kind::WRITTEN)?;
        for (index, nic) in self.nics.iter().enumerate() {
            wrong(nic.is_some() == (index < spec.nics().count()), kind::NIC)?;
            wrong(nic.is_none_or(|nic| Nic::restored(nic).is_some()), kind::NIC)?;
        }
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            wrong(vcpu.is_some() == (index < spec.vcpus()), kind::VCPU)?;
            wrong(vcpu.is_none_or(|vcpu| activity(&vcpu.about).is_some()), kind::VCPU)?;
        }
        let needed = spec.vcpus() + 2 + usize::from(spec.nics().next().is_some());
        let given = self.about.frames.iter().take_while(|&&at| at != 0);
        wrong(given.clone().count() >= needed && given.clone().all(|&at| is_frame(frames, at)), kind::VM)
    }
}

/// Returns true if this is a frame that EL2 has for itself.
pub fn is_frame(frames: &Frames<'_>, at: u64) -> bool {
    at.is_multiple_of(PAGE_SIZE) && frames.kind(Pa(at)) == Some(Kind::Hyp)
}

/// Returns what a vCPU would do. `None` if that is nothing that one does.
pub fn activity(vcpu: &handover::Vcpu) -> Option<Activity> {
    match vcpu.activity {
        0 => Some(Activity::Off),
        1 => Some(Activity::Ready),
        2 => Some(Activity::Asleep { deadline: (vcpu.deadline != u64::MAX).then_some(vcpu.deadline) }),
        _ => None,
    }
}

/// Returns what a record says of what a vCPU would do: the number, and the deadline.
pub const fn activity_record(activity: Activity) -> (u32, u64) {
    match activity {
        Activity::Off => (0, u64::MAX),
        Activity::Ready => (1, u64::MAX),
        Activity::Asleep { deadline: None } => (2, u64::MAX),
        Activity::Asleep { deadline: Some(deadline) } => (2, deadline),
    }
}

/// Reads the records that begin in the frame at `first` and fill so many, and gives `act` each part, in order.
///
/// # Errors
///
/// Says why they are refused, or what `act` says. What came before was given to `act`: look at all first, then make.
pub fn read<'a>(
    source: &dyn Source<'a>,
    first: Pa,
    pages: u64,
    act: &mut dyn FnMut(Part<'_, 'a>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut records = Records { source, next: first, left: pages, rest: &[], is_over: false };
    let mut vm: Option<SavedVm<'a>> = None;
    while let Some((head, body)) = records.next()? {
        let kind = head.kind;
        if kind & !OPTIONAL > kind::VM {
            vm.as_mut().ok_or(Refusal::Wrong(kind))?.add(&head, body)?;
            continue;
        }
        if let Some(vm) = vm.take() {
            act(Part::Vm(&vm))?;
        }
        match kind {
            kind::MACHINE => act(Part::Machine(typed(kind, body)?))?,
            kind::FRAMES => act(Part::Frames(typed(kind, body)?))?,
            kind::MERGING => act(Part::Merging(typed(kind, body)?))?,
            kind::IMAGE => act(Part::Image(typed(kind, body)?))?,
            kind::KEPT => act(Part::Kept(head.index, typed(kind, body)?))?,
            kind::POOL => {
                let pool: &handover::Pool = typed(kind, body)?;
                let frames = usize::try_from(pool.count).ok().and_then(|count| pool.frames.get(..count));
                act(Part::Pool(frames.ok_or(Refusal::Wrong(kind))?))?;
            }
            kind::EVENTS => act(Part::Events(typed(kind, body)?))?,
            kind::STORE => act(Part::Store(typed(kind, body)?))?,
            kind::LOG => {
                let log: &handover::Log = typed(kind, body)?;
                let text = usize::try_from(log.used).ok().and_then(|used| log.text.get(..used));
                act(Part::Log(head.index, text.ok_or(Refusal::Wrong(kind))?))?;
            }
            _ => vm = Some(SavedVm::new(typed(kind, body)?)),
        }
    }
    vm.map_or(Ok(()), |vm| act(Part::Vm(&vm)))
}

#[cfg(test)]
mod tests;
