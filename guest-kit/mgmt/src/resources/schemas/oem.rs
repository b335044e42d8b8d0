//! What only Salp has: every property and action of ours with its type. Before: resources. After: [`schemas`](super), which
//! writes it as CSDL; a test compares what resources say with it.

use Access::{Read, Write};
use Kind::{Flag, Link, Links, Number, Part, Status, Text, Texts, Time};

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Number,
    /// Yes or no.
    Flag,
    /// A moment.
    Time,
    /// State and health, as all of Redfish has them.
    Status,
    /// A type of the same schema.
    Part(&'static str),
    /// A link to a resource of another schema.
    Link(&'static str),
    /// Links.
    Links(&'static str),
    /// Texts.
    Texts,
}

/// Who may change a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    Read,
    /// Whoever may change the resource.
    Write,
}

/// What a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// A resource.
    Resource,
    /// A collection of resources.
    Collection,
    /// What is in `Oem` of a resource of the standard.
    Object,
}

/// A property: its name, what it is, who may change it, what it says.
pub type Property = (&'static str, Kind, Access, &'static str);

/// A parameter of an action: its name, its type, what it says.
pub type Parameter = (&'static str, &'static str, &'static str);

/// A schema.
#[derive(Debug)]
pub struct Schema {
    /// Its name, and that of its type.
    pub name: &'static str,
    /// What it describes.
    pub base: Base,
    /// Where resources are.
    pub uris: &'static [&'static str],
    /// Whether they can be made, changed and deleted there.
    pub can: [bool; 3],
    /// Properties, besides those that every resource has.
    pub properties: &'static [Property],
    /// Types of properties.
    pub parts: &'static [(&'static str, &'static [Property])],
    /// Types that are one of some words.
    pub words: &'static [(&'static str, &'static [&'static str])],
    /// The resource of the standard that actions are of.
    pub of: &'static str,
    /// Actions.
    pub actions: &'static [(&'static str, &'static [Parameter])],
}

const NONE: Schema = Schema {
    name: "",
    base: Base::Object,
    uris: &[],
    can: [false; 3],
    properties: &[],
    parts: &[],
    words: &[],
    of: "ComputerSystem",
    actions: &[],
};

const CLONE: &[Parameter] = &[
    ("Name", "Edm.String", "The name; of several clones what it begins with."),
    ("Count", "Edm.Int64", "How many clones."),
    ("Config", "Collection(Edm.ComplexType)", "Keys and values for the clones."),
    ("UUID", "Edm.Guid", "The UUID of the one clone."),
    ("NicsToUpdate", "Collection(Edm.ComplexType)", "NICs that go elsewhere."),
    ("DisconnectAllNics", "Edm.Boolean", "Whether NICs stay unplugged."),
];

/// All schemas.
pub const SCHEMAS: &[Schema] = &[
    Schema {
        name: "SalpServiceRoot",
        properties: &[
            ("Images", Link("SalpImageCollection"), Read, "What VMs are made from."),
            ("Snapshots", Link("SalpSnapshotCollection"), Read, "Kept states of VMs."),
        ],
        ..NONE
    },
    Schema {
        name: "SalpAggregationService",
        of: "AggregationService",
        properties: &[("MaxSystems", Number, Read, "How many systems one request may be about.")],
        actions: &[(
            "DeleteSystems",
            &[
                ("TargetURIs", "Collection(ComputerSystem.ComputerSystem)", "Which systems."),
                ("Filter", "Edm.String", "A condition as in a query: the systems that it takes."),
            ],
        )],
        ..NONE
    },
    Schema {
        name: "SalpEventDestination",
        properties: &[
            ("UserName", Text, Read, "Who made it."),
            ("LostEvents", Number, Read, "How many events it has missed."),
            ("Filter", Text, Read, "What a listener that is connected asked for."),
        ],
        ..NONE
    },
    Schema {
        name: "SalpMetricReport",
        properties: &[("LeftOutValues", Number, Read, "How many values there was no room for.")],
        ..NONE
    },
    Schema {
        name: "SalpManager",
        properties: &[
            ("Statistics", Part("Statistics"), Read, "Memory of the machine."),
            ("Watchdog", Part("Watchdog"), Read, "What resets the machine when the hypervisor hangs."),
        ],
        parts: &[
            (
                "Statistics",
                &[
                    ("TotalBytes", Number, Read, "RAM that is not reserved."),
                    ("FreeBytes", Number, Read, "Free memory."),
                    ("PromisedBytes", Number, Read, "Free, but set aside for VMs."),
                    ("GuestBytes", Number, Read, "Memory of guests, what they share counted once."),
                    ("TableBytes", Number, Read, "Nodes of their tables."),
                    ("HypervisorBytes", Number, Read, "Data of the hypervisor."),
                    ("ImageBytes", Number, Read, "Images."),
                    ("VirtualMachines", Number, Read, "VMs and snapshots."),
                    ("WaitingForMemory", Number, Read, "VMs that stand still for want of memory."),
                    ("Cpus", Number, Read, "CPUs of the machine."),
                    ("UptimeNanoseconds", Number, Read, "Time since the hypervisor started."),
                    ("IdleNanoseconds", Number, Read, "Time that CPUs had nothing to do, all together."),
                ],
            ),
            (
                "Watchdog",
                &[
                    ("FunctionEnabled", Flag, Read, "Whether there is one."),
                    ("CausedLastReset", Flag, Read, "Whether it made the last reset."),
                ],
            ),
        ],
        ..NONE
    },
    Schema {
        name: "SalpSoftwareInventory",
        of: "SoftwareInventory",
        properties: &[
            ("Standing", Part("Standing"), Read, "What the slot is good for."),
            ("Attempts", Number, Read, "How often it was tried."),
            ("SecurityCounter", Number, Read, "Images with a lower one than was confirmed do not start."),
            ("SHA256", Text, Read, "The digest of the image."),
        ],
        words: &[("Standing", &["Confirmed", "Trial", "Staged", "Previous", "Failed", "Empty"])],
        ..NONE
    },
    Schema {
        name: "SalpComputerSystem",
        properties: &[
            ("State", Part("State"), Read, "The hypervisor's word for the state."),
            ("FamilyId", Text, Read, "The VM that this one descends from."),
            ("SourceId", Text, Read, "The VM or snapshot that it was cloned from."),
            ("CloneIndex", Number, Read, "Its number among the clones of one request."),
            ("GenerationId", Text, Read, "Another one after each clone and revert."),
            ("MACAddress", Text, Read, "The address of the first NIC."),
            ("IdentityAcknowledged", Flag, Read, "Whether the guest has taken its identity on."),
            ("ConsoleURI", Text, Read, "Where the console is."),
            ("WaitsForMemory", Flag, Read, "Whether it stands still for want of memory."),
            ("PromisedBytes", Number, Read, "Memory set aside for it."),
            ("Memory", Link("SalpMemory"), Read, "Its memory, counted."),
            ("Kernel", Link("SalpImage"), Write, "The kernel."),
            ("Initrd", Link("SalpImage"), Write, "The initial RAM disk."),
            ("CommandLine", Text, Write, "Boot arguments."),
            ("RestartPolicy", Part("RestartPolicy"), Write, "What happens when it crashes."),
            ("SmallPages", Flag, Write, "Whether its memory is in pages of 4 KiB only."),
            ("LoadAddress", Number, Write, "Where a flat binary lies."),
            ("EntryAddress", Number, Write, "Where a flat binary begins."),
            ("Agent", Part("Agent"), Read, "What the agent in the guest tells."),
            ("Statistics", Part("Statistics"), Read, "What was counted."),
        ],
        parts: &[
            (
                "Agent",
                &[
                    ("GuestState", Part("GuestState"), Read, "Whether it tells."),
                    ("ApplicationState", Part("ApplicationState"), Read, "Whether the application lives."),
                    ("HostName", Text, Read, "The guest's host name."),
                    ("Addresses", Texts, Read, "Addresses that the guest has."),
                    ("Statistics", Part("AgentStatistics"), Read, "What was counted."),
                ],
            ),
            (
                "AgentStatistics",
                &[
                    ("Heartbeats", Number, Read, "How often it has told."),
                    ("HeartbeatAgeSeconds", Number, Read, "How long ago the last time was."),
                    ("ApplicationHeartbeatAgeSeconds", Number, Read, "How long ago the application lived."),
                ],
            ),
            (
                "Statistics",
                &[
                    ("MemoryBytes", Number, Read, "RAM of the VM."),
                    ("PromisedBytes", Number, Read, "Memory set aside for it."),
                    ("Vcpus", Number, Read, "vCPUs of the VM."),
                    ("CpuNanoseconds", Number, Read, "Time that its vCPUs ran."),
                    ("StealNanoseconds", Number, Read, "Time that its vCPUs waited for a CPU that they had to leave."),
                    ("SentFrames", Number, Read, "Frames that left its NICs."),
                    ("SentBytes", Number, Read, "Bytes that left its NICs."),
                    ("ReceivedFrames", Number, Read, "Frames that arrived at its NICs."),
                    ("ReceivedBytes", Number, Read, "Bytes that arrived at its NICs."),
                    ("Exits", Number, Read, "Exits to the hypervisor."),
                    ("Faults", Number, Read, "Stage 2 faults."),
                    ("CopiedPages", Number, Read, "Pages copied for it."),
                    ("CopiedTables", Number, Read, "Nodes of its table copied for it."),
                    ("MergedPages", Number, Read, "Pages merged with equal ones."),
                    ("LastPauseNanoseconds", Number, Read, "How long it stood still for the last operation."),
                ],
            ),
        ],
        words: &[
            ("State", &["running", "frozen", "no-memory", "off", "ending"]),
            ("RestartPolicy", &["Never", "OnCrash"]),
            ("GuestState", &["Up", "Silent"]),
            ("ApplicationState", &["Up", "Down"]),
        ],
        actions: &[
            ("InstantClone", CLONE),
            ("Freeze", &[]),
            ("Unfreeze", &[]),
            ("Snapshot", &[("Name", "Edm.String", "The name of the snapshot.")]),
            ("Revert", &[("Snapshot", "SalpSnapshot.SalpSnapshot", "The snapshot.")]),
        ],
        ..NONE
    },
    Schema {
        name: "SalpEthernetInterface",
        properties: &[
            ("Segment", Text, Write, "The segment that it is in."),
            ("Quarantined", Flag, Read, "Whether it waits for the guest to take its identity on."),
            ("RateBytesPerSecond", Number, Write, "How much it may send; 0 for no limit."),
            ("Statistics", Part("Statistics"), Read, "What was counted."),
        ],
        parts: &[(
            "Statistics",
            &[
                ("SentFrames", Number, Read, "Frames that left."),
                ("SentBytes", Number, Read, "Their bytes."),
                ("ReceivedFrames", Number, Read, "Frames that arrived."),
                ("ReceivedBytes", Number, Read, "Their bytes."),
                ("RefusedForQuarantine", Number, Read, "Frames of a clone without an identity."),
                ("RefusedForAddress", Number, Read, "Frames with addresses of others."),
                ("RefusedForRate", Number, Read, "Frames above the rate."),
                ("RefusedMalformed", Number, Read, "Frames that are none."),
                ("MissedFrames", Number, Read, "Frames that found no buffer."),
            ],
        )],
        ..NONE
    },
    Schema {
        name: "SalpImage",
        base: Base::Resource,
        uris: &["/redfish/v1/Oem/Salp/Images/{SalpImageId}"],
        can: [false, true, true],
        properties: &[
            ("Kind", Part("Kind"), Read, "What it is for."),
            ("State", Part("State"), Read, "Whether it is whole."),
            ("Status", Status, Read, "State and health."),
            ("SizeBytes", Number, Read, "Its size."),
            ("ReceivedBytes", Number, Read, "How much of it has come."),
            ("Users", Number, Read, "How many VMs and snapshots are made from it."),
            ("ModifiedTime", Time, Read, "When the last byte came."),
            ("SHA256", Text, Read, "The digest of a whole one."),
        ],
        words: &[("Kind", &["Raw", "Kernel", "Initrd"]), ("State", &["Uploading", "Ready"])],
        ..NONE
    },
    Schema {
        name: "SalpImageCollection",
        base: Base::Collection,
        can: [true, false, false],
        uris: &["/redfish/v1/Oem/Salp/Images"],
        properties: &[("Members", Links("SalpImage"), Read, "Images.")],
        ..NONE
    },
    Schema {
        name: "SalpMemory",
        base: Base::Resource,
        uris: &["/redfish/v1/Systems/{ComputerSystemId}/Oem/Salp/Memory"],
        properties: &[("Statistics", Part("Statistics"), Read, "What was counted, in bytes.")],
        parts: &[(
            "Statistics",
            &[
                ("PrivateBytes", Number, Read, "Memory that nobody else uses."),
                ("SharedBytes", Number, Read, "Memory that others use too."),
                ("OverheadBytes", Number, Read, "What the hypervisor keeps for this VM alone."),
                ("SavedBytes", Number, Read, "What would be needed besides if it shared nothing."),
            ],
        )],
        ..NONE
    },
    Schema {
        name: "SalpSnapshot",
        base: Base::Resource,
        uris: &["/redfish/v1/Oem/Salp/Snapshots/{SalpSnapshotId}"],
        can: [false, false, true],
        properties: &[
            ("SourceId", Text, Read, "The VM that it was taken of."),
            ("FamilyId", Text, Read, "The VM that this one descends from."),
            ("MemoryBytes", Number, Read, "RAM of the VM."),
            ("Actions", Part("Actions"), Read, "What can be done."),
        ],
        parts: &[("Actions", &[])],
        actions: &[("InstantClone", CLONE)],
        ..NONE
    },
    Schema {
        name: "SalpSnapshotCollection",
        base: Base::Collection,
        uris: &["/redfish/v1/Oem/Salp/Snapshots"],
        properties: &[("Members", Links("SalpSnapshot"), Read, "Snapshots.")],
        ..NONE
    },
];
