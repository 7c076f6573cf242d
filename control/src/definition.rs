//! Task definitions: ECS's own document, read with types, checked, completed and judged.
//!
//! A document passes `normalise`, `check` and `complete` once, when it is registered; from then on it is
//! kept as ECS JSON and read back through [`Document`]. Every valid ECS document registers; whether the
//! agents can run it is asked at RunTask ([`unsupported`]).
//!
//! Absent: any knowledge of the store, of HTTP, and of the hosts.

mod capability;
mod check;
mod complete;
mod container;
mod document;
mod fargate;
mod overrides;
mod parts;
mod quantity;
mod unsupported;

pub use capability::{Need, compatibilities, needs, required_attributes};
pub use check::{check, check_tags};
pub(crate) use check::{check_name, is_name};
pub use complete::{complete, normalise};
pub use container::*;
pub use document::*;
pub use overrides::{ContainerOverride, Overrides};
pub use parts::*;
pub use unsupported::{Unsupported, unsupported, unsupported_overrides};

/// A definition or an override breaks a rule of ECS; the text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    fn because(text: impl Into<String>) -> Invalid {
        Invalid(text.into())
    }
}
