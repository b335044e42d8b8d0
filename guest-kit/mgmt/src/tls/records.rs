//! One step of either side of a connection: what rustls asks for next, with the bytes around it. Before: [`secure`](super::secure),
//! [`stream`](super::stream) and [`exchange`](crate::client::Exchange). After: rustls.

use alloc::vec::Vec;

use rustls::Error;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};

/// The greatest record, with its head.
pub const MAX_RECORD: usize = 16384 + 256 + 5;
/// How much is encrypted at a time.
pub const PIECE: usize = 16384;
/// How much more it becomes, at most.
const OVERHEAD: usize = 64;

/// What is to be done next.
pub enum Step<'c, Data> {
    /// Something was moved: there may be more.
    Moved,
    /// The handshake is over, and what there is to say can be said.
    Open(WriteTraffic<'c, Data>),
    /// Nothing moves before more has come.
    Blocked,
    /// The peer says no more.
    PeerClosed,
    /// Nobody says any more.
    Closed,
    /// What has come makes no sense, or is not believed.
    Broken(Error),
}

/// Does what needs nobody else: appends what was decrypted, and what is ready to be sent. Returns how many bytes of those that came are
/// done with, and what is next.
pub fn step<'c, Data>(
    status: UnbufferedStatus<'c, '_, Data>,
    plain: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
) -> (usize, Step<'c, Data>) {
    let UnbufferedStatus { mut discard, state, .. } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut step = Step::Moved;
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    Err(error) => step = Step::Broken(error),
                }
            }
            step
        }
        Ok(ConnectionState::EncodeTlsData(data)) => {
            encode(data, outgoing);
            Step::Moved
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Step::Moved
        }
        Ok(ConnectionState::WriteTraffic(traffic)) => Step::Open(traffic),
        Ok(ConnectionState::BlockedHandshake) => Step::Blocked,
        Ok(ConnectionState::PeerClosed) => Step::PeerClosed,
        Ok(_) => Step::Closed,
        Err(error) => Step::Broken(error),
    };
    (discard, step)
}

/// Appends what is ready to be sent.
pub fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) {
    let at = outgoing.len();
    outgoing.resize(at + OVERHEAD, 0);
    let mut written = data.encode(&mut outgoing[at..]);
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = written {
        outgoing.resize(at + required_size, 0);
        written = data.encode(&mut outgoing[at..]);
    }
    outgoing.truncate(at + written.unwrap_or(0));
}

/// Appends what `write` makes of at most so many bytes: a record. Returns false if it makes none.
pub fn append(
    outgoing: &mut Vec<u8>,
    most: usize,
    write: impl FnOnce(&mut [u8]) -> Result<usize, EncryptError>,
) -> bool {
    let at = outgoing.len();
    outgoing.resize(at + most + OVERHEAD, 0);
    let written = write(&mut outgoing[at..]);
    outgoing.truncate(at + written.as_ref().copied().unwrap_or(0));
    written.is_ok()
}
