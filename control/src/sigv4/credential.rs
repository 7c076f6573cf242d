//! The `Authorization` header and the date, read from hostile text.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::Refusal;
use crate::model::Millis;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Longest header that is looked at; botocore's are about 250 bytes.
const LONGEST: usize = 4096;

/// `AWS4-HMAC-SHA256 Credential=ID/DATE/REGION/SERVICE/aws4_request, SignedHeaders=a;b, Signature=HEX`
#[derive(Debug)]
pub(super) struct Authorization {
    pub(super) access_key: String,
    pub(super) date: String,
    pub(super) region: String,
    pub(super) service: String,
    /// Lower case, as the client listed them.
    pub(super) signed_headers: Vec<String>,
    pub(super) signature: [u8; 32],
}

impl Authorization {
    pub(super) fn of(headers: &HeaderMap) -> Result<Authorization, Refusal> {
        let header = headers
            .get(AUTHORIZATION)
            .ok_or(Refusal::MissingAuthenticationToken)?;
        let text = header.to_str().unwrap_or_default();
        if text.len() > LONGEST {
            return Err(incomplete("Authorization header is too long."));
        }
        let fields = text.strip_prefix(ALGORITHM).ok_or_else(|| {
            incomplete(&format!(
                "Unsupported AWS 'algorithm'. Use {ALGORITHM} (Signature Version 4)."
            ))
        })?;
        let credential = field(fields, "Credential")?;
        let parts: Vec<&str> = credential.split('/').collect();
        let [access_key, date, region, service, "aws4_request"] = parts[..] else {
            return Err(incomplete(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/aws4_request.",
            ));
        };
        let signature = field(fields, "Signature")?;
        let signed = field(fields, "SignedHeaders")?;
        Ok(Authorization {
            access_key: access_key.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            signed_headers: signed.split(';').map(str::to_ascii_lowercase).collect(),
            signature: decode(signature)?,
        })
    }

    pub(super) fn scope(&self) -> String {
        format!(
            "{}/{}/{}/aws4_request",
            self.date, self.region, self.service
        )
    }
}

fn field<'a>(fields: &'a str, name: &str) -> Result<&'a str, Refusal> {
    let mut all = fields
        .split(',')
        .filter_map(|field| field.trim().split_once('='));
    all.find(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .ok_or_else(|| {
            incomplete(&format!(
                "Authorization header requires '{name}' parameter."
            ))
        })
}

fn decode(signature: &str) -> Result<[u8; 32], Refusal> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(signature, &mut bytes)
        .map_err(|_| incomplete("Signature must be 64 hexadecimal digits."))?;
    Ok(bytes)
}

fn incomplete(text: &str) -> Refusal {
    Refusal::IncompleteSignature(text.to_owned())
}

/// `20150830T123600Z` -> milliseconds since the epoch.
pub(super) fn timestamp(text: &str) -> Option<Millis> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        let digits = bytes.get(range)?;
        digits.iter().try_fold(0_u64, |sum, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + u64::from(digit - b'0'))
        })
    };
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
    let sane =
        (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !sane || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(seconds * 1000)
}

/// Days since 1970-01-01 of a day in the Gregorian calendar, counting years from March so that the leap
/// day comes last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let since_march = (month + 9) % 12;
    let day_of_year = (153 * since_march + 2) / 5 + day - 1;
    // 719 468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_date_1_prints_them() {
        for (text, seconds) in [
            ("19700101T000000Z", 0),
            ("20150830T123600Z", 1_440_938_160),
            ("20240229T235959Z", 1_709_251_199),
            ("20000301T000000Z", 951_868_800),
        ] {
            assert_eq!(timestamp(text), Some(seconds * 1000), "{text}");
        }
    }

    #[test]
    fn no_text_is_a_crash() {
        for text in [
            "",
            "20150830T123600",
            "2015-08-30T12:36",
            "99991332T256161Z",
            "äääääääT1Z",
        ] {
            assert_eq!(timestamp(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_answered(text in "[ -~]{0,200}") {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, text.parse().unwrap());
            proptest::prop_assert!(Authorization::of(&headers).is_err());
        }
    }
}
