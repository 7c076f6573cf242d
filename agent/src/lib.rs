//! The node daemon: a tokio shell around the task machine of `longshore-engine`.

pub mod link;
