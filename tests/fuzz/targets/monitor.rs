//! Any bytes as a line for the monitor, and as keys: a command within its limits, or a reason; a line that stays in bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_core::monitor::editor::{Editor, EditorEvent};
use salp_core::monitor::{Command, MAX_LINE, parse};
use salp_hvc::calls::{MAX_CLONES, MAX_CONFIG, RESERVE_ALL};

fuzz_target!(|bytes: &[u8]| {
    read(&mut bytes.to_vec());
    let mut editor = Editor::new();
    for &key in bytes {
        let before = editor.line().len();
        match editor.key(key) {
            EditorEvent::Echo(byte) => assert_eq!((editor.line().last(), byte), (Some(&byte), key)),
            EditorEvent::Erase(count) => assert!(editor.line().len() + count <= before),
            EditorEvent::Line => read(editor.line()),
            EditorEvent::Nothing | EditorEvent::Full | EditorEvent::Cancelled => {}
        }
        assert!(editor.line().len() <= MAX_LINE);
    }
});

fn read(line: &mut [u8]) {
    let mut config = [0; MAX_CONFIG];
    match parse(line, &mut config) {
        Ok(Command::Clone(cloning)) => {
            assert!((1..=MAX_CLONES).contains(&cloning.count) && cloning.reserve <= RESERVE_ALL);
            assert!(cloning.name.is_none_or(|name| (1..=31).contains(&name.len())));
            assert!(cloning.config.is_empty() || cloning.config.ends_with('\n'));
            assert!(cloning.config.lines().all(|line| line.split_once('=').is_some_and(|(key, _)| !key.is_empty())));
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
