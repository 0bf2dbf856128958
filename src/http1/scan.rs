//! Finds the end of a head, remembering what was seen, so that a client that
//! sends byte by byte costs no more than one that does not.

use memchr::{memchr, memchr_iter};
use smallvec::SmallVec;

/// Where the lines of a head end. Reused from message to message.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// Empty lines before the start line, in bytes.
    skipped: usize,
    started: bool,
    /// Bytes, from the start of the buffer, that hold no further line end.
    scanned: usize,
    /// Ends of lines behind their LF, counted from `skipped`.
    ends: SmallVec<[u32; 40]>,
    /// How many of them are CR LF.
    cr_ends: usize,
}

/// Result of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The head is not complete.
    Partial,
    /// The head is complete.
    Complete,
    /// The head is, or will be, larger than allowed.
    TooLarge,
    /// The message starts with a blank.
    StartsWithBlank,
}

impl Scanner {
    /// Forgets the message; keeps a reasonable amount of memory.
    pub(crate) fn reset(&mut self) {
        self.skipped = 0;
        self.started = false;
        self.scanned = 0;
        self.ends.clear();
        self.cr_ends = 0;
        if self.ends.spilled() && self.ends.capacity() > 256 {
            self.ends.shrink_to_fit();
        }
    }

    /// Looks at `buf`, which must begin with the bytes of the previous call.
    ///
    /// `skip_empty_lines`: CR and LF before the start line are passed over.
    pub(crate) fn scan(&mut self, buf: &[u8], max_bytes: usize, skip_empty_lines: bool) -> Scan {
        if !self.started {
            let skip = if skip_empty_lines {
                buf[self.skipped..].iter().take_while(|&&b| b == b'\r' || b == b'\n').count()
            } else {
                0
            };
            self.skipped += skip;
            self.scanned = self.skipped;
            match buf.get(self.skipped) {
                None => return Scan::Partial,
                Some(&b) if b <= b' ' => return Scan::StartsWithBlank,
                Some(_) => self.started = true,
            }
        }
        let head = &buf[self.skipped..];
        let mut line = self.ends.last().map_or(0, |&end| end as usize);
        let mut at = self.scanned - self.skipped;
        while let Some(found) = memchr(b'\n', &head[at..]) {
            let end = at + found + 1;
            if end > max_bytes {
                return Scan::TooLarge;
            }
            // bounded by `max_bytes`, far below 4 GiB
            self.ends.push(u32::try_from(end).unwrap_or(u32::MAX));
            at = end;
            self.cr_ends += usize::from(end > 1 && head[end - 2] == b'\r');
            if matches!(&head[line..end], b"\n" | b"\r\n") {
                self.scanned = self.skipped + at;
                return Scan::Complete;
            }
            line = end;
        }
        self.scanned = buf.len();
        // At the limit without an end, the limit will be crossed.
        if head.len() >= max_bytes { Scan::TooLarge } else { Scan::Partial }
    }

    /// True if a byte of the message was seen.
    pub(crate) fn has_begun(&self) -> bool {
        self.started
    }

    /// The first line without its CR and LF, once it is there.
    pub(crate) fn first_line<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        let end = *self.ends.first()? as usize;
        Some(trim_line_end(&buf[self.skipped..self.skipped + end]))
    }

    /// All bytes of the head up to the lines found so far.
    pub(crate) fn head<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        let end = self.ends.last().map_or(0, |&end| end as usize);
        &buf[self.skipped..self.skipped + end]
    }

    /// True if the lines found so far have a CR that does not end its line.
    pub(crate) fn has_inner_cr(&self, buf: &[u8]) -> bool {
        memchr_iter(b'\r', self.head(buf)).count() != self.cr_ends
    }

    /// Bytes from the start of the buffer to the end of the last line found.
    pub(crate) fn consumed(&self) -> usize {
        self.skipped + self.ends.last().map_or(0, |&end| end as usize)
    }

    /// Ends of the lines, counted from the start of [`Scanner::head`].
    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }
}

/// `line` without trailing CR and LF.
pub(crate) fn trim_line_end(line: &[u8]) -> &[u8] {
    let keep = line.iter().rposition(|&b| b != b'\r' && b != b'\n').map_or(0, |last| last + 1);
    &line[..keep]
}

/// The three words of a start line: split at runs of bytes up to a blank, the
/// third reaching to the last byte that is not one.
pub(crate) fn split_start_line(line: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (first, rest) = island(line);
    let (second, rest) = island(rest);
    let from = rest.iter().position(|&b| b > b' ').unwrap_or(rest.len());
    let to = rest.iter().rposition(|&b| b > b' ').map_or(from, |last| last + 1);
    (first, second, &rest[from..to])
}

fn island(line: &[u8]) -> (&[u8], &[u8]) {
    let from = line.iter().position(|&b| b > b' ').unwrap_or(line.len());
    let len = line[from..].iter().position(|&b| b <= b' ').unwrap_or(line.len() - from);
    (&line[from..from + len], &line[from + len..])
}

/// `HTTP/` digit `.` digit.
pub(crate) fn is_version(word: &[u8]) -> bool {
    matches!(word, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_line_splits_at_any_control() {
        assert_eq!(split_start_line(b"GET / HTTP/1.1"), (&b"GET"[..], &b"/"[..], &b"HTTP/1.1"[..]));
        assert_eq!(
            split_start_line(b"GET\t /a \rHTTP/1.1 x "),
            (&b"GET"[..], &b"/a"[..], &b"HTTP/1.1 x"[..])
        );
        assert_eq!(split_start_line(b"GET"), (&b"GET"[..], &b""[..], &b""[..]));
    }

    #[test]
    fn growing_buffer_is_scanned_once() {
        let all = b"\r\n\nGET / HTTP/1.1\r\nhost: h\r\n\r\nrest";
        let mut scanner = Scanner::default();
        for end in 0..32 {
            let scan = scanner.scan(&all[..end], 1000, true);
            assert_eq!(scan, if end < 30 { Scan::Partial } else { Scan::Complete }, "{end}");
            if end >= 30 {
                break;
            }
        }
        assert_eq!(scanner.consumed(), 30);
        assert_eq!(scanner.first_line(all), Some(&b"GET / HTTP/1.1"[..]));
    }

    #[test]
    fn limit_counts_from_the_start_line() {
        let all = b"\r\nG\r\n\r\n";
        assert_eq!(Scanner::default().scan(all, 5, true), Scan::Complete);
        assert_eq!(Scanner::default().scan(all, 4, true), Scan::TooLarge);
        assert_eq!(Scanner::default().scan(b"GGGG", 4, true), Scan::TooLarge);
        assert_eq!(Scanner::default().scan(b"GGG", 4, true), Scan::Partial);
    }
}
