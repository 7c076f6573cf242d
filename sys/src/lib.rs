//! The kernel seam: the only `unsafe` in the house.

#![allow(unsafe_code)] // The workspace denies it everywhere else.

pub mod bpf;
