//! Frames of WebSockets (RFC 6455). Before: the peer. After: [`terminal`](super::terminal).

use alloc::string::String;
use alloc::vec::Vec;

use base64ct::{Base64, Encoding};
use sha1::{Digest, Sha1};

/// The greatest number of bytes in a frame of the peer.
pub const MAX_FRAME: usize = 4096;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// More of the message before.
    More,
    /// Text.
    Text,
    /// Bytes.
    Binary,
    /// The end.
    Close,
    /// A question whether anybody is there.
    Ping,
    /// The answer.
    Pong,
}

impl Kind {
    const CODES: [(u8, Self); 6] =
        [(0, Self::More), (1, Self::Text), (2, Self::Binary), (8, Self::Close), (9, Self::Ping), (10, Self::Pong)];

    fn code(self) -> u8 {
        Self::CODES.iter().find(|&&(_, kind)| kind == self).map_or(0, |&(code, _)| code)
    }

    /// Returns whether it may stand between the frames of a message.
    pub fn is_control(self) -> bool {
        self.code() >= 8
    }
}

/// Why a peer's frames cannot be understood any further: a status code of the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub u16);

/// The peer broke a rule.
pub const PROTOCOL: Broken = Broken(1002);
/// A frame is too large.
pub const TOO_LARGE: Broken = Broken(1009);

/// A frame of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Whether it is the last of its message.
    pub is_last: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Takes a frame from the front, if it is whole.
///
/// # Errors
///
/// If no frame of a client begins like that.
pub fn take(input: &mut Vec<u8>) -> Result<Option<Frame>, Broken> {
    let [first, second, ..] = input[..] else { return Ok(None) };
    let kind = Kind::CODES.iter().find(|(code, _)| *code == first & 15).map(|&(_, kind)| kind).ok_or(PROTOCOL)?;
    let is_last = first & 0x80 != 0;
    // No extension was agreed on, and clients mask.
    if first & 0x70 != 0 || second & 0x80 == 0 {
        return Err(PROTOCOL);
    }
    let (length, at) = match second & 0x7f {
        126 => match input.get(2..4) {
            Some(two) => (usize::from(u16::from_be_bytes([two[0], two[1]])), 4),
            None => return Ok(None),
        },
        127 => return Err(TOO_LARGE),
        length => (usize::from(length), 2),
    };
    if kind.is_control() && (!is_last || length > 125) {
        return Err(PROTOCOL);
    }
    if length > MAX_FRAME {
        return Err(TOO_LARGE);
    }
    let Some(masked) = input.get(at..at + 4 + length) else { return Ok(None) };
    let (mask, masked) = masked.split_at(4);
    let bytes = masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    input.drain(..at + 4 + length);
    Ok(Some(Frame { kind, is_last, bytes }))
}

/// Appends a whole message in one frame.
pub fn put(kind: Kind, bytes: &[u8], output: &mut Vec<u8>) {
    output.push(0x80 | kind.code());
    match u16::try_from(bytes.len()) {
        Ok(length) if length < 126 => output.push(length as u8),
        Ok(length) => {
            output.push(126);
            output.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            output.push(127);
            output.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        }
    }
    output.extend_from_slice(bytes);
}

/// Returns the answer to a client's key; none if it is no key.
pub fn accept(key: &str) -> Option<String> {
    let mut nonce = [0; 18];
    Base64::decode(key, &mut nonce).ok().filter(|nonce| nonce.len() == 16)?;
    let hash = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    Some(Base64::encode_string(&hash))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns a frame as a client sends it.
    pub fn masked(first: u8, bytes: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from([first]);
        match bytes.len() {
            0..126 => frame.push(0x80 | bytes.len() as u8),
            length => frame.extend([0xfe, (length >> 8) as u8, length as u8]),
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(bytes.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn the_answer_to_a_key_is_that_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ==").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        for key in ["", "x", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZTE="] {
            assert_eq!(accept(key), None, "{key}");
        }
    }

    #[test]
    fn what_is_no_frame_of_a_client_ends_the_conversation() {
        for (bytes, why) in [
            (&[0x81, 0x01, b'x'][..], PROTOCOL),
            (&[0xc1, 0x81], PROTOCOL),
            (&[0x83, 0x80], PROTOCOL),
            (&[0x09, 0x80], PROTOCOL),
            (&[0x89, 0xfe, 0, 126], PROTOCOL),
            (&[0x82, 0xff], TOO_LARGE),
            (&[0x82, 0xfe, 0xff, 0xff], TOO_LARGE),
        ] {
            assert_eq!(take(&mut bytes.to_vec()), Err(why), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut input = bytes;
            while let Ok(Some(frame)) = take(&mut input) {
                prop_assert!(frame.bytes.len() <= MAX_FRAME);
            }
        }

        #[test]
        fn a_frame_is_read_as_it_was_sent_wherever_it_is_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0usize..600,
        ) {
            let whole = masked(0x82, &bytes);
            let cut = cut.min(whole.len() - 1);
            let mut input = whole[..cut].to_vec();
            prop_assert_eq!(take(&mut input), Ok(None));
            input.extend_from_slice(&whole[cut..]);
            prop_assert_eq!(take(&mut input), Ok(Some(Frame { kind: Kind::Binary, is_last: true, bytes })));
            prop_assert!(input.is_empty());
        }
    }
}
