//! The control plane: the ECS API to the north, agents' sessions to the south, a store in the middle.

pub mod model;
pub mod store;
