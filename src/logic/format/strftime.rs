//! `%START_TIME(...)%`: the conversions of strftime, and Envoy's `%f`, `%1f` to
//! `%9f` (parts of a second), `%s` (seconds of the epoch; so is `%3s`, as
//! observed). Times are UTC.

use std::io::Write as _;
use std::time::SystemTime;

use time::OffsetDateTime;

/// A parsed time format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimeFormat(Box<[Piece]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Conversion(char),
    /// So many digits of the second's fraction.
    Fraction(usize),
    /// Seconds of the epoch.
    Epoch,
    /// RFC 3339 with milliseconds, the default.
    Iso,
}

impl TimeFormat {
    /// Parses a format; the empty one is `2018-04-03T23:06:09.123Z`. What is no
    /// conversion stays as it is, as Envoy accepts any format.
    pub(super) fn parse(format: &str) -> Self {
        if format.is_empty() {
            return Self([Piece::Iso].into());
        }
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = format;
        while let Some(c) = rest.chars().next() {
            let (expanded, len) = match conversion(rest) {
                Some(found) => found,
                None => {
                    text.push(c);
                    rest = &rest[c.len_utf8()..];
                    continue;
                }
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text).into()));
            }
            pieces.extend(expanded);
            rest = &rest[len..];
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        Self(pieces.into())
    }

    /// Appends a time.
    pub(super) fn render(&self, at: SystemTime, out: &mut Vec<u8>) {
        let at = OffsetDateTime::from(at);
        for piece in &self.0 {
            // Writing into memory cannot fail.
            let _ = match piece {
                Piece::Text(text) => out.write_all(text.as_bytes()),
                Piece::Conversion(c) => convert(*c, at, out),
                Piece::Fraction(digits) => fraction(at, *digits, out),
                Piece::Epoch => write!(out, "{}", at.unix_timestamp()),
                Piece::Iso => iso(at, out),
            };
        }
    }
}

/// The conversion at the start of `input` and its length; none if there is none.
fn conversion(input: &str) -> Option<(Vec<Piece>, usize)> {
    let same_as = |format| TimeFormat::parse(format).0.into_vec();
    let text = |text: &str| Piece::Text(text.into());
    let digit = |b: u8| char::from(b).to_digit(10).filter(|n| *n > 0).map(|n| n as usize);
    Some(match input.as_bytes() {
        [b'%', b'E', b'z', ..] => (vec![text("+00:00")], 3),
        [b'%', b'E', digits, b'S', ..] => {
            (vec![Piece::Conversion('S'), text("."), Piece::Fraction(digit(*digits)?)], 4)
        }
        [b'%', digits, b'f', ..] if digit(*digits).is_some() => {
            (vec![Piece::Fraction(digit(*digits)?)], 3)
        }
        [b'%', digits, b's', ..] if digit(*digits).is_some() => (vec![Piece::Epoch], 3),
        [b'%', c, ..] => {
            let pieces = match char::from(*c) {
                '%' => vec![text("%")],
                'n' => vec![text("\n")],
                't' => vec![text("\t")],
                'f' => vec![Piece::Fraction(9)],
                's' => vec![Piece::Epoch],
                'F' => same_as("%Y-%m-%d"),
                'T' | 'X' => same_as("%H:%M:%S"),
                'R' => same_as("%H:%M"),
                'D' | 'x' => same_as("%m/%d/%y"),
                'r' => same_as("%I:%M:%S %p"),
                'c' => same_as("%a %b %e %H:%M:%S %Y"),
                'h' => vec![Piece::Conversion('b')],
                known if "YCymdeHIMSpaAbBjuwzZGgV".contains(known) => {
                    vec![Piece::Conversion(known)]
                }
                _ => return None,
            };
            (pieces, 2)
        }
        _ => return None,
    })
}

fn iso(at: OffsetDateTime, out: &mut Vec<u8>) -> std::io::Result<()> {
    write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

fn fraction(at: OffsetDateTime, digits: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
    let from = out.len();
    write!(out, "{:09}", at.nanosecond())?;
    out.truncate(from + digits.min(9));
    Ok(())
}

fn convert(conversion: char, at: OffsetDateTime, out: &mut Vec<u8>) -> std::io::Result<()> {
    let hour12 = (at.hour() + 11) % 12 + 1;
    let weekday = at.weekday();
    match conversion {
        'Y' => write!(out, "{:04}", at.year()),
        'C' => write!(out, "{:02}", at.year().div_euclid(100)),
        'y' => write!(out, "{:02}", at.year().rem_euclid(100)),
        'm' => write!(out, "{:02}", u8::from(at.month())),
        'd' => write!(out, "{:02}", at.day()),
        'e' => write!(out, "{:2}", at.day()),
        'H' => write!(out, "{:02}", at.hour()),
        'I' => write!(out, "{hour12:02}"),
        'M' => write!(out, "{:02}", at.minute()),
        'S' => write!(out, "{:02}", at.second()),
        'p' => write!(out, "{}", if at.hour() < 12 { "AM" } else { "PM" }),
        'a' => write!(out, "{:.3}", weekday.to_string()),
        'A' => write!(out, "{weekday}"),
        'b' => write!(out, "{:.3}", at.month().to_string()),
        'B' => write!(out, "{}", at.month()),
        'j' => write!(out, "{:03}", at.ordinal()),
        'u' => write!(out, "{}", weekday.number_from_monday()),
        'w' => write!(out, "{}", weekday.number_days_from_sunday()),
        'z' => out.write_all(b"+0000"),
        'Z' => out.write_all(b"UTC"),
        'G' => write!(out, "{:04}", at.to_iso_week_date().0),
        'g' => write!(out, "{:02}", at.to_iso_week_date().0.rem_euclid(100)),
        'V' => write!(out, "{:02}", at.iso_week()),
        _ => Ok(()),
    }
}
