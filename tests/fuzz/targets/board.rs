//! Any bytes as the machine's device tree: an error, or facts. It comes from the firmware below, which Salp trusts; a
//! damaged one is to be told, not to be survived at any price.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_board::facts::Board;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(board) = Board::from_device_tree(bytes) {
        assert!(!board.ram.is_empty());
        let _ = board.option("memory");
    }
});
