//! What guests, devices and the glue may rely on.

use super::machine::{Machine, SGI_BASE, WORD};
use super::*;

fn take(machine: &mut Machine, vcpu: usize) -> Option<u32> {
    let intid = machine.ack(vcpu)?;
    machine.eoi(vcpu, intid);
    Some(intid)
}

#[test]
fn the_distributor_says_what_it_is() {
    let gic = Vgic::new(4);
    assert_eq!(gic.dist_read(0x0, WORD), 0x50); // DS, ARE
    assert_eq!(gic.dist_read(0x4, WORD) & 0x1f, 2); // 96 INTIDs
    assert_eq!(gic.dist_read(0x4, WORD) & (1 << 10 | 1 << 16 | 1 << 17 | 1 << 24), 0);
    assert_eq!(gic.dist_read(0x8, WORD), 0x5300_043b);
    assert_eq!(gic.dist_read(0xffe8, WORD) >> 4 & 0xf, 3);
    assert_eq!(gic.dist_read(0xc, WORD), 0);
    let typer = |vcpu| gic.redist_read(vcpu, 8, AccessSize::Double);
    assert_eq!(typer(0), 0);
    assert_eq!(typer(3), 3 << 32 | 3 << 8 | 1 << 4);
    assert_eq!(gic.redist_read(3, 12, WORD), 3);
    assert_eq!(gic.redist_read(3, 0xffe8, WORD) >> 4 & 0xf, 3);
    assert_eq!(gic.redist_read(4, 8, WORD), 0, "there is no fifth redistributor");
}

#[test]
fn registers_exist_only_at_their_sizes() {
    let mut gic = Vgic::new(1);
    assert_eq!(gic.dist_read(0x4, AccessSize::Byte), 0);
    assert_eq!(gic.dist_read(0x4, AccessSize::Double), 0);
    assert_eq!(gic.dist_read(0x6, WORD), 0);
    let _ = gic.dist_write(0x104, AccessSize::Half, 0xffff);
    assert_eq!(gic.dist_read(0x104, WORD), 0);
    let _ = gic.dist_write(0x104, WORD, 0xf0);
    assert_eq!(gic.dist_read(0x184, WORD), 0xf0);
    let _ = gic.dist_write(0x423, AccessSize::Byte, 0xff);
    assert_eq!(gic.dist_read(0x420, WORD), 0xf800_0000, "five bits of priority");
    assert_eq!(gic.dist_read(0x423, AccessSize::Byte), 0xf8);
    let _ = gic.dist_write(0xc08, WORD, u32::MAX.into());
    assert_eq!(gic.dist_read(0xc08, WORD), 0xaaaa_aaaa);
}

#[test]
fn the_distributor_has_no_private_interrupts() {
    let mut gic = Vgic::new(1);
    for offset in [0x80, 0x100, 0x200, 0x300, 0x400, 0xc00, 0x6000] {
        let _ = gic.dist_write(offset, WORD, u32::MAX.into());
        assert_eq!(gic.dist_read(offset, WORD), 0);
    }
    let fresh = Vgic::new(1);
    assert_eq!(gic, fresh);
}

#[test]
fn routing_keeps_what_was_written() {
    let mut gic = Vgic::new(4);
    let _ = gic.dist_write(0x6000 + 8 * 40, AccessSize::Double, 0xff_8012_3402);
    assert_eq!(gic.dist_read(0x6000 + 8 * 40, AccessSize::Double), 0x8012_3402, "no Aff3");
    assert_eq!(gic.dist_read(0x6000 + 8 * 40, WORD), 0x8012_3402);
    assert_eq!(gic.dist_read(0x6004 + 8 * 40, WORD), 0);
    let _ = gic.dist_write(0x6004 + 8 * 40, WORD, 0xff);
    assert_eq!(gic.dist_read(0x6000 + 8 * 40, AccessSize::Double), 0x8012_3402);
}

#[test]
fn a_vcpu_wakes_its_redistributor() {
    let mut gic = Vgic::new(2);
    assert_eq!(gic.redist_read(1, 0x14, WORD), 6);
    let _ = gic.redist_write(1, 0x14, WORD, 0);
    assert_eq!(gic.redist_read(1, 0x14, WORD), 0);
    assert_eq!(gic.redist_read(0, 0x14, WORD), 6);
}

#[test]
fn an_sgi_to_self_is_taken_once() {
    let mut machine = Machine::booted(2, 4);
    machine.sgi(0, 5, 0b01);
    assert_eq!(machine.take_all(0), [5]);
    assert_eq!(machine.take_all(1), []);
    assert_eq!(machine.cpus[0].exits, 0, "no maintenance interrupt");
}

#[test]
fn an_sgi_reaches_those_it_names() {
    let mut machine = Machine::booted(4, 4);
    machine.sgi(0, 1, 0b1010);
    let tell = machine.gic.send_sgi(2, 1 << 40 | 3 << 24, true); // all but self
    assert_eq!(tell.iter().collect::<Vec<_>>(), [0, 1, 3]);
    machine.tell(tell);
    assert_eq!(machine.take_all(0), [3]);
    assert_eq!(machine.take_all(1), [1, 3]);
    assert_eq!(machine.take_all(2), []);
    assert_eq!(machine.take_all(3), [1, 3]);
}

#[test]
fn an_sgi_to_vcpus_that_do_not_exist_is_dropped() {
    let mut gic = Vgic::new(2);
    let before = gic.clone();
    for value in [0xfffc, 1 << 16 | 1, 1 << 32 | 1, 1 << 48 | 1, 1 << 44 | 1] {
        assert!(gic.send_sgi(0, value, true).is_empty());
    }
    assert_eq!(gic, before);
}

#[test]
fn icc_sgi0r_sends_group_0_only() {
    let mut machine = Machine::booted(2, 4);
    let sent = machine.gic.send_sgi(0, 4 << 24 | 0b10, false);
    assert!(sent.is_empty());
    assert_eq!(machine.redist_read(1, SGI_BASE + 0x200), 0);
}

#[test]
fn a_level_interrupt_comes_again_while_its_line_is_high() {
    let mut machine = Machine::booted(1, 4);
    machine.line(33, 0, true);
    for _ in 0..3 {
        assert_eq!(take(&mut machine, 0), Some(33));
    }
    let intid = machine.ack(0).unwrap();
    machine.line(33, 0, false);
    machine.eoi(0, intid);
    assert_eq!(machine.ack(0), None);
}

#[test]
fn a_level_interrupt_whose_line_falls_is_withdrawn() {
    let mut machine = Machine::booted(1, 4);
    machine.line(33, 0, true);
    machine.line(33, 0, false);
    assert_eq!(machine.ack(0), None);
}

#[test]
fn a_level_interrupt_whose_line_fell_in_time_ends_without_an_exit() {
    let mut machine = Machine::booted(1, 4);
    machine.line(33, 0, true);
    let intid = machine.ack(0).unwrap();
    machine.line(33, 0, false);
    machine.eoi(0, intid);
    assert_eq!(machine.cpus[0].exits, 0);
}

#[test]
fn an_edge_during_its_handler_is_taken_afterwards() {
    let mut machine = Machine::booted(1, 4);
    machine.dist_write(0xc08, 2 << 2); // 33 is edge-triggered
    machine.pulse(33, 0);
    assert_eq!(machine.ack(0), Some(33));
    machine.pulse(33, 0);
    machine.pulse(33, 0);
    assert_eq!(machine.ack(0), None);
    assert_eq!((machine.dist_read(0x204), machine.dist_read(0x304)), (2, 2), "active and pending");
    machine.eoi(0, 33);
    assert_eq!(machine.take_all(0), [33]);
}

#[test]
fn a_disabled_interrupt_waits() {
    let mut machine = Machine::booted(1, 4);
    machine.dist_write(0x184, 2);
    machine.line(33, 0, true);
    assert_eq!(machine.ack(0), None);
    assert_eq!(machine.dist_read(0x204), 2);
    machine.dist_write(0x104, 2);
    assert_eq!(machine.ack(0), Some(33));
    machine.dist_write(0x184, 2);
    assert_eq!(machine.dist_read(0x304), 2, "disabling leaves it active");
    machine.eoi(0, 33);
    assert_eq!(machine.dist_read(0x304), 0);
}

#[test]
fn a_disable_is_in_progress_until_the_list_register_is_folded() {
    let mut machine = Machine::booted(2, 4);
    machine.route(33, 1);
    machine.line(33, 0, true);
    let tell = machine.gic.dist_write(0x184, WORD, 2);
    assert!(tell.contains(1));
    assert_eq!(machine.gic.dist_read(0, WORD) >> 31, 1, "RWP");
    machine.tell(tell);
    assert_eq!(machine.gic.dist_read(0, WORD) >> 31, 0);
    assert_eq!(machine.ack(1), None);
}

#[test]
fn a_group_that_is_off_waits() {
    let mut machine = Machine::booted(1, 4);
    machine.sgi(0, 1, 1);
    machine.dist_write(0, 1);
    assert_eq!(machine.ack(0), None);
    machine.dist_write(0, 2);
    assert_eq!(machine.ack(0), Some(1));
}

#[test]
fn the_most_urgent_comes_first_with_a_single_list_register() {
    let mut machine = Machine::booted(1, 1);
    for (n, priority) in [0x80, 0x20, 0x60, 0x10, 0x40].into_iter().enumerate() {
        machine.redist_priority(0, n as u32, priority);
        machine.sgi(0, n as u32, 1);
    }
    assert_eq!(machine.take_all(0), [3, 1, 4, 2, 0]);
}

#[test]
fn a_more_urgent_interrupt_preempts_with_a_single_list_register() {
    let mut machine = Machine::booted(1, 1);
    machine.redist_priority(0, 2, 0x20);
    machine.sgi(0, 1, 1);
    assert_eq!(machine.ack(0), Some(1));
    machine.sgi(0, 2, 1);
    assert_eq!(machine.ack(0), Some(2));
    machine.eoi(0, 2);
    machine.eoi(0, 1);
    assert_eq!(machine.redist_read(0, SGI_BASE + 0x300), 0, "nothing stays active");
    machine.sgi(0, 1, 1);
    assert_eq!(machine.take_all(0), [1]);
}

#[test]
fn everything_pending_at_once_is_taken_once() {
    for list_registers in [1, 2, 4, 16] {
        let mut machine = Machine::booted(1, list_registers);
        machine.dist_write(0xc08, u32::MAX);
        (32..48).for_each(|spi| machine.pulse(spi, 0));
        (0..16).for_each(|sgi| machine.sgi(0, sgi, 1));
        let mut taken = machine.take_all(0);
        taken.sort_unstable();
        assert_eq!(taken, (0..16).chain(32..48).collect::<Vec<_>>());
    }
}

#[test]
fn many_interrupts_left_active_do_not_hold_back_others() {
    let mut machine = Machine::booted(1, 2);
    machine.cpus[0].eoi_mode = true;
    for sgi in 0..8 {
        machine.sgi(0, sgi, 1);
        assert_eq!(machine.ack(0), Some(sgi));
        machine.eoi(0, sgi); // drops the priority only
    }
    assert_eq!(machine.redist_read(0, SGI_BASE + 0x300), 0xff);
    for sgi in [3, 0, 7, 1, 2, 6, 5, 4] {
        machine.dir(0, sgi);
    }
    assert_eq!(machine.redist_read(0, SGI_BASE + 0x300), 0);
}

#[test]
fn a_waiting_interrupt_follows_its_new_route() {
    let mut machine = Machine::booted(3, 4);
    machine.line(40, 0, true);
    assert_eq!(machine.gic.owner_of(40), Some(0));
    machine.route(40, 2);
    assert_eq!(machine.gic.owner_of(40), Some(2));
    assert_eq!(machine.ack(0), None);
    assert_eq!(machine.ack(2), Some(40));
}

#[test]
fn an_active_interrupt_moves_when_it_ends() {
    let mut machine = Machine::booted(2, 4);
    machine.line(40, 0, true);
    assert_eq!(machine.ack(0), Some(40));
    machine.route(40, 1);
    assert_eq!(machine.ack(1), None, "still active on the first");
    machine.eoi(0, 40);
    assert_eq!(machine.ack(0), None);
    assert_eq!(machine.ack(1), Some(40));
}

#[test]
fn an_edge_after_the_route_changed_goes_to_the_new_vcpu() {
    let mut machine = Machine::booted(2, 4);
    machine.dist_write(0xc08, 2 << 16);
    machine.pulse(40, 0);
    assert_eq!(machine.ack(0), Some(40));
    machine.route(40, 1);
    machine.pulse(40, 0);
    assert_eq!((machine.ack(0), machine.ack(1)), (None, None));
    machine.eoi(0, 40);
    assert_eq!(machine.ack(0), None);
    assert_eq!(machine.take_all(1), [40]);
}

#[test]
fn an_interrupt_routed_nowhere_waits_for_a_route() {
    let mut machine = Machine::booted(2, 4);
    machine.route(40, 7);
    machine.line(40, 0, true);
    assert_eq!((machine.ack(0), machine.ack(1)), (None, None));
    machine.route(40, 1);
    assert_eq!(machine.ack(1), Some(40));
}

#[test]
fn one_of_n_goes_to_a_vcpu_that_is_awake() {
    let mut machine = Machine::booted(3, 4);
    machine.redist_write(0, 0x14, 2);
    machine.redist_write(2, 0x14, 2);
    machine.route(40, 1 << 31);
    machine.line(40, 0, true);
    assert_eq!(machine.gic.owner_of(40), Some(1));
    machine.redist_write(2, 0x14, 0);
    machine.redist_write(1, 0x14, 2);
    assert_eq!(machine.gic.owner_of(40), Some(2));
    assert_eq!(machine.ack(1), None);
    assert_eq!(machine.ack(2), Some(40));
}

#[test]
fn pending_and_active_can_be_written() {
    let mut machine = Machine::booted(2, 4);
    machine.dist_write(0x204, 1 << 8);
    machine.dist_write(0x284, 1 << 8);
    assert_eq!(machine.ack(0), None);
    machine.dist_write(0x304, 1 << 8);
    machine.dist_write(0x204, 1 << 8);
    assert_eq!(machine.ack(0), None, "active by ISACTIVER");
    machine.dist_write(0x384, 1 << 8);
    assert_eq!(machine.take_all(0), [40]);
}

#[test]
fn a_vcpu_can_end_an_interrupt_that_another_holds() {
    let mut machine = Machine::booted(2, 4);
    machine.dist_write(0xc08, 2 << 16);
    machine.pulse(40, 0);
    assert_eq!(machine.ack(0), Some(40));
    machine.pulse(40, 0);
    machine.dist_write(0x384, 1 << 8); // by any vCPU; the other's LR is corrected
    machine.cpus[0].running.clear();
    assert_eq!(machine.ack(0), Some(40));
    assert_eq!(machine.dist_read(0x304), 1 << 8);
}

#[test]
fn reads_of_state_name_the_vcpu_that_knows() {
    let mut machine = Machine::booted(2, 4);
    machine.route(40, 1);
    machine.line(40, 0, true);
    for offset in [0x204, 0x284, 0x304, 0x384] {
        assert_eq!(machine.gic.dist_needs_sync(offset), VcpuSet::one(1));
    }
    assert!(machine.gic.dist_needs_sync(0x208).is_empty());
    assert!(machine.gic.dist_needs_sync(0x104).is_empty());
    assert_eq!(machine.ack(1), Some(40));
    assert_eq!(machine.gic.dist_read(0x304, WORD), 0, "as listed");
    assert_eq!(machine.dist_read(0x304), 1 << 8, "as it is");
}

#[test]
fn the_timer_is_deactivated_by_the_guest_itself() {
    let mut machine = Machine::booted(1, 4);
    machine.timer(0, true);
    assert_eq!(machine.ack(0), Some(27));
    assert!(machine.cpus[0].timer_active);
    machine.timer(0, false); // the guest sets the next deadline
    machine.eoi(0, 27);
    assert!(!machine.cpus[0].timer_active);
    assert_eq!(machine.cpus[0].exits, 0);
    machine.timer(0, true);
    assert_eq!(machine.ack(0), Some(27));
}

#[test]
fn a_timer_that_stays_expired_comes_again() {
    let mut machine = Machine::booted(1, 4);
    machine.timer(0, true);
    for _ in 0..3 {
        assert_eq!(take(&mut machine, 0), Some(27));
    }
}

#[test]
fn a_timer_stopped_before_it_was_taken_is_withdrawn_and_fires_again() {
    let mut machine = Machine::booted(1, 4);
    machine.timer(0, true);
    machine.timer(0, false);
    assert_eq!(machine.ack(0), None);
    assert!(!machine.cpus[0].timer_active, "else it could never fire again");
    machine.timer(0, true);
    assert_eq!(machine.ack(0), Some(27));
}

#[test]
fn a_timer_travels_with_its_vcpu() {
    let mut machine = Machine::booted(1, 4);
    machine.timer(0, true);
    machine.unload(0);
    assert!(machine.gic.is_active_or_pending(0, 27));
    machine.load(0);
    assert!(machine.cpus[0].timer_active);
    assert_eq!(machine.ack(0), Some(27));
    machine.unload(0);
    machine.load(0);
    assert!(machine.cpus[0].timer_active);
    assert_eq!(machine.ack(0), None);
    machine.eoi(0, 27);
    assert_eq!(machine.ack(0), Some(27), "its output is still high");
}

#[test]
fn a_timer_ended_by_icactiver_can_fire_again() {
    let mut machine = Machine::booted(1, 4);
    machine.timer(0, true);
    assert_eq!(machine.ack(0), Some(27));
    machine.redist_write(0, SGI_BASE + 0x380, u32::MAX);
    machine.cpus[0].running.clear();
    assert_eq!(machine.ack(0), Some(27));
}

#[test]
fn a_timer_made_pending_in_its_handler_comes_again_and_then_can_fire() {
    let mut machine = Machine::booted(1, 4);
    machine.timer(0, true);
    assert_eq!(machine.ack(0), Some(27));
    machine.redist_write(0, SGI_BASE + 0x200, 1 << 27);
    machine.timer(0, false);
    machine.eoi(0, 27);
    assert_eq!(machine.take_all(0), [27]);
    assert!(!machine.cpus[0].timer_active);
    machine.timer(0, true);
    assert_eq!(machine.ack(0), Some(27));
}

#[test]
fn a_timer_ended_from_elsewhere_is_not_in_flight_any_more() {
    let mut gic = Machine::booted(2, 4).gic;
    let mut lrs = ListRegisters::new(4);
    assert!(gic.set_line(27, 1, true).contains(1));
    gic.fill(1, &mut lrs);
    lrs.lr[0] ^= 3 << 62; // taken
    assert_eq!(gic.redist_write(1, SGI_BASE + 0x380, WORD, 1 << 27), VcpuSet::one(1));
    assert!(gic.fold(1, &mut lrs).is_empty());
    assert_eq!(gic.hw_in_flight(1), 0);
    gic.fill(1, &mut lrs);
    assert_eq!((lrs.used, lrs.deactivate), (0, 1 << 27));
}

#[test]
fn whoever_lets_go_of_a_physical_interrupt_is_told() {
    let mut gic = Machine::booted(2, 4).gic;
    assert!(gic.set_line(27, 1, true).contains(1));
    assert!(gic.set_line(27, 1, false).contains(1), "the physical one is to be deactivated");
    let mut lrs = ListRegisters::new(4);
    gic.fill(1, &mut lrs);
    assert_eq!((lrs.used, lrs.deactivate), (0, 1 << 27));
}

#[test]
fn a_mapped_interrupt_stays_level_sensitive() {
    let mut machine = Machine::booted(1, 4);
    machine.redist_write(0, SGI_BASE + 0xc04, u32::MAX);
    assert_eq!(machine.redist_read(0, SGI_BASE + 0xc04), 0xaaaa_aaaa & !(3 << 22));
    machine.redist_write(0, SGI_BASE + 0xc00, 0);
    assert_eq!(machine.redist_read(0, SGI_BASE + 0xc00), 0xaaaa_aaaa, "SGIs are edge-triggered");
}

#[test]
fn only_ppis_are_mapped() {
    let mut gic = Vgic::new(1);
    for (intid, pintid) in [(15, 27), (32, 27), (27, 15), (27, 32), (u32::MAX, 27), (27, u32::MAX)] {
        assert!(!gic.map_hw(intid, pintid));
    }
    assert_eq!(gic, Vgic::new(1));
}

#[test]
fn wfi_completes_for_what_would_be_signalled() {
    let mut machine = Machine::booted(1, 4);
    machine.unload(0);
    let vmcr = |pmr: u64| pmr << 24 | 2;
    assert!(!machine.gic.has_pending(0, vmcr(0xff), 0xff));
    machine.line(40, 0, true);
    assert!(machine.gic.has_pending(0, vmcr(0xff), 0xff));
    assert!(machine.gic.has_pending(0, vmcr(0xa8), 0xff));
    assert!(!machine.gic.has_pending(0, vmcr(0xa0), 0xff), "masked by priority");
    assert!(!machine.gic.has_pending(0, 0xff << 24 | 1, 0xff), "group 1 is off");
    assert!(!machine.gic.has_pending(0, vmcr(0xff), 0xa0), "not more urgent than what runs");
    assert!(machine.gic.has_pending(0, vmcr(0xff), 0xa8));
    machine.dist_write(0x184, u32::MAX);
    assert!(!machine.gic.has_pending(0, vmcr(0xff), 0xff), "disabled");
}

#[test]
fn the_running_priority_is_that_of_the_lowest_bit() {
    assert_eq!(running_priority(&[0]), 0xff);
    assert_eq!(running_priority(&[0b110]), 8);
    assert_eq!(running_priority(&[0, 1]), 0x80);
    assert_eq!(running_priority(&[0, 0, 0, 1 << 31]), 0xfe);
    assert_eq!(running_priority(&[]), 0xff);
}

#[test]
fn a_copy_goes_on_where_the_original_was() {
    let mut machine = Machine::booted(2, 2);
    machine.sgi(0, 3, 0b11);
    machine.line(40, 0, true);
    machine.timer(1, true);
    assert_eq!(machine.ack(0), Some(3));
    (0..2).for_each(|vcpu| machine.unload(vcpu));
    assert!(machine.gic.is_valid());
    let mut clone = machine.clone();
    for machine in [&mut machine, &mut clone] {
        (0..2).for_each(|vcpu| machine.load(vcpu));
        assert_eq!(machine.ack(0), None);
        machine.eoi(0, 3);
        assert_eq!(machine.ack(0), Some(40));
        let mut taken = [machine.ack(1).unwrap(), 0];
        machine.eoi(1, taken[0]);
        machine.timer(1, false);
        taken[1] = machine.ack(1).unwrap_or(27);
        taken.sort_unstable();
        assert_eq!(taken, [3, 27]);
    }
}

#[test]
fn reset_leaves_nothing_but_the_mapping() {
    let mut machine = Machine::booted(2, 4);
    machine.timer(1, true);
    machine.line(40, 0, true);
    machine.gic.reset();
    assert_eq!(machine.gic.hw_in_flight(1), 0);
    let mut lrs = ListRegisters::new(4);
    machine.gic.fill(1, &mut lrs);
    assert_eq!((lrs.used, lrs.deactivate), (0, 1 << 27), "the physical timer interrupt is let go");
    let mut fresh = Vgic::new(2);
    assert!(fresh.map_hw(27, 27));
    assert_eq!(machine.gic, fresh);
}

#[test]
fn a_record_that_contradicts_itself_is_refused() {
    let good = Vgic::new(2);
    assert!(good.is_valid());
    let breaks: [fn(&mut Vgic); 12] = [
        |gic| gic.vcpus = 9,
        |gic| gic.vcpus = 0,
        |gic| gic.ctlr = 4,
        |gic| gic.asleep = 4,
        |gic| gic.hw = 1,
        |gic| gic.hw = 1 << 27,
        |gic| gic.cpus[1].spis = 1,
        |gic| gic.cpus[0].spis = 0,
        |gic| gic.moving = 1,
        |gic| gic.spi.listed = 1,
        |gic| gic.cpus[0].bank.latch = 1 << 32,
        |gic| gic.cpus[0].bank.edge = 0,
    ];
    for (n, broken) in breaks.into_iter().enumerate() {
        let mut gic = good.clone();
        broken(&mut gic);
        assert!(!gic.is_valid(), "{n}");
    }
}

#[test]
fn it_fits_a_page() {
    println!(
        "Vgic {} VgicCpu {} ListRegisters {}",
        size_of::<Vgic>(),
        size_of::<VgicCpu>(),
        size_of::<ListRegisters>()
    );
    assert!(size_of::<Vgic>() <= 2560);
}
