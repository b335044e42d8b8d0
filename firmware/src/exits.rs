//! What a guest asked for, carried out: core decides, this file moves the answer to where it belongs.

use crate::console;
use crate::drive;
use crate::machine::{self, ENOUGH, Store};
use crate::manage;
use crate::merge;
use crate::net::{self, Access as NicAccess};
use crate::operation::{Answer, Asker};
use crate::vcpu::Resident;
use crate::vm::{Fate, Freezer, Vm};
use core::sync::atomic::Ordering;
use salp_core::addr::{Ipa, Va};
use salp_core::agent::{self, Agent};
use salp_core::calls::psci::Wake;
use salp_core::calls::{self, Action, Callee};
use salp_core::context::Context;
use salp_core::dev::bus::{self, Device, GPIO_INTID, RTC_INTID, UART_INTID};
use salp_core::dev::guest;
use salp_core::dev::pl061::POWER_LINE;
use salp_core::exit::decode::{DataAbort, Exit, InstructionAbort, SysReg, SysRegAccess, WaitKind, class, decode};
use salp_core::exit::inject::{self, Cause, Source};
use salp_core::exit::skip::{condition_holds, skip, skip_a64};
use salp_core::exit::sysreg::{self, SysRegAction};
use salp_core::exit::walk;
use salp_core::frames::OutOfMemory;
use salp_core::frames::{FrameStore, Kind};
use salp_core::sched::VcpuRef;
use salp_core::scrollback::PAGE;
use salp_core::stage2::{Access, Fault, IDENTITY_PAGE, Resolved};
use salp_core::vgic::{AccessSize, VcpuSet, Vgic};
use salp_hvc::status;
use salp_hw::memory::Ram;
use salp_hw::own::Own;
use salp_hw::{cpu, psci, switch};

/// What comes after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Back to the guest.
    Guest,
    /// Others may be due; then back to the guest.
    Reschedule,
    /// The guest waits for an interrupt.
    Sleep,
    /// The vCPU waits for the answer to a call.
    Block,
    /// This vCPU is off.
    Off,
}

/// A guest that reads its console's registers this often without a write waits for a key: its prompt is shown.
const POLLS_BEFORE_FLUSH: u8 = 16;

const CLASS_HVC64: u8 = 0x16;
/// Traps while the vGIC asks for it (ICH_HCR_EL2.TDIR).
const ICC_DIR_EL1: SysReg = SysReg::new(3, 0, 12, 11, 1);

/// Handles a synchronous exit.
#[inline]
pub fn synchronous(this: &mut Resident<'_>) -> Next {
    let esr = cpu::esr();
    // The one call that guests make to measure a hypervisor: an answer that needs no state.
    if class(esr) == CLASS_HVC64
        && esr as u16 == 0
        && let Some(answer) = calls::quick(this.context.regs.x[0])
    {
        this.context.regs.x[0] = answer;
        return Next::Guest;
    }
    let (_, far, hpfar) = cpu::syndrome();
    match decode(esr, far, hpfar) {
        Exit::SysReg(access) => system_register(this, access),
        Exit::DataAbort(abort) => data_abort(this, abort),
        Exit::Hvc { imm } => call(this, imm),
        Exit::Wait(wait) => {
            if !condition_holds(esr as u32 & 0x1ff_ffff, this.context.regs.pstate) {
                skip(&mut this.context.regs, esr);
                return Next::Guest;
            }
            skip(&mut this.context.regs, esr);
            if matches!(wait.kind(), WaitKind::Wfi | WaitKind::Wfit) { Next::Sleep } else { Next::Reschedule }
        }
        Exit::InstructionAbort(abort) => instruction_abort(this, abort),
        Exit::Coprocessor(_) | Exit::Fp(_) => {
            if condition_holds(esr as u32 & 0x1ff_ffff, this.context.regs.pstate) {
                return undefined(this);
            }
            skip(&mut this.context.regs, esr);
            Next::Guest
        }
        Exit::Smc { .. } | Exit::Hidden(_) | Exit::Unknown => undefined(this),
        Exit::Reflect { esr } => take(this, Cause::Reflect { esr, far }),
        Exit::Debug { .. } | Exit::SError { .. } | Exit::Unexpected { .. } => {
            let pc = this.context.regs.pc;
            this.vm.crash(this.index, format_args!("unexpected exception, ESR {esr:#x} at {pc:#x}"));
            Next::Off
        }
    }
}

/// A physical SError while the guest ran: the guest's own access is the likely cause, and it learns of it.
pub fn serror(this: &mut Resident<'_>) -> Next {
    cpu::set_virtual_serror(true);
    this.context.serror_pending = true;
    Next::Guest
}

fn take(this: &mut Resident<'_>, cause: Cause) -> Next {
    let regs = &mut this.context.regs;
    let (vbar_el1, sctlr_el1) = cpu::el1_vectors();
    let source = Source { pc: regs.pc, pstate: regs.pstate, vbar_el1, sctlr_el1 };
    let target = inject::take(&source, cause, machine::get().inject_features);
    if target.pc == source.pc && matches!(cause, Cause::InstructionAbort { .. } | Cause::Undefined) {
        // Which exception brought it there.
        let ((elr, esr), at) = (cpu::el1_exception(), target.pc);
        let why =
            format_args!("its exception vector at {at:#x} cannot be executed, after ESR_EL1 {esr:#x} at {elr:#x}");
        this.vm.crash(this.index, why);
        return Next::Off;
    }
    regs.pc = target.pc;
    regs.pstate = target.pstate;
    cpu::set_el1_exception(target.elr_el1, target.spsr_el1, target.esr_el1, target.far_el1);
    Next::Guest
}

fn undefined(this: &mut Resident<'_>) -> Next {
    take(this, Cause::Undefined)
}

#[inline]
fn system_register(this: &mut Resident<'_>, access: SysRegAccess) -> Next {
    let written = this.context.regs.get(access.rt());
    if access.register() == ICC_DIR_EL1 && access.is_write() {
        skip_a64(&mut this.context.regs);
        let (vm, index) = (this.vm, this.index);
        this.cpu.with_vgic(vm, index, |vgic| vgic.deactivate(index, written as u32));
        return Next::Guest;
    }
    match sysreg::access(access, written, &machine::get().id_registers) {
        SysRegAction::Value(value) => {
            this.context.regs.set(access.rt(), value);
            skip_a64(&mut this.context.regs);
        }
        SysRegAction::Ignore | SysRegAction::CleanCaches => skip_a64(&mut this.context.regs),
        SysRegAction::Undefined => return undefined(this),
        SysRegAction::SendSgi { value, group1 } => {
            skip_a64(&mut this.context.regs);
            let (vm, index) = (this.vm, this.index);
            this.cpu.with_vgic(vm, index, |vgic| vgic.send_sgi(index, value, group1));
        }
        SysRegAction::EnableDebug => {
            switch::begin_debug(this.context, &this.cpu.features);
            cpu::open_debug(true);
        }
        SysRegAction::WriteMdscr(value) => {
            cpu::set_mdscr(value);
            skip_a64(&mut this.context.regs);
        }
        SysRegAction::ReadMdscr => {
            this.context.regs.set(access.rt(), cpu::mdscr());
            skip_a64(&mut this.context.regs);
        }
        SysRegAction::SetOsLock(locked) => {
            this.context.os_locked = locked;
            skip_a64(&mut this.context.regs);
        }
        SysRegAction::ReadOslsr => {
            let value = sysreg::oslsr(this.context.os_locked);
            this.context.regs.set(access.rt(), value);
            skip_a64(&mut this.context.regs);
        }
    }
    Next::Guest
}

fn call(this: &mut Resident<'_>, imm: u16) -> Next {
    let Some(x) = this.context.regs.x.first_chunk::<18>() else { return Next::Guest };
    let machine = machine::get();
    let ram = this.vm.spec.ram();
    let (action, is_acknowledged) = {
        let mut power = this.vm.power.lock();
        let mut identity = this.vm.identity.lock();
        let mut entropy = machine.entropy.lock();
        let callee = Callee {
            power: &mut power,
            entropy: &mut *entropy,
            identity: &mut identity,
            is_manager: this.vm.spec.is_manager(),
            mitigations: &machine.mitigations,
            ram: ram.start.0..ram.end.0,
        };
        let was_acknowledged = callee.identity.acknowledged;
        let action = calls::dispatch(imm, x, this.index, callee);
        (action, !was_acknowledged && identity.acknowledged)
    };
    if is_acknowledged {
        net::acknowledge(this.vm);
    }
    match action {
        Action::Return(value) => this.context.regs.x[0] = value,
        Action::Return4(values) => this.context.regs.x[..4].copy_from_slice(&values),
        Action::Return8(values) => this.context.regs.x[..8].copy_from_slice(&values),
        Action::Report(from) => this.context.regs.x[0] = report(this.vm, from) as u64,
        Action::Freeze => {
            answer(this.context, Answer::of(status::OK));
            if !this.vm.freeze_by(Freezer::Call(this.index)) {
                answer(this.context, Answer::of(status::BUSY));
            }
        }
        Action::Manage(request) => {
            let life = this.vm.life.load(Ordering::Relaxed);
            let asker = Asker::Vcpu { vcpu: VcpuRef::new(this.vm.slot, this.index), vm: this.vm.id, life };
            this.vm.watch.set_calling(true);
            match manage::carry_out(this.vm, request, asker) {
                Some(done) => answer(this.context, done),
                None => return Next::Block,
            }
            this.vm.watch.set_calling(false);
            if matches!(request, manage::Request::Life(_)) {
                // Something may be due that this CPU's alarm does not cover yet.
                return Next::Reschedule;
            }
        }
        Action::TurnOn { vcpu, .. } => {
            this.context.regs.x[0] = 0;
            let mut scheduler = machine.scheduler.lock();
            // None comes after those that who stops the VM has turned off.
            let is_running = this.vm.fate() == Fate::Running;
            let kicks = if is_running { scheduler.turn_on(VcpuRef::new(this.vm.slot, vcpu)) } else { 0 };
            drop(scheduler);
            machine::kick(kicks);
        }
        Action::TurnOff => return Next::Off,
        Action::Suspend => return Next::Sleep,
        Action::SystemOff => {
            this.vm.stop(Fate::Off);
            return Next::Off;
        }
        Action::SystemReset => {
            this.vm.stop(Fate::Reset);
            return Next::Off;
        }
        Action::Workaround(workaround) => {
            let (function, argument) = workaround.smc();
            psci::workaround(function, argument);
            this.context.regs.x[0] = 0;
        }
    }
    Next::Guest
}

/// Takes the report of the VM's agent out of its memory. Returns a status.
fn report(vm: &Vm, from: Ipa) -> i64 {
    let mut bytes = [0; agent::SIZE];
    if let Err(status) = manage::read(vm, from, &mut bytes) {
        return status;
    }
    match vm.hear_agent(|agent, teller, now| agent.report(&bytes, teller, now)) {
        Ok(true) => status::OK,
        Ok(false) => status::INVALID,
        Err(OutOfMemory) => status::NO_MEMORY,
    }
}

/// Sets the registers that a call of Salp's own returns.
pub fn answer(context: &mut Context, answer: Answer) {
    let [a, b, c] = answer.values;
    context.regs.x[..4].copy_from_slice(&[answer.status as u64, a, b, c]);
}

/// Ends PSCI CPU_SUSPEND, if that is what the vCPU slept in. Returns true if its registers were replaced.
pub fn resume(vm: &Vm, index: usize, context: &mut Context) -> bool {
    match vm.power.lock().wake(index) {
        Some(Wake::Return) => {
            context.regs.x[0] = 0;
            false
        }
        Some(Wake::Start(entry)) => {
            *context = Context::reset(entry.pc, entry.context);
            true
        }
        None => false,
    }
}

#[inline]
fn data_abort(this: &mut Resident<'_>, abort: DataAbort) -> Next {
    let vm = this.vm;
    let cause = |abort: &DataAbort| Cause::of_data(abort, || walk_level(vm, abort.va(), abort.ipa()));
    if !abort.is_stage2_fault() {
        return take(this, cause(&abort));
    }
    let ipa = if abort.ipa_valid() {
        abort.ipa()
    } else {
        match cpu::translate_stage1(abort.va().0, abort.is_write()) {
            Some(ipa) => Ipa(ipa),
            // The guest's tables changed meanwhile: it tries again.
            None => return Next::Guest,
        }
    };
    if ipa < this.vm.spec.ram().start && ipa.page() != IDENTITY_PAGE {
        return mmio(this, ipa, abort).unwrap_or_else(|| take(this, cause(&abort)));
    }
    let access = if abort.wants_write() { Access::Write } else { Access::Read };
    match resolve(this, ipa, access) {
        Some(next) => next,
        None => take(this, cause(&abort)),
    }
}

fn instruction_abort(this: &mut Resident<'_>, abort: InstructionAbort) -> Next {
    let ipa = if abort.ipa_valid() { Some(abort.ipa()) } else { cpu::translate_stage1(abort.va().0, false).map(Ipa) };
    if abort.is_stage2_fault()
        && let Some(ipa) = ipa
        && let Some(next) = resolve(this, ipa, if abort.wants_write() { Access::Write } else { Access::Execute })
    {
        return next;
    }
    let vm = this.vm;
    take(this, Cause::of_instruction(&abort, || walk_level(vm, abort.va(), abort.ipa())))
}

/// Returns the level at which the running guest's own tables lead its walk for `va` to `table`, where nothing is.
#[cold]
fn walk_level(vm: &Vm, va: Va, table: Ipa) -> u8 {
    // SCTLR_EL1.EE: the guest's tables are big-endian.
    const EE: u64 = 1 << 25;
    let (_, sctlr_el1) = cpu::el1_vectors();
    walk::walk_level(cpu::tcr_el1(), cpu::ttbr_el1(), va, table, |at| {
        let mut bytes = [0; 8];
        vm.memory.lock().as_ref()?.read(&Ram, at, &mut bytes).ok()?;
        Some(if sctlr_el1 & EE == 0 { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
    })
}

/// Gives the guest memory at `ipa`. `None` if there is no RAM.
fn resolve(this: &mut Resident<'_>, ipa: Ipa, access: Access) -> Option<Next> {
    let vm = this.vm;
    let result = if ipa.page() == IDENTITY_PAGE && !vm.memory.lock().as_ref()?.has_identity_page(&Ram) {
        vm.put_identity().map(|()| Resolved::Zeroed)
    } else {
        vm.memory.lock().as_mut()?.fault(&Store, &Ram, &vm.tlb(), ipa, access)
    };
    match result {
        Ok(_) => Some(Next::Guest),
        Err(Fault::OutsideRam) => None,
        Err(Fault::OutOfMemory) => {
            if !merge::give_back() {
                vm.starve(ipa);
            }
            Some(Next::Guest)
        }
    }
}

/// Emulates a device access. `None` if there is no device, or the CPU does not say what the instruction was.
fn mmio(this: &mut Resident<'_>, ipa: Ipa, abort: DataAbort) -> Option<Next> {
    let (target, offset) = bus::find(ipa, this.vm.spec.vcpus())?;
    if !abort.has_syndrome() || abort.on_table_walk() || abort.is_cache_maintenance() {
        return None;
    }
    let size = abort.size();
    if !bus::is_aligned(offset, size) {
        return None;
    }
    let written = this.context.regs.get(abort.rt());
    let is_write = abort.is_write();
    let (vm, index) = (this.vm, this.index);
    let mut value = 0;
    match target {
        Device::Gicd if is_write => this.cpu.with_vgic(vm, index, |vgic| vgic.dist_write(offset, size, written)),
        Device::Gicr(owner) if is_write => {
            this.cpu.with_vgic(vm, index, |vgic| vgic.redist_write(owner, offset, size, written));
        }
        Device::Gicd => {
            fold_before_read(this, |vgic| vgic.dist_needs_sync(offset));
            value = vm.vgic.lock().dist_read(offset, size);
        }
        Device::Gicr(owner) => {
            fold_before_read(this, |vgic| vgic.redist_needs_sync(owner, offset));
            value = vm.vgic.lock().redist_read(owner, offset, size);
        }
        Device::Virtio(nic) => match net::access(this, nic, offset, size, is_write.then_some(written))? {
            NicAccess::Done(read) => value = read,
            // The store is still to come when the guest goes on.
            NicAccess::Again => return Some(Next::Guest),
        },
        Device::Drive => match drive::access(this, offset, size, is_write.then_some(written)) {
            NicAccess::Done(read) => value = read,
            NicAccess::Again => return Some(Next::Guest),
        },
        Device::Flash => value = u64::MAX,
        Device::Uart => value = uart(this, offset, size, is_write.then_some(written)),
        Device::Rtc => {
            let now = machine::wall_clock();
            let line = {
                let mut devices = vm.devices.lock();
                if is_write {
                    devices.rtc.write(offset, size, written, now);
                } else {
                    value = devices.rtc.read(offset, size, now);
                }
                devices.rtc.interrupt()
            };
            this.cpu.with_vgic(vm, index, |vgic| vgic.set_line(RTC_INTID, 0, line));
        }
        Device::Gpio => {
            let line = {
                let mut devices = vm.devices.lock();
                if is_write {
                    devices.gpio.write(offset, size, written);
                } else {
                    value = devices.gpio.read(offset, size);
                }
                devices.gpio.interrupt()
            };
            this.cpu.with_vgic(vm, index, |vgic| vgic.set_line(GPIO_INTID, 0, line));
        }
        Device::Guest if is_write => match guest::write(offset, written) {
            Some(guest::Command::Acknowledge) => {
                vm.identity.lock().acknowledged = true;
                net::acknowledge(vm);
            }
            Some(guest::Command::Freeze) => {
                // A store that is too late finds the VM frozen all the same.
                vm.freeze_by(Freezer::Store(index));
            }
            // What cannot be kept, and nonsense, is ignored: the agent tells again.
            Some(guest::Command::Stage(offset, word)) => {
                let _ = vm.hear_agent(|agent, _, _| agent.stage(offset, word));
            }
            Some(guest::Command::Report) => {
                let _ = vm.hear_agent(Agent::report_staged);
            }
            None => {}
        },
        Device::Guest => value = guest::read(&vm.identity.lock(), &mut World, offset, size),
    }
    if !is_write {
        let loaded = bus::finish_load(value, size, abort.sign_extend(), abort.is_64bit());
        this.context.regs.set(abort.rt(), loaded);
    }
    skip_a64(&mut this.context.regs);
    Some(Next::Guest)
}

/// What the guest device reads of the machine.
struct World;

impl guest::World for World {
    fn time(&mut self) -> u64 {
        machine::wall_clock_ns()
    }

    fn random(&mut self) -> u64 {
        let mut bytes = [0; 8];
        machine::get().entropy.lock().draw(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// Takes back from list registers what a read is about to report. Another CPU's are kicked, not waited for: a guest that
/// polls an interrupt on another vCPU sees it change one read later.
fn fold_before_read(this: &mut Resident<'_>, stale: impl FnOnce(&Vgic) -> VcpuSet) {
    let (vm, index) = (this.vm, this.index);
    let stale = stale(&vm.vgic.lock());
    if stale.contains(index) {
        this.cpu.with_vgic(vm, index, |_| VcpuSet::EMPTY);
    }
    let others = stale.without(index);
    if !others.is_empty() {
        vm.notify(others);
    }
}

fn uart(this: &mut Resident<'_>, offset: u64, size: AccessSize, written: Option<u64>) -> u64 {
    let vm = this.vm;
    let (value, before, after, stalled) = {
        let mut devices = vm.devices.lock();
        let before = devices.uart.interrupt();
        let value = match written {
            Some(value) => {
                devices.polls = 0;
                if let Some(byte) = devices.uart.write(offset, size, value) {
                    console::output(vm, &mut devices.line, byte);
                    devices.written.push(byte, take_page);
                }
                0
            }
            None => {
                devices.polls = devices.polls.saturating_add(1);
                if devices.polls == POLLS_BEFORE_FLUSH {
                    console::flush(vm, &mut devices.line);
                }
                devices.uart.read(offset, size)
            }
        };
        let has_room = devices.uart.room() > 0;
        (value, before, devices.uart.interrupt(), has_room && core::mem::take(&mut devices.typing_stalled))
    };
    if before != after {
        let index = this.index;
        this.cpu.with_vgic(vm, index, |vgic| vgic.set_line(UART_INTID, 0, after));
    }
    if stalled {
        console::give_keys();
    }
    value
}

/// Takes a page for what a VM writes, if there are enough for more important things.
#[cold]
fn take_page() -> Option<Own<[u8; PAGE]>> {
    let frame = Store.with(|frames| if frames.unpromised() > ENOUGH { frames.alloc(Kind::Hyp).ok() } else { None });
    frame.map(|frame| Own::new(frame, [0; PAGE]))
}

/// A key typed at the VM's console. Returns false if its FIFO is full: the VM asks for more when it has read some.
pub fn type_key(vm: &Vm, byte: u8) -> bool {
    let line = {
        let mut devices = vm.devices.lock();
        if !devices.uart.push(byte) {
            devices.typing_stalled = true;
            return false;
        }
        devices.uart.interrupt()
    };
    let set: VcpuSet = vm.vgic.lock().set_line(UART_INTID, 0, line);
    vm.notify(set);
    true
}

/// The VM's power button is pressed, or released.
pub fn press_power(vm: &Vm, pressed: bool) {
    let line = {
        let mut devices = vm.devices.lock();
        devices.gpio.set(POWER_LINE, pressed);
        devices.gpio.interrupt()
    };
    let set: VcpuSet = vm.vgic.lock().set_line(GPIO_INTID, 0, line);
    vm.notify(set);
}

/// Lets the clock of a VM see what time it is: its alarm may be due. Returns when it will be, in seconds.
pub fn tick_clock(vm: &Vm) -> Option<u32> {
    let now = machine::wall_clock();
    let (line, next) = {
        let mut devices = vm.devices.lock();
        let before = devices.rtc.interrupt();
        devices.rtc.tick(now);
        let after = devices.rtc.interrupt();
        ((before != after).then_some(after), devices.rtc.alarm_in(now))
    };
    if let Some(line) = line {
        let set = vm.vgic.lock().set_line(RTC_INTID, 0, line);
        vm.notify(set);
    }
    next
}
