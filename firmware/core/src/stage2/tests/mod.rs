//! Address spaces against a byte-for-byte model, a software MMU and TLBs: see [`world`].

#[cfg(not(miri))]
mod images;
#[cfg(not(miri))]
mod merge;
#[cfg(not(miri))]
mod promises;
#[cfg(not(miri))]
mod random;
mod small;
#[cfg(not(miri))]
mod stories;
#[cfg_attr(miri, allow(dead_code))]
mod world;
