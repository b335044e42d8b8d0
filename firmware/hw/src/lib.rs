//! Hardware.
#![no_std]
