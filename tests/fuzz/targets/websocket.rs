//! Any bytes as frames of a WebSocket at a console: frames within bounds, answers within bounds, and after goodbye or what is
//! broken nothing more. The same frames are understood wherever the stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_mgmt::console::Follow;
use salp_mgmt::console::frame::{self, Frame};
use salp_mgmt::console::terminal::Terminal;
use salp_mgmt::fake::Fake;
use salp_mgmt::flow::Flow;
use salp_mgmt::hypervisor::Hypervisor;

/// More than any frame that is taken.
const LARGE: usize = 1 << 16;

fn frames(stream: &[u8], piece: usize) -> (Vec<Frame>, bool) {
    let (mut input, mut found) = (Vec::new(), Vec::new());
    for piece in stream.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match frame::take(&mut input) {
                Ok(Some(frame)) => {
                    assert!(frame.bytes.len() < LARGE);
                    found.push(frame);
                }
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
        assert!(input.len() <= LARGE + piece.len());
    }
    (found, false)
}

fuzz_target!(|input: (u8, bool, bool, &[u8])| {
    let (piece, is_text, is_frozen, stream) = (usize::from(input.0) + 1, input.1, input.2, input.3);
    let whole = frames(stream, usize::MAX);
    let cut = frames(stream, piece);
    assert_eq!(whole, cut);

    let mut fake = Fake::default();
    if is_frozen {
        // The guest does not listen, so what is typed waits.
        fake.freeze(2).expect("it runs");
    }
    let mut terminal = Terminal::new(Follow { id: 2, position: 0 }, true, is_text);
    let mut waiting = Vec::new();
    for piece in stream.chunks(piece) {
        waiting.extend_from_slice(piece);
        let (before, mut output) = (waiting.len(), Vec::new());
        let goes_on = terminal.drive(&mut fake, &mut waiting, &mut output);
        assert!(waiting.len() <= before && output.len() < 2 * LARGE);
        // What goes to a client is not masked.
        assert!(output.get(1).is_none_or(|length| length & 0x80 == 0));
        if !goes_on {
            return;
        }
    }
    assert!(!cut.1 || is_frozen, "what is broken ends the conversation");
});
