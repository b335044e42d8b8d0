//! The configuration that a clone is given: `key=value` lines. [`identity`](crate::identity) reads it from the device.

/// What stands in the configuration, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    entries: Vec<(String, String)>,
}

impl Config {
    /// Reads a configuration; it ends at the first zero. Lines without `=` or without a key are left out.
    pub fn read(bytes: &[u8]) -> Self {
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let entries = text.lines().filter_map(|line| line.split_once('='));
        let entries = entries.map(|(key, value)| (key.trim().to_string(), value.trim().to_string()));
        Self { entries: entries.filter(|(key, _)| !key.is_empty()).collect() }
    }

    /// Returns the value of a key; the last one if it stands there twice. An empty value is none.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.entries.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// Returns keys and values, in their order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// Returns the name of the environment variable for a key: `dns-server` is in `SALP_CONFIG_DNS_SERVER`.
pub fn variable(key: &str) -> String {
    let name = key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "SALP_CONFIG_".chars().chain(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_keys_and_values() {
        let config = Config::read(b"address=10.0.0.5/24 fd00::5/64\nrole = web \nurl=http://x/?a=b\n\0role=old\n");
        assert_eq!(config.get("address"), Some("10.0.0.5/24 fd00::5/64"));
        assert_eq!(config.get("role"), Some("web"));
        assert_eq!(config.get("url"), Some("http://x/?a=b"));
        assert_eq!(config.get("gateway"), None);
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_an_empty_value_is_none() {
        let config = Config::read(b"a=1\na=2\nb=1\nb=\n");
        assert_eq!((config.get("a"), config.get("b")), (Some("2"), None));
    }

    #[test]
    fn keys_become_names_of_variables() {
        assert_eq!(variable("dns-server.1"), "SALP_CONFIG_DNS_SERVER_1");
        assert_eq!(variable("größe"), "SALP_CONFIG_GR__E");
    }

    proptest! {
        #[test]
        fn any_bytes_give_entries_that_a_program_can_be_given(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (key, value) in Config::read(&bytes).entries() {
                prop_assert!(!key.is_empty() && !key.contains('=') && !key.contains('\0') && !value.contains('\0'));
            }
        }
    }
}
