//! Compiled filters against the profiles they come from.

mod default_profile;
mod generated;
mod machine;
mod meaning;
mod rules;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::Value;

fn parse(profile: &Value) -> LinuxSeccomp {
    serde_json::from_value(profile.clone()).unwrap()
}
