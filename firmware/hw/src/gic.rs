//! The physical GICv3: set-up by `arm-gic`, and the few accesses of the run loop: acknowledge, priority drop,
//! deactivation, kicks to other CPUs, list registers (Arm IHI 0069).
//!
//! EL2 splits end of interrupt into priority drop and deactivation (ICC_CTLR.EOImode = 1): a guest's timer interrupt
//! stays active after EL2 took it, until the guest deactivates it through its list register.

use crate::handover;
use crate::sysreg::{dsb, isb, read, write};
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicV3, Group};
use arm_gic::{IntId, Trigger, UniqueMmioPointer};
use core::ptr::NonNull;
use salp_board::facts::{self, Gic as GicFacts, Interrupt};
use salp_core::addr::Pa;
use salp_core::context::VgicCpuRegs;
use salp_core::vgic::ListRegisters;

/// The SGI by which one CPU makes another look at its work.
pub const KICK: u32 = 0;
/// GIC maintenance interrupt (PPI).
pub const MAINTENANCE: u32 = 25;
/// EL2 physical timer (PPI).
pub const EL2_TIMER: u32 = 26;
/// EL1 virtual timer (PPI).
pub const VIRTUAL_TIMER: u32 = 27;
/// EL1 physical timer (PPI).
pub const PHYSICAL_TIMER: u32 = 30;
/// What [`acknowledge`] returns when nothing is pending: 1020 and above are special.
pub const SPURIOUS: u32 = 1020;

/// The priority of the EL2 timer, before all others.
const URGENT: u8 = 0x40;

const PPIS: [u32; 4] = [MAINTENANCE, EL2_TIMER, VIRTUAL_TIMER, PHYSICAL_TIMER];
const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
const GICD_ICACTIVER: u64 = 0x380;
const GICR_TYPER: u64 = 0x8;
const GICR_ISACTIVER0: u64 = 0x1_0300;
const GICR_ICACTIVER0: u64 = 0x1_0380;

/// The distributor and all redistributors.
pub struct Gic {
    driver: GicV3<'static>,
    distributor: Pa,
    redistributors: Pa,
}

impl Gic {
    /// Takes the GIC and sets the distributor up: everything in group 1, disabled.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the hardware.
    ///
    /// # Safety
    ///
    /// `facts` are true, both regions are mapped at their own address as device memory, and nothing else drives them.
    pub unsafe fn new(facts: &GicFacts, cpus: usize) -> Result<Self, &'static str> {
        let distributor = NonNull::new(facts.distributor.start as *mut Gicd).ok_or("the GIC distributor is at 0")?;
        let redistributors =
            NonNull::new(facts.redistributors.start as *mut GicrSgi).ok_or("the GIC redistributors are at 0")?;
        // SAFETY: the caller's promise.
        let distributor = unsafe { UniqueMmioPointer::new(distributor) };
        // SAFETY: the caller's promise.
        let mut driver = unsafe { GicV3::new(distributor, redistributors, cpus) }
            .map_err(|_| "the GIC redistributors are of an unknown version")?;
        driver.distributor().configure_default_settings();
        let [distributor, redistributors] = [&facts.distributor, &facts.redistributors].map(|place| Pa(place.start));
        Ok(Self { driver, distributor, redistributors })
    }

    /// Sets this CPU's redistributor and CPU interface up and returns the part of it that the run loop uses.
    ///
    /// # Errors
    ///
    /// Says so when there is no redistributor for this CPU.
    pub fn init_cpu(&mut self, limit: u64) -> Result<Redistributor, &'static str> {
        let (position, redistributor) = self.find(limit).ok_or("there is no GIC redistributor for a CPU")?;
        self.driver.init_cpu(position);
        self.driver.redistributor(position).map_err(|_| "GIC redistributor out of range")?.configure_default_settings();
        let enable = |driver: &mut GicV3<'static>, id: IntId| {
            let _ = driver.set_interrupt_priority(id, Some(position), 0x80);
            let _ = driver.set_group(id, Some(position), Group::Group1NS);
            let _ = driver.enable_interrupt(id, Some(position), true);
        };
        enable(&mut self.driver, IntId::sgi(KICK));
        for ppi in PPIS {
            enable(&mut self.driver, IntId::ppi(ppi - 16));
        }
        let _ = self.driver.set_interrupt_priority(IntId::ppi(EL2_TIMER - 16), Some(position), URGENT);
        write!(icc_sre_el2, 0xfu64);
        isb!();
        // What an image before has taken and not ended would never come again.
        redistributor.forget_active();
        listen_to_timer_alone(handover::is_on_trial());
        write!(icc_bpr1_el1, 0u64);
        write!(icc_ctlr_el1, 1u64 << 1);
        write!(icc_igrpen1_el1, 1u64);
        isb!();
        Ok(redistributor)
    }

    /// Turns on a shared interrupt, delivered to this CPU.
    pub fn enable_shared(&mut self, interrupt: Interrupt) {
        let id = IntId::spi(interrupt.id - 32);
        let trigger = match interrupt.trigger {
            facts::Trigger::Edge => Trigger::Edge,
            facts::Trigger::Level => Trigger::Level,
        };
        let affinity = read!(mpidr_el1) & 0xff_00ff_ffff;
        let distributor = self.driver.distributor();
        let _ = distributor.set_trigger(id, trigger);
        let _ = distributor.set_routing(id, Some(affinity));
        // As with private ones.
        let register = self.distributor.0 + GICD_ICACTIVER + u64::from(interrupt.id / 32 * 4);
        // SAFETY: a write-1-to-clear register of the distributor, mapped as device memory; the driver has found it, and SPIs end
        // at 1019.
        unsafe { core::ptr::write_volatile(register as *mut u32, 1 << (interrupt.id % 32)) };
        let _ = self.driver.distributor().enable_interrupt(id, true);
    }

    /// Finds the redistributor of this CPU by its affinity (GICR_TYPER.Affinity_Value).
    fn find(&self, limit: u64) -> Option<(usize, Redistributor)> {
        let mpidr = read!(mpidr_el1);
        let affinity = (mpidr >> 32 & 0xff) << 24 | mpidr & 0xff_ffff;
        let mut base = self.redistributors.0;
        let mut position = 0;
        while base + REDISTRIBUTOR_SIZE <= limit {
            // SAFETY: GICR_TYPER of a redistributor inside the region that the device tree names.
            let typer = unsafe { core::ptr::read_volatile((base + GICR_TYPER) as *const u64) };
            if typer >> 32 == affinity {
                return Some((position, Redistributor { base: Pa(base) }));
            }
            if typer & 1 << 4 != 0 {
                return None;
            }
            base += REDISTRIBUTOR_SIZE;
            position += 1;
        }
        None
    }
}

/// This CPU's redistributor.
pub struct Redistributor {
    base: Pa,
}

impl Redistributor {
    /// Makes all private interrupts inactive.
    fn forget_active(&self) {
        // SAFETY: as in `set_active`.
        unsafe { core::ptr::write_volatile((self.base.0 + GICR_ICACTIVER0) as *mut u32, u32::MAX) };
        dsb!("sy");
    }

    /// Makes a private interrupt active or inactive: a vCPU that is switched in may hold the guest's timer interrupt
    /// active in a list register, and the deactivation through it must find the physical one active.
    pub fn set_active(&self, interrupt: u32, active: bool) {
        let register = self.base.0 + if active { GICR_ISACTIVER0 } else { GICR_ICACTIVER0 };
        // SAFETY: a write-1-to-set/clear register of this CPU's redistributor, mapped as device memory; `interrupt` is
        // a private interrupt, so the shift stays inside the register.
        unsafe { core::ptr::write_volatile(register as *mut u32, 1 << (interrupt & 31)) };
        dsb!("sy");
    }
}

/// Acknowledges the highest-priority pending interrupt; [`SPURIOUS`] or more if there is none.
#[inline]
pub fn acknowledge() -> u32 {
    let intid = read!(icc_iar1_el1) as u32;
    dsb!("sy");
    intid
}

/// Drops the priority of an acknowledged interrupt; it stays active.
#[inline]
pub fn drop_priority(intid: u32) {
    write!(icc_eoir1_el1, u64::from(intid));
    isb!();
}

/// Deactivates an interrupt whose priority was dropped.
#[inline]
pub fn deactivate(intid: u32) {
    write!(icc_dir_el1, u64::from(intid));
    isb!();
}

/// Sends a [`KICK`] to the CPU with this MPIDR.
#[inline]
pub fn kick(mpidr: u64) {
    let aff = |shift: u32| mpidr >> shift & 0xff;
    let target = aff(32) << 48 | aff(16) << 32 | aff(8) << 16 | (aff(0) >> 4) << 44 | 1 << (aff(0) & 0xf);
    dsb!("ishst");
    write!(icc_sgi1r_el1, target | u64::from(KICK) << 24);
    isb!();
}

/// Lets nothing but the EL2 timer interrupt this CPU, or everything.
pub fn listen_to_timer_alone(alone: bool) {
    write!(icc_pmr_el1, if alone { u64::from(URGENT) + 8 } else { 0xff });
    isb!();
}

/// Returns how many list registers this CPU has.
pub fn list_registers() -> usize {
    (read!(ich_vtr_el2) & 0x1f) as usize + 1
}

/// Returns how many interrupts the guest ended that no list register held: ICH_HCR_EL2.EOIcount.
#[inline]
pub fn eoi_count() -> u8 {
    (read!(ich_hcr_el2) >> 27) as u8 & 0x1f
}

/// Writes ICH_HCR_EL2.
#[inline]
pub fn set_control(value: u64) {
    write!(ich_hcr_el2, value);
}

/// Loads ICH_VMCR_EL2 ahead of the rest: filling list registers asks for it.
pub fn load_vmcr(regs: &VgicCpuRegs) {
    write!(ich_vmcr_el2, regs.vmcr);
}

/// Turns the virtual CPU interface off and empties the list registers in use.
pub fn clear_list_registers(lrs: &mut ListRegisters) {
    let mut used = lrs.lr.iter().take(usize::from(lrs.count)).enumerate();
    used.by_ref().for_each(|(index, _)| write_list_register(index, 0));
    write!(ich_hcr_el2, 0u64);
    *lrs = ListRegisters::new(usize::from(lrs.count));
}

/// Takes what the list registers hold, for one that does not know what was put there.
pub(crate) fn abandoned() -> ListRegisters {
    let count = list_registers();
    let mut lrs = ListRegisters::new(count);
    lrs.hcr = read!(ich_hcr_el2);
    lrs.eoi_count = eoi_count();
    for index in 0..count.min(lrs.lr.len()) {
        lrs.lr[index] = read_list_register(index);
        lrs.used |= u16::from(lrs.lr[index] != 0) << index;
        // Whoever comes next believes them to be empty.
        write_list_register(index, 0);
    }
    write!(ich_hcr_el2, 0u64);
    lrs
}

/// Returns the active priorities of the guest: ICH_AP0R<n> or'ed with ICH_AP1R<n>, first register only of each (the five
/// priority bits that are kept fit it).
#[inline]
pub fn active_priorities() -> [u32; 1] {
    [(read!(ich_ap0r0_el2) | read!(ich_ap1r0_el2)) as u32]
}

/// Returns true if the output of the running guest's timer is high: enabled, not masked, condition met.
pub fn timer_output(intid: u32) -> bool {
    let control = if intid == VIRTUAL_TIMER { read!(cntv_ctl_el0) } else { read!(cntp_ctl_el0) };
    control & 7 == 5
}

/// Returns the priority mask and group enables of the guest: ICH_VMCR_EL2.
#[inline]
pub fn vmcr() -> u64 {
    read!(ich_vmcr_el2)
}

macro_rules! list_register_access {
    ($($index:literal $register:ident)*) => {
        /// Reads list register `index`.
        #[inline]
        pub fn read_list_register(index: usize) -> u64 {
            match index {
                $($index => read!($register),)*
                _ => 0,
            }
        }

        /// Writes list register `index`.
        #[inline]
        pub fn write_list_register(index: usize, value: u64) {
            match index {
                $($index => write!($register, value),)*
                _ => {}
            }
        }
    };
}

list_register_access! {
    0 ich_lr0_el2 1 ich_lr1_el2 2 ich_lr2_el2 3 ich_lr3_el2 4 ich_lr4_el2 5 ich_lr5_el2 6 ich_lr6_el2 7 ich_lr7_el2
    8 ich_lr8_el2 9 ich_lr9_el2 10 ich_lr10_el2 11 ich_lr11_el2 12 ich_lr12_el2 13 ich_lr13_el2 14 ich_lr14_el2
    15 ich_lr15_el2
}
