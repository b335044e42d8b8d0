//! What is written is read back; what is not whole, or says what cannot be, is refused.

use super::*;
use crate::addr::Ipa;
use crate::calls::psci::{Entry, PowerState};
use crate::frames::Frames;
use crate::net::port::{Port, Rules};
use crate::testing::Machine;
use crate::vgic::AccessSize;
use proptest::prelude::*;
use salp_hvc::bootset::{NicRecord as NicAbi, RAM_BASE, VmRecord};
use salp_hvc::handover::VERSIONS;
use zerocopy::FromZeros;

/// Frames of records, from 0x8000_0000 on, in the order in which they were taken.
#[derive(Default)]
struct Paper {
    sheets: Vec<Box<Sheet>>,
}

const START: u64 = 0x8000_0000;

/// As a reader sees it.
struct On<'a>(&'a Paper);

impl<'a> Source<'a> for On<'a> {
    fn sheet(&self, at: Pa) -> Option<&'a Sheet> {
        let index = at.0.checked_sub(START)? / PAGE_SIZE;
        self.0.sheets.get(index as usize).map(|sheet| &**sheet)
    }
}

/// Writes records, and returns their frames with what [`read`] wants to know.
fn written(write: impl FnOnce(&mut dyn FnMut(u16, u64, &[&[u8]]))) -> (Paper, Pa, u64) {
    written_for(VERSIONS[1], write)
}

/// The same, for a reader that knows this version.
fn written_for(version: u16, write: impl FnOnce(&mut dyn FnMut(u16, u64, &[&[u8]]))) -> (Paper, Pa, u64) {
    written_by(version, |out| write(&mut |kind, index, parts| out.write(kind, index, parts).unwrap()))
}

/// Writes records that no writer of ours would write.
fn forged(kind: u16, version: u16, index: u64, body: &[u8]) -> (Paper, Pa, u64) {
    written_by(VERSIONS[1], |out| {
        let lay = |parts: &[&[u8]], place: &mut [u8]| {
            place.fill(0);
            place[..parts[0].len()].copy_from_slice(parts[0]);
        };
        out.put(&Layout::forged(kind, version, body.len(), lay), index, &[body]).unwrap();
    })
}

type Out<'w, 'a> = Writer<'a, &'w mut dyn FnMut() -> Option<(Pa, &'a mut Sheet)>>;

fn written_by(version: u16, write: impl FnOnce(&mut Out<'_, '_>)) -> (Paper, Pa, u64) {
    let blank = || Box::new(Sheet([0xa5; PAGE]));
    let mut sheets: Vec<_> = (0..64).map(|_| blank()).collect();
    let (first, pages) = {
        let mut left = sheets.iter_mut().enumerate();
        let mut take = || left.next().map(|(n, sheet)| (Pa(START + n as u64 * PAGE_SIZE), &mut **sheet));
        let mut out: Out<'_, '_> = Writer::new(version, &mut take);
        write(&mut out);
        out.finish().unwrap()
    };
    (Paper { sheets }, first, pages)
}

fn spec() -> VmSpec {
    let mut name = [0; 32];
    name[..2].copy_from_slice(b"vm");
    let vm = VmRecord {
        name,
        vcpus: 2.into(),
        memory: (4u64 << 20).into(),
        entry: RAM_BASE.into(),
        ..VmRecord::new_zeroed()
    };
    let mut segment = [0; 16];
    segment[..3].copy_from_slice(b"lan");
    let nic = NicAbi { segment, ..NicAbi::new_zeroed() };
    VmSpec::parse(&[vm.as_bytes(), nic.as_bytes()].concat()).unwrap()
}

/// Returns two vCPUs of which one is on and one is about to be.
fn power() -> Power {
    let mut power = Power::new(2);
    assert!(power.restore(0, PowerState::On));
    assert!(power.restore(1, PowerState::OnPending(Entry { pc: RAM_BASE, context: 7 })));
    power
}

/// A VM with everything that a VM can have.
struct Model {
    words: Vec<u64>,
    record: handover::Frames,
    bank: core::ops::Range<Pa>,
    about: handover::Vm,
    memory: handover::Memory,
    vgic: Vgic,
    uart: Pl011,
    nic: Nic,
    identity: Identity,
    contexts: [Context; 2],
}

impl Model {
    fn new(seed: u8) -> Self {
        let bank = Pa(0x4000_0000)..Pa(0x4100_0000);
        let banks = [bank.clone()];
        let mut words = vec![0; Frames::words_needed(&banks).unwrap()];
        let machine = Machine::new(&banks, &mut words, |_| 0);
        let frames = &machine.frames;
        let memory = AddressSpace::new(
            frames,
            &machine,
            Ipa(RAM_BASE)..Ipa(RAM_BASE + (4 << 20)),
            Default::default(),
            Default::default(),
        );
        let memory = memory.unwrap().record();
        let mut about = handover::Vm { id: 7, slot: 3, family: 7, due: u64::MAX, ..Default::default() };
        for place in about.frames.iter_mut().take(5) {
            *place = frames.borrow_mut().alloc(Kind::Hyp).unwrap().0;
        }
        let record = frames.borrow().record();
        drop(machine);
        let mut vgic = Vgic::new(2);
        assert!(vgic.map_hw(27, 27));
        let _ = vgic.set_line(27, 1, true);
        let _ = vgic.pulse(35, 0);
        let mut uart = Pl011::new();
        assert!(uart.push(seed));
        let port = Port::new([2, 0, 0, 0, 0, seed], Rules { ipv4: Some([10, 0, 0, 1]), ..Rules::default() });
        let mut segment = [0; 16];
        segment[..3].copy_from_slice(b"lan");
        let mut nic = Nic::new(port.placed(segment, 7));
        nic.write(0x070, AccessSize::Word, 3);
        let mut contexts = [Context::reset(RAM_BASE, seed.into()); 2];
        contexts[1].debug_used = true;
        contexts[1].fp.q[31] = u128::MAX - u128::from(seed);
        let name = crate::identity::Name::new(b"vm").unwrap();
        let identity = Identity::new(name, &[seed; 32]);
        Self { words, record, bank, about, memory, vgic, uart, nic, identity, contexts }
    }

    /// Writes all records, without those of `left_out`.
    fn write(&self, left_out: Option<u16>) -> (Paper, Pa, u64) {
        self.write_for(VERSIONS[1], left_out)
    }

    /// The same, for a reader that knows this version.
    fn write_for(&self, version: u16, left_out: Option<u16>) -> (Paper, Pa, u64) {
        written_for(version, |out| {
            let mut put = |kind: u16, index: u64, parts: &[&[u8]]| {
                if left_out != Some(kind) {
                    out(kind, index, parts);
                }
            };
            put(kind::MACHINE, 0, &[handover::Machine { vms: 1, ..Default::default() }.as_bytes()]);
            put(kind::FRAMES, 0, &[self.record.as_bytes()]);
            put(kind::VM, 0, &[self.about.as_bytes()]);
            put(kind::SPEC, 0, &[spec().as_bytes()]);
            #[cfg(feature = "next-formats")]
            put(kind::PARTS, 0, &[handover::Parts { vcpus: 2, nics: 1 }.as_bytes()]);
            put(kind::IDENTITY, 0, &[self.identity.record().as_bytes()]);
            put(kind::MEMORY, 0, &[self.memory.as_bytes()]);
            put(kind::VGIC, 0, &[self.vgic.as_bytes()]);
            put(kind::POWER, 0, &[power().record().as_bytes()]);
            put(kind::UART, 0, &[self.uart.as_bytes()]);
            put(kind::RTC, 0, &[Pl031::new(1_700_000_000).as_bytes()]);
            put(kind::GPIO, 0, &[Pl061::new().as_bytes()]);
            put(kind::DRIVE, 0, &[Drive::default().record().as_bytes()]);
            put(kind::OWN, 1, &[spec().as_bytes()]);
            put(
                kind::AGENT,
                0,
                &[handover::Agent { frame: self.about.frames[0], ..handover::Agent::new_zeroed() }.as_bytes()],
            );
            put(kind::NIC, 0, &[self.nic.record().as_bytes()]);
            for (index, context) in self.contexts.iter().enumerate() {
                let about = handover::Vcpu { activity: 2, deadline: 99, exits: 5, ..Default::default() };
                put(kind::VCPU, index as u64, &[about.as_bytes(), context.as_bytes()]);
            }
        })
    }

    /// Reads records and checks the VMs.
    fn read(&mut self, (paper, first, pages): &(Paper, Pa, u64)) -> Result<usize, Refusal> {
        let frames = Frames::adopt(core::slice::from_ref(&self.bank), &mut self.words, &self.record).unwrap();
        let mut vms = 0;
        read(&On(paper), *first, *pages, &mut |part| {
            if let Part::Vm(vm) = part {
                vms += 1;
                vm.check(&frames)?;
            }
            Ok(())
        })?;
        Ok(vms)
    }
}

#[test]
fn a_vm_is_read_back_as_it_was_written_in_each_version() {
    (VERSIONS[0]..=VERSIONS[1]).for_each(is_read_back);
}

fn is_read_back(version: u16) {
    let model = Model::new(9);
    let (paper, first, pages) = model.write_for(version, None);
    let mut seen = 0;
    read(&On(&paper), first, pages, &mut |part| {
        let Part::Vm(vm) = part else { return Ok(()) };
        seen += 1;
        assert_eq!(vm.vgic, Some(&model.vgic));
        assert_eq!(vm.uart, Some(&model.uart));
        assert_eq!(vm.memory, Some(&model.memory));
        assert_eq!(Identity::restored(vm.identity.unwrap()), Some(model.identity.clone()));
        assert_eq!(Nic::restored(vm.nics[0].unwrap()), Some(model.nic.clone()));
        assert_eq!(Power::restored(2, &vm.power().unwrap()), Some(power()));
        for (vcpu, context) in vm.vcpus.iter().zip(&model.contexts) {
            let vcpu = vcpu.unwrap();
            assert_eq!(vcpu.context, *context);
            assert_eq!(activity(&vcpu.about), Some(Activity::Asleep { deadline: Some(99) }));
        }
        assert!(spec().is_same(vm.spec.unwrap()));
        assert!(vm.own.is_some_and(|(own, lasts)| spec().is_same(own) && lasts));
        assert_eq!(Drive::restored(vm.drive.unwrap(), None), Some(Drive::default()));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, 1);
    assert!(pages >= 2, "vCPUs do not fit one frame");
}

#[test]
fn a_vm_that_lacks_a_part_is_refused() {
    let mut model = Model::new(1);
    assert_eq!(model.read(&model.write(None)), Ok(1));
    for kind in [kind::SPEC, kind::IDENTITY, kind::VGIC, kind::POWER, kind::UART, kind::RTC, kind::GPIO, kind::DRIVE] {
        assert_eq!(model.read(&model.write(Some(kind))), Err(Refusal::Lacks(kind)));
    }
    for kind in [kind::NIC, kind::VCPU] {
        assert_eq!(model.read(&model.write(Some(kind))), Err(Refusal::Wrong(kind)));
    }
    assert_eq!(model.read(&model.write(Some(kind::MEMORY))), Ok(1), "one that is off has none");
}

#[test]
fn what_is_not_known_is_refused_unless_it_is_optional() {
    let read_all = |(paper, first, pages): (Paper, Pa, u64)| read(&On(&paper), first, pages, &mut |_| Ok(()));
    assert_eq!(read_all(forged(OPTIONAL | 5, 1, 0, &[1, 2, 3])), Ok(()));
    let unknown = Record { kind: 40, version: 1, length: 3, index: 3 };
    assert_eq!(read_all(forged(40, 1, 3, &[1, 2, 3])), Err(Refusal::Unknown(unknown)));
    assert!(matches!(read_all(forged(kind::POWER, 1, 0, &[0; 8])), Err(Refusal::Unknown(_))));
    let newer = forged(kind::GPIO, 9, 0, Pl061::new().as_bytes());
    assert!(matches!(read_all(newer), Err(Refusal::Unknown(_))));
    let orphan = written(|out| out(kind::GPIO, 0, &[Pl061::new().as_bytes()]));
    assert_eq!(read_all(orphan), Err(Refusal::Wrong(kind::GPIO)));
}

#[cfg(feature = "next-formats")]
#[test]
fn what_the_newer_records_say_besides_is_checked() {
    let states = power().record().states;
    let wrong = handover::Power { sum: 1, ..handover::Power::new(states) };
    let whole = handover::Power::new(states);
    assert!(versions::power(2, whole.as_bytes()).is_some());
    assert!(versions::power(2, wrong.as_bytes()).is_none());
    let mut model = Model::new(4);
    let (mut paper, first, pages) = model.write(None);
    let parts = handover::Parts { vcpus: 2, nics: 1 };
    let at = paper.sheets[0].0.windows(8).position(|bytes| bytes == parts.as_bytes()).unwrap();
    paper.sheets[0].0[at] = 3;
    assert_eq!(model.read(&(paper, first, pages)), Err(Refusal::Wrong(kind::PARTS)));
}

#[test]
fn frames_that_lead_in_circles_end() {
    let (mut paper, first, pages) = Model::new(2).write(None);
    let head = handover::Page { next: first.0, used: HEAD as u32 + ALIGN as u32, reserved: 0 };
    let skip = Record { kind: OPTIONAL, version: 1, length: 0, index: 0 };
    paper.sheets[0].0[..HEAD].copy_from_slice(head.as_bytes());
    paper.sheets[0].0[HEAD..HEAD + ALIGN].copy_from_slice(skip.as_bytes());
    assert!(read(&On(&paper), first, pages, &mut |_| Ok(())).is_err());
}

#[test]
fn a_writer_without_frames_says_so() {
    let mut out = Writer::new(VERSIONS[1], || None);
    assert_eq!(out.write(kind::END, 0, &[]), Err(Full));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 256 }))]

    #[test]
    fn spoilt_records_are_refused_or_are_whole(
        places in proptest::collection::vec((0..4 * PAGE, any::<u8>()), 1..4),
        version in VERSIONS[0]..=VERSIONS[1],
    ) {
        let mut model = Model::new(3);
        let mut records = model.write_for(version, None);
        for (at, byte) in places {
            records.0.sheets[at / PAGE].0[at % PAGE] = byte;
        }
        if let Ok(vms) = model.read(&records) {
            prop_assert!(vms <= 1);
        }
    }

    #[test]
    fn any_bytes_are_records_or_refused(bytes in proptest::collection::vec(any::<u8>(), PAGE..=PAGE)) {
        let sheets = vec![Box::new(Sheet(bytes.try_into().unwrap()))];
        let mut parts = 0;
        let _ = read(&On(&Paper { sheets }), Pa(START), 1, &mut |_| {
            parts += 1;
            Ok(())
        });
        prop_assert!(parts <= PAGE / ALIGN);
    }
}
