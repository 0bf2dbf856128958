//! Request targets (RFC 9112 section 3.2) as Envoy reads them.

use super::HeadError;

/// A target taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Authority of an absolute or authority-form target, without user info.
    pub(crate) authority: Option<&'a [u8]>,
    /// Path with query, none for CONNECT.
    pub(crate) path: &'a [u8],
}

/// The first look, at the start line alone: characters and rough shape.
pub(crate) fn is_plausible(target: &[u8], is_connect: bool) -> bool {
    let Some(&first) = target.first() else {
        return false;
    };
    if first == b'/' || first == b'*' {
        return target[1..].iter().all(|&b| is_path_byte(b));
    }
    let mut rest = target;
    if !is_connect {
        match after_scheme(target) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    let host_len = rest.iter().position(|&b| b == b'/' || b == b'?').unwrap_or(rest.len());
    let (host, path) = rest.split_at(host_len);
    host.iter().all(|&b| is_url_host_byte(b))
        && !host.windows(2).any(|pair| pair == b"@@")
        && path.iter().all(|&b| is_path_byte(b))
}

/// Takes a plausible target apart.
pub(crate) fn parse<'a>(method: &[u8], target: &'a [u8]) -> Result<Target<'a>, HeadError> {
    if method == b"CONNECT" {
        let authority = host_and_port(target).ok_or(HeadError::InvalidUrl)?;
        if !has_port(authority) || authority.len() != target.len() {
            return Err(HeadError::InvalidUrl);
        }
        return Ok(Target { authority: Some(authority), path: b"" });
    }
    match target.first() {
        Some(b'/') => return Ok(Target { authority: None, path: target }),
        Some(b'*') if method == b"OPTIONS" => return Ok(Target { authority: None, path: target }),
        _ => {}
    }
    let (scheme, rest) = after_scheme(target).ok_or(HeadError::InvalidUrl)?;
    let host_len = rest.iter().position(|&b| b == b'/' || b == b'?').unwrap_or(rest.len());
    let (host, path) = rest.split_at(host_len);
    let authority = host_and_port(host).ok_or(HeadError::InvalidUrl)?;
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(HeadError::InvalidScheme);
    }
    Ok(Target { authority: Some(authority), path: if path.is_empty() { b"/" } else { path } })
}

/// Splits `scheme://rest`.
fn after_scheme(target: &[u8]) -> Option<(&[u8], &[u8])> {
    if !target.first()?.is_ascii_alphabetic() {
        return None;
    }
    let len = target
        .iter()
        .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')))?;
    Some((&target[..len], target[len..].strip_prefix(b"://")?))
}

fn is_path_byte(b: u8) -> bool {
    matches!(b, b'\t' | 0x0c | b'!'..=b'~')
}

fn is_url_host_byte(b: u8) -> bool {
    matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b':' | b'_' | b'~'
        | b'!' | b'$' | b'%' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
        | b'@' | b'[' | b']')
}

/// User info removed; host of letters, digits, `.` and `-`, or an IPv6 literal;
/// port, if any, up to 65535.
fn host_and_port(authority: &[u8]) -> Option<&[u8]> {
    let authority = match authority.iter().position(|&b| b == b'@') {
        Some(at) => {
            let (user, rest) = authority.split_at(at);
            if !user.iter().all(|&b| is_user_info_byte(b)) {
                return None;
            }
            &rest[1..]
        }
        None => authority,
    };
    let rest = if let Some(literal) = authority.strip_prefix(b"[") {
        let end = literal.iter().position(|&b| b == b']')?;
        let address = &literal[..end];
        let valid = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
        if address.is_empty() || !address.iter().all(valid) {
            return None;
        }
        &literal[end + 1..]
    } else {
        let len = authority
            .iter()
            .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')))
            .unwrap_or(authority.len());
        if len == 0 {
            return None;
        }
        &authority[len..]
    };
    match rest {
        [] => Some(authority),
        [b':', port @ ..] => super::fields::parse_length(port)
            .is_some_and(|port| port <= 65_535)
            .then_some(authority),
        _ => None,
    }
}

fn is_user_info_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.!~*'()%;:&=+$,".contains(&b)
}

fn has_port(authority: &[u8]) -> bool {
    let after_literal = authority.iter().rposition(|&b| b == b']').map_or(0, |at| at + 1);
    authority[after_literal..].contains(&b':')
}

/// Characters of `host` / `:authority` (RFC 3986 `authority`).
pub(crate) fn is_authority(value: &[u8]) -> bool {
    value.iter().all(|&b| is_url_host_byte(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let authority = |m: &[u8], t: &'static [u8]| parse(m, t).map(|t| (t.authority, t.path));
        assert_eq!(authority(b"GET", b"/a?b"), Ok((None, &b"/a?b"[..])));
        assert_eq!(authority(b"OPTIONS", b"*"), Ok((None, &b"*"[..])));
        assert_eq!(authority(b"GET", b"*"), Err(HeadError::InvalidUrl));
        assert_eq!(authority(b"GET", b"http://u@g:1?x"), Ok((Some(&b"g:1"[..]), &b"?x"[..])));
        assert_eq!(authority(b"GET", b"ws://g"), Err(HeadError::InvalidScheme));
        assert_eq!(authority(b"CONNECT", b"[::1]:8"), Ok((Some(&b"[::1]:8"[..]), &b""[..])));
        assert_eq!(authority(b"CONNECT", b"[::1]"), Err(HeadError::InvalidUrl));
        assert!(!is_plausible(b"h:80", false));
        assert!(is_plausible(b"h:80", true));
        assert!(!is_plausible(b"http://a@@b/", false));
    }
}
