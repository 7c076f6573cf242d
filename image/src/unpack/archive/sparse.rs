//! Sparse files as GNU tar writes them: its own header type, and three generations of PAX records (GNU tar manual,
//! "Storing Sparse Files"). Pure: maps in, a checked map out.
//!
//! Absent on purpose: Solaris' and star's forms.

use crate::unpack::Fail;

/// A file with holes: the archive holds its pieces only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Its size, holes included.
    pub(crate) size: u64,
    /// In order, without overlap, none beyond `size`.
    pub(crate) pieces: Vec<Piece>,
}

/// Bytes that are in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: u64,
    pub(crate) len: u64,
}

/// Pieces of one file; the map is kept in memory until the file is written.
const PIECES_MAX: usize = 64 * 1024;

/// What PAX records say, whichever generation.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Records {
    major: Option<u64>,
    minor: Option<u64>,
    /// `realsize` of version 1.0, `size` of those before.
    size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// Offsets and lengths in turn, as versions 0.0 and 0.1 have them.
    numbers: Vec<u64>,
}

impl Records {
    /// Takes a record in whose key begins with `GNU.sparse.`; false if its value is none.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        let number = super::decimal::<u64>(value);
        let into = match key {
            b"major" => &mut self.major,
            b"minor" => &mut self.minor,
            b"size" | b"realsize" => &mut self.size,
            b"name" => {
                self.name = Some(value.to_vec());
                return true;
            }
            // Offsets follow lengths; a pair that is none shows in `checked`.
            b"offset" | b"numbytes" => {
                let Some(number) = number else { return false };
                self.numbers.push(number);
                return self.numbers.len() <= 2 * PIECES_MAX;
            }
            b"map" => return self.take_map(value),
            // `numblocks` says what the list itself does.
            _ => return true,
        };
        *into = number;
        number.is_some()
    }

    fn take_map(&mut self, value: &[u8]) -> bool {
        let numbers = value.split(|b| *b == b',').take(2 * PIECES_MAX + 1);
        let numbers: Option<Vec<u64>> = numbers.map(super::decimal).collect();
        self.numbers = numbers.unwrap_or_default();
        !self.numbers.is_empty() && self.numbers.len() <= 2 * PIECES_MAX
    }

    /// Whether the file is sparse at all.
    pub(super) fn is_sparse(&self) -> bool {
        *self != Records::default()
    }

    /// Whether the map stands before the file's bytes (version 1.0).
    pub(super) fn map_is_in_data(&self) -> bool {
        (self.major, self.minor) == (Some(1), Some(0))
    }

    /// The file; `in_data` is the map that stood before its bytes, `stored` how many of those there are.
    pub(super) fn checked(self, in_data: Option<Vec<u64>>, stored: u64) -> Result<Sparse, Fail> {
        let known = matches!(
            (self.major, self.minor),
            (None, None) | (Some(0), _) | (Some(1), Some(0))
        );
        if !known {
            return Err(Fail::content("a sparse file is of an unknown version"));
        }
        let size = self.size.ok_or_else(bad)?;
        checked(size, in_data.unwrap_or(self.numbers), stored)
    }
}

/// A file by its size and the offsets and lengths of its pieces in turn.
pub(super) fn checked(size: u64, numbers: Vec<u64>, stored: u64) -> Result<Sparse, Fail> {
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * PIECES_MAX || size > i64::MAX as u64
    {
        return Err(bad());
    }
    let mut end = 0u64;
    let mut sum = 0u64;
    let mut pieces = Vec::new();
    for pair in numbers.chunks_exact(2) {
        let piece = Piece {
            at: pair[0],
            len: pair[1],
        };
        let next = piece.at.checked_add(piece.len).ok_or_else(bad)?;
        if piece.at < end || next > size {
            return Err(bad());
        }
        (end, sum) = (next, sum + piece.len);
        if piece.len > 0 {
            pieces.push(piece);
        }
    }
    match sum == stored {
        true => Ok(Sparse { size, pieces }),
        false => Err(bad()),
    }
}

fn bad() -> Fail {
    Fail::content("a sparse file's map is malformed")
}

/// The map that stands before the bytes in version 1.0: numbers in lines, the first of them how many pairs follow.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    count: Option<u64>,
    numbers: Vec<u64>,
    digits: Vec<u8>,
}

impl MapReader {
    /// Takes a block in; true when the map is whole. The rest of the block is padding.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<bool, Fail> {
        for byte in block {
            if *byte != b'\n' {
                self.digits.push(*byte);
                if self.digits.len() > 20 {
                    return Err(bad());
                }
                continue;
            }
            let number = super::decimal(&self.digits).ok_or_else(bad)?;
            self.digits.clear();
            match self.count {
                None if number > PIECES_MAX as u64 => return Err(bad()),
                None => self.count = Some(number),
                Some(_) => self.numbers.push(number),
            }
            if self
                .count
                .is_some_and(|count| self.numbers.len() as u64 == 2 * count)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn numbers(self) -> Vec<u64> {
        self.numbers
    }
}

/// Offsets and lengths of GNU's own headers; an empty pair ends them.
pub(super) fn pairs(headers: &[tar::GnuSparseHeader], numbers: &mut Vec<u64>) -> Result<(), Fail> {
    for header in headers {
        if header.is_empty() {
            return Ok(());
        }
        if numbers.len() >= 2 * PIECES_MAX {
            return Err(bad());
        }
        numbers.push(header.offset().map_err(|_| bad())?);
        numbers.push(header.length().map_err(|_| bad())?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn maps_that_cannot_be_are_refused() {
        let good = checked(10, vec![0, 2, 4, 3, 10, 0], 5).unwrap();
        let pieces = [Piece { at: 0, len: 2 }, Piece { at: 4, len: 3 }];
        assert_eq!((good.size, &good.pieces[..]), (10, &pieces[..]));
        assert!(checked(10, vec![], 0).unwrap().pieces.is_empty());
        for (numbers, stored) in [
            (vec![0], 0),
            (vec![0, 2], 3),
            (vec![4, 2, 0, 2], 4),
            (vec![0, 3, 2, 2], 5),
            (vec![9, 2], 2),
            (vec![u64::MAX, 2], 2),
        ] {
            assert!(checked(10, numbers.clone(), stored).is_err(), "{numbers:?}");
        }
    }

    proptest! {
        #[test]
        fn a_map_of_any_bytes_is_read_or_refused(bytes in proptest::collection::vec(prop_oneof![
            Just(b'\n'), b'0'..=b'3', any::<u8>()], 0..600)) {
            let mut reader = MapReader::default();
            if let Ok(true) = reader.take(&bytes)
                && let Ok(sparse) = checked(100, reader.numbers(), 10)
            {
                prop_assert_eq!(sparse.pieces.iter().map(|p| p.len).sum::<u64>(), 10);
            }
        }
    }
}
