//! Who this VM is. [`device`](crate::device) reads it, [`apply`](crate::apply) takes it on, and
//! [`hooks`](crate::hooks) are told.

use crate::config::{Config, variable};
use std::fmt::{self, Write};

/// Who this VM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The VM's name.
    pub name: String,
    /// The UUID.
    pub uuid: [u8; 16],
    /// The VM generation id.
    pub generation: [u8; 16],
    /// The first MAC address.
    pub mac: [u8; 6],
    /// The clone's index, from 1; 0 for a VM that is no clone.
    pub index: u32,
    /// How often this VM got a new identity.
    pub epoch: u32,
    /// Whether this identity is acknowledged.
    pub acknowledged: bool,
    /// What whoever made the clone wants it to know.
    pub config: Config,
}

impl Identity {
    /// Returns the host name: the configuration's, else the VM's name.
    pub fn host_name(&self) -> &str {
        self.config.get("hostname").unwrap_or(&self.name)
    }

    /// Returns the content of `/etc/machine-id`.
    pub fn machine_id(&self) -> String {
        hex(&self.uuid)
    }

    /// Returns what hooks find in their environment.
    pub fn environment(&self, clone: bool) -> Vec<(String, String)> {
        let mut variables = vec![
            ("SALP_INDEX".into(), self.index.to_string()),
            ("SALP_NAME".into(), self.name.clone()),
            ("SALP_UUID".into(), hyphenated(&self.uuid)),
            ("SALP_EPOCH".into(), self.epoch.to_string()),
            ("SALP_CLONE".into(), u32::from(clone).to_string()),
        ];
        variables.extend(self.config.entries().map(|(key, value)| (variable(key), value.into())));
        variables
    }
}

/// As `key=value` lines, the configuration's with `config.` before the key.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "name={}", self.name)?;
        writeln!(f, "uuid={}", hyphenated(&self.uuid))?;
        writeln!(f, "generation={}", hyphenated(&self.generation))?;
        writeln!(f, "mac={}", Mac(self.mac))?;
        writeln!(f, "index={}", self.index)?;
        writeln!(f, "epoch={}", self.epoch)?;
        writeln!(f, "acknowledged={}", u32::from(self.acknowledged))?;
        self.config.entries().try_for_each(|(key, value)| writeln!(f, "config.{key}={value}"))
    }
}

/// A MAC address, written as usual: `52:54:00:12:34:56`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Returns bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn hyphenated(uuid: &[u8; 16]) -> String {
    let [a, b, c, d, e] = [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]].map(hex);
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use crate::testing::Fake;

    #[test]
    fn an_identity_is_written_as_lines() {
        let text = Fake::clone_of("web", 3).device().identity().to_string();
        let expected = "name=web-3\n\
                        uuid=40414243-4445-4647-4849-4a4b4c4d4e4f\n\
                        generation=80818283-8485-8687-8889-8a8b8c8d8e8f\n\
                        mac=52:54:00:12:34:03\n\
                        index=3\n\
                        epoch=1\n\
                        acknowledged=0\n\
                        config.role=web\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn hooks_find_the_identity_in_their_environment() {
        let environment = Fake::clone_of("web", 3).device().identity().environment(true);
        let expected = [
            ("SALP_INDEX", "3"),
            ("SALP_NAME", "web-3"),
            ("SALP_UUID", "40414243-4445-4647-4849-4a4b4c4d4e4f"),
            ("SALP_EPOCH", "1"),
            ("SALP_CLONE", "1"),
            ("SALP_CONFIG_ROLE", "web"),
        ];
        assert_eq!(environment, expected.map(|(key, value)| (key.to_string(), value.to_string())));
    }

    #[test]
    fn the_configuration_may_give_another_host_name() {
        assert_eq!(Fake::source("web").device().identity().host_name(), "web");
        assert_eq!(Fake::new("web", 1, 1, "hostname=shop\n").device().identity().host_name(), "shop");
    }

    #[test]
    fn a_machine_id_is_the_uuid_in_32_digits() {
        let id = Fake::source("web").device().identity().machine_id();
        assert_eq!(id, "404142434445464748494a4b4c4d4e4f");
    }
}
