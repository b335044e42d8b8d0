//! The scheduler: which vCPU runs on which CPU, and when a sleeping one must wake. Before: `vcpu`; after: the run loop.
//!
//! One queue serves all CPUs, under one lock: with at most eight CPUs it is short, and it is exactly fair without moving
//! load about. Every vCPU that wants to run gets one slice a round. One that sleeps keeps what is left of its slice and
//! goes ahead of the others when it wakes, so a VM that answers quickly is never behind one that spins; once its slice is
//! used up it queues like everybody. But a *favoured* VM's vCPUs, those of managers, never wait for a whole round: they queue
//! behind one other, so that the machine can be managed however many spin, and no manager can have it for itself.
//!
//! Times are ticks of the counter.

/// The greatest number of CPUs.
pub const MAX_CPUS: usize = 8;

/// The greatest number of vCPUs of a VM.
pub const VCPUS_PER_VM: usize = 8;

/// Names a vCPU: the slot of its VM and its index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VcpuRef(u32);

impl VcpuRef {
    /// Names vCPU `index` of the VM in `slot`.
    pub const fn new(slot: usize, index: usize) -> Self {
        Self((slot * VCPUS_PER_VM + index % VCPUS_PER_VM) as u32)
    }

    /// Returns the slot of the VM.
    pub const fn slot(self) -> usize {
        self.0 as usize / VCPUS_PER_VM
    }

    /// Returns the index within the VM.
    pub const fn index(self) -> usize {
        self.0 as usize % VCPUS_PER_VM
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Not turned on.
    #[default]
    Off,
    /// In a queue.
    Queued,
    /// On this CPU, in the guest or waiting there with its registers loaded.
    On(u8),
    /// Sleeping, off every CPU.
    Asleep,
    /// It would run, but its VM is held.
    Parked,
    /// It waits for the answer to a call.
    Blocked,
}

/// What a vCPU that is on no CPU would do: a clone's vCPUs go on as their source's would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing: it is off.
    Off,
    /// Run.
    Ready,
    /// Sleep until an interrupt, at the latest until its timer fires.
    Asleep {
        /// When its timer fires, if it is set.
        deadline: Option<u64>,
    },
}

/// What the scheduler knows of one vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Node {
    state: State,
    /// Something happened that the vCPU must look at before it may sleep.
    woken: bool,
    /// It was turned on again before it had left its CPU.
    again: bool,
    /// Its VM is held: it goes on no CPU.
    held: bool,
    /// It waits behind one other, and not for a round.
    favoured: bool,
    /// What it waits for happened before it had left its CPU.
    answered: bool,
    /// Of a queued one: it is in the queue of those that go ahead.
    ahead: bool,
    credit: u32,
    next: u32,
    prev: u32,
    /// When a sleeper's timer fires; `u64::MAX` if it has none.
    deadline: u64,
}

impl Node {
    /// Returns the node of a vCPU that is off. Whether its VM is held is the VM's affair.
    fn reset(&self) -> Self {
        Self { held: self.held, favoured: self.favoured, deadline: u64::MAX, ..Self::default() }
    }
}

const END: u32 = u32::MAX;
const BUCKETS: usize = 256;

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

impl List {
    const EMPTY: Self = Self { head: END, tail: END };

    fn is_empty(&self) -> bool {
        self.head == END
    }

    fn push_back(&mut self, nodes: &mut [Node], at: u32) {
        nodes[at as usize].next = END;
        nodes[at as usize].prev = self.tail;
        match nodes.get_mut(self.tail as usize) {
            Some(last) => last.next = at,
            None => self.head = at,
        }
        self.tail = at;
    }

    fn push_front(&mut self, nodes: &mut [Node], at: u32) {
        nodes[at as usize].next = self.head;
        nodes[at as usize].prev = END;
        match nodes.get_mut(self.head as usize) {
            Some(first) => first.prev = at,
            None => self.tail = at,
        }
        self.head = at;
    }

    fn pop_front(&mut self, nodes: &mut [Node]) -> Option<u32> {
        let at = self.head;
        (at != END).then(|| {
            self.remove(nodes, at);
            at
        })
    }

    /// Takes out a vCPU that is in this list.
    fn remove(&mut self, nodes: &mut [Node], at: u32) {
        let Node { prev, next, .. } = nodes[at as usize];
        match nodes.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => self.head = next,
        }
        match nodes.get_mut(next as usize) {
            Some(after) => after.prev = prev,
            None => self.tail = prev,
        }
    }
}

/// Why a vCPU leaves its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Others want the CPU.
    Preempted,
    /// It waits for an interrupt, at the latest until its timer fires.
    Sleeps {
        /// When its timer fires, if it is set.
        deadline: Option<u64>,
    },
    /// It waits for the answer to a call, which [`Scheduler::answer`] tells of.
    Blocked,
    /// It was turned off.
    Off,
}

/// CPUs to kick: bit n is CPU n.
pub type CpuSet = u8;

#[derive(Clone, Copy)]
struct Cpu {
    current: u32,
    /// The current vCPU runs on what it saved of its slice.
    ahead: bool,
    idle: bool,
    slice_end: u64,
    /// Its alarm rings at the end of the slice: it knows that others wait.
    armed: bool,
}

/// The scheduler of the machine.
pub struct Scheduler<'a> {
    nodes: &'a mut [Node],
    cpus: [Cpu; MAX_CPUS],
    count: usize,
    slice: u32,
    bucket_shift: u32,
    ahead: List,
    round: List,
    wheel: [List; BUCKETS],
    sleepers: usize,
    expired_until: u64,
    /// The CPU whose alarm covers the sleepers, and when it rings.
    alarm: Option<(usize, u64)>,
}

impl<'a> Scheduler<'a> {
    /// Makes a scheduler of `cpus` CPUs for as many vCPUs as there are nodes. `slice` is how long a vCPU runs while
    /// others wait.
    pub fn new(nodes: &'a mut [Node], cpus: usize, slice: u32) -> Self {
        let cpu = Cpu { current: END, ahead: false, idle: false, slice_end: 0, armed: false };
        Self {
            nodes,
            cpus: [cpu; MAX_CPUS],
            count: cpus.min(MAX_CPUS),
            slice: slice.max(1),
            // A slice and a wheel's bucket are of about one length.
            bucket_shift: slice.max(1).ilog2(),
            ahead: List::EMPTY,
            round: List::EMPTY,
            wheel: [List::EMPTY; BUCKETS],
            sleepers: 0,
            expired_until: 0,
            alarm: None,
        }
    }

    fn bucket(&self, time: u64) -> usize {
        (time >> self.bucket_shift) as usize % BUCKETS
    }

    /// Turns a vCPU on. Returns the CPUs to kick.
    pub fn turn_on(&mut self, vcpu: VcpuRef) -> CpuSet {
        let slice = self.slice;
        let Some(node) = self.nodes.get_mut(vcpu.0 as usize) else { return 0 };
        if node.state != State::Off {
            node.again = true;
            return 0;
        }
        *node = Node { credit: slice, ..node.reset() };
        self.enqueue(vcpu.0)
    }

    /// Tells a vCPU that something happened: an interrupt, a request. Returns the CPUs to kick.
    pub fn wake(&mut self, vcpu: VcpuRef) -> CpuSet {
        let Some(node) = self.nodes.get_mut(vcpu.0 as usize) else { return 0 };
        node.woken = true;
        match node.state {
            State::Off | State::Queued | State::Parked | State::Blocked => 0,
            State::On(cpu) => 1 << cpu,
            State::Asleep => {
                self.unsleep(vcpu.0);
                self.enqueue(vcpu.0)
            }
        }
    }

    /// Tells that to every vCPU that sleeps. No CPU is kicked.
    pub fn wake_all(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].state == State::Asleep {
                let _ = self.wake(VcpuRef(at as u32));
            }
        }
    }

    /// Turns a vCPU off that is queued or asleep. Returns the CPU to kick if it is on one: it has to leave by itself, as
    /// [`Leave::Off`] whatever it leaves for.
    pub fn turn_off(&mut self, vcpu: VcpuRef) -> CpuSet {
        let Some(node) = self.nodes.get_mut(vcpu.0 as usize) else { return 0 };
        match node.state {
            State::Off => return 0,
            State::On(cpu) => {
                node.woken = true;
                node.again = false;
                return 1 << cpu;
            }
            State::Queued => self.unqueue(vcpu.0),
            State::Asleep => self.unsleep(vcpu.0),
            State::Parked | State::Blocked => {}
        }
        self.nodes[vcpu.0 as usize] = self.nodes[vcpu.0 as usize].reset();
        0
    }

    /// Keeps the vCPUs of the VM in `slot` off all CPUs from now on. Returns the CPUs to kick: those that are on one have to
    /// leave by themselves, after which [`Scheduler::is_quiet`]. Sleepers sleep on, and none wakes.
    pub fn hold(&mut self, slot: usize) -> CpuSet {
        let mut kicks = 0;
        for at in Self::vcpus_of(slot) {
            let Some(node) = self.nodes.get_mut(at as usize) else { break };
            node.held = true;
            match node.state {
                State::On(cpu) => kicks |= 1 << cpu,
                State::Queued => {
                    node.state = State::Parked;
                    self.unqueue(at);
                }
                _ => {}
            }
        }
        kicks
    }

    /// Lets the vCPUs of a held VM go on. Returns the CPUs to kick.
    pub fn release(&mut self, slot: usize) -> CpuSet {
        let mut kicks = 0;
        for at in Self::vcpus_of(slot) {
            let Some(node) = self.nodes.get_mut(at as usize) else { break };
            node.held = false;
            if node.state == State::Parked {
                kicks |= self.enqueue(at);
            }
        }
        kicks
    }

    /// Favours the vCPUs of the VM in `slot`, until it is forgotten.
    pub fn favour(&mut self, slot: usize) {
        for at in Self::vcpus_of(slot) {
            if let Some(node) = self.nodes.get_mut(at as usize) {
                node.favoured = true;
            }
        }
    }

    /// Returns true if no vCPU of the VM in `slot` is on a CPU.
    pub fn is_quiet(&self, slot: usize) -> bool {
        self.nodes_of(slot).iter().all(|node| !matches!(node.state, State::On(_)))
    }

    /// Returns what a vCPU of a held, quiet VM would do.
    pub fn activity(&self, vcpu: VcpuRef) -> Activity {
        match self.nodes.get(vcpu.0 as usize) {
            None | Some(Node { state: State::Off, .. }) => Activity::Off,
            Some(Node { state: State::Asleep, deadline, .. }) => {
                Activity::Asleep { deadline: (*deadline != u64::MAX).then_some(*deadline) }
            }
            Some(_) => Activity::Ready,
        }
    }

    /// Gives a vCPU that is off this activity: one of a clone, or of a VM that goes back to a snapshot. Returns the CPUs to
    /// kick.
    pub fn begin(&mut self, vcpu: VcpuRef, activity: Activity) -> CpuSet {
        match activity {
            Activity::Off => 0,
            Activity::Ready => self.turn_on(vcpu),
            Activity::Asleep { deadline } => {
                if let Some(node) = self.nodes.get_mut(vcpu.0 as usize) {
                    *node = Node { credit: self.slice, ..node.reset() };
                    self.sleep(vcpu.0, deadline);
                }
                0
            }
        }
    }

    /// Tells a vCPU that left its CPU as [`Leave::Blocked`], or is about to, that the answer is there. Returns the CPUs to
    /// kick.
    pub fn answer(&mut self, vcpu: VcpuRef) -> CpuSet {
        let Some(node) = self.nodes.get_mut(vcpu.0 as usize) else { return 0 };
        match node.state {
            State::Blocked => self.enqueue(vcpu.0),
            State::On(_) => {
                node.answered = true;
                0
            }
            _ => 0,
        }
    }

    /// Forgets the vCPUs of a VM that is gone: they are off and not held.
    pub fn forget(&mut self, slot: usize) {
        for index in 0..VCPUS_PER_VM {
            let vcpu = VcpuRef::new(slot, index);
            let _ = self.turn_off(vcpu);
            if let Some(node) = self.nodes.get_mut(vcpu.0 as usize) {
                (node.held, node.favoured) = (false, false);
            }
        }
    }

    fn vcpus_of(slot: usize) -> core::ops::Range<u32> {
        (slot * VCPUS_PER_VM) as u32..((slot + 1) * VCPUS_PER_VM) as u32
    }

    fn nodes_of(&self, slot: usize) -> &[Node] {
        self.nodes.get(slot * VCPUS_PER_VM..(slot + 1) * VCPUS_PER_VM).unwrap_or_default()
    }

    fn unqueue(&mut self, at: u32) {
        let list = if self.nodes[at as usize].ahead { &mut self.ahead } else { &mut self.round };
        list.remove(self.nodes, at);
    }

    fn unsleep(&mut self, at: u32) {
        let deadline = self.nodes[at as usize].deadline;
        if deadline != u64::MAX {
            let bucket = self.bucket(deadline);
            self.wheel[bucket].remove(self.nodes, at);
            self.sleepers -= 1;
            self.nodes[at as usize].deadline = u64::MAX;
        }
    }

    fn enqueue(&mut self, at: u32) -> CpuSet {
        let node = &mut self.nodes[at as usize];
        if node.held {
            node.state = State::Parked;
            return 0;
        }
        node.state = State::Queued;
        let ahead = node.credit > 0;
        node.ahead = ahead;
        if ahead {
            self.ahead.push_back(self.nodes, at);
        } else {
            self.queue_up(at);
        }
        let cpus = &self.cpus[..self.count];
        let willing = cpus
            .iter()
            .position(|cpu| cpu.idle)
            .or_else(|| cpus.iter().position(|cpu| ahead && cpu.current != END && !cpu.ahead));
        match willing {
            Some(cpu) => {
                self.cpus[cpu].idle = false; // one wake-up for one vCPU
                1 << cpu
            }
            // Everybody is busy: those that had the CPU to themselves learn that it is shared now.
            None => (0..self.count)
                .filter(|&n| self.cpus[n].current != END && !self.cpus[n].armed)
                .fold(0, |set, n| set | 1 << n),
        }
    }

    /// Puts a vCPU whose slice is used up where its turn comes.
    fn queue_up(&mut self, at: u32) {
        let first = if self.nodes[at as usize].favoured { self.round.pop_front(self.nodes) } else { None };
        match first {
            Some(first) => {
                self.round.push_front(self.nodes, at);
                self.round.push_front(self.nodes, first);
            }
            None => self.round.push_back(self.nodes, at),
        }
    }

    /// Gives `cpu` the next vCPU to run.
    pub fn pick(&mut self, cpu: usize, now: u64) -> Option<VcpuRef> {
        let (at, ahead) = match self.ahead.pop_front(self.nodes) {
            Some(at) => (at, true),
            None => (self.round.pop_front(self.nodes)?, false),
        };
        let slice = self.slice;
        let node = &mut self.nodes[at as usize];
        if node.credit == 0 {
            node.credit = slice;
        }
        node.state = State::On(cpu as u8);
        self.cpus[cpu] =
            Cpu { current: at, ahead, idle: false, slice_end: now.wrapping_add(node.credit.into()), armed: false };
        Some(VcpuRef(at))
    }

    /// Returns true if the vCPU on `cpu` should leave it: its slice is over and others wait, or one that is ahead waits.
    pub fn should_leave(&mut self, cpu: usize, now: u64) -> bool {
        let this = self.cpus[cpu];
        if !self.ahead.is_empty() && !this.ahead {
            return true;
        }
        if now < this.slice_end {
            return false;
        }
        if self.ahead.is_empty() && self.round.is_empty() {
            self.cpus[cpu].slice_end = now.wrapping_add(self.slice.into());
            self.cpus[cpu].ahead = false;
            return false;
        }
        true
    }

    /// Asks whether the vCPU on `cpu` may wait there with its registers loaded: nobody else wants the CPU, and nothing
    /// happened that it must look at. Marks the CPU idle if so.
    pub fn may_wait(&mut self, cpu: usize) -> Wait {
        let current = self.cpus[cpu].current;
        if current != END && core::mem::take(&mut self.nodes[current as usize].woken) {
            self.cpus[cpu].idle = false;
            return Wait::GoOn;
        }
        if !self.ahead.is_empty() || !self.round.is_empty() {
            self.cpus[cpu].idle = false;
            return Wait::Leave;
        }
        self.cpus[cpu].idle = true;
        Wait::Wait
    }

    /// Forgets that something happened to the vCPU on `cpu`: it has looked.
    pub fn looked(&mut self, cpu: usize) {
        self.cpus[cpu].idle = false;
        if let Some(node) = self.nodes.get_mut(self.cpus[cpu].current as usize) {
            node.woken = false;
        }
    }

    /// Returns the vCPU that is on `cpu`.
    pub fn current(&self, cpu: usize) -> Option<VcpuRef> {
        self.cpus.get(cpu).map(|cpu| cpu.current).filter(|&at| at != END).map(VcpuRef)
    }

    /// Takes the vCPU off `cpu`. Returns the CPUs to kick.
    pub fn leave(&mut self, cpu: usize, why: Leave, now: u64) -> CpuSet {
        let this = self.cpus[cpu];
        self.cpus[cpu].current = END;
        self.cpus[cpu].idle = false;
        let at = this.current;
        let Some(node) = self.nodes.get_mut(at as usize) else { return 0 };
        node.credit = this.slice_end.saturating_sub(now).min(self.slice.into()) as u32;
        match why {
            Leave::Off => {
                let again = core::mem::take(&mut node.again);
                *node = node.reset();
                if again { self.turn_on(VcpuRef(at)) } else { 0 }
            }
            Leave::Preempted if node.held => {
                node.state = State::Parked;
                0
            }
            Leave::Preempted => {
                node.state = State::Queued;
                node.ahead = false;
                if node.credit > 0 {
                    self.round.push_front(self.nodes, at);
                } else {
                    self.queue_up(at);
                }
                0
            }
            Leave::Sleeps { .. } if node.woken => self.enqueue(at),
            Leave::Sleeps { deadline } => {
                self.sleep(at, deadline);
                0
            }
            Leave::Blocked if core::mem::take(&mut node.answered) => self.enqueue(at),
            Leave::Blocked => {
                node.state = State::Blocked;
                0
            }
        }
    }

    fn sleep(&mut self, at: u32, deadline: Option<u64>) {
        let node = &mut self.nodes[at as usize];
        node.state = State::Asleep;
        node.deadline = u64::MAX;
        if let Some(deadline) = deadline {
            // What is already due waits in the bucket that is looked at next.
            let deadline = deadline.max(self.expired_until).min(u64::MAX - 1);
            node.deadline = deadline;
            let bucket = self.bucket(deadline);
            self.wheel[bucket].push_back(self.nodes, at);
            self.sleepers += 1;
        }
    }

    /// Wakes the sleepers whose timer has fired. Returns the CPUs to kick.
    pub fn expire(&mut self, now: u64) -> CpuSet {
        let mut kicks = 0;
        if self.sleepers > 0 {
            let first = self.expired_until >> self.bucket_shift;
            let last = now >> self.bucket_shift;
            for tick in first..=last.min(first + BUCKETS as u64 - 1) {
                let bucket = tick as usize % BUCKETS;
                let mut list = core::mem::replace(&mut self.wheel[bucket], List::EMPTY);
                while let Some(at) = list.pop_front(self.nodes) {
                    let node = &mut self.nodes[at as usize];
                    if node.deadline <= now {
                        node.deadline = u64::MAX;
                        node.woken = true;
                        self.sleepers -= 1;
                        kicks |= self.enqueue(at);
                    } else {
                        self.wheel[bucket].push_back(self.nodes, at);
                    }
                }
            }
        }
        self.expired_until = self.expired_until.max(now);
        kicks
    }

    /// Returns when `cpu` must be interrupted next: the end of a slice that others wait for, or a sleeper's timer that
    /// no other CPU's alarm covers.
    pub fn next_alarm(&mut self, cpu: usize, now: u64) -> Option<u64> {
        let this = self.cpus[cpu];
        let others = !self.ahead.is_empty() || !self.round.is_empty();
        let slice = (this.current != END && others).then_some(this.slice_end);
        self.cpus[cpu].armed = slice.is_some();
        let owned = self.alarm.is_none_or(|(owner, _)| owner == cpu);
        let sleeper = match self.next_sleeper(now) {
            Some(at) if owned || self.alarm.is_some_and(|(_, other)| at < other || other <= now) => {
                self.alarm = Some((cpu, at));
                Some(at)
            }
            Some(_) => None,
            None => {
                self.alarm = None;
                None
            }
        };
        match (slice, sleeper) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn next_sleeper(&self, now: u64) -> Option<u64> {
        if self.sleepers == 0 {
            return None;
        }
        let first = self.expired_until.min(now) >> self.bucket_shift;
        for tick in first..first + BUCKETS as u64 {
            let end = (tick + 1) << self.bucket_shift;
            let mut at = self.wheel[tick as usize % BUCKETS].head;
            let mut earliest = u64::MAX;
            while at != END {
                earliest = earliest.min(self.nodes[at as usize].deadline);
                at = self.nodes[at as usize].next;
            }
            if earliest < end {
                return Some(earliest);
            }
        }
        // All are further off than the wheel turns: look again then.
        Some((first + BUCKETS as u64) << self.bucket_shift)
    }

    /// Returns how far the VM in `slot` has come to rest: asked by the CPU that a vCPU of it has just left.
    pub fn rest(&self, slot: usize) -> Rest {
        let nodes = self.nodes_of(slot);
        if nodes.iter().all(|node| node.state == State::Off) {
            Rest::Off
        } else if nodes.first().is_some_and(|node| node.held) && self.is_quiet(slot) {
            Rest::Quiet
        } else {
            Rest::Active
        }
    }

    /// Returns true if every vCPU of the VM in `slot` is off.
    pub fn is_off(&self, slot: usize) -> bool {
        self.nodes_of(slot).iter().all(|node| node.state == State::Off)
    }
}

/// How far a VM has come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It is not held, or a vCPU of it is still on a CPU.
    Active,
    /// It is held, and no vCPU of it is on a CPU.
    Quiet,
    /// Every vCPU of it is off.
    Off,
}

/// What a vCPU that has nothing to do does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Something happened: look.
    GoOn,
    /// Another vCPU wants the CPU.
    Leave,
    /// Wait for an interrupt with the registers loaded.
    Wait,
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: VcpuRef = VcpuRef::new(0, 0);
    const B: VcpuRef = VcpuRef::new(1, 0);
    const C: VcpuRef = VcpuRef::new(2, 0);
    const SLICE: u32 = 100;

    fn nodes() -> [Node; 32] {
        [Node::default(); 32]
    }

    #[test]
    fn a_vcpu_that_is_turned_on_gets_an_idle_cpu() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 2, SLICE);
        assert_eq!(scheduler.may_wait(1), Wait::Wait);
        assert_eq!(scheduler.turn_on(A), 1 << 1);
        assert_eq!(scheduler.pick(1, 0), Some(A));
        assert_eq!(scheduler.pick(0, 0), None);
    }

    #[test]
    fn all_sleepers_wake_and_who_is_off_stays_off() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        for (vcpu, deadline) in [(A, None), (B, Some(500))] {
            let _ = scheduler.begin(vcpu, Activity::Asleep { deadline });
        }
        scheduler.wake_all();
        assert_eq!([scheduler.pick(0, 1), scheduler.pick(0, 1), scheduler.pick(0, 1)], [Some(A), Some(B), None]);
        assert_eq!(scheduler.next_alarm(0, 1), None);
    }

    #[test]
    fn one_that_is_turned_on_before_it_has_left_comes_back() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        let _ = scheduler.turn_on(A);
        assert_eq!(scheduler.pick(0, 0), Some(A));
        let _ = scheduler.turn_on(A);
        let _ = scheduler.leave(0, Leave::Off, 1);
        assert!(!scheduler.is_off(0));
        assert_eq!(scheduler.pick(0, 1), Some(A));
        let _ = scheduler.leave(0, Leave::Off, 2);
        assert!(scheduler.is_off(0));
    }

    #[test]
    fn three_that_spin_share_two_cpus_evenly() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 2, SLICE);
        for vcpu in [A, B, C] {
            let _ = scheduler.turn_on(vcpu);
        }
        let mut ran = [0u32; 3];
        let mut current = [scheduler.pick(0, 0).unwrap(), scheduler.pick(1, 0).unwrap()];
        for now in 1..30_000u64 {
            for cpu in 0..2 {
                ran[current[cpu].slot()] += 1;
                if scheduler.should_leave(cpu, now) {
                    let _ = scheduler.leave(cpu, Leave::Preempted, now);
                    current[cpu] = scheduler.pick(cpu, now).unwrap();
                }
            }
        }
        assert!(ran.iter().all(|&one| (19_000..21_000).contains(&one)), "{ran:?}");
    }

    #[test]
    fn one_that_is_favoured_waits_for_one_other_and_leaves_the_rest_to_all() {
        let mut nodes = [Node::default(); 8 * 20];
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        scheduler.favour(0);
        for slot in 0..20 {
            let _ = scheduler.turn_on(VcpuRef::new(slot, 0));
        }
        let mut ran = [0u32; 20];
        let mut current = scheduler.pick(0, 0).unwrap();
        for now in 1..100_000u64 {
            ran[current.slot()] += 1;
            if scheduler.should_leave(0, now) {
                let _ = scheduler.leave(0, Leave::Preempted, now);
                current = scheduler.pick(0, now).unwrap();
            }
        }
        assert!((45_000..55_000).contains(&ran[0]), "{ran:?}");
        assert!(ran[1..].iter().all(|&one| (2000..3500).contains(&one)), "{ran:?}");
        scheduler.forget(0);
        let _ = scheduler.turn_on(VcpuRef::new(0, 0));
        assert!(!scheduler.nodes[0].favoured);
    }

    #[test]
    fn one_that_wakes_goes_ahead_of_one_that_spins() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        let _ = scheduler.turn_on(A);
        assert_eq!(scheduler.pick(0, 0), Some(A));
        let _ = scheduler.leave(0, Leave::Sleeps { deadline: Some(500) }, 10);
        let _ = scheduler.turn_on(B);
        let _ = scheduler.turn_on(C);
        assert_eq!(scheduler.pick(0, 10), Some(B));
        let _ = scheduler.leave(0, Leave::Preempted, 110);
        assert_eq!(scheduler.pick(0, 110), Some(C));
        let _ = scheduler.leave(0, Leave::Preempted, 210);
        assert_eq!(scheduler.pick(0, 210), Some(B));
        assert_eq!(scheduler.next_alarm(0, 210), Some(310));
        assert_eq!(scheduler.expire(500), 1, "the CPU that runs B is told");
        assert!(scheduler.should_leave(0, 500));
        let _ = scheduler.leave(0, Leave::Preempted, 500);
        assert_eq!(scheduler.pick(0, 500), Some(A));
    }

    #[test]
    fn a_sleeper_wakes_at_its_deadline_however_far_off() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        let _ = scheduler.turn_on(A);
        let _ = scheduler.pick(0, 0);
        let _ = scheduler.leave(0, Leave::Sleeps { deadline: Some(1_000_000) }, 0);
        let mut now = 0;
        while scheduler.pick(0, now).is_none() {
            let _ = scheduler.may_wait(0);
            let alarm = scheduler.next_alarm(0, now).expect("a sleeper is waiting");
            assert!(alarm > now && alarm <= 1_000_000);
            now = alarm;
            let _ = scheduler.expire(now);
        }
        assert_eq!(now, 1_000_000);
    }

    #[test]
    fn what_happens_while_a_vcpu_leaves_to_sleep_is_not_lost() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        let _ = scheduler.turn_on(A);
        let _ = scheduler.pick(0, 0);
        assert_eq!(scheduler.wake(A), 1);
        let _ = scheduler.leave(0, Leave::Sleeps { deadline: None }, 1);
        assert_eq!(scheduler.pick(0, 1), Some(A));
    }

    #[test]
    fn a_vcpu_that_is_turned_off_is_in_no_list() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        for vcpu in [A, B] {
            let _ = scheduler.turn_on(vcpu);
        }
        assert_eq!(scheduler.turn_off(A), 0);
        assert_eq!(scheduler.pick(0, 0), Some(B));
        let _ = scheduler.leave(0, Leave::Sleeps { deadline: Some(50) }, 1);
        assert_eq!(scheduler.turn_off(B), 0);
        assert_eq!(scheduler.expire(1000), 0);
        assert_eq!(scheduler.pick(0, 1000), None);
        assert!(scheduler.is_off(0) && scheduler.is_off(1));
    }

    #[test]
    fn a_held_vm_runs_nothing_until_it_is_released() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 2, SLICE);
        let other = VcpuRef::new(0, 1);
        let sleeper = VcpuRef::new(0, 2);
        for vcpu in [A, other, sleeper, B] {
            let _ = scheduler.turn_on(vcpu);
        }
        assert_eq!((scheduler.pick(0, 0), scheduler.pick(1, 0)), (Some(A), Some(other)));
        let _ = scheduler.leave(1, Leave::Preempted, 1);
        assert_eq!(scheduler.pick(1, 1), Some(sleeper));
        let _ = scheduler.leave(1, Leave::Sleeps { deadline: Some(50) }, 2);
        assert_eq!(scheduler.hold(0), 1 << 0, "the CPU that runs A is told");
        assert!(!scheduler.is_quiet(0));
        let _ = scheduler.leave(0, Leave::Preempted, 3);
        assert!(scheduler.is_quiet(0));
        assert_eq!(scheduler.pick(0, 3), Some(B));
        let _ = scheduler.leave(0, Leave::Off, 4);
        assert_eq!(scheduler.activity(A), Activity::Ready);
        assert_eq!(scheduler.activity(sleeper), Activity::Asleep { deadline: Some(50) });
        assert_eq!(scheduler.expire(60), 0, "its timer wakes nobody");
        assert_eq!(scheduler.activity(sleeper), Activity::Ready);
        assert_eq!((scheduler.pick(0, 60), scheduler.pick(1, 60)), (None, None));
        let _ = scheduler.release(0);
        let mut ran: Vec<_> = (0..3)
            .filter_map(|_| {
                let vcpu = scheduler.pick(0, 61);
                let _ = scheduler.leave(0, Leave::Off, 61);
                vcpu
            })
            .collect();
        ran.sort_by_key(|vcpu| vcpu.index());
        assert_eq!(ran, [A, other, sleeper]);
    }

    #[test]
    fn a_vcpu_turned_on_again_in_a_held_vm_waits() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        let _ = scheduler.turn_on(A);
        let _ = scheduler.pick(0, 0);
        let _ = scheduler.turn_on(A);
        let _ = scheduler.hold(0);
        let _ = scheduler.leave(0, Leave::Off, 1);
        assert_eq!(scheduler.pick(0, 1), None);
        let _ = scheduler.release(0);
        assert_eq!(scheduler.pick(0, 2), Some(A));
    }

    #[test]
    fn a_clones_sleeper_wakes_when_its_sources_would() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        let _ = scheduler.begin(B, Activity::Asleep { deadline: Some(500) });
        let _ = scheduler.begin(C, Activity::Asleep { deadline: None });
        assert_eq!(scheduler.pick(0, 0), None);
        let _ = scheduler.expire(500);
        assert_eq!(scheduler.pick(0, 500), Some(B));
        let _ = scheduler.wake(C);
        let _ = scheduler.leave(0, Leave::Off, 501);
        assert_eq!(scheduler.pick(0, 501), Some(C));
    }

    #[test]
    fn a_blocked_vcpu_runs_after_its_answer_and_not_before() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        let _ = scheduler.turn_on(A);
        let _ = scheduler.pick(0, 0);
        let _ = scheduler.leave(0, Leave::Blocked, 1);
        let _ = scheduler.wake(A);
        assert_eq!(scheduler.pick(0, 1), None, "an interrupt is no answer");
        let _ = scheduler.answer(A);
        assert_eq!(scheduler.pick(0, 2), Some(A));
        let _ = scheduler.answer(A);
        let _ = scheduler.leave(0, Leave::Blocked, 3);
        assert_eq!(scheduler.pick(0, 3), Some(A), "the answer came before it had left");
    }

    #[test]
    fn a_vm_that_is_gone_leaves_nothing_in_its_slot() {
        let mut nodes = nodes();
        let mut scheduler = Scheduler::new(&mut nodes, 1, SLICE);
        let _ = scheduler.turn_on(A);
        let _ = scheduler.hold(0);
        scheduler.forget(0);
        assert!(scheduler.is_off(0));
        let _ = scheduler.turn_on(A);
        assert_eq!(scheduler.pick(0, 0), Some(A));
    }
}
