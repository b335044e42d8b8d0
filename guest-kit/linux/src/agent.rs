//! Tells the manager how this guest is: that it lives, its name and addresses, whether its application lives. The report goes
//! through registers of the [`device`](crate::device), a word at a time, and then as a whole; [`netlink`](crate::netlink)
//! knows the addresses.
//!
//! The registers keep what was written, so that a heartbeat without news is one store. A clone's have nothing in them.

use crate::device::{Device, Registers};
use crate::netlink::{Held, Link, Socket};
use anyhow::{Context, Result};
use salp_hvc::agent::{AGENT_APPLICATION, AGENT_NICS, AGENT_VERSION, AGENT_WATCHES, AgentNic, AgentReport};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use zerocopy::{FromZeros, IntoBytes};

/// How long a host name can be.
const MAX_NAME: usize = 63;
/// How often it is looked whether a command has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// Returns whether an application lives: whether a command of the shell's succeeds in this time.
///
/// # Errors
///
/// There is no shell.
pub fn lives(command: &str, time: Duration) -> Result<bool> {
    let mut shell = Command::new("/bin/sh");
    let shell = shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = shell.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let begin = Instant::now();
    while begin.elapsed() < time {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        thread::sleep(PAUSE);
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}

/// Returns the report of this guest, with whether its application lives, if somebody looks after one.
///
/// # Errors
///
/// The kernel does not tell its interfaces.
pub fn look(application: Option<bool>) -> Result<AgentReport> {
    let mut socket = Socket::open()?;
    let mut nics = Vec::new();
    for link in socket.links()?.into_iter().filter(|link| !link.loopback && link.ethernet) {
        let held = socket.addresses(link.index)?;
        nics.extend(nic(&link, &held));
    }
    Ok(report(&rustix::system::uname().nodename().to_string_lossy(), &nics, application))
}

fn nic(link: &Link, held: &[Held]) -> Option<AgentNic> {
    let mut nic = AgentNic { mac: link.mac?.0, ..AgentNic::new_zeroed() };
    // The first of each kind.
    for held in held.iter().rev() {
        match held.prefix.address {
            IpAddr::V4(address) => nic.ipv4 = address.octets(),
            IpAddr::V6(address) => nic.ipv6 = address.octets(),
        }
    }
    Some(nic)
}

fn report(name: &str, nics: &[AgentNic], application: Option<bool>) -> AgentReport {
    let mut report = AgentReport::new_zeroed();
    report.version = AGENT_VERSION.into();
    report.flags = match application {
        None => 0,
        Some(false) => AGENT_WATCHES,
        Some(true) => AGENT_WATCHES | AGENT_APPLICATION,
    }
    .into();
    // Some kernels take any bytes for a name.
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) { byte } else { b'-' };
    let name = name.bytes().take(MAX_NAME).map(plain);
    report.host_name.iter_mut().zip(name).for_each(|(to, byte)| *to = byte);
    report.nics.iter_mut().zip(nics.iter().take(AGENT_NICS)).for_each(|(to, nic)| *to = *nic);
    report
}

/// Knows what the registers hold.
#[derive(Debug, Default)]
pub struct Teller {
    words: Vec<u32>,
    epoch: Option<u32>,
}

impl Teller {
    /// Tells this report. A VM may get another identity at any instruction: then all of it is written again.
    pub fn tell<R: Registers>(&mut self, device: &Device<R>, report: &AgentReport) {
        let words: Vec<u32> = report
            .as_bytes()
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        loop {
            let epoch = device.epoch();
            if self.epoch != Some(epoch) {
                self.words.clear();
            }
            for (index, &word) in words.iter().enumerate() {
                if self.words.get(index) != Some(&word) {
                    device.stage(index, word);
                }
            }
            device.report();
            (self.words, self.epoch) = (words.clone(), Some(epoch));
            if device.epoch() == epoch {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Mac;
    use crate::testing::Fake;

    fn link() -> Link {
        let mac = Some(Mac([2, 0, 0, 0, 0, 7]));
        Link { index: 2, name: "eth0".into(), loopback: false, ethernet: true, up: true, mac }
    }

    fn held(text: &str) -> Held {
        Held { prefix: text.parse().expect("a prefix"), permanent: true }
    }

    #[test]
    fn a_report_has_the_name_and_the_first_address_of_each_kind() {
        let nic = nic(&link(), &["10.0.0.5/24", "fd00::5/64", "10.0.0.6/24"].map(held)).expect("a NIC");
        assert_eq!((nic.mac[5], nic.ipv4, nic.ipv6[15]), (7, [10, 0, 0, 5], 5));
        let report = report(&format!("web 1{}", "x".repeat(100)), &[nic; 9], Some(true));
        assert_eq!((&report.host_name[..6], report.host_name[63]), (&b"web-1x"[..], 0));
        assert_eq!((report.flags.get(), report.nics[3]), (AGENT_WATCHES | AGENT_APPLICATION, nic));
    }

    #[test]
    fn only_what_is_new_is_written_and_all_of_it_in_a_clone() {
        let device = Fake::source("web").device();
        let mut teller = Teller::default();
        teller.tell(&device, &report("web", &[], None));
        assert_eq!(device.registers().staged(), 46);
        teller.tell(&device, &report("web", &[], None));
        assert_eq!(device.registers().staged(), 46);
        teller.tell(&device, &report("web", &[], Some(true)));
        assert_eq!(device.registers().staged(), 47);
        device.registers().become_clone(&Fake::clone_of("web", 1));
        teller.tell(&device, &report("web", &[], Some(true)));
        assert_eq!(device.registers().staged(), 47 + 46);
    }

    #[test]
    fn a_report_in_the_middle_of_which_the_vm_is_cloned_is_told_again() {
        let device = Fake::source("web").device();
        // The first load is before the words, the second behind them.
        device.registers().change_at_load_of_epoch(2, Fake::clone_of("web", 1));
        Teller::default().tell(&device, &report("web", &[], None));
        assert_eq!(device.registers().staged(), 2 * 46);
        assert_eq!(device.registers().commands(), [3, 3]);
    }

    #[test]
    fn an_application_lives_if_its_command_succeeds_in_time() {
        let short = Duration::from_millis(200);
        assert!(lives("true", Duration::from_secs(60)).expect("a shell"));
        assert!(!lives("exit 3", Duration::from_secs(60)).expect("a shell"));
        assert!(!lives("sleep 60", short).expect("a shell"));
    }
}
