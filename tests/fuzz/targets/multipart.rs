//! Any type and any bytes as a body of parts, cut anywhere: the same parts however it is cut, and what is held back is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_mgmt::http::multipart::{Event, Malformed, Reader};

/// Returns the parts of a body, and whether it was whole.
fn parts(kind: &str, body: &[u8], piece: usize) -> Result<(Vec<(String, Vec<u8>)>, bool), Malformed> {
    let mut reader = Reader::new(kind).ok_or(Malformed)?;
    let (mut parts, mut told): (Vec<(String, Vec<u8>)>, usize) = (Vec::new(), 0);
    for piece in body.chunks(piece) {
        reader.take(piece, |event| {
            match event {
                Event::Part(name) => parts.push((name.into(), Vec::new())),
                Event::Bytes(bytes) => {
                    told += bytes.len();
                    parts.last_mut().expect("a part").1.extend_from_slice(bytes);
                }
                Event::End => {}
            }
            Ok::<_, Malformed>(())
        })?;
    }
    assert!(told <= body.len());
    Ok((parts, reader.is_over()))
}

fuzz_target!(|input: (u8, &str, &[u8])| {
    let (piece, kind, body) = (usize::from(input.0) + 1, input.1, input.2);
    for kind in [kind, "multipart/form-data; boundary=a"] {
        let (whole, cut) = (parts(kind, body, usize::MAX), parts(kind, body, piece));
        // A body that is malformed may be found to be so before or behind a part.
        assert_eq!(whole.is_err(), cut.is_err());
        if whole.is_ok() {
            assert_eq!(whole, cut);
        }
    }
});
