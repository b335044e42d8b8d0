//! The management guest of a machine: the VM that it is, and how people and scripts first reach it.
//!
//! Beside [`prepare`](crate::prepare): [`guest`] is one VM more for the boot set, [`Contact`] is what it says of itself on the
//! machine's console when it first starts. Nothing else tells its password or vouches for its certificate.

use crate::image;
use crate::kernel::{self, FlatPlace};
use crate::machine::Uplink;
use crate::nic::Nic;
use crate::place::{Placed, place};
use crate::vm::{Restart, VmRequest};
use anyhow::{Context, Result, ensure};
use salp_hvc::bootset::{MAX_NICS, UPLINK};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The name of its VM.
pub const NAME: &str = "mgmt";

/// Its RAM, in bytes.
pub const MEMORY: u64 = 32 << 20;

/// The port that it serves.
const HTTPS: u16 = 443;

/// The host's port for it, if that is free and none was asked for.
const USUAL_PORT: u16 = 8443;

/// Its address on QEMU's network, below those that QEMU gives out.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 9);

/// The first address that QEMU gives out.
const FIRST_LEASE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// How it reaches the world there.
const NETWORK: &str = "address=10.0.2.9/24 gateway=10.0.2.2 dns=10.0.2.3";

/// A segment on which the management guest gives out addresses: `SEGMENT=ADDRESS/LENGTH`, its own address there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leases {
    segment: Nic,
    address: String,
}

impl FromStr for Leases {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (segment, address) = text.rsplit_once('=').context("it is SEGMENT=ADDRESS/LENGTH, like lan=10.1.0.1/24")?;
        let (ip, length) = address.split_once('/').with_context(|| format!("{address} has no /LENGTH"))?;
        let _: Ipv4Addr = ip.parse().with_context(|| format!("{ip} is no IPv4 address"))?;
        let good = length.parse().is_ok_and(|length: u8| (8..=30).contains(&length));
        ensure!(good, "/{length}: a segment's length is 8 to 30");
        let segment: Nic = segment.parse()?;
        ensure!(segment.segment != UPLINK, "{UPLINK} is the world's segment: addresses there are not ours to give");
        Ok(Self { segment, address: address.into() })
    }
}

/// Returns the management guest, with boot arguments of its own: none for DHCP.
///
/// # Errors
///
/// What cargo says, or more segments than it has NICs for.
pub fn guest(append: &str, leases: &[Leases]) -> Result<Placed> {
    guest_with(MEMORY, append, leases)
}

fn guest_with(memory: u64, append: &str, leases: &[Leases]) -> Result<Placed> {
    ensure!(leases.len() < MAX_NICS as usize, "--dhcp: the management guest has {} NICs for segments", MAX_NICS - 1);
    let path = image::build_management()?;
    let uplink = Nic { segment: UPLINK.into(), ..Nic::default() };
    let served = leases.iter().map(|leases| leases.segment.clone());
    let vm = VmRequest {
        memory,
        restart: Restart::OnCrash,
        manager: true,
        nics: std::iter::once(uplink).chain(served).collect(),
        ..VmRequest::new(NAME, NAME)
    };
    let words = leases.iter().zip(1..).map(|(leases, nic)| format!("dhcp={nic}:{}", leases.address));
    let append = std::iter::once(append.to_string()).chain(words).collect::<Vec<_>>().join(" ");
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    kernel::read(&bytes, FlatPlace::default(), vm.memory)
        .and_then(|kernel| place(&vm, kernel, None, append.trim()))
        .with_context(|| format!("the management guest {}", path.display()))
}

/// Returns the management guest as it is on QEMU's network, with further boot arguments.
///
/// # Errors
///
/// As [`guest`].
pub fn guest_on_qemu(append: &str, leases: &[Leases]) -> Result<Placed> {
    guest_on_qemu_with(MEMORY, append, leases)
}

/// Returns the same with so much RAM, in bytes.
///
/// # Errors
///
/// As [`guest`].
pub fn guest_on_qemu_with(memory: u64, append: &str, leases: &[Leases]) -> Result<Placed> {
    guest_with(memory, &format!("{NETWORK} {append}"), leases)
}

fn claim(port: u16) -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()?.port())
}

/// Returns a port of the host's loopback address that is free now.
///
/// # Errors
///
/// There is none.
pub fn free_port() -> Result<u16> {
    claim(0).context("no port is free")
}

/// Makes connections to a port of the host's loopback address go to the management guest.
///
/// # Errors
///
/// The port is not free, or none is.
pub fn forward(uplink: &mut Uplink, port: Option<u16>) -> Result<u16> {
    forward_to(uplink, port, ADDRESS)
}

/// The same for a management guest that asks QEMU for its address: it is the first who does.
///
/// # Errors
///
/// As [`forward`].
pub fn forward_leased(uplink: &mut Uplink, port: Option<u16>) -> Result<u16> {
    forward_to(uplink, port, FIRST_LEASE)
}

fn forward_to(uplink: &mut Uplink, port: Option<u16>, address: Ipv4Addr) -> Result<u16> {
    let port = match port {
        Some(port) => claim(port).with_context(|| format!("--https {port}: the port is not free"))?,
        None => claim(USUAL_PORT).or_else(|_| free_port())?,
    };
    uplink.forwards.push((port, address, HTTPS));
    Ok(port)
}

/// How the management guest is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The service's root.
    pub url: String,
    /// Who may log in.
    pub user: String,
    /// The password that was made at the first start.
    pub password: String,
    /// The file with the certificate, which vouches for itself.
    pub ca: PathBuf,
}

impl Contact {
    /// Looks for what the management guest has said on the machine's console (the log view, or one that has its lines). Writes
    /// the certificate to `ca` when it is there. A guest that has no address yet is not reached: packets to it would be lost.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or what was said makes no sense.
    pub fn find(console: &[u8], port: u16, ca: &Path) -> Result<Option<Self>> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        const END: &str = "-----END CERTIFICATE-----";
        let text = String::from_utf8_lossy(console);
        let prefix = format!("{NAME}| ");
        let mut lines = text.lines().filter_map(|line| line.trim_end().strip_prefix(&prefix));
        let Some(said) = lines.find_map(|line| line.strip_prefix("mgmt: first-contact ")) else { return Ok(None) };
        let certificate: Vec<&str> = lines.skip_while(|line| *line != BEGIN).collect();
        let Some(end) = certificate.iter().position(|line| *line == END) else { return Ok(None) };
        if !certificate.iter().any(|line| line.starts_with("mgmt: serves https://")) {
            return Ok(None);
        }
        let said: Value = serde_json::from_str(said).context("the management guest's first contact is no JSON")?;
        let field = |name| said[name].as_str().map(String::from).with_context(|| format!("it does not say its {name}"));
        let (user, password) = (field("user")?, field("password")?);
        let pem = certificate[..=end].join("\n") + "\n";
        ensure!(pem.len() < 10_000, "the management guest's certificate is too long");
        fs::write(ca, pem).with_context(|| format!("cannot write {}", ca.display()))?;
        let url = format!("https://127.0.0.1:{port}/redfish/v1/");
        Ok(Some(Self { url, user, password, ca: ca.into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "salp| ready\r\nmgmt| mgmt: first-contact {\"user\":\"admin\",\"password\":\"p\"}\r\n\
        web| -----BEGIN CERTIFICATE-----\r\nmgmt| -----BEGIN CERTIFICATE-----\r\nmgmt| MIIB\r\nweb| hello\r\n\
        mgmt| -----END CERTIFICATE-----\r\nmgmt| mgmt: serves https://10.0.2.15/redfish/v1/\r\n";

    #[test]
    fn the_first_contact_is_found_between_lines_of_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let ca = directory.path().join("ca.pem");
        let found = Contact::find(CONSOLE.as_bytes(), 8443, &ca).expect("sense").expect("a contact");
        assert_eq!((&*found.user, &*found.password), ("admin", "p"));
        assert_eq!(found.url, "https://127.0.0.1:8443/redfish/v1/");
        let pem = fs::read_to_string(ca).expect("a file");
        assert_eq!(pem, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    }

    #[test]
    fn segments_with_addresses_are_read_and_mistakes_are_named() {
        let leases: Leases = "lan+vlan=7=10.1.0.1/24".parse().expect("a segment");
        assert_eq!((&*leases.segment.segment, leases.segment.vlan, &*leases.address), ("lan", 7, "10.1.0.1/24"));
        for (bad, why) in [
            ("lan", "SEGMENT=ADDRESS/LENGTH"),
            ("lan=10.1.0.1", "no /LENGTH"),
            ("lan=10.1.0/24", "no IPv4 address"),
            ("lan=10.1.0.1/31", "8 to 30"),
            ("uplink=10.1.0.1/24", "world's segment"),
        ] {
            let error = format!("{:#}", bad.parse::<Leases>().expect_err(bad));
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_first_contact_is_waited_for_until_it_is_whole() {
        let ca = Path::new("/nowhere/ca.pem");
        for length in 0..CONSOLE.len() - 30 {
            assert_eq!(Contact::find(&CONSOLE.as_bytes()[..length], 1, ca).expect("no error"), None);
        }
        assert!(Contact::find(CONSOLE.as_bytes(), 1, ca).is_err(), "there is no such directory");
    }
}
