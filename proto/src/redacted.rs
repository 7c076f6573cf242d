//! `Debug` for messages that hold a secret or a user's value: names are shown, values are not.

use std::fmt::{Debug, Formatter, Result};

use crate::v1::{JoinRequest, KeyValue};

impl Debug for JoinRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("JoinRequest")
            .field("host_name", &self.host_name)
            .field("agent_version", &self.agent_version)
            .finish_non_exhaustive()
    }
}

impl Debug for KeyValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("KeyValue")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_and_no_value_is_printed() {
        let join = JoinRequest {
            token: "lsj1.verysecret".into(),
            ..Default::default()
        };
        let value = KeyValue {
            name: "PASSWORD".into(),
            value: "verysecret".into(),
        };
        let container = crate::v1::Container {
            environment: vec![value],
            ..Default::default()
        };
        assert!(!format!("{join:?} {container:?}").contains("verysecret"));
        assert!(format!("{container:?}").contains("PASSWORD"));
    }
}
