//! The task machine: decides what should happen next to every task on this host.
//!
//! There is no I/O here, no clock and no async. The caller brings time and events in and
//! carries effects out; the same events always give the same effects.
//!
//!   PENDING ──▶ RUNNING ──▶ STOPPING ──▶ STOPPED
//!      └──── any failure ─────▲
//!
//! Call `handle` for each event, then persist every `next_dirty` record, then run each
//! `next_effect` until it is `None`, then sleep until `next_deadline` and `tick`. After a crash an
//! effect may be asked for again, so every effect must bear being run twice.

mod capacity;
mod engine;
mod record;
mod spec;
mod task;
mod vocabulary;

pub use capacity::Capacity;
pub use engine::Engine;
pub use record::*;
pub use spec::*;
pub use vocabulary::*;
