//! What is counted and measured: one table for `/metrics`, metric definitions and reports. Before:
//! [`metrics`](crate::resources::metrics), [`report`](super::report). After: [`hypervisor`](crate::hypervisor).

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::OnceCell;

use salp_hvc::calls::{MachineInfo, VmInfo, VmMemory};
use salp_hvc::manager::NicInfo;
use salp_json::Value;

use crate::hypervisor::{Answer, Hypervisor, Usage};
use crate::resources::managers::SALP;
use crate::resources::systems;

/// Where a figure comes from.
#[derive(Clone, Copy)]
pub enum Read {
    /// The machine.
    Machine(fn(&MachineInfo) -> u64),
    /// What is known of a VM without looking at its memory.
    Vm(fn(&VmInfo) -> u64),
    /// All tables of a VM's memory, which takes longer the more there are: not in `/metrics`.
    Memory(fn(&VmMemory) -> u64),
    /// What a VM has had of the CPUs.
    Usage(fn(&Usage) -> u64),
    /// The NICs of a VM, all together.
    Nics(fn(&NicInfo) -> u64),
}

/// A figure.
pub struct Figure {
    /// Its identifier as a metric.
    pub id: &'static str,
    /// The family of `/metrics` that it is in; one in seconds is shown as such.
    pub family: &'static str,
    /// What tells it from others of the family.
    pub label: &'static str,
    /// Whether it only grows.
    pub counts: bool,
    /// Its unit (UCUM).
    pub unit: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Where it comes from.
    pub read: Read,
}

const BYTES: &str = "By";
const ONES: &str = "{count}";
/// The unit of times.
pub const NANOSECONDS: &str = "ns";

const fn gauge(
    id: &'static str,
    (family, label): (&'static str, &'static str),
    unit: &'static str,
    help: &'static str,
    read: Read,
) -> Figure {
    Figure { id, family, label, counts: false, unit, help, read }
}

const fn counter(id: &'static str, family: &'static str, unit: &'static str, help: &'static str, read: Read) -> Figure {
    Figure { id, family, label: "", counts: true, unit, help, read }
}

const fn memory(id: &'static str, label: &'static str, help: &'static str, read: fn(&MachineInfo) -> u64) -> Figure {
    gauge(id, ("salp_memory_bytes", label), BYTES, help, Read::Machine(read))
}

/// All of them; those of a family follow each other.
pub const FIGURES: &[Figure] = &[
    memory("MachineTotalBytes", "total", "RAM that is not reserved.", |info| info.total.get()),
    memory("MachineFreeBytes", "free", "Free memory.", |info| info.free.get()),
    memory("MachinePromisedBytes", "promised", "Free memory that is set aside for VMs.", |info| info.promised.get()),
    memory("MachineGuestBytes", "guests", "Memory of guests, what they share counted once.", |info| info.guests.get()),
    memory("MachineTableBytes", "tables", "Tables of VMs' memory.", |info| info.nodes.get()),
    memory("MachineHypervisorBytes", "hypervisor", "Data of the hypervisor.", |info| info.hypervisor.get()),
    memory("MachineImageBytes", "images", "Images.", |info| info.images.get()),
    gauge(
        "MachineVirtualMachines",
        ("salp_vms", ""),
        ONES,
        "VMs and snapshots.",
        Read::Machine(|info| info.vms.get().into()),
    ),
    gauge(
        "MachineWaitingForMemory",
        ("salp_vms_waiting_for_memory", ""),
        ONES,
        "VMs that stand still for want of memory.",
        Read::Machine(|info| info.starved.get().into()),
    ),
    gauge("MachineCpus", ("salp_cpus", ""), ONES, "CPUs of the machine.", Read::Machine(|info| info.cpus.get().into())),
    counter(
        "MachineUptimeNanoseconds",
        "salp_uptime_seconds",
        NANOSECONDS,
        "Time since the hypervisor started.",
        Read::Machine(|info| info.uptime.get()),
    ),
    counter(
        "MachineIdleNanoseconds",
        "salp_idle_seconds",
        NANOSECONDS,
        "Time that CPUs had nothing to do, all together.",
        Read::Machine(|info| info.idle.get()),
    ),
    gauge(
        "SystemMemoryBytes",
        ("salp_vm_memory_bytes", ""),
        BYTES,
        "RAM of the VM.",
        Read::Vm(|info| info.memory.get()),
    ),
    gauge(
        "SystemPromisedBytes",
        ("salp_vm_promised_bytes", ""),
        BYTES,
        "Memory set aside for the VM.",
        Read::Vm(|info| info.promised.get()),
    ),
    gauge("SystemVcpus", ("salp_vm_vcpus", ""), ONES, "vCPUs of the VM.", Read::Vm(|info| info.vcpus.get().into())),
    counter(
        "SystemCpuNanoseconds",
        "salp_vm_cpu_seconds",
        NANOSECONDS,
        "Time that the VM's vCPUs ran.",
        Read::Usage(|usage| usage.ran),
    ),
    counter(
        "SystemStealNanoseconds",
        "salp_vm_steal_seconds",
        NANOSECONDS,
        "Time that the VM's vCPUs waited for a CPU that they had to leave to others.",
        Read::Usage(|usage| usage.waited),
    ),
    counter("SystemExits", "salp_vm_exits", ONES, "Exits to the hypervisor.", Read::Vm(|info| info.exits.get())),
    counter("SystemFaults", "salp_vm_faults", ONES, "Stage 2 faults.", Read::Vm(|info| info.faults.get())),
    counter(
        "SystemCopiedPages",
        "salp_vm_copied_pages",
        ONES,
        "Pages copied for the VM.",
        Read::Vm(|info| info.copied_pages.get()),
    ),
    counter(
        "SystemCopiedTables",
        "salp_vm_copied_tables",
        ONES,
        "Table nodes copied for the VM.",
        Read::Vm(|info| info.copied_nodes.get()),
    ),
    counter(
        "SystemMergedPages",
        "salp_vm_merged_pages",
        ONES,
        "Pages merged with equal ones.",
        Read::Vm(|info| info.merged_pages.get()),
    ),
    gauge(
        "SystemLastPauseNanoseconds",
        ("salp_vm_last_pause_seconds", ""),
        NANOSECONDS,
        "How long the VM stood still for the last operation on it.",
        Read::Vm(|info| info.pause.get()),
    ),
    counter(
        "SystemSentFrames",
        "salp_vm_sent_frames",
        ONES,
        "Frames that left the VM's NICs.",
        Read::Nics(|nic| nic.sent[0].get()),
    ),
    counter(
        "SystemSentBytes",
        "salp_vm_sent_bytes",
        BYTES,
        "Bytes that left the VM's NICs.",
        Read::Nics(|nic| nic.sent[1].get()),
    ),
    counter(
        "SystemReceivedFrames",
        "salp_vm_received_frames",
        ONES,
        "Frames that arrived at the VM's NICs.",
        Read::Nics(|nic| nic.received[0].get()),
    ),
    counter(
        "SystemReceivedBytes",
        "salp_vm_received_bytes",
        BYTES,
        "Bytes that arrived at the VM's NICs.",
        Read::Nics(|nic| nic.received[1].get()),
    ),
    gauge(
        "SystemPrivateBytes",
        ("salp_vm_private_bytes", ""),
        BYTES,
        "Memory that nobody else uses.",
        Read::Memory(|memory| memory.private.get()),
    ),
    gauge(
        "SystemSharedBytes",
        ("salp_vm_shared_bytes", ""),
        BYTES,
        "Memory that others use too.",
        Read::Memory(|memory| memory.shared.get()),
    ),
    gauge(
        "SystemOverheadBytes",
        ("salp_vm_overhead_bytes", ""),
        BYTES,
        "What the hypervisor keeps for the VM alone.",
        Read::Memory(|memory| memory.overhead.get()),
    ),
    gauge(
        "SystemSavedBytes",
        ("salp_vm_saved_bytes", ""),
        BYTES,
        "What would be needed besides if the VM shared nothing.",
        Read::Memory(|memory| memory.saved.get()),
    ),
];

/// Returns what is counted of the machine, as the host shows it.
pub fn of_machine(info: &MachineInfo) -> Value {
    let one = |figure: &Figure| Some((figure.name(), figure.of_machine(info)?.into()));
    Value::Object(FIGURES.iter().filter_map(one).collect())
}

/// Returns what is counted of a VM without looking at its memory, as the VM shows it.
pub fn of_vm(hypervisor: &dyn Hypervisor, info: &VmInfo) -> Value {
    let vm = Vm::new(hypervisor, info);
    let own = FIGURES.iter().filter(|figure| !matches!(figure.read, Read::Machine(_) | Read::Memory(_)));
    let one = |figure: &Figure| Some((figure.name(), figure.of_vm(&vm).ok()?.into()));
    Value::Object(own.filter_map(one).collect())
}

/// A VM whose figures are read: each thing that has to be asked for is asked for once.
pub struct Vm<'a> {
    hypervisor: &'a dyn Hypervisor,
    info: &'a VmInfo,
    usage: OnceCell<Answer<Usage>>,
    memory: OnceCell<Answer<VmMemory>>,
    nics: OnceCell<Answer<Vec<NicInfo>>>,
}

impl<'a> Vm<'a> {
    /// Returns a VM of which nothing is known but `info`.
    pub fn new(hypervisor: &'a dyn Hypervisor, info: &'a VmInfo) -> Self {
        Self { hypervisor, info, usage: OnceCell::new(), memory: OnceCell::new(), nics: OnceCell::new() }
    }

    fn usage(&self) -> Answer<Usage> {
        *self.usage.get_or_init(|| self.hypervisor.usage(self.info.id.get()))
    }

    fn memory(&self) -> Answer<VmMemory> {
        *self.memory.get_or_init(|| self.hypervisor.memory(self.info.id.get()))
    }

    fn nics(&self) -> Answer<&[NicInfo]> {
        let ask = || {
            let nic = |index| self.hypervisor.nic(self.info.id.get(), index);
            (0..u64::from(self.info.nics.get())).map(nic).collect()
        };
        self.nics.get_or_init(ask).as_deref().map_err(|refused| *refused)
    }
}

impl Figure {
    /// Returns the name of the property that it is.
    fn name(&self) -> &'static str {
        let id = self.id;
        id.strip_prefix("Machine").or_else(|| id.strip_prefix("System")).unwrap_or(id)
    }

    /// Returns the figure with this identifier.
    pub fn find(id: &str) -> Option<&'static Self> {
        FIGURES.iter().find(|figure| figure.id == id)
    }

    /// Returns whether it is one of each VM.
    pub fn is_of_vm(&self) -> bool {
        !matches!(self.read, Read::Machine(_))
    }

    /// Returns where it is: the path of a resource and a property of it.
    pub fn property(&self, system: &str) -> String {
        let statistic = |name: &str| alloc::format!("#/Oem/Salp/Statistics/{name}");
        let name = self.name();
        match self.read {
            Read::Machine(_) => alloc::format!("{SALP}{}", statistic(name)),
            Read::Memory(_) => alloc::format!("{}/{system}/Oem/Salp/Memory#/Statistics/{name}", systems::SYSTEMS),
            Read::Vm(_) | Read::Usage(_) | Read::Nics(_) => {
                alloc::format!("{}/{system}{}", systems::SYSTEMS, statistic(name))
            }
        }
    }

    /// Reads it of the machine.
    pub fn of_machine(&self, info: &MachineInfo) -> Option<u64> {
        if let Read::Machine(read) = self.read { Some(read(info)) } else { None }
    }

    /// Reads it of a VM.
    pub fn of_vm(&self, vm: &Vm<'_>) -> Answer<u64> {
        match self.read {
            Read::Machine(_) => Ok(0),
            Read::Vm(read) => Ok(read(vm.info)),
            Read::Usage(read) => vm.usage().map(|usage| read(&usage)),
            Read::Memory(read) => vm.memory().map(|memory| read(&memory)),
            Read::Nics(read) => Ok(vm.nics()?.iter().fold(0, |sum, nic| sum.wrapping_add(read(nic)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::testing::Client;
    use alloc::string::ToString;
    use serde_json::Value;

    #[test]
    fn every_property_is_there() {
        let mut client = Client::new(Role::ReadOnly);
        for figure in FIGURES {
            let property = figure.property("2");
            let (path, pointer) = property.split_once('#').unwrap();
            assert!(client.read(path).pointer(pointer).is_some_and(Value::is_u64), "{property}");
        }
    }

    #[test]
    fn identifiers_and_properties_are_unique_and_families_stay_together() {
        let mut seen = std::collections::BTreeSet::new();
        let mut families: alloc::vec::Vec<&str> = FIGURES.iter().map(|figure| figure.family).collect();
        families.dedup();
        assert!(families.iter().all(|family| seen.insert(family.to_string())));
        assert!(FIGURES.iter().all(|figure| seen.insert(figure.id.into()) && seen.insert(figure.property("2"))));
    }
}
