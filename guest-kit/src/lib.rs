//! Filled in below.
#![no_std]
