//! Any frame with any header from a port with rules, or with a tag from a trunk port: what leaves, on whatever way to a receiver (as it is, with its sum, cut
//! into segments), has only the port's addresses.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_core::net::packet::{HEADER, MAX_FRAME, Packet};
use salp_core::net::port::{Port, Rules};
use salp_core::net::vlans::Vlans;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const IPV4: [u8; 4] = [10, 0, 0, 1];
const IPV6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    header: [u8; HEADER],
    kind: u8,
    /// The tag of a frame from a trunk port of VLANs 10 and 20.
    tag: Option<u16>,
    /// Whether there is a good frame under the noise.
    is_good: bool,
    /// How much noise there is, how long it is, and what follows it.
    noise: Vec<(u16, u8)>,
    tail: Vec<u8>,
    length: u16,
}

/// Returns a frame of this kind in order.
fn frame(kind: u8) -> Vec<u8> {
    let ethernet = |kind: u16| [&[2, 0, 0, 0, 0, 2][..], &MAC, &kind.to_be_bytes()].concat();
    let v6 = |next: u8, rest: &[u8]| {
        [&ethernet(0x86dd)[..], &[0x60, 0, 0, 0, 0, rest.len() as u8, next, 255], &IPV6, &[1; 16], rest].concat()
    };
    let tcp = [0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
    let advertisement = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &IPV6, &[2, 1], &MAC].concat();
    match kind % 5 {
        0 => [&ethernet(0x0806)[..], &[0, 1, 8, 0, 6, 4, 0, 1], &MAC, &IPV4, &[0; 10]].concat(),
        1 => [&ethernet(0x0800)[..], &[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0], &IPV4, &[10, 0, 0, 9], &tcp].concat(),
        2 => v6(6, &tcp),
        3 => v6(58, &advertisement),
        _ => v6(60, &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &advertisement].concat()),
    }
}

/// Looks at the addresses of a frame that leaves, as a receiver does: another reader than the port's.
fn check(frame: &[u8]) {
    assert_eq!(frame[6..12], MAC, "{frame:x?}");
    let may_v4 = |ip: &[u8]| ip == IPV4 || ip == [0; 4];
    let may_v6 = |ip: &[u8]| ip == IPV6 || ip == [0; 16] || (ip[0] == 0xfe && ip[1] & 0xc0 == 0x80);
    match u16::from_be_bytes([frame[12], frame[13]]) {
        0x0806 => assert!(frame[22..28] == MAC && may_v4(&frame[28..32]), "{frame:x?}"),
        0x0800 => assert!(may_v4(&frame[26..30]), "{frame:x?}"),
        0x86dd => {
            assert!(may_v6(&frame[22..38]), "{frame:x?}");
            let (mut kind, mut rest) = (frame[20], &frame[54..]);
            while let (0 | 43 | 60, [next, length, ..]) = (kind, rest) {
                kind = *next;
                rest = rest.get(8 * (usize::from(*length) + 1)..).unwrap_or_default();
            }
            if let (58, [136, ..]) = (kind, rest) {
                assert!(may_v6(&rest[8..24]), "{frame:x?}");
                // The first option, which is where senders put it.
                assert!(rest.get(24) != Some(&2) || rest[26..32] == MAC, "{frame:x?}");
            }
        }
        kind => assert!(kind != 0x8100 && kind != 0x88a8),
    }
}

fuzz_target!(|input: Input| {
    let mut bytes = if input.is_good { frame(input.kind) } else { Vec::new() };
    bytes.extend(&input.tail);
    bytes.resize(bytes.len().max(usize::from(input.length)).min(MAX_FRAME), 7);
    if let Some(tag) = input.tag {
        let [a, b] = tag.to_be_bytes();
        bytes.splice(bytes.len().min(12)..bytes.len().min(12), [0x81, 0, a, b]);
        bytes.truncate(MAX_FRAME);
    }
    let length = bytes.len();
    for (at, byte) in input.noise {
        if let Some(place) = bytes.get_mut(usize::from(at) % length.clamp(1, 128)) {
            *place = byte;
        }
    }
    let mut packet = Box::new(Packet::EMPTY);
    packet.room()[..HEADER].copy_from_slice(&input.header);
    packet.room()[HEADER..][..length].copy_from_slice(&bytes);
    let mut port = Port::new(MAC, Rules { ipv4: Some(IPV4), ipv6: Some(IPV6), rate: 0 });
    let vlan = if input.tag.is_some() {
        let vlans = Vlans::of(&[10, 20, 0, 0].map(Into::into), 0).expect("a list");
        port = port.carrying(vlans);
        packet.begin_tagged(HEADER + length, 0)
    } else {
        packet.fill(HEADER + length).then_some(0)
    };
    let Some(vlan) = vlan else { return };
    let admitted = port.admit(packet.frame(), vlan, packet.frame_length(), 0);
    assert_eq!(port.counters.sent + port.counters.spoofed, 1);
    if admitted.is_err() {
        return;
    }
    assert!(input.tag.is_none() || vlan == 10 || vlan == 20, "{vlan}");
    assert!([IPV4, [0; 4]].contains(&port.ipv4) && [IPV6, [0; 16]].contains(&port.ipv6));
    check(packet.frame());
    let (count, mut frames) = (packet.count(), 0);
    let end = packet.plain(|first, rest| {
        let whole = [first, rest].concat();
        assert!(whole.len() <= HEADER + MAX_FRAME && whole[..HEADER] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        check(&whole[HEADER..]);
        frames += 1;
        Ok::<_, ()>(true)
    });
    assert_eq!((end, frames), (Ok(true), count));
});
