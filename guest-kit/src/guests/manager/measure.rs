//! How long it takes to make clones. A clone's own first reading of the counter is on its console; the host puts both
//! together.

use super::{destroy, fail, frozen_source, make, must, source, wait_acknowledged, wait_frozen, wait_gone};
use crate::machine::number;
use crate::rt::{cpu, sysreg};
use crate::salp::{self, Name, Request};
use crate::{test, timer};

/// Clones a frozen VM again and again; each clone ends before the next.
pub fn one_by_one() {
    let (id, times) = (frozen_source(), number("times", 10).max(1));
    let mut cost = 0;
    for round in 0..times {
        let name = Name::new(format_args!("clone-{round}"));
        let made = make(&Request::new(id, 1, name).config("then=off\n"));
        // Nothing is printed before the clone has started.
        timer::sleep(2);
        made.tell(&name);
        cost += made.cost;
        wait_gone(made.clones.first);
    }
    test::bench("clone_call", times, cost / times);
    destroy(id);
}

/// Makes many clones of a frozen VM by one call. Those sleep at once, for long enough that all have started before the
/// first one prints. With `within=MS` heartbeats are due so often, and the call takes longer.
pub fn many() {
    let within = number("within", 0);
    if within > 0 && must("CHECKPOINT", salp::checkpoint()).count > 0 {
        // That it goes off is a failure too, the only one that there may be.
        return;
    }
    let (id, count) = (frozen_source(), number("count", 100).max(1));
    let name = Name::new(format_args!("many"));
    must("HEARTBEAT", salp::heartbeat(within));
    let made = make(&Request::new(id, count as u32, name).config("then=wait\nbrief=1\n"));
    must("HEARTBEAT", salp::heartbeat(0));
    if made.cost < timer::ticks(within * 1000) {
        fail(format_args!("the call took {} us", timer::microseconds(made.cost)));
    }
    timer::sleep(2);
    made.tell(&name);
    test::bench("clone_call_many", count, made.cost / count);
    let clones = made.clones.first..=made.clones.last;
    clones.clone().for_each(wait_acknowledged);
    let start = sysreg::cntpct();
    clones.for_each(destroy);
    test::bench("destroy_idle", count, (sysreg::cntpct() - start) / count);
    destroy(id);
}

/// Clones a frozen VM, then its clone when that has frozen itself, and so on.
pub fn chain() {
    let mut parent = frozen_source();
    for round in 0..number("times", 10) {
        let name = Name::new(format_args!("link-{round}"));
        let made = make(&Request::new(parent, 1, name).config("then=again\n"));
        wait_frozen(made.clones.first);
        made.tell(&name);
        destroy(parent);
        parent = made.clones.first;
    }
    destroy(parent);
}

/// Clones a VM while it runs, and destroys each clone at once. Between the calls this vCPU yields again and again, as the
/// source does: so little happens between the source's last reading before the call and the call.
pub fn running() {
    let (id, times) = (source().id.get(), number("times", 10).max(1));
    timer::sleep(20);
    let (mut cost, mut pauses) = (0, 0);
    for round in 0..times {
        let name = Name::new(format_args!("clone-{round}"));
        let request = Request::new(id, 1, name);
        pause();
        let made = make(&request);
        // In nanoseconds: a tick is one when instructions are counted.
        pauses += must("VM_NEXT", salp::vm(id)).pause.get();
        destroy(made.clones.first);
        cost += made.cost;
        // The source tells of the gap meanwhile.
        timer::sleep(5);
        made.tell(&name);
    }
    test::bench("clone_running_call", times, cost / times);
    test::bench("pause", times, pauses / times);
    destroy(id);
}

/// Yields for half a millisecond.
fn pause() {
    let end = sysreg::cntvct() + timer::ticks(500);
    while sysreg::cntvct() < end {
        cpu::relax();
    }
}
