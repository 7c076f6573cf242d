//! What a spec may ask for and this runtime does not do: each a refusal by name, none ignored in silence.

use oci_spec::runtime::{Process, Spec};

use crate::StepError;

/// The first thing in the spec that this runtime cannot do.
pub(super) fn check(spec: &Spec) -> Result<(), StepError> {
    version(spec.version())?;
    if spec.vm().is_some()
        || spec.windows().is_some()
        || spec.solaris().is_some()
        || spec.zos().is_some()
    {
        return Err(unsupported("a platform other than Linux"));
    }
    if let Some(name) = spec.process().as_ref().and_then(in_process) {
        return Err(unsupported(name));
    }
    Ok(())
}

fn unsupported(name: &str) -> StepError {
    StepError::refused(
        "plan",
        name,
        "not supported by this runtime; remove it from the spec",
    )
}

/// Any 1.x.y, with or without `-dev`: the OCI text promises that 1.x stays compatible.
fn version(version: &str) -> Result<(), StepError> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    let numeric = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if numbers.len() == 3 && numbers.iter().all(numeric) && numbers[0] == "1" {
        return Ok(());
    }
    Err(StepError::refused(
        "plan",
        format!("ociVersion `{version}`"),
        "only versions 1.x.y are known",
    ))
}

fn in_process(process: &Process) -> Option<&'static str> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let asked = [(given(process.command_line()), "process.commandLine")];
    asked
        .into_iter()
        .find_map(|(asked, name)| asked.then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_version_1_is_accepted_and_nothing_else() {
        for good in ["1.0.0", "1.3.0", "1.2.1-dev", "1.9.0+dev"] {
            assert!(version(good).is_ok(), "{good}");
        }
        for bad in [
            "", "1", "1.0", "2.0.0", "0.9.0", "1.x.0", "1.0.0.0", "v1.0.0",
        ] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }
}
