//! The protocol between agent and control plane, generated from `longshore/v1/*.proto`, and its numbers.
//!
//! Deliberately absent: behaviour. `README.md` beside this crate tells how messages may change.

mod redacted;

/// The messages and services of `longshore.v1`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all
)]
pub mod v1 {
    tonic::include_proto!("longshore.v1");
}

/// The newest protocol number that this build speaks.
pub const PROTOCOL: u32 = 1;

/// The oldest protocol number that this build still speaks.
pub const OLDEST_PROTOCOL: u32 = 1;

/// Largest message either side takes, in bytes.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// A chunked set (`Desired`, `Held`) is cut so that no part's encoding exceeds this many bytes, unless
/// a single task does.
pub const PART: usize = 512 * 1024;

/// The name in every control plane's server certificate and in no other. Agents ask for this name
/// wherever they dial, so that a certificate stands for the role and not for an address.
pub const SERVER_NAME: &str = "control.longshore.internal";

/// What a join token's text begins with.
pub const TOKEN_PREFIX: &str = "lsj1.";

/// Cuts `tasks` into parts whose encoding stays below [`PART`]; one empty part if there are none.
pub fn parts<M: prost::Message>(tasks: Vec<M>) -> Vec<Vec<M>> {
    let mut parts = vec![Vec::new()];
    let mut size = 0;
    for task in tasks {
        let more = task.encoded_len() + 8;
        let full = size > 0 && size + more > PART;
        if full {
            parts.push(Vec::new());
            size = 0;
        }
        size += more;
        if let Some(last) = parts.last_mut() {
            last.push(task);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_set_is_cut_below_the_bound_and_loses_nothing() {
        let task = |n: usize| v1::Task {
            arn: format!("{n:0>1000}"),
            ..Default::default()
        };
        let cut = parts((0..3000).map(task).collect());
        assert!(cut.len() > 1);
        for tasks in &cut {
            let part = v1::Desired {
                tasks: tasks.clone(),
                generation: u64::MAX,
                store_id: "s".repeat(64),
                part: u32::MAX,
                parts: u32::MAX,
            };
            assert!(prost::Message::encoded_len(&part) < PART + 256);
        }
        let all: Vec<v1::Task> = cut.into_iter().flatten().collect();
        assert_eq!(all, (0..3000).map(task).collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_set_is_one_empty_part() {
        assert_eq!(parts::<v1::Task>(Vec::new()), vec![Vec::new()]);
    }
}
