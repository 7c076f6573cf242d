//! Platforms: what this host runs, and which line of an index is made for it.
//!
//! The words are those of the OCI image specification ("Image Index", `platform`), which are Go's GOOS, GOARCH and
//! GOAMD64/GOARM. The best variant that the host's processor can run is chosen, never a better one: it would
//! die of SIGILL.
//!
//! Absent on purpose: 32-bit images on 64-bit hosts. The processor may run them, and many arm64 servers cannot.

use super::Descriptor;
use crate::error::printable;

/// One line of an index.
#[derive(Clone, Debug)]
pub(crate) struct Platform {
    pub(crate) manifest: Descriptor,
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) variant: String,
}

impl Platform {
    /// Whether the line says nothing of platforms.
    pub(crate) fn is_unsaid(&self) -> bool {
        self.os.is_empty() && self.architecture.is_empty()
    }

    /// Whether it is for Linux on this architecture, in whatever variant.
    pub(crate) fn is_for(&self, architecture: &str) -> bool {
        self.os == "linux" && self.architecture == architecture
    }
}

/// What a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// GOARCH.
    pub(crate) architecture: &'static str,
    /// The number of the best variant: 3 is amd64's `v3`, 7 is arm's `v7`.
    pub(crate) variant: u8,
}

impl Host {
    /// The host that this process runs on.
    pub(crate) fn here() -> Host {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Host {
            architecture,
            variant: processor_variant(architecture),
        }
    }
}

/// The levels of the x86-64 psABI, section 3.1.1, by what tells each from the one below it.
#[cfg(target_arch = "x86_64")]
fn processor_variant(_architecture: &str) -> u8 {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("lzcnt");
    let v3 = v3 && has!("f16c") && has!("movbe");
    let v4 = has!("avx512f") && has!("avx512bw") && has!("avx512cd");
    let v4 = v4 && has!("avx512dq") && has!("avx512vl");
    match (v2, v3, v4) {
        (true, true, true) => 4,
        (true, true, false) => 3,
        (true, false, _) => 2,
        (false, _, _) => 1,
    }
}

/// SVE2 is what Armv9 brought.
#[cfg(target_arch = "aarch64")]
fn processor_variant(_architecture: &str) -> u8 {
    match std::arch::is_aarch64_feature_detected!("sve2") {
        true => 9,
        false => 8,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn processor_variant(architecture: &str) -> u8 {
    baseline(architecture)
}

/// What a line means that names no variant.
fn baseline(architecture: &str) -> u8 {
    match architecture {
        "arm64" => 8,
        "arm" => 7,
        _ => 1,
    }
}

/// `v8` is 8; None if a host cannot know whether it runs that.
fn variant_number(variant: &str, architecture: &str) -> Option<u8> {
    match variant.strip_prefix('v') {
        None if variant.is_empty() => Some(baseline(architecture)),
        None => None,
        // `v8.2` is an Armv8 with extensions: only the number is comparable, and extensions may be missing.
        Some(number) => number.parse().ok(),
    }
}

/// The manifest for Linux on `host`: the best variant that it runs, the first listed among equals. If no line says
/// anything of platforms and there is just one, that one; its configuration is checked later.
pub(crate) fn choose(index: &[Platform], host: Host) -> Result<&Descriptor, String> {
    let mut best: Option<(u8, &Platform)> = None;
    for line in index {
        if !line.is_for(host.architecture) {
            continue;
        }
        match variant_number(&line.variant, host.architecture) {
            Some(number) if number <= host.variant && best.is_none_or(|(b, _)| number > b) => {
                best = Some((number, line));
            }
            _ => {}
        }
    }
    if let Some((_, line)) = best {
        return Ok(&line.manifest);
    }
    match index {
        [only] if only.os.is_empty() && only.architecture.is_empty() => Ok(&only.manifest),
        _ => Err(format!(
            "the image is not made for {}; it offers: {}",
            named("linux", host.architecture, &format!("v{}", host.variant)),
            offered(index)
        )),
    }
}

fn offered(index: &[Platform]) -> String {
    let mut names: Vec<String> = index
        .iter()
        .map(|p| named(&p.os, &p.architecture, &p.variant))
        // Attestations, which are no images.
        .filter(|name| name != "unknown/unknown")
        .take(16)
        .collect();
    names.dedup();
    match names.is_empty() {
        true => "nothing".into(),
        false => names.join(", "),
    }
}

/// `linux/amd64`, `linux/arm/v7`: the variant only where it is not what everybody runs.
fn named(os: &str, architecture: &str, variant: &str) -> String {
    let name = format!("{}/{}", printable(os, 20), printable(architecture, 20));
    let common = architecture != "arm"
        && variant_number(variant, architecture) == Some(baseline(architecture));
    match common || variant.is_empty() {
        true => name,
        false => format!("{name}/{}", printable(variant, 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// Lines as `os/architecture[/variant]`; the size of each is its place.
    fn index(lines: &[&str]) -> Vec<Platform> {
        lines
            .iter()
            .zip(0..)
            .map(|(line, size)| {
                let mut parts = line.split('/').map(str::to_owned);
                let mut part = || parts.next().unwrap_or_default();
                Platform {
                    manifest: Descriptor {
                        media_type: String::new(),
                        digest: Digest::of(b""),
                        size,
                    },
                    os: part(),
                    architecture: part(),
                    variant: part(),
                }
            })
            .collect()
    }

    #[track_caller]
    fn check(host: (&'static str, u8), lines: &[&str], chosen: u64) {
        let host = Host {
            architecture: host.0,
            variant: host.1,
        };
        assert_eq!(choose(&index(lines), host).unwrap().size, chosen);
    }

    #[test]
    fn the_best_variant_that_the_host_runs_is_chosen() {
        let amd64 = [
            "windows/amd64",
            "linux/arm64",
            "linux/amd64/v3",
            "linux/amd64",
        ];
        check(("amd64", 1), &amd64, 3);
        check(("amd64", 2), &amd64, 3);
        check(("amd64", 3), &amd64, 2);
        check(("amd64", 4), &amd64, 2);
        let arm = [
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm/v8",
        ];
        check(("arm", 6), &arm, 1);
        check(("arm", 7), &arm, 2);
        check(("arm", 8), &arm, 3);
        check(("arm", 7), &["linux/arm/v6", "linux/arm"], 1);
        check(("arm64", 8), &["linux/arm64/v9", "linux/arm64/v8"], 1);
        check(("arm64", 9), &["linux/arm64/v9", "linux/arm64"], 0);
        check(("amd64", 4), &["linux/amd64", "linux/amd64/v1"], 0);
    }

    #[test]
    fn one_line_without_a_platform_is_taken_at_its_configurations_word() {
        check(("amd64", 1), &["/"], 0);
        let host = Host {
            architecture: "amd64",
            variant: 1,
        };
        assert!(choose(&index(&["/", "/"]), host).is_err());
    }

    #[test]
    fn what_the_host_cannot_run_is_refused_with_what_is_offered() {
        let refuse = |architecture, variant, lines: &[&str]| {
            let host = Host {
                architecture,
                variant,
            };
            choose(&index(lines), host).unwrap_err()
        };
        assert_eq!(
            refuse(
                "riscv64",
                1,
                &["windows/amd64", "linux/arm/v7", "unknown/unknown"]
            ),
            "the image is not made for linux/riscv64; it offers: windows/amd64, linux/arm/v7"
        );
        assert_eq!(
            refuse("amd64", 2, &["linux/amd64/v3", "linux/arm64/v8"]),
            "the image is not made for linux/amd64/v2; it offers: linux/amd64/v3, linux/arm64"
        );
        assert!(refuse("arm64", 9, &["linux/arm64/v8.2", "linux/arm64/zen"]).contains("v8.2"));
        assert!(refuse("arm64", 9, &["linux/arm/v7"]).ends_with("linux/arm/v7"));
        assert!(refuse("amd64", 1, &[]).ends_with("nothing"));
    }

    #[test]
    fn this_host_runs_at_least_what_everybody_does() {
        let here = Host::here();
        assert!(here.variant >= baseline(here.architecture), "{here:?}");
    }
}
