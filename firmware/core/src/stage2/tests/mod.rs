//! Address spaces against a byte-for-byte model, a software MMU and TLBs: see [`world`].

mod random;
mod stories;
mod world;
