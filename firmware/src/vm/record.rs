//! A VM in the records of a hand-over, written and made anew.
//!
//! Before: [`super::Vm`], which stands still. After: [`salp_core::handover`]. What is made anew lies in the frames that the VM had
//! before: the records hold all of it, so nothing else is taken and nothing is lost if it is made once more.

use super::{Freezer, Parts, Vcpu, Vm, VmFrames, hold};
use crate::console::{self, LineBuffer};
use crate::fork;
use crate::images;
use crate::machine::{Machine, Store};
use crate::net::Nics;
use crate::operation::Answer;
use crate::vm::Devices;
use core::sync::atomic::Ordering;
use salp_core::addr::Pa;
use salp_core::agent::Agent;
use salp_core::calls::psci::Power;
use salp_core::dev::drive::Drive;
use salp_core::dev::net::Nic;
use salp_core::directory::Place;
use salp_core::frames::FrameStore;
use salp_core::handover::{Full, SavedVm, VcpuRecord, Writer, activity_record};
use salp_core::identity::Identity;
use salp_core::scrollback::Scrollback;
use salp_core::stage2::AddressSpace;
use salp_hvc::handover::{
    self, FLAG_FROZEN_BY_CALL, FLAG_FROZEN_BY_STORE, FLAG_SEALED, FLAG_STARTS_AGAIN, FLAG_TYPING_STALLED, kind,
};
use salp_hw::handover::Sheets;
use salp_hw::lock::Mutex;
use salp_hw::own::Own;
use zerocopy::IntoBytes;

/// Writes records into frames.
pub type Records<'a> = Writer<'static, &'a mut dyn FnMut() -> Option<(Pa, &'static mut salp_core::handover::Sheet)>>;

impl Vm {
    /// Returns the frames that its parts lie in.
    fn frames(&self, frame: Pa) -> [u64; 11] {
        let vcpus = self.vcpus.iter().flatten().map(Own::frame);
        let nics = self.nics.as_ref().map(Own::frame);
        let all = [frame, self.vgic.frame()].into_iter().chain(nics).chain(vcpus);
        let mut frames = [0; 11];
        frames.iter_mut().zip(all).for_each(|(to, frame)| *to = frame.0);
        frames
    }

    /// Writes the records of the VM, which stands still, and of its checkpoint. `frame` is where it lies.
    ///
    /// # Errors
    ///
    /// There is no frame for them.
    pub fn write_records(&self, frame: Pa, out: &mut Records<'_>) -> Result<(), Full> {
        self.write_own(frame, out)?;
        self.watch.with_checkpoint_in_frame(|kept, frame| kept.write_own(frame, out)).unwrap_or(Ok(()))
    }

    fn write_own(&self, frame: Pa, out: &mut Records<'_>) -> Result<(), Full> {
        let freezer = self.freezer();
        let mut devices = self.devices.lock();
        // What it has begun to write is not in its records.
        console::flush(self, &mut devices.line);
        let flags = [
            (matches!(freezer, Some(Freezer::Call(_))), FLAG_FROZEN_BY_CALL),
            (matches!(freezer, Some(Freezer::Store(_))), FLAG_FROZEN_BY_STORE),
            (self.is_sealed.load(Ordering::Relaxed), FLAG_SEALED),
            (self.starts_again.load(Ordering::Relaxed), FLAG_STARTS_AGAIN),
            (devices.typing_stalled, FLAG_TYPING_STALLED),
        ];
        let (due, release, within, failures) = self.watch.record();
        let about = handover::Vm {
            slot: self.slot as u32,
            kin: self.kin as u32,
            id: self.id,
            source: self.source,
            family: self.family,
            frames: self.frames(frame),
            holds: self.control(),
            life: self.life.load(Ordering::Relaxed),
            counter_offset: self.counter_offset(),
            last_number: self.last_number.load(Ordering::Relaxed),
            pause: self.pause.load(Ordering::Relaxed),
            reserve: self.reserve.load(Ordering::Relaxed),
            flags: flags.iter().filter(|(is_set, _)| *is_set).fold(0, |word, (_, flag)| word | flag),
            freezer: match freezer {
                Some(Freezer::Call(vcpu) | Freezer::Store(vcpu)) => vcpu as u32,
                None => 0,
            },
            due,
            release,
            within,
            failures,
        };
        out.write(kind::VM, 0, &[about.as_bytes()])?;
        out.write(kind::SPEC, 0, &[self.spec.as_bytes()])?;
        #[cfg(feature = "next-formats")]
        {
            let parts = handover::Parts { vcpus: self.spec.vcpus() as u32, nics: self.spec.nics().count() as u32 };
            out.write(kind::PARTS, 0, &[parts.as_bytes()])?;
        }
        if let Some((own, lasts)) = &self.own {
            out.write(kind::OWN, (*lasts).into(), &[own.as_bytes()])?;
        }
        if let Some(agent) = self.agent.lock().as_ref() {
            out.write(kind::AGENT, 0, &[agent.record(agent.frame()).as_bytes()])?;
        }
        out.write(kind::IDENTITY, 0, &[self.identity.lock().record().as_bytes()])?;
        if let Some(memory) = self.memory.lock().as_ref() {
            out.write(kind::MEMORY, 0, &[memory.record().as_bytes()])?;
        }
        out.write(kind::VGIC, 0, &[self.vgic.lock().as_bytes()])?;
        out.write(kind::POWER, 0, &[self.power.lock().record().as_bytes()])?;
        out.write(kind::UART, 0, &[devices.uart.as_bytes()])?;
        out.write(kind::RTC, 0, &[devices.rtc.as_bytes()])?;
        out.write(kind::GPIO, 0, &[devices.gpio.as_bytes()])?;
        out.write(kind::DRIVE, 0, &[devices.drive.record().as_bytes()])?;
        if devices.written.end() != 0 {
            let mut written = handover::Pages { size: devices.written.end(), ..Default::default() };
            let pages = devices.written.places().map(|page| page.map_or(0, |page| page.frame().0));
            written.pages.iter_mut().zip(pages).for_each(|(to, page)| *to = page);
            out.write(kind::WRITTEN, 0, &[written.as_bytes()])?;
        }
        if let Some(nics) = self.nics().map(Mutex::lock) {
            for (index, nic) in nics.iter().enumerate() {
                if let Some(nic) = nic {
                    out.write(kind::NIC, index as u64, &[nic.record().as_bytes()])?;
                }
            }
        }
        let activities = fork::activities(self);
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            let Some(vcpu) = vcpu else { continue };
            let (activity, deadline) = activities.get(index).copied().map_or((0, u64::MAX), activity_record);
            let answer = *vcpu.answer.lock();
            let Answer { status, values: [a, b, c] } = answer.unwrap_or(Answer::of(0));
            let about = handover::Vcpu {
                // A checkpoint never runs: its slot is its VM's.
                activity: if self.id == 0 { 0 } else { activity },
                is_answered: answer.is_some().into(),
                deadline,
                exits: vcpu.exits.load(Ordering::Relaxed),
                answer: [status as u64, a, b, c],
                usage: vcpu.usage(),
            };
            out.write(kind::VCPU, index as u64, &[about.as_bytes(), vcpu.context.lock().as_bytes()])?;
        }
        Ok(())
    }

    /// Makes the VM that these records are about, which were checked. `None` if they are not whole.
    pub fn restored(machine: &Machine, saved: &SavedVm<'_>) -> Option<Own<Self>> {
        let (about, spec) = (saved.about, saved.spec?);
        let given = about.frames.iter().take_while(|&&at| at != 0).map(|&at| Pa(at));
        let mut frames = VmFrames(given.collect());
        let has_nics = spec.nics().next().is_some();
        let memory = match saved.memory {
            Some(memory) => Some(Store.with(|frames| AddressSpace::restored(frames, memory))?),
            None => None,
        };
        let identity = Identity::restored(saved.identity?)?;
        let (uart, rtc, gpio, drive) = (saved.uart?, saved.rtc?, saved.gpio?, saved.drive?);
        let medium = if drive.image == 0 { None } else { Some(images::insert(drive.image).ok()?) };
        let drive = Drive::restored(drive, medium)?;
        let (vgic, power) = (saved.vgic?, Power::restored(spec.vcpus(), &saved.power()?)?);
        let written = saved.written.map_or(Scrollback::EMPTY, |written| {
            let page = |&at: &u64| (at != 0).then(|| Own::adopt(Pa(at)));
            Scrollback::restored(written.pages.iter().map(page), written.size)
        });
        let freezer = match about.flags & (FLAG_FROZEN_BY_CALL | FLAG_FROZEN_BY_STORE) {
            FLAG_FROZEN_BY_CALL => Some(Freezer::Call(about.freezer as usize)),
            FLAG_FROZEN_BY_STORE => Some(Freezer::Store(about.freezer as usize)),
            _ => None,
        };
        let parts = Parts {
            memory,
            vgic: frames.fill(Mutex::new(vgic.clone())),
            vcpus: core::array::from_fn(|index| {
                let record = saved.vcpus.get(index).copied().flatten()?;
                Some(frames.fill(restored_vcpu(record)))
            }),
            power,
            devices: Devices {
                uart: uart.clone(),
                rtc: rtc.clone(),
                gpio: gpio.clone(),
                drive,
                line: LineBuffer::EMPTY,
                polls: 0,
                written,
                typing_stalled: about.flags & FLAG_TYPING_STALLED != 0,
            },
            nics: has_nics.then(|| frames.fill(Mutex::new(restored_nics(saved)))),
            identity,
            source: about.source,
            family: about.family,
            kin: about.kin as usize,
            counter_offset: about.counter_offset,
            holds: about.holds & hold::ALL,
            freezer,
        };
        let place = Place { slot: about.slot as usize, id: about.id };
        let mut vm = frames.fill(Self::put_together(machine, place, spec, parts));
        vm.own = saved.own.map(|(own, lasts)| (*own, lasts));
        if let Some(agent) = saved.agent {
            *vm.agent.lock() = Some(Own::new(Pa(agent.frame), Agent::restored(agent)?));
        }
        vm.life.store(about.life, Ordering::Relaxed);
        vm.is_busy.store(false, Ordering::Relaxed);
        vm.last_number.store(about.last_number, Ordering::Relaxed);
        vm.pause.store(about.pause, Ordering::Relaxed);
        vm.reserve.store(about.reserve, Ordering::Relaxed);
        vm.is_sealed.store(about.flags & FLAG_SEALED != 0, Ordering::Relaxed);
        vm.starts_again.store(about.flags & FLAG_STARTS_AGAIN != 0, Ordering::Relaxed);
        vm.watch.restore(about);
        Some(vm)
    }
}

#[inline(always)]
fn restored_vcpu(record: &VcpuRecord) -> Vcpu {
    let vcpu = Vcpu::new(record.context);
    vcpu.exits.store(record.about.exits, Ordering::Relaxed);
    vcpu.resume_usage(record.about.usage);
    if record.about.is_answered == 1 {
        let [status, values @ ..] = record.about.answer;
        *vcpu.answer.lock() = Some(Answer { status: status as i64, values });
    }
    vcpu
}

#[inline(always)]
fn restored_nics(saved: &SavedVm<'_>) -> Nics {
    core::array::from_fn(|index| Nic::restored(saved.nics.get(index).copied().flatten()?))
}

/// Returns where frames of records are, for readers: frames of EL2's own.
pub fn sheets() -> Sheets<impl Fn(Pa) -> bool + Copy> {
    Sheets(|at: Pa| Store.with(|frames| salp_core::handover::is_frame(frames, at.0)))
}
