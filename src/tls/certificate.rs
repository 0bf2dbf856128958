//! What people ask of a certificate: serial number, names, validity (RFC 5280,
//! 4.1). A reader of the few DER fields that hold it; anything odd is "not
//! known", never an error: the TLS library decides what is usable.

use std::net::IpAddr;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]` of a certificate: its version.
const VERSION: u8 = 0xa0;
/// `[3]` of a certificate: its extensions.
const EXTENSIONS: u8 = 0xa3;
/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AltName {
    Dns(String),
    Uri(String),
    Ip(IpAddr),
}

/// A certificate, as people look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Details {
    /// In hex, two digits a byte, without leading zero bytes.
    pub(crate) serial: String,
    pub(crate) names: Vec<AltName>,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

impl Details {
    /// Of a certificate in DER; none if it is not one.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(SEQUENCE)?);
        let mut rest = Der(certificate.expect(SEQUENCE)?);
        if rest.peek() == Some(VERSION) {
            rest.next()?;
        }
        let serial = hex(rest.expect(INTEGER)?);
        rest.expect(SEQUENCE)?; // signature
        rest.expect(SEQUENCE)?; // issuer
        let mut validity = Der(rest.expect(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        rest.expect(SEQUENCE)?; // subject
        rest.expect(SEQUENCE)?; // subjectPublicKeyInfo
        let mut names = Vec::new();
        while let Some((tag, content)) = rest.next() {
            if tag == EXTENSIONS {
                names = alt_names(content).unwrap_or_default();
            }
        }
        Some(Self { serial, names, not_before, not_after })
    }
}

/// Out of the list of extensions.
fn alt_names(extensions: &[u8]) -> Option<Vec<AltName>> {
    let mut all = Der(Der(extensions).expect(SEQUENCE)?);
    while let Some((SEQUENCE, extension)) = all.next() {
        let mut extension = Der(extension);
        if extension.expect(OBJECT)? != SUBJECT_ALT_NAME {
            continue;
        }
        let mut names = Vec::new();
        while let Some((tag, content)) = extension.next() {
            if tag == OCTETS {
                let mut each = Der(Der(content).expect(SEQUENCE)?);
                while let Some((tag, name)) = each.next() {
                    names.extend(alt_name(tag, name));
                }
            }
        }
        return Some(names);
    }
    None
}

/// `GeneralName`; those that Envoy shows.
fn alt_name(tag: u8, content: &[u8]) -> Option<AltName> {
    let text = || String::from_utf8_lossy(content).into_owned();
    match tag {
        0x82 => Some(AltName::Dns(text())),
        0x86 => Some(AltName::Uri(text())),
        0x87 => match content.len() {
            4 => <[u8; 4]>::try_from(content).ok().map(|ip| AltName::Ip(ip.into())),
            16 => <[u8; 16]>::try_from(content).ok().map(|ip| AltName::Ip(ip.into())),
            _ => None,
        },
        _ => None,
    }
}

fn hex(number: &[u8]) -> String {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    match &number[start..] {
        [] => "0".to_owned(),
        bytes => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// DER values one after the other (X.690, 8.1).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Tag and content of the next value.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let bytes = usize::from(first & 0x7f);
            let (digits, after) = rest.split_at_checked(bytes).filter(|_| bytes <= 4)?;
            length = digits.iter().fold(0, |length, b| length << 8 | usize::from(*b));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }

    /// `Time` (RFC 5280, 4.1.2.5): always in seconds and UTC.
    fn time(&mut self) -> Option<OffsetDateTime> {
        let (tag, text) = self.next()?;
        let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<u8>().ok();
        let (year, at) = match tag {
            UTC_TIME => {
                let year = i32::from(number(0, 2)?);
                (if year < 50 { 2000 + year } else { 1900 + year }, 2)
            }
            GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, 4),
            _ => return None,
        };
        let month = Month::try_from(number(at, at + 2)?).ok()?;
        let date = Date::from_calendar_date(year, month, number(at + 2, at + 4)?).ok()?;
        let clock = [number(at + 4, at + 6)?, number(at + 6, at + 8)?, number(at + 8, at + 10)?];
        let clock = Time::from_hms(clock[0], clock[1], clock[2]).ok()?;
        Some(PrimitiveDateTime::new(date, clock).assume_utc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType, SerialNumber};

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
        params.subject_alt_names.push(SanType::IpAddress("2001:db8::1".parse().unwrap()));
        params.subject_alt_names.push(SanType::URI("spiffe://a/b".try_into().unwrap()));
        params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xb1]));
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(2050, 1, 2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn serial_names_and_validity_are_read() {
        let details = Details::of(&certificate()).unwrap();
        assert_eq!(details.serial, "0ab1");
        assert_eq!((hex(&[0, 0xff]), hex(&[0])), ("ff".to_owned(), "0".to_owned()));
        let ip = |text: &str| AltName::Ip(text.parse().unwrap());
        let names = [
            AltName::Dns("a.example".into()),
            ip("10.0.0.1"),
            ip("2001:db8::1"),
            AltName::Uri("spiffe://a/b".into()),
        ];
        assert_eq!(details.names, names);
        assert_eq!(details.not_before.unix_timestamp(), 946_598_400);
        assert_eq!(details.not_after.unix_timestamp(), 2_524_694_400);
    }

    #[test]
    fn a_certificate_cut_anywhere_is_harmless() {
        let whole = certificate();
        for end in 0..whole.len() {
            assert_eq!(Details::of(&whole[..end]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(at in 0usize..300, byte: u8, noise: Vec<u8>) {
            let mut spoiled = certificate();
            let at = at % spoiled.len();
            spoiled[at] = byte;
            let _ = Details::of(&spoiled);
            let _ = Details::of(&noise);
        }
    }
}
