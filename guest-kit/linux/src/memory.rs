//! The way to the device's page: `/dev/mem`. Comes after [`tree`]; [`device`](crate::device) uses the page.
//!
//! Nothing else opens `/dev/mem` for long, so its lock says which salp-guest is at work.

use crate::device::Device;
use crate::sys::Page;
use crate::tree;
use anyhow::{Context, Error, Result, anyhow};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};

/// Physical memory, as the kernel gives it.
const MEMORY: &str = "/dev/mem";

/// The guest device of this machine, and the file that it was mapped from.
#[derive(Debug)]
pub struct Opened {
    /// The device.
    pub device: Device<Page>,
    memory: File,
}

impl Opened {
    /// Finds and maps the guest device.
    ///
    /// # Errors
    ///
    /// Why it cannot be reached, and what to do.
    pub fn open() -> Result<Self> {
        let address = tree::find()?;
        // Without O_SYNC too, Linux maps what is no RAM as a device.
        let memory = OpenOptions::new().read(true).write(true).open(MEMORY).map_err(|error| cannot_open(&error))?;
        let page = Page::map(&memory, address).map_err(|error| cannot_map(error, address))?;
        Ok(Self { device: Device::new(page)?, memory })
    }

    /// Returns a lock, unless another salp-guest holds it.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn try_lock(&self) -> Result<Option<Lock<'_>>> {
        match flock(&self.memory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(&self.memory))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(anyhow!("cannot lock {MEMORY}: {}", io::Error::from(error))),
        }
    }

    /// Returns a lock.
    ///
    /// # Errors
    ///
    /// That another salp-guest holds it.
    pub fn lock(&self) -> Result<Lock<'_>> {
        self.try_lock()?
            .context("another salp-guest freezes this VM or takes an identity on: try again when it is done")
    }
}

/// Says that this process freezes the VM or takes an identity on; the end of the value ends that.
#[derive(Debug)]
pub struct Lock<'a>(&'a File);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // It was locked, so it can be unlocked.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

fn cannot_open(error: &io::Error) -> Error {
    let root = rustix::process::geteuid().is_root();
    let advice = match error.kind() {
        ErrorKind::NotFound => {
            "mount /dev (mount -t devtmpfs devtmpfs /dev), or make it (mknod -m 600 /dev/mem c 1 1); if it still is \
             missing, this kernel was built without CONFIG_DEVMEM=y"
        }
        // Character devices without a driver.
        _ if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            "this kernel was built without CONFIG_DEVMEM=y, which salp-guest needs"
        }
        ErrorKind::PermissionDenied if !root => "salp-guest must be run as root",
        ErrorKind::PermissionDenied if is_locked_down() => LOCKED_DOWN,
        ErrorKind::PermissionDenied => "root needs the capability CAP_SYS_RAWIO: run it outside of containers",
        _ => "it is needed to reach the guest device",
    };
    anyhow!("cannot open {MEMORY} ({error}): {advice}")
}

fn cannot_map(error: Errno, address: u64) -> Error {
    let advice = match error {
        Errno::PERM if is_locked_down() => LOCKED_DOWN,
        Errno::PERM => {
            "the kernel (CONFIG_IO_STRICT_DEVMEM) keeps it for a driver that has claimed it: /proc/iomem says which, \
             and iomem=relaxed on the kernel's command line allows it"
        }
        _ => "it is needed to reach the guest device",
    };
    anyhow!("cannot map the page at {address:#x} of {MEMORY} ({}): {advice}", io::Error::from(error))
}

const LOCKED_DOWN: &str = "this kernel is locked down (see /sys/kernel/security/lockdown), which closes /dev/mem: start it \
                           without lockdown= on its command line";

/// Returns whether the kernel keeps root from physical memory.
fn is_locked_down() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown").is_ok_and(|modes| locked_down(&modes))
}

/// The mode in force is in brackets.
fn locked_down(modes: &str) -> bool {
    modes.contains("[integrity]") || modes.contains("[confidentiality]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_in_brackets_says_whether_a_kernel_is_locked_down() {
        assert!(!locked_down("[none] integrity confidentiality\n"));
        assert!(locked_down("none [integrity] confidentiality\n"));
    }

    #[test]
    fn a_missing_file_and_a_missing_driver_get_different_advice() {
        let advice = |number| cannot_open(&io::Error::from_raw_os_error(number)).to_string();
        assert!(advice(Errno::NOENT.raw_os_error()).contains("mount /dev"));
        assert!(advice(Errno::NXIO.raw_os_error()).contains("built without CONFIG_DEVMEM=y"));
    }
}
