//! Digests of content: sha256 only.
//!
//! Absent on purpose: sha512. The image specification permits it, no registry we met uses it, and a second
//! algorithm would double every path name; it is refused by name.

use std::fmt;

use sha2::Digest as _;

/// `sha256:<64 lower-case hexadecimal digits>` (OCI image spec, descriptor, "Digests").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(String);

const PREFIX: &str = "sha256:";

impl Digest {
    /// Parses a digest; the error tells what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Digest, String> {
        let Some(hex) = text.strip_prefix(PREFIX) else {
            let algorithm = text.split(':').next().unwrap_or_default();
            return Err(format!(
                "digest algorithm `{}` is not supported; only sha256 is",
                crate::error::printable(algorithm, 32)
            ));
        };
        let good = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !good {
            return Err("a sha256 digest has 64 lower-case hexadecimal digits".into());
        }
        Ok(Digest(text.to_owned()))
    }

    /// The digest of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 64 digits, fit for a file name.
    pub(crate) fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// With the algorithm.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A digest in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(format!("{PREFIX}{}", hex::encode(self.0.finalize())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(Digest::of(b"").as_str(), EMPTY);
        assert_eq!(Digest::parse(EMPTY).unwrap(), Digest::of(b""));
    }

    #[test]
    fn other_shapes_are_refused_by_name() {
        let sha512 = Digest::parse("sha512:00").unwrap_err();
        assert!(sha512.contains("`sha512` is not supported"), "{sha512}");
        assert!(Digest::parse(&EMPTY.to_uppercase()).is_err());
        assert!(Digest::parse(&EMPTY[..70]).is_err());
        assert!(Digest::parse(&format!("{EMPTY}0")).is_err());
        assert!(Digest::parse("sha256:../../../../etc/passwd").is_err());
        assert!(Digest::parse("").is_err());
    }
}
