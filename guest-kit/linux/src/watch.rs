//! Waits for a new identity: for clones of VMs that run, and for those that are reverted.
//!
//! [`device`](crate::device) says how often there was one; [`freeze`](crate::freeze) deals with its own.

use crate::device::{Device, Registers};
use crate::identity::Identity;

/// Knows which identity was dealt with last.
#[derive(Debug)]
pub struct Watcher {
    epoch: u32,
}

impl Watcher {
    /// Starts with the present identity.
    pub fn new<R: Registers>(device: &Device<R>) -> Self {
        Self { epoch: device.epoch() }
    }

    /// Returns whether there is a new identity. It costs one load.
    pub fn sees_change<R: Registers>(&self, device: &Device<R>) -> bool {
        device.epoch() != self.epoch
    }

    /// Returns the new identity, once, unless somebody has acknowledged it already. The caller holds the
    /// [lock](crate::memory::Lock), so nobody is about to.
    pub fn take<R: Registers>(&mut self, device: &Device<R>) -> Option<Identity> {
        let identity = device.identity();
        let new = identity.epoch != self.epoch && !identity.acknowledged;
        self.epoch = identity.epoch;
        new.then_some(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;

    #[test]
    fn a_new_identity_is_seen_once() {
        let device = Fake::source("web").device();
        let mut watcher = Watcher::new(&device);
        assert!(!watcher.sees_change(&device));
        device.registers().become_clone(&Fake::clone_of("web", 1));
        assert!(watcher.sees_change(&device));
        assert_eq!(watcher.take(&device).expect("a new identity").name, "web-1");
        assert!(!watcher.sees_change(&device));
        assert_eq!(watcher.take(&device), None);
    }

    #[test]
    fn an_identity_that_a_freeze_has_dealt_with_is_left_alone() {
        let device = Fake::source("web").device();
        let mut watcher = Watcher::new(&device);
        device.registers().become_clone(&Fake::clone_of("web", 1));
        device.acknowledge();
        assert!(watcher.sees_change(&device));
        assert_eq!(watcher.take(&device), None);
        assert!(!watcher.sees_change(&device));
    }
}
