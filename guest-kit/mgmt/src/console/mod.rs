//! Consoles of VMs, as they are followed and typed at. Before: [`resources::console`](crate::resources::console). After:
//! [`hypervisor`](crate::hypervisor).
//!
//! [`Follow`] is a reader; [`terminal`] is a person at a WebSocket, [`frame`] the WebSocket.

pub mod frame;
pub mod terminal;

use alloc::vec::Vec;

use crate::flow::Flow;
use crate::hypervisor::{Answer, Hypervisor};

/// How much of a console is read at a time.
const PIECE: usize = 4096;

/// A place in what a VM writes to its console.
#[derive(Clone, Copy, Debug)]
pub struct Follow {
    /// The VM.
    pub id: u64,
    /// The position of the next byte.
    pub position: u64,
}

impl Follow {
    /// Appends the next bytes, at most so many; returns how many. If older ones were dropped, it goes on with those that are
    /// there; if the VM has started again, with its first ones.
    pub fn read(&mut self, hypervisor: &dyn Hypervisor, output: &mut Vec<u8>, most: usize) -> Answer<usize> {
        let at = output.len();
        output.resize(at + most, 0);
        let mut heard = hypervisor.read_console(self.id, self.position, &mut output[at..]);
        if heard.is_ok_and(|heard| heard.end < self.position) {
            heard = hypervisor.read_console(self.id, 0, &mut output[at..]);
        }
        output.truncate(at + heard.map_or(0, |heard| heard.count));
        let heard = heard?;
        self.position = heard.first + heard.count as u64;
        Ok(heard.count)
    }
}

impl Flow for Follow {
    fn drive(&mut self, hypervisor: &mut dyn Hypervisor, _: &mut Vec<u8>, output: &mut Vec<u8>) -> bool {
        self.read(hypervisor, output, PIECE).is_ok()
    }
}
