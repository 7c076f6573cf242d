//! The house seen from the street: what the end-to-end tests stand on.
//!
//! A test opens a [`Street`] of its own (network and mount namespace, so that tests run side by side with
//! the default ports and names), starts a registry and a `longshore dev` there, and talks to it as users do:
//! through boto3 or awscli. When the street closes, whatever the test left running is ended.
//!
//! What is not here: any crate of the house. The tests see programs, files and sockets only.

mod census;
mod client;
mod halves;
mod image;
mod program;
mod registry;
mod street;
mod tasks;

pub use census::Census;
pub use client::{ApiError, Client};
pub use halves::{AgentHalf, ControlHalf};
pub use image::{Image, Layer};
pub use program::{Dev, Program};
pub use registry::Registry;
pub use street::{Street, stage};
pub use tasks::{container, definition, terminate, wait_until};
