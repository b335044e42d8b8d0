pub mod bus {
    use salp_core::addr::Ipa;
    use salp_core::vgic::AccessSize;
    pub enum Target { Distributor, Redistributor(usize), Uart, Rtc }
    pub fn find(ipa: Ipa, vcpus: usize) -> Option<(Target, u64)> {
        let a = ipa.0;
        match a {
            0x800_0000..0x801_0000 => Some((Target::Distributor, a - 0x800_0000)),
            0x80a_0000..0x90_0_0000 => { let o = a - 0x80a_0000; let v = (o / 0x2_0000) as usize; (v < vcpus).then_some((Target::Redistributor(v), o % 0x2_0000)) }
            0x900_0000..0x900_1000 => Some((Target::Uart, a & 0xfff)),
            0x901_0000..0x901_1000 => Some((Target::Rtc, a & 0xfff)),
            _ => None,
        }
    }
    pub fn finish_load(value: u64, size: AccessSize, _sx: bool, _sf: bool) -> u64 {
        match size { AccessSize::Byte => value & 0xff, AccessSize::Half => value & 0xffff, AccessSize::Word => value & 0xffff_ffff, AccessSize::Double => value }
    }
}
pub mod pl011 {
    pub struct Pl011 { imsc: u32, rx: [u8; 16], n: usize }
    impl Pl011 {
        pub fn new() -> Self { Self { imsc: 0, rx: [0; 16], n: 0 } }
        pub fn interrupt(&self) -> bool { self.n > 0 && self.imsc & 0x10 != 0 }
        pub fn read(&mut self, o: u64) -> u32 {
            match o { 0 => { if self.n > 0 { let b = self.rx[0]; self.rx.copy_within(1.., 0); self.n -= 1; b.into() } else { 0 } }
                0x18 => if self.n > 0 { 0x80 } else { 0x90 }, 0x38 => self.imsc, 0x3c | 0x40 => if self.n > 0 { 0x10 } else { 0 },
                0xfe0 => 0x11, 0xfe4 => 0x10, 0xfe8 => 0x14, 0xff0 => 0xd, 0xff4 => 0xf0, 0xff8 => 5, 0xffc => 0xb1, _ => 0 }
        }
        pub fn write(&mut self, o: u64, v: u32) -> Option<u8> { match o { 0 => return Some(v as u8), 0x38 => self.imsc = v, _ => {} } None }
        pub fn push(&mut self, b: u8) { if self.n < 16 { self.rx[self.n] = b; self.n += 1 } }
    }
}
pub mod pl031 {
    pub struct Pl031 { off: u64 }
    impl Pl031 {
        pub fn new(off: u64) -> Self { Self { off } }
        pub fn read(&self, o: u64, now: u64) -> u32 { match o { 0 => (self.off + now) as u32, 0xfe0 => 0x31, 0xfe4 => 0x10, 0xfe8 => 0x4, 0xff0 => 0xd, 0xff4 => 0xf0, 0xff8 => 5, 0xffc => 0xb1, _ => 0 } }
        pub fn write(&mut self, _o: u64, _v: u32, _now: u64) {}
        pub fn interrupt(&self, _now: u64) -> bool { false }
    }
}
