//! A person at the console of a VM, over a WebSocket. Before: [`frame`](super::frame). After:
//! [`hypervisor`](crate::hypervisor).
//!
//! What is typed and not taken by the guest yet waits here, at most a frame, and then nothing more is read: TCP holds who
//! types faster.

use alloc::vec::Vec;

use super::frame::{self, Broken, Kind, PROTOCOL};
use super::{Follow, PIECE};
use crate::flow::Flow;
use crate::hypervisor::Hypervisor;

/// A WebSocket at a console.
#[derive(Debug)]
pub struct Terminal {
    follow: Follow,
    /// Whether what is typed reaches the guest.
    may_type: bool,
    /// What frames are sent as: text or bytes.
    kind: Kind,
    /// What the guest had no room for.
    typed: Vec<u8>,
    /// Whether a message of the peer goes on.
    is_inside: bool,
}

impl Terminal {
    /// Returns a terminal that shows a console from some position on.
    pub fn new(follow: Follow, may_type: bool, is_text: bool) -> Self {
        let kind = if is_text { Kind::Text } else { Kind::Binary };
        Self { follow, may_type, kind, typed: Vec::new(), is_inside: false }
    }

    /// Types what waits; returns whether nothing waits any more.
    fn type_on(&mut self, hypervisor: &mut dyn Hypervisor) -> bool {
        while !self.typed.is_empty() {
            match hypervisor.write_console(self.follow.id, &self.typed) {
                Ok(0) => return false,
                Ok(taken) => drop(self.typed.drain(..taken)),
                // A VM that is off hears nothing.
                Err(_) => self.typed.clear(),
            }
        }
        true
    }

    /// Does what the peer's frames say; returns false if it said goodbye.
    fn listen(
        &mut self,
        hypervisor: &mut dyn Hypervisor,
        input: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<bool, Broken> {
        while self.type_on(hypervisor) && output.len() < PIECE {
            let Some(frame) = frame::take(input)? else { break };
            match frame.kind {
                Kind::Text | Kind::Binary | Kind::More => {
                    if self.is_inside != (frame.kind == Kind::More) {
                        return Err(PROTOCOL);
                    }
                    self.is_inside = !frame.is_last;
                    if self.may_type {
                        self.typed = frame.bytes;
                    }
                }
                Kind::Ping => frame::put(Kind::Pong, &frame.bytes, output),
                Kind::Pong => {}
                Kind::Close => {
                    frame::put(Kind::Close, &frame.bytes[..frame.bytes.len().min(2)], output);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Appends what the guest wrote; returns false if the VM is gone.
    fn show(&mut self, hypervisor: &dyn Hypervisor, output: &mut Vec<u8>) -> bool {
        let mut bytes = Vec::new();
        if self.follow.read(hypervisor, &mut bytes, PIECE).is_err() {
            return false;
        }
        if self.kind == Kind::Text {
            let cut = unfinished(&bytes);
            // A character that is not whole yet comes with the next piece.
            self.follow.position -= cut as u64;
            bytes.truncate(bytes.len() - cut);
            bytes = alloc::string::String::from_utf8_lossy(&bytes).into_owned().into_bytes();
        }
        if !bytes.is_empty() {
            frame::put(self.kind, &bytes, output);
        }
        true
    }
}

/// Returns how many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let chunk = bytes.utf8_chunks().last();
    let rest = chunk.map_or(&[][..], |chunk| chunk.invalid());
    let is_beginning = str::from_utf8(rest).is_err_and(|error| error.error_len().is_none());
    if is_beginning { rest.len() } else { 0 }
}

impl Flow for Terminal {
    fn drive(&mut self, hypervisor: &mut dyn Hypervisor, input: &mut Vec<u8>, output: &mut Vec<u8>) -> bool {
        match self.listen(hypervisor, input, output) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(Broken(code)) => {
                frame::put(Kind::Close, &code.to_be_bytes(), output);
                return false;
            }
        }
        let is_there = self.show(hypervisor, output);
        if !is_there {
            // The server goes away.
            frame::put(Kind::Close, &1001_u16.to_be_bytes(), output);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::masked;
    use super::*;
    use crate::fake::Fake;
    use proptest::prelude::*;

    fn terminal(is_text: bool) -> Terminal {
        Terminal::new(Follow { id: 2, position: 0 }, true, is_text)
    }

    fn drive(terminal: &mut Terminal, fake: &mut Fake, input: &[u8]) -> (Vec<u8>, bool) {
        let (mut input, mut output) = (input.to_vec(), Vec::new());
        let goes_on = terminal.drive(fake, &mut input, &mut output);
        (output, goes_on)
    }

    #[test]
    fn what_is_typed_is_shown() {
        let (mut fake, mut terminal) = (Fake::default(), terminal(true));
        assert_eq!(drive(&mut terminal, &mut fake, b""), (b"\x81\x0bweb login: ".to_vec(), true));
        let typed = [masked(0x01, b"ro"), masked(0x89, b"?"), masked(0x80, b"ot\n")].concat();
        assert_eq!(drive(&mut terminal, &mut fake, &typed), (b"\x8a\x01?\x81\x05root\n".to_vec(), true));
    }

    #[test]
    fn goodbye_is_answered() {
        let (mut fake, mut terminal) = (Fake::default(), terminal(false));
        let (output, goes_on) = drive(&mut terminal, &mut fake, &masked(0x88, b"\x03\xe8bye"));
        assert_eq!((&output[..], goes_on), (&b"\x88\x02\x03\xe8"[..], false));
    }

    #[test]
    fn a_vm_that_goes_ends_the_conversation() {
        let (mut fake, mut terminal) = (Fake::default(), terminal(false));
        fake.destroy(2).unwrap();
        assert_eq!(drive(&mut terminal, &mut fake, b""), (b"\x88\x02\x03\xe9".to_vec(), false));
    }

    #[test]
    fn a_message_in_another_ends_the_conversation() {
        let (mut fake, mut terminal) = (Fake::default(), terminal(false));
        let (output, goes_on) = drive(&mut terminal, &mut fake, &[masked(0x01, b"a"), masked(0x81, b"b")].concat());
        assert_eq!((&output[..], goes_on), (&b"\x88\x02\x03\xea"[..], false));
    }

    #[test]
    fn who_only_reads_does_not_type() {
        let (mut fake, mut terminal) = (Fake::default(), Terminal::new(Follow { id: 2, position: 11 }, false, false));
        assert_eq!(drive(&mut terminal, &mut fake, &masked(0x81, b"x")), (Vec::new(), true));
    }

    #[test]
    fn what_a_guest_that_does_not_read_is_sent_waits() {
        let (mut fake, mut terminal) = (Fake::default(), terminal(false));
        fake.freeze(2).unwrap();
        let mut input = [masked(0x82, b"a"), masked(0x82, b"b")].concat();
        let mut output = Vec::new();
        assert!(terminal.drive(&mut fake, &mut input, &mut output));
        assert_eq!((input.len(), &terminal.typed[..]), (7, &b"a"[..]));
        fake.unfreeze(2).unwrap();
        output.clear();
        assert!(terminal.drive(&mut fake, &mut input, &mut output));
        assert_eq!((&output[..], input.len()), (&b"\x82\x02ab"[..], 0));
    }

    #[test]
    fn a_character_is_not_cut() {
        assert_eq!(unfinished("aé".as_bytes()), 0);
        assert_eq!(unfinished(&"a€".as_bytes()[..3]), 2);
        assert_eq!(unfinished(b"a\xff"), 0);
        assert_eq!(unfinished(b""), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let (mut fake, mut terminal) = (Fake::default(), terminal(bytes.len() % 2 == 0));
            let mut input = bytes;
            for _ in 0..4 {
                let mut output = Vec::new();
                if !terminal.drive(&mut fake, &mut input, &mut output) {
                    break;
                }
                prop_assert!(output.len() <= 4 * PIECE);
            }
        }
    }
}
