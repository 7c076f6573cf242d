//! Names nobody can guess: ids as ECS writes them, from the kernel's random numbers.

use rustix::rand::{GetRandomFlags, getrandom};

/// 32 lowercase hex digits: the id of a task, an instance, a store.
#[must_use]
pub fn hex() -> String {
    hex::encode(random::<16>())
}

/// A random UUID (RFC 9562, version 4) with hyphens: what ends a container's ARN.
#[must_use]
pub fn uuid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(bytes);
    let parts = [
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ];
    parts.join("-")
}

/// `N` random bytes.
///
/// # Panics
/// When the kernel gives none, which getrandom(2) does only before the machine has finished booting or
/// without the system call: going on with guessable names would be worse.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("getrandom: {error}"),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_ecs_gives_them_and_differ() {
        assert_eq!(hex().len(), 32);
        assert_ne!(hex(), hex());
        let uuid = uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "4");
        assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"));
    }
}
