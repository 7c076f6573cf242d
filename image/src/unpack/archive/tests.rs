use super::*;
use proptest::prelude::*;

fn header(kind: tar::EntryType, path: &[u8], size: u64) -> tar::Header {
    let mut h = tar::Header::new_ustar();
    h.set_entry_type(kind);
    h.as_old_mut().name[..path.len()].copy_from_slice(path);
    h.set_size(size);
    h.set_mode(0o104755);
    h.set_uid(1);
    h.set_gid(2);
    h.set_mtime(3);
    h.set_cksum();
    h
}

fn with_data(h: &tar::Header, data: &[u8]) -> Vec<u8> {
    let mut bytes = h.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax_entry(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        body.extend_from_slice(format!("{len} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    with_data(
        &header(tar::EntryType::XHeader, b"x", body.len() as u64),
        &body,
    )
}

fn entries(bytes: &[u8]) -> Result<Vec<Entry>, Fail> {
    let mut archive = Archive::new(bytes);
    let mut all = Vec::new();
    while let Some(entry) = archive.next()? {
        all.push(entry);
    }
    archive.drain()?;
    Ok(all)
}

#[test]
fn blank_numbers_are_zero() {
    let mut h = header(tar::EntryType::Symlink, b"link", 0);
    let old = h.as_old_mut();
    (old.uid, old.gid) = ([0; 8], [b' '; 8]);
    (old.size, old.mtime) = ([0; 12], [b' '; 12]);
    h.set_cksum();
    let all = entries(&with_data(&h, b"")).unwrap();
    assert_eq!((all[0].uid, all[0].gid, all[0].mtime.seconds), (0, 0, 0));
    h.as_old_mut().uid = *b"not oct\0";
    h.set_cksum();
    assert!(entries(&with_data(&h, b"")).is_err());
}

#[test]
fn one_entry_cannot_pile_up_extension_headers_or_attributes() {
    let most = vec![0; 600 * 1024];
    let one = |n: usize| pax_entry(&[(&format!("SCHILY.xattr.user.{n}"), &most)]);
    let file = with_data(&header(tar::EntryType::Regular, b"f", 0), b"");
    assert!(entries(&[one(1), file.clone(), one(2), file.clone()].concat()).is_ok());
    let error = entries(&[one(1), one(2), file.clone()].concat()).unwrap_err();
    assert!(
        error.to_string().contains("are read for this entry"),
        "{error}"
    );

    let names: Vec<String> = (0..=1024)
        .map(|n| format!("SCHILY.xattr.user.{n}"))
        .collect();
    let records = |n: usize| {
        names[..n]
            .iter()
            .map(|name| (name.as_str(), &b"v"[..]))
            .collect::<Vec<_>>()
    };
    assert!(entries(&[pax_entry(&records(1024)), file.clone()].concat()).is_ok());
    let error = entries(&[pax_entry(&records(1025)), file].concat()).unwrap_err();
    assert!(
        error.to_string().contains("1024 extended attributes"),
        "{error}"
    );
}

#[test]
fn pax_records_override_the_header_and_its_size_moves_the_reader() {
    let mut bytes = pax_entry(&[
        ("path", b"long/name"),
        ("size", b"5"),
        ("uid", b"70000"),
        ("mtime", b"1.5"),
        ("SCHILY.xattr.user.a", b"x\0=y\n"),
        ("comment", b"ignored"),
    ]);
    bytes.extend(with_data(
        &header(tar::EntryType::Regular, b"short", 0),
        b"hello",
    ));
    bytes.extend(with_data(&header(tar::EntryType::Directory, b"d/", 0), b""));
    let all = entries(&bytes).unwrap();
    assert_eq!(all[0].path, b"long/name");
    assert_eq!(all[0].kind, Kind::File { size: 5 });
    assert_eq!((all[0].uid, all[0].gid, all[0].mode), (70000, 2, 0o4755));
    assert_eq!(
        all[0].mtime,
        Time {
            seconds: 1,
            nanoseconds: 500_000_000
        }
    );
    assert_eq!(all[0].xattrs, [(b"user.a".to_vec(), b"x\0=y\n".to_vec())]);
    assert_eq!(
        (all[1].path.as_slice(), &all[1].kind),
        (&b"d/"[..], &Kind::Directory)
    );
    assert_eq!(all[1].xattrs, []);
}

#[test]
fn gnu_long_names_are_read_and_bounded() {
    let long = "n".repeat(300);
    let mut data = long.clone().into_bytes();
    data.push(0);
    let mut bytes = with_data(&header(tar::EntryType::GNULongName, b"l", 301), &data);
    bytes.extend(with_data(
        &header(tar::EntryType::Regular, b"short", 0),
        b"",
    ));
    assert_eq!(entries(&bytes).unwrap()[0].path, long.as_bytes());
    let huge = with_data(&header(tar::EntryType::GNULongName, b"l", 1 << 30), b"");
    assert!(
        entries(&huge)
            .unwrap_err()
            .to_string()
            .contains("at most 4096")
    );
    let huge = with_data(&header(tar::EntryType::XHeader, b"x", 1 << 30), b"");
    assert!(
        entries(&huge)
            .unwrap_err()
            .to_string()
            .contains("at most 1048576")
    );
}

#[test]
fn damage_is_named() {
    let good = with_data(&header(tar::EntryType::Regular, b"f", 600), &[7; 600]);
    assert_eq!(entries(&good).unwrap().len(), 1);
    let said = |bytes: &[u8]| entries(bytes).unwrap_err().to_string();
    assert!(said(&good[..800]).contains("ends inside an entry"));
    assert!(said(&good[..100]).contains("ends inside a header"));
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    assert!(said(&flipped).contains("check sum"));
    let sparse = with_data(&header(tar::EntryType::GNUSparse, b"f", 0), b"");
    assert!(said(&sparse).contains("sparse file's header is malformed"));
    for (version, said_of) in [(&b"1"[..], "map is malformed"), (b"7", "unknown version")] {
        let mut sparse = pax_entry(&[
            ("GNU.sparse.major", version),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9"),
        ]);
        sparse.extend(&good);
        assert!(said(&sparse).contains(said_of), "{}", said(&sparse));
    }
    let volume = with_data(&header(tar::EntryType::new(b'V'), b"f", 0), b"");
    assert!(said(&volume).contains("type 0x56"));
    for record in [
        &b"5 a=b"[..],
        b"99 a=b\n",
        b"0 a=b\n",
        b"x",
        b"6 ab\n\n",
        b"11 size=+5\n",
        b"13 uid=9999x\n",
    ] {
        let mut bytes = with_data(
            &header(tar::EntryType::XHeader, b"x", record.len() as u64),
            record,
        );
        bytes.extend(&good);
        let _ = said(&bytes);
    }
    let mut bytes = pax_entry(&[("uid", b"4294967295")]);
    bytes.extend(&good);
    assert!(said(&bytes).contains("out of range"));
}

#[test]
fn times_before_1970_are_kept() {
    let t = |s: i64, n| {
        Some(Time {
            seconds: s,
            nanoseconds: n,
        })
    };
    assert_eq!(time(b"-1.25"), t(-2, 750_000_000));
    assert_eq!(time(b"-7"), t(-7, 0));
    assert_eq!(time(b"12.0000000019"), t(12, 1));
    for bad in ["", "-", ".5", "1.x", "+1", "99999999999999999999"] {
        assert_eq!(time(bad.as_bytes()), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_records_panic(bytes in proptest::collection::vec(prop_oneof![
        Just(b'1'), Just(b'0'), Just(b' '), Just(b'='), Just(b'\n'), any::<u8>()], 0..64)) {
        let mut ext = Extensions::default();
        if pax(&bytes, &mut ext).is_err() {
            prop_assert!(!bytes.is_empty());
        }
    }

    #[test]
    fn no_header_panics_or_reads_past_its_end(
        mut block in proptest::collection::vec(any::<u8>(), BLOCK..=BLOCK), tail in 0usize..1024
    ) {
        block[156] = b"01234567xgLKS"[usize::from(block[156]) % 13];
        let mut h = tar::Header::new_old();
        h.as_mut_bytes().copy_from_slice(&block);
        h.set_cksum();
        let mut bytes = h.as_bytes().to_vec();
        bytes.resize(BLOCK + tail, b'1');
        if let Ok(all) = entries(&bytes) {
            prop_assert!(all.len() <= 2);
        }
    }
}
