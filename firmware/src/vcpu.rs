//! One CPU's loop: take a vCPU, run it until it leaves, take the next; wait for an interrupt when there is none.
//!
//! Lock order: monitor's line → VM slot (read) → vCPU context → CPU's packet → record, checkpoint → power → identity → VM
//! memory → NICs → vGIC → devices → entropy → scheduler → console, directory, frame table, switch, uplink. Merging only tries the lock of a VM's memory.

use crate::console;
use crate::events;
use crate::exits::{self, Next};
use crate::handover;
use crate::machine;
use crate::merge;
use crate::monitor;
use crate::net;
use crate::operation;
use crate::vm::{Fate, Vm};
use crate::watch;
use crate::watchdog;
use core::sync::atomic::{AtomicU64, Ordering};
use salp_core::context::Context;
use salp_core::sched::{Leave, Rest, VcpuRef, Wait};
use salp_core::vgic::{ListRegisters, VcpuSet, Vgic, running_priority};
use salp_hw::gic::{self, Redistributor};
use salp_hw::switch::{self, Exit, Features};
use salp_hw::{boot, cpu};

/// One physical CPU.
pub struct Cpu {
    /// Its index among the CPUs of the machine.
    pub index: usize,
    /// Which registers the world switch moves.
    pub features: Features,
    /// Something was said to the monitor: it waits until no vCPU is loaded.
    monitor_calls: bool,
    /// Its alarm has rung, and was not set since.
    has_rung: bool,
    redistributor: Redistributor,
    lrs: ListRegisters,
}

/// A vCPU on a CPU: its registers are loaded.
pub struct Resident<'a> {
    /// The CPU.
    pub cpu: &'a mut Cpu,
    /// The VM.
    pub vm: &'a Vm,
    /// Which of the VM's vCPUs.
    pub index: usize,
    /// What is not in hardware.
    pub context: &'a mut Context,
    /// How often it came back to EL2.
    exits: &'a AtomicU64,
    /// For how long the CPU waited together with it, in ticks.
    idle: u64,
}

/// Runs vCPUs on this CPU for ever.
pub fn run(index: usize, redistributor: Redistributor) -> ! {
    let lrs = ListRegisters::new(gic::list_registers());
    let mut this =
        Cpu { index, features: Features::detect(), monitor_calls: false, has_rung: false, redistributor, lrs };
    let machine = machine::get();
    loop {
        if core::mem::take(&mut this.monitor_calls) {
            monitor::serve();
            console::serve();
        }
        watch::serve();
        handover::serve(index);
        events::serve();
        let now = cpu::counter();
        let (next, alarm) = {
            let mut scheduler = machine.scheduler.lock();
            let next = scheduler.pick(index, now);
            if next.is_none() {
                let _ = scheduler.may_wait(index);
            }
            (next, scheduler.next_alarm(index, now))
        };
        let merging = if next.is_some() { None } else { merge::due(index) };
        this.set_alarm([alarm, merging, net::due(index), watch::due()]);
        match next {
            Some(vcpu) => this.run_vcpu(vcpu),
            None => {
                if !operation::is_any_pausing() {
                    machine.replenish();
                }
                merge::step(now);
                let before = cpu::counter();
                cpu::wait_for_interrupt();
                machine.idle_ticks.fetch_add(cpu::counter().wrapping_sub(before), Ordering::Relaxed);
                while this.take_interrupt(None) != Taken::None {}
            }
        }
    }
}

impl Cpu {
    /// Has this CPU interrupted when the first of these is due.
    fn set_alarm<const N: usize>(&mut self, dues: [Option<u64>; N]) {
        cpu::set_alarm(dues.into_iter().flatten().min());
        self.has_rung = false;
    }

    /// Returns true if something is due that is done without a vCPU.
    fn has_chores(&self, now: u64) -> bool {
        self.monitor_calls || watch::is_due(now) || events::has_news()
    }

    fn run_vcpu(&mut self, vcpu: VcpuRef) {
        let leave = {
            let slot = machine::slot(vcpu.slot()).read();
            match slot.as_deref().and_then(|vm| Some((vm, vm.vcpu(vcpu.index())?))) {
                Some((vm, this)) => {
                    let mut context = this.context.lock();
                    if let Some(answer) = this.answer.lock().take() {
                        exits::answer(&mut context, answer);
                        vm.watch.set_calling(false);
                    }
                    if let Some(entry) = vm.power.lock().started(vcpu.index()) {
                        *context = Context::reset(entry.pc, entry.context);
                    }
                    exits::resume(vm, vcpu.index(), &mut context);
                    let (index, exits) = (vcpu.index(), &this.exits);
                    let began = cpu::counter();
                    this.comes(began);
                    let mut resident = Resident { cpu: self, vm, index, context: &mut context, exits, idle: 0 };
                    resident.load();
                    let leave = resident.run();
                    let (leave, idle) = (resident.save(leave), resident.idle);
                    let now = cpu::counter();
                    let would_go_on = leave == Leave::Preempted && vm.control() == 0;
                    this.leaves(now, (now - began).saturating_sub(idle), would_go_on);
                    leave
                }
                None => Leave::Off,
            }
        };
        let now = cpu::counter();
        let (kicks, rest) = {
            let slot = machine::slot(vcpu.slot()).read();
            let mut scheduler = machine::get().scheduler.lock();
            // Whatever it leaves for: who stops the VM waits for that if it finds the vCPU on this CPU.
            let is_over = slot.as_deref().is_none_or(|vm| vm.fate() != Fate::Running);
            let leave = if is_over { Leave::Off } else { leave };
            let kicks = scheduler.leave(self.index, leave, now);
            (kicks, scheduler.rest(vcpu.slot()))
        };
        machine::kick(kicks & !(1 << self.index));
        if rest == Rest::Quiet {
            operation::attend(vcpu.slot());
        }
        if rest == Rest::Off {
            let fate = machine::slot(vcpu.slot()).read().as_deref().and_then(|vm| {
                vm.crash(vcpu.index(), format_args!("every vCPU is off: nothing can turn one on again"));
                vm.begin_end()
            });
            if let Some(fate) = fate {
                machine::end_vm(vcpu.slot(), fate);
            }
        }
    }

    /// Takes one pending physical interrupt. A kick is left to the caller: it means that the vGIC has changed.
    fn take_interrupt(&mut self, resident: Option<(&Vm, usize)>) -> Taken {
        let intid = gic::acknowledge();
        if intid >= gic::SPURIOUS {
            return Taken::None;
        }
        gic::drop_priority(intid);
        match intid {
            gic::VIRTUAL_TIMER | gic::PHYSICAL_TIMER => {
                if let Some((vm, index)) = resident {
                    // It stays active until the guest deactivates it through its list register.
                    self.with_vgic(vm, index, |vgic| vgic.set_line(intid, index, true));
                    return Taken::Other;
                }
            }
            gic::EL2_TIMER => {
                cpu::set_alarm(None);
                self.has_rung = true;
                let kicks = machine::get().scheduler.lock().expire(cpu::counter());
                machine::kick(kicks & !(1 << self.index));
                net::tick(self.index);
            }
            gic::MAINTENANCE => {
                if let Some((vm, index)) = resident {
                    self.with_vgic(vm, index, |_| VcpuSet::EMPTY);
                }
            }
            uart if uart == boot::get().board.uart.interrupt.id => self.monitor_calls |= console::take_keys(),
            line if monitor::is_interrupt(line) => self.monitor_calls = true,
            line if net::uplink::is_interrupt(line) => net::uplink::receive(self.index),
            gic::KICK => watchdog::answer(self.index),
            _ => {}
        }
        handover::fault_running(self.index, resident.map(|(vm, _)| vm));
        gic::deactivate(intid);
        if intid == gic::KICK { Taken::Kick } else { Taken::Other }
    }

    /// Changes the VM's interrupt state while vCPU `index` is resident: folds, changes, fills, and tells the others.
    pub fn with_vgic(&mut self, vm: &Vm, index: usize, change: impl FnOnce(&mut Vgic) -> VcpuSet) {
        self.with_vgic_and_vmcr(vm, index, |vgic, _| change(vgic));
    }

    /// As [`with_vgic`](Self::with_vgic), with ICH_VMCR_EL2.
    fn with_vgic_and_vmcr(&mut self, vm: &Vm, index: usize, change: impl FnOnce(&mut Vgic, u64) -> VcpuSet) {
        self.read_back();
        let (others, control) = {
            let mut vgic = vm.vgic.lock();
            let folded = vgic.fold(index, &mut self.lrs);
            let control = self.lrs.hcr;
            retract_stopped_timers(&mut vgic, index);
            let changed = change(&mut vgic, self.lrs.vmcr);
            vgic.fill(index, &mut self.lrs);
            (folded.union(changed).without(index), control)
        };
        self.write_out(control);
        if !others.is_empty() {
            vm.notify(others);
        }
    }

    /// Reads what the guest may have changed in hardware. Like [`write_out`](Self::write_out) to be called without the vGIC's
    /// lock, for which other CPUs wait: an emulator, or a hypervisor below, may take long for each of these registers.
    fn read_back(&mut self) {
        let mut used = self.lrs.used;
        while used != 0 {
            let slot = used.trailing_zeros() as usize & 15;
            self.lrs.lr[slot] = gic::read_list_register(slot);
            used &= used - 1;
        }
        self.lrs.eoi_count = gic::eoi_count();
        self.lrs.vmcr = gic::vmcr();
    }

    /// Writes what the vGIC has filled, where it is not what hardware holds. `control` is what ICH_HCR_EL2 holds, as it was
    /// folded.
    fn write_out(&mut self, control: u64) {
        let mut dirty = core::mem::take(&mut self.lrs.dirty);
        while dirty != 0 {
            let slot = dirty.trailing_zeros() as usize & 15;
            gic::write_list_register(slot, self.lrs.lr[slot]);
            dirty &= dirty - 1;
        }
        if self.lrs.hcr != control || self.lrs.eoi_count != 0 {
            gic::set_control(self.lrs.hcr);
            self.lrs.eoi_count = 0;
        }
        let mut deactivate = core::mem::take(&mut self.lrs.deactivate);
        while deactivate != 0 {
            self.redistributor.set_active(deactivate.trailing_zeros(), false);
            deactivate &= deactivate - 1;
        }
    }
}

/// What [`Cpu::take_interrupt`] took.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    None,
    Kick,
    Other,
}

const TIMERS: u32 = 1 << gic::VIRTUAL_TIMER | 1 << gic::PHYSICAL_TIMER;

impl Resident<'_> {
    fn load(&mut self) {
        let vm = self.vm;
        cpu::set_vm(vm.vttbr(), 1 << 31 | self.index as u64, vm.counter_offset());
        cpu::open_debug(self.context.debug_used);
        cpu::set_virtual_serror(self.context.serror_pending);
        gic::load_vmcr(&self.context.gic);
        (self.cpu.lrs.hcr, self.cpu.lrs.vmcr) = (0, gic::vmcr());
        let in_flight = {
            let mut vgic = vm.vgic.lock();
            // Before the timers: what the guest holds must not fire again.
            let in_flight = vgic.hw_in_flight(self.index);
            vgic.fill(self.index, &mut self.cpu.lrs);
            in_flight
        };
        self.cpu.write_out(0);
        for timer in [gic::VIRTUAL_TIMER, gic::PHYSICAL_TIMER] {
            self.cpu.redistributor.set_active(timer, in_flight >> timer & 1 != 0);
        }
        // Not before: what waits for a lock may leave, and its registers with it.
        switch::note(self.cpu.index, Some(self.context));
        switch::load(self.context, &self.cpu.features);
    }

    fn save(&mut self, leave: Leave) -> Leave {
        self.context.serror_pending = cpu::virtual_serror_pending();
        switch::save(self.context, &self.cpu.features);
        switch::note(self.cpu.index, None);
        self.cpu.read_back();
        let others = self.vm.vgic.lock().fold(self.index, &mut self.cpu.lrs);
        gic::clear_list_registers(&mut self.cpu.lrs);
        for timer in [gic::VIRTUAL_TIMER, gic::PHYSICAL_TIMER] {
            self.cpu.redistributor.set_active(timer, false);
        }
        self.vm.notify(others.without(self.index));
        match leave {
            Leave::Sleeps { .. } => Leave::Sleeps { deadline: self.deadline() },
            other => other,
        }
    }

    /// Returns when the saved timers fire next, in ticks of the physical counter.
    fn deadline(&self) -> Option<u64> {
        const ENABLED: u64 = 1;
        const MASKED: u64 = 2;
        let el1 = &self.context.el1;
        let armed = |control: u64| control & (ENABLED | MASKED) == ENABLED;
        let in_flight = self.vm.vgic.lock().hw_in_flight(self.index);
        let waits = |timer: u32| in_flight >> timer & 1 == 0;
        let virtual_timer = (armed(el1.cntv_ctl_el0) && waits(gic::VIRTUAL_TIMER))
            .then(|| el1.cntv_cval_el0.saturating_add(self.vm.counter_offset()));
        let physical_timer = (armed(el1.cntp_ctl_el0) && waits(gic::PHYSICAL_TIMER)).then_some(el1.cntp_cval_el0);
        let clock = if self.index == 0 { exits::tick_clock(self.vm) } else { None };
        let clock = clock.map(|s| cpu::counter().saturating_add(u64::from(s) * cpu::counter_frequency()));
        [virtual_timer, physical_timer, clock].into_iter().flatten().min()
    }

    /// Runs the guest until its vCPU has to leave the CPU.
    fn run(&mut self) -> Leave {
        machine::get().scheduler.lock().looked(self.cpu.index);
        loop {
            if self.vm.control() != 0 {
                // It is ending, or held: a sleeper that was preempted is a spurious end of its WFI.
                return if self.vm.fate() == Fate::Running { Leave::Preempted } else { Leave::Off };
            }
            if self.vm.has_senders() {
                net::go_on(self);
            }
            self.exits.store(self.exits.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            let next = match switch::enter(&mut self.context.regs) {
                Exit::Synchronous => exits::synchronous(self),
                Exit::Irq => {
                    if self.take_interrupts() {
                        let (vm, index) = (self.vm, self.index);
                        self.cpu.with_vgic(vm, index, |_| VcpuSet::EMPTY);
                    }
                    Next::Reschedule
                }
                Exit::SError => exits::serror(self),
                Exit::Fiq => Next::Guest,
            };
            match next {
                Next::Guest => {}
                Next::Reschedule => {
                    if self.reschedule() {
                        return Leave::Preempted;
                    }
                }
                Next::Sleep => {
                    if let Some(leave) = self.sleep() {
                        return leave;
                    }
                    if exits::resume(self.vm, self.index, self.context) {
                        switch::load(self.context, &self.cpu.features);
                    }
                }
                Next::Block => return Leave::Blocked,
                Next::Off => return Leave::Off,
            }
        }
    }

    /// Takes all pending physical interrupts. Returns true if there was a kick among them.
    fn take_interrupts(&mut self) -> bool {
        let mut kicked = false;
        loop {
            match self.cpu.take_interrupt(Some((self.vm, self.index))) {
                Taken::None => return kicked,
                Taken::Kick => kicked = true,
                Taken::Other => {}
            }
        }
    }

    /// Returns true if another vCPU is due, or the monitor, or a watched VM; else sets the alarm for when one is.
    fn reschedule(&mut self) -> bool {
        let now = cpu::counter();
        if self.cpu.has_chores(now) || handover::is_wanted() {
            return true;
        }
        let mut scheduler = machine::get().scheduler.lock();
        scheduler.looked(self.cpu.index);
        if scheduler.should_leave(self.cpu.index, now) {
            return true;
        }
        let alarm = scheduler.next_alarm(self.cpu.index, now);
        drop(scheduler);
        self.cpu.set_alarm([alarm, net::due(self.cpu.index), watch::due()]);
        merge::step(now);
        false
    }

    /// Waits until the guest has an interrupt to take. With nobody else to run it waits here, registers loaded.
    fn sleep(&mut self) -> Option<Leave> {
        {
            let mut devices = self.vm.devices.lock();
            console::flush(self.vm, &mut devices.line);
        }
        let mut refresh = false;
        loop {
            if self.vm.control() != 0 {
                if self.vm.fate() != Fate::Running {
                    return Some(Leave::Off);
                }
                // What has come for it together with the hold wakes it when the hold is gone.
                let is_awake = self.has_pending(true);
                return Some(if is_awake { Leave::Preempted } else { Leave::Sleeps { deadline: None } });
            }
            if handover::is_wanted() {
                let is_awake = self.has_pending(true) || self.vm.has_senders();
                return Some(if is_awake { Leave::Preempted } else { Leave::Sleeps { deadline: None } });
            }
            // Frames to send are seen outside this loop: they end a guest's wait as anything may.
            if self.has_pending(refresh) || self.vm.has_senders() {
                let index = self.cpu.index;
                let mut scheduler = machine::get().scheduler.lock();
                scheduler.looked(index);
                // It may not come back by itself: what the alarm was for beside it, sleepers of other CPUs too, needs the next one.
                if self.cpu.has_rung {
                    let alarm = scheduler.next_alarm(index, cpu::counter());
                    drop(scheduler);
                    self.cpu.set_alarm([alarm, net::due(index), watch::due()]);
                }
                return None;
            }
            let now = cpu::counter();
            let (wait, alarm) = {
                let mut scheduler = machine::get().scheduler.lock();
                (scheduler.may_wait(self.cpu.index), scheduler.next_alarm(self.cpu.index, now))
            };
            let clock = if self.index == 0 { exits::tick_clock(self.vm) } else { None };
            let clock = clock.map(|seconds| now.saturating_add(u64::from(seconds) * cpu::counter_frequency()));
            match wait {
                Wait::GoOn => refresh = true,
                Wait::Leave => return Some(Leave::Sleeps { deadline: None }),
                Wait::Wait if self.cpu.has_chores(now) => {
                    return Some(Leave::Sleeps { deadline: None });
                }
                Wait::Wait => {
                    merge::step(now);
                    let index = self.cpu.index;
                    self.cpu.set_alarm([alarm, clock, merge::due(index), net::due(index), watch::due()]);
                    let before = cpu::counter();
                    cpu::wait_for_interrupt();
                    let after = cpu::counter();
                    machine::get().idle_ticks.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
                    self.idle += after.wrapping_sub(now);
                    refresh = self.take_interrupts();
                }
            }
        }
    }

    /// Returns true if the guest has an interrupt that ends its WFI (Arm ARM D1.6.2: masked by PSTATE or not).
    /// `refresh`: the vGIC may have changed since the list registers were filled.
    fn has_pending(&mut self, refresh: bool) -> bool {
        if !refresh && self.cpu.lrs.used == 0 && self.cpu.lrs.hcr & !1 == 0 {
            // Everything that is pending and enabled is listed when there is room.
            return false;
        }
        let running = running_priority(&gic::active_priorities());
        let (vm, index) = (self.vm, self.index);
        let mut pending = false;
        self.cpu.with_vgic_and_vmcr(vm, index, |vgic, vmcr| {
            pending = vgic.has_pending(index, vmcr, running);
            VcpuSet::EMPTY
        });
        pending
    }
}

/// A guest may stop its timer before it takes the interrupt: the line is low then.
fn retract_stopped_timers(vgic: &mut Vgic, index: usize) {
    let waiting = vgic.hw_waiting(index) & TIMERS;
    if waiting == 0 {
        return;
    }
    for timer in [gic::VIRTUAL_TIMER, gic::PHYSICAL_TIMER] {
        if waiting >> timer & 1 != 0 && !gic::timer_output(timer) {
            // Its own change: the caller fills this vCPU's list registers next.
            let _ = vgic.set_line(timer, index, false);
        }
    }
}
