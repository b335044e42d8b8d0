//! Measures what a clone pays for memory that it shares, and dirties as many pages as it is told.
//!
//! The source writes every page of 20 regions of 2 MiB, from the one that holds this image, and freezes. Setting `do=`, in
//! the clone's configuration or the boot arguments, says what whoever goes on does:
//!
//! - `measure` (default): reads pages for the first time (`first_read_shared`), writes others (`first_write_shared`), and
//!   freezes; when it goes on, writes further ones (`write_private_again`: the manager has destroyed the source), and
//!   turns off;
//! - `idle`: sleeps for ever;
//! - `pages`: verifies that the pages are as they were, writes to them and freezes, for ever.
//!
//! Boot arguments: `pages=N` (default 1000) of each kind, scattered over all regions; `seed=N` (default 1). A figure is the
//! mean of one access; a second pass over the same pages is subtracted.

use super::{Settings, fail, must, sleep_for_ever};
use crate::machine::number;
use crate::random::Random;
use crate::rt::ram::Ram;
use crate::rt::sysreg;
use crate::{println, salp, test};

const PAGE: u64 = 4096;
const REGION: u64 = 2 << 20;
const REGIONS: u64 = 20;

/// Runs the role.
pub fn main() {
    let pages = Pages::new(number("pages", 1000), number("seed", 1));
    println!("READY");
    must("FREEZE", salp::freeze());
    let settings = Settings::read();
    match settings.get("do") {
        Some("idle") => {
            must("ACKNOWLEDGE", salp::acknowledge());
            sleep_for_ever()
        }
        Some("pages") => loop {
            pages.rewrite();
            must("FREEZE", salp::freeze());
        },
        _ => {
            let read = |address| _ = pages.ram.read(address);
            let write = |address| pages.ram.write(address, address);
            pages.measure("first_read_shared", 0, read);
            pages.measure("first_write_shared", 1, write);
            must("ACKNOWLEDGE", salp::acknowledge());
            must("FREEZE", salp::freeze());
            pages.measure("write_private_again", 2, write);
        }
    }
}

/// The pages of all regions in an order that the seed decides: the list lies behind them.
struct Pages {
    ram: Ram,
    list: u64,
    count: u64,
}

impl Pages {
    fn new(count: u64, seed: u64) -> Self {
        let ram = Ram::largest();
        let end = (ram.start() & !(REGION - 1)) + REGIONS * REGION;
        let total = (end - ram.start()) / PAGE;
        if end + total * 8 > ram.end() || count * 3 > total {
            fail(format_args!("{count} pages of each kind need more memory"));
        }
        let pages = Self { ram, list: end, count };
        for index in 0..total {
            let page = ram.start() + index * PAGE;
            ram.write(page, !page);
            ram.write(pages.place(index), page);
        }
        let mut random = Random::new(seed);
        for index in (1..total).rev() {
            let (a, b) = (pages.place(index), pages.place(random.below(index + 1)));
            let page = ram.read(a);
            ram.write(a, ram.read(b));
            ram.write(b, page);
        }
        pages
    }

    fn place(&self, index: u64) -> u64 {
        self.list + index * 8
    }

    /// Accesses the pages of kind `kind` twice, and prints what the first time costs more.
    fn measure(&self, name: &str, kind: u64, access: impl Fn(u64)) {
        let pass = || {
            let start = sysreg::cntvct();
            for index in kind * self.count..(kind + 1) * self.count {
                access(self.ram.read(self.place(index)));
            }
            sysreg::cntvct() - start
        };
        let (first, second) = (pass(), pass());
        test::bench(name, self.count, first.saturating_sub(second) / self.count.max(1));
    }

    /// Changes the first pages, which must be as they were.
    fn rewrite(&self) {
        for index in 0..self.count {
            let page = self.ram.read(self.place(index));
            let found = self.ram.read(page);
            if found != !page {
                fail(format_args!("{page:#x} found {found:#x} expected {:#x}", !page));
            }
            self.ram.write(page, page);
        }
    }
}
