//! Address spaces against a byte-for-byte model, a software MMU and TLBs: see [`world`].

// Miri is too slow for many cases; it runs the stories.
#[cfg(not(miri))]
mod random;
mod stories;
mod world;
