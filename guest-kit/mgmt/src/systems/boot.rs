//! From where VMs start: their own images, a medium in the drive, or an address. Before: [`resources`](crate::resources).
//! After: [`media::kernel`](crate::media::kernel), which finds what there is to start; [`build`](super::build).
//!
//! What was chosen is kept in a record at EL2, and nowhere else.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_board::kernel::FlatPlace;
use salp_hvc::calls::{STATE_OFF, VmInfo};
use salp_json::{Parsed, json};

use super::build;
use super::definition::Definition;
use crate::hypervisor::{self, Answer, Hypervisor};
use crate::images::{self, Library};
use crate::media::{self, kernel};
use crate::message::Failure;
use crate::state;

/// From where a VM can be made to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// From where it starts by itself.
    #[default]
    None,
    /// Its own images: it has no disk.
    Hdd,
    /// The medium in its drive.
    Cd,
    /// An address that this guest fetches for it, if there is one: there is no firmware in the VM that would.
    Pxe,
    /// An address, which there has to be.
    UefiHttp,
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enabled {
    /// Never.
    #[default]
    Disabled,
    /// The next time.
    Once,
    /// Each time.
    Continuous,
}

impl Target {
    /// All, with their names.
    pub const ALL: [(&str, Self); 5] =
        [("None", Self::None), ("Hdd", Self::Hdd), ("Cd", Self::Cd), ("Pxe", Self::Pxe), ("UefiHttp", Self::UefiHttp)];
}

impl Enabled {
    /// All, with their names.
    pub const ALL: [(&str, Self); 3] =
        [("Disabled", Self::Disabled), ("Once", Self::Once), ("Continuous", Self::Continuous)];
}

/// Returns what a name stands for.
pub fn named<T: Copy>(all: &[(&str, T)], name: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
}

/// Returns the name of something.
pub fn name_of<T: PartialEq>(all: &[(&'static str, T)], value: &T) -> &'static str {
    all.iter().find(|(_, known)| known == value).map_or("", |(name, _)| name)
}

/// From where one VM starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// From where instead of its order.
    pub target: Target,
    /// How often.
    pub enabled: Enabled,
    /// The address for [`Target::Pxe`] and [`Target::UefiHttp`].
    pub address: String,
    /// A medium comes before its own images, if there is one.
    pub is_cd_first: bool,
    /// It was asked to shut down, and is to be started when it is off.
    pub waits: bool,
    /// It was started from something else than its images until it is off.
    pub is_elsewhere: bool,
}

/// From where VMs start that were told.
#[derive(Clone, Debug, Default)]
pub struct Boots(Vec<(u64, Boot)>);

impl Boots {
    /// Returns what is kept.
    pub fn recall(hypervisor: &dyn Hypervisor) -> Self {
        let entry = |value: &Parsed| {
            let text = |name: &str| value[name].as_str().unwrap_or_default();
            let boot = Boot {
                target: named(&Target::ALL, text("Target")).unwrap_or_default(),
                enabled: named(&Enabled::ALL, text("Enabled")).unwrap_or_default(),
                address: text("Address").to_string(),
                is_cd_first: value["CdFirst"] == true,
                waits: value["Waits"] == true,
                is_elsewhere: value["Elsewhere"] == true,
            };
            Some((value["Id"].as_u64()?, boot))
        };
        Self(state::recall_list(hypervisor, state::BOOTS).iter().filter_map(entry).collect())
    }

    /// Returns that of a VM.
    pub fn of(&self, id: u64) -> Boot {
        self.0.iter().find(|(vm, _)| *vm == id).map(|(_, boot)| boot.clone()).unwrap_or_default()
    }

    /// Keeps that of a VM; those of VMs that are gone are forgotten.
    ///
    /// # Errors
    ///
    /// If there is no room for it.
    pub fn set(mut self, hypervisor: &mut dyn Hypervisor, id: u64, boot: Boot) -> Answer<()> {
        self.0.retain(|(vm, _)| *vm != id && hypervisor.find(*vm).is_ok());
        if boot != Boot::default() {
            self.0.push((id, boot));
        }
        let entry = |(id, boot): &(u64, Boot)| {
            let (target, enabled) = (name_of(&Target::ALL, &boot.target), name_of(&Enabled::ALL, &boot.enabled));
            json!({ "Id": id, "Target": target, "Enabled": enabled, "Address": &boot.address,
                "CdFirst": boot.is_cd_first, "Waits": boot.waits, "Elsewhere": boot.is_elsewhere })
        };
        state::keep_list(hypervisor, state::BOOTS, self.0.iter().map(entry).collect())
    }

    /// Returns the VMs that are to be started when they are off.
    fn waiting(&self) -> Vec<u64> {
        self.0.iter().filter(|(_, boot)| boot.waits).map(|(id, _)| *id).collect()
    }
}

/// Changes from where a VM starts.
///
/// # Errors
///
/// If there is no room for it.
pub fn change(hypervisor: &mut dyn Hypervisor, id: u64, change: impl FnOnce(&mut Boot)) -> Answer<()> {
    let boots = Boots::recall(hypervisor);
    let before = boots.of(id);
    let mut boot = before.clone();
    change(&mut boot);
    if boot == before { Ok(()) } else { boots.set(hypervisor, id, boot) }
}

/// From where a VM starts next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its own images.
    Images,
    /// The medium in its drive: this image; none if there is none.
    Medium(Option<u64>),
    /// This address.
    Address(String),
}

/// Returns from where a VM starts next.
///
/// # Errors
///
/// If there is no such VM.
pub fn source(hypervisor: &dyn Hypervisor, id: u64) -> Answer<Source> {
    let boot = Boots::recall(hypervisor).of(id);
    let target = if boot.enabled == Enabled::Disabled { Target::None } else { boot.target };
    Ok(match target {
        Target::Hdd => Source::Images,
        Target::Cd => Source::Medium(hypervisor.medium(id)?),
        Target::UefiHttp => Source::Address(boot.address),
        Target::Pxe if !boot.address.is_empty() => Source::Address(boot.address),
        // No server answers: what comes next is started, as by a ROM.
        Target::Pxe | Target::None if boot.is_cd_first => {
            hypervisor.medium(id)?.map_or(Source::Images, |image| Source::Medium(Some(image)))
        }
        Target::Pxe | Target::None => Source::Images,
    })
}

/// Returns a VM as it is to be built to start from something else: as it was made, or as it is seen.
fn definition(hypervisor: &dyn Hypervisor, info: &VmInfo) -> Definition {
    super::definition(hypervisor, &Library::default(), info).unwrap_or_else(|| Definition {
        name: hypervisor::name_text(&info.name).to_string(),
        vcpus: info.vcpus.get(),
        memory: info.memory.get(),
        kernel: 0,
        initrd: None,
        command_line: String::new(),
        flat: FlatPlace::default(),
        restarts: false,
        small_pages: false,
        nics: Vec::new(),
    })
}

/// Returns true if a VM that starts again by itself starts from where it is to start.
pub fn starts_as_it_runs(hypervisor: &dyn Hypervisor, id: u64) -> bool {
    let boot = Boots::recall(hypervisor).of(id);
    // An override for once is over when this service has started the VM.
    let is_over = boot.enabled != Enabled::Once;
    is_over && !boot.is_elsewhere && source(hypervisor, id).is_ok_and(|source| source == Source::Images)
}

/// Returns the records by which a VM starts from an image: what can be started is looked for in it.
fn prepare(hypervisor: &mut dyn Hypervisor, info: &VmInfo, image: u64, now: u64) -> Result<Vec<u8>, Failure> {
    let refused = |refused| Failure::refused(refused, "/redfish/v1/Systems");
    let medium = hypervisor::image(hypervisor, image).map_err(refused)?;
    let found = kernel::extract(hypervisor, &medium, now)?;
    let mut definition = definition(hypervisor, info);
    // EL2 takes from the description what is started, and leaves the rest of the VM as it is.
    definition.nics.resize_with(info.nics.get() as usize, media::some_nic);
    definition.kernel = found.kernel;
    definition.initrd = found.initrd;
    definition.command_line = found.command_line;
    definition.flat = FlatPlace::default();
    build::prepare(hypervisor, &definition, now)
}

/// Starts a VM from where it is to start, one that is on again; `fetched` is the image that its address led to. An override for
/// once is over then.
///
/// # Errors
///
/// If there is nothing that could be started: the VM is as before. If EL2 refuses, it is off.
pub fn start(hypervisor: &mut dyn Hypervisor, id: u64, fetched: Option<u64>, now: u64) -> Result<(), Failure> {
    let refused = |refused| Failure::refused(refused, "/redfish/v1/Systems");
    let info = hypervisor::vm(hypervisor, id).map_err(refused)?;
    let boot = Boots::recall(hypervisor).of(id);
    let image = match (source(hypervisor, id).map_err(refused)?, fetched) {
        (Source::Images, _) => None,
        (Source::Medium(Some(image)), _) | (Source::Address(_), Some(image)) => Some(image),
        (Source::Medium(None), _) => {
            return Err(Failure::because(409, "The VM is to start from its drive, and there is no medium in it."));
        }
        (Source::Address(_), None) => {
            return Err(Failure::because(409, "What is to be started has to be fetched first."));
        }
    };
    let is_on = info.state.get() != STATE_OFF;
    let lasts = boot.enabled != Enabled::Once;
    let started = match image {
        None if is_on && !boot.is_elsewhere => hypervisor.reset(id).map_err(refused),
        None => stop(hypervisor, id, is_on).and_then(|()| hypervisor.start(id)).map_err(refused),
        Some(image) => prepare(hypervisor, &info, image, now).and_then(|records| {
            let stopped = stop(hypervisor, id, is_on);
            stopped.and_then(|()| hypervisor.start_from(id, &records, lasts)).map_err(refused)
        }),
    };
    // What was made for it goes with it.
    images::sweep(hypervisor, now);
    started?;
    let is_over = |boot: &mut Boot| {
        boot.waits = false;
        boot.is_elsewhere = image.is_some() && lasts;
        if boot.enabled == Enabled::Once {
            (boot.enabled, boot.target) = (Enabled::Disabled, Target::None);
        }
    };
    // What is there already has room.
    let _ = change(hypervisor, id, is_over);
    Ok(())
}

fn stop(hypervisor: &mut dyn Hypervisor, id: u64, is_on: bool) -> Answer<()> {
    if is_on { hypervisor.stop(id) } else { Ok(()) }
}

/// Starts VMs that were asked to shut down for that, and are off.
pub fn go_on(hypervisor: &mut dyn Hypervisor, now: u64) {
    for id in Boots::recall(hypervisor).waiting() {
        match hypervisor.find(id) {
            Ok(info) if info.state.get() == STATE_OFF => {
                if start(hypervisor, id, None, now).is_err() {
                    // It stays off: who looks sees that.
                    let _ = change(hypervisor, id, |boot| boot.waits = false);
                }
            }
            Ok(_) => {}
            Err(_) => {
                let _ = change(hypervisor, id, |boot| boot.waits = false);
            }
        }
    }
}
