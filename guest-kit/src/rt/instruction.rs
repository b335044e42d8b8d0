//! Single instructions that a test wants to execute just so, each a function of its own that Rust cannot rearrange.
