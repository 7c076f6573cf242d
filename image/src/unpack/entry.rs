//! The rules for what a layer's entry may be called and what its name means: pure functions over foreign
//! bytes (OCI image spec, "Layer", whiteouts included).
//!
//! Absent on purpose: clamping. A name that climbs out is refused with its name and never bent into place.

/// PATH_MAX without its NUL.
const PATH_LEN_MAX: usize = 4095;
const NAME_LEN_MAX: usize = 255;
const DEPTH_MAX: usize = 256;
/// XATTR_SIZE_MAX of the kernel.
const XATTR_VALUE_MAX: usize = 64 * 1024;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path below the layer's root: components joined by `/`, none of them empty, `.` or `..`. Empty is the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// Reads a tar entry's name; the error tells the rule it breaks.
    pub(crate) fn parse(raw: &[u8]) -> Result<Name, String> {
        if raw.contains(&0) {
            return Err("its name holds a NUL byte".into());
        }
        if raw.len() > PATH_LEN_MAX {
            return Err(format!("its name is longer than {PATH_LEN_MAX} bytes"));
        }
        let parts: Vec<&[u8]> = raw
            .split(|b| *b == b'/')
            .filter(|part| !matches!(*part, b"" | b"."))
            .collect();
        if raw.first() == Some(&b'/') && !parts.is_empty() {
            return Err("its name is absolute and climbs out of the layer".into());
        }
        if parts.contains(&&b".."[..]) {
            return Err("its name climbs out of the layer by `..`".into());
        }
        if parts.len() > DEPTH_MAX {
            return Err(format!("it lies deeper than {DEPTH_MAX} directories"));
        }
        if parts.iter().any(|part| part.len() > NAME_LEN_MAX) {
            return Err(format!(
                "a part of its name is longer than {NAME_LEN_MAX} bytes"
            ));
        }
        Ok(Name(parts.join(&b'/')))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Parent path and last component.
    pub(crate) fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (b"", &self.0),
        }
    }
}

/// What an entry means for the layers below it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// Itself.
    Plain,
    /// The sibling of this name is gone.
    Whiteout(&'a [u8]),
    /// The parent directory hides all that lies below it.
    Opaque,
}

/// Reads the role from an entry's name. Names that only AUFS's own bookkeeping uses are refused.
pub(crate) fn role(name: &Name) -> Result<Role<'_>, String> {
    let (parent, last) = name.split();
    if parent
        .split(|b| *b == b'/')
        .any(|part| part.starts_with(WHITEOUT))
    {
        return Err("it lies below a whiteout".into());
    }
    if last == OPAQUE {
        return Ok(Role::Opaque);
    }
    let Some(target) = last.strip_prefix(WHITEOUT) else {
        return Ok(Role::Plain);
    };
    match target {
        b"" | b"." | b".." => Err("it is a whiteout of nothing that a directory can hold".into()),
        t if t.starts_with(WHITEOUT) => {
            Err("it is one of AUFS's own files, which are not supported".into())
        }
        target => Ok(Role::Whiteout(target)),
    }
}

/// What to do with an extended attribute.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Xattr {
    /// Set it.
    Keep,
    /// Leave it out; the reason.
    Drop(&'static str),
}

/// Decides on an extended attribute of an entry.
pub(crate) fn xattr(name: &[u8], value: &[u8]) -> Result<Xattr, String> {
    if name.is_empty()
        || name.len() > NAME_LEN_MAX
        || name.contains(&0)
        || value.len() > XATTR_VALUE_MAX
    {
        return Err("an extended attribute has a bad name or is too large".into());
    }
    Ok(match name {
        b"security.capability" => Xattr::Keep,
        n if n.starts_with(b"user.overlay.") => Xattr::Drop("it would steer an overlay mount"),
        n if n.starts_with(b"user.") => Xattr::Keep,
        n if n.starts_with(b"trusted.") => {
            Xattr::Drop("it belongs to the host and steers overlay mounts")
        }
        n if n.starts_with(b"security.") => {
            Xattr::Drop("the host's security module labels files itself")
        }
        n if n.starts_with(b"system.") => Xattr::Drop("access control lists are not supported"),
        _ => Xattr::Drop("its namespace is unknown"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn named(raw: &str) -> String {
        String::from_utf8(Name::parse(raw.as_bytes()).unwrap().0).unwrap()
    }

    #[test]
    fn names_are_brought_to_one_form() {
        assert_eq!(named("./a//b/./c/"), "a/b/c");
        for root in ["", ".", "./", "/", "//."] {
            assert_eq!(named(root), "");
        }
        assert_eq!(named("...a/..b/c.."), "...a/..b/c..");
    }

    #[test]
    fn names_that_climb_are_refused() {
        for bad in [
            "..",
            "../a",
            "a/../b",
            "a/..",
            "./../a",
            "/etc/passwd",
            "//a",
            "a\0b",
        ] {
            assert!(Name::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Name::parse("a".repeat(256).as_bytes()).is_err());
        assert!(Name::parse("a/".repeat(257).as_bytes()).is_err());
        assert!(Name::parse("a/".repeat(2048).as_bytes()).is_err());
    }

    #[test]
    fn whiteouts_are_told_from_files() {
        let name = |raw: &str| Name::parse(raw.as_bytes()).unwrap();
        assert_eq!(role(&name("a/.wh.b")).unwrap(), Role::Whiteout(b"b"));
        assert_eq!(role(&name(".wh.b")).unwrap(), Role::Whiteout(b"b"));
        assert_eq!(role(&name("a/.wh..wh..opq")).unwrap(), Role::Opaque);
        assert_eq!(role(&name("a/.whb")).unwrap(), Role::Plain);
        assert_eq!(role(&name("")).unwrap(), Role::Plain);
        for bad in [
            ".wh.",
            "a/.wh..",
            "a/.wh...",
            ".wh..wh.plnk",
            ".wh.a/b",
            "x/.wh..wh..opq/y",
        ] {
            assert!(role(&name(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_that_could_steer_the_host_are_left_out() {
        let decide = |name: &str| xattr(name.as_bytes(), b"v").unwrap();
        assert_eq!(decide("user.mime"), Xattr::Keep);
        assert_eq!(decide("security.capability"), Xattr::Keep);
        for dropped in [
            "trusted.overlay.opaque",
            "trusted.x",
            "user.overlay.redirect",
            "security.selinux",
            "system.posix_acl_access",
            "odd",
        ] {
            assert!(matches!(decide(dropped), Xattr::Drop(_)), "{dropped}");
        }
        assert!(xattr(b"", b"").is_err());
        assert!(xattr(b"user.x", &[0; 65537]).is_err());
    }

    proptest! {
        #[test]
        fn a_name_never_climbs(raw in proptest::collection::vec(prop_oneof![
            Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..40)) {
            if let Ok(name) = Name::parse(&raw) {
                let parts: Vec<&[u8]> = name.bytes().split(|b| *b == b'/').collect();
                prop_assert!(name.is_root() || parts.iter().all(|p| !matches!(*p, b"" | b"." | b"..")));
                let again = Name::parse(name.bytes()).unwrap();
                prop_assert_eq!(&again, &name);
                if let Ok(Role::Whiteout(target)) = role(&name) {
                    prop_assert!(!matches!(target, b"" | b"." | b"..") && !target.contains(&b'/'));
                }
            }
        }
    }
}
