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
    /// Parses a format; the empty one is `2018-04-03T23:06:09.123Z`. None if a
    /// conversion is not known.
    pub(super) fn parse(format: &str) -> Option<Self> {
        if format.is_empty() {
            return Some(Self([Piece::Iso].into()));
        }
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let expanded = match chars.next()? {
                '%' => {
                    text.push('%');
                    continue;
                }
                'f' => vec![Piece::Fraction(9)],
                's' => vec![Piece::Epoch],
                digits @ '1'..='9' => {
                    let digits = digits.to_digit(10).and_then(|n| usize::try_from(n).ok())?;
                    match chars.next()? {
                        'f' => vec![Piece::Fraction(digits)],
                        's' => vec![Piece::Epoch],
                        _ => return None,
                    }
                }
                'E' => e_conversion(&mut chars)?,
                'F' => Self::parse("%Y-%m-%d")?.0.into_vec(),
                'T' => Self::parse("%H:%M:%S")?.0.into_vec(),
                'R' => Self::parse("%H:%M")?.0.into_vec(),
                'D' | 'x' => Self::parse("%m/%d/%y")?.0.into_vec(),
                'X' => Self::parse("%H:%M:%S")?.0.into_vec(),
                'r' => Self::parse("%I:%M:%S %p")?.0.into_vec(),
                'c' => Self::parse("%a %b %e %H:%M:%S %Y")?.0.into_vec(),
                'n' => vec![Piece::Text("\n".into())],
                't' => vec![Piece::Text("\t".into())],
                'h' => vec![Piece::Conversion('b')],
                known if "YCymdeHIMSpaAbBjuwzZGgV".contains(known) => {
                    vec![Piece::Conversion(known)]
                }
                _ => return None,
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text).into()));
            }
            pieces.extend(expanded);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        Some(Self(pieces.into()))
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

/// `%E3S`, `%E*S`, `%Ez`: the extensions of Abseil's formatter.
fn e_conversion(chars: &mut std::str::Chars<'_>) -> Option<Vec<Piece>> {
    let mut seconds = vec![Piece::Conversion('S'), Piece::Text(".".into())];
    match chars.next()? {
        'z' => Some(vec![Piece::Text("+00:00".into())]),
        digits @ '1'..='9' if chars.next()? == 'S' => {
            seconds.push(Piece::Fraction(digits.to_digit(10).map_or(9, |n| n as usize)));
            Some(seconds)
        }
        _ => None,
    }
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
