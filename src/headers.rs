//! Message heads: header fields as spans into one reusable buffer.
//!
//! A head owns one byte buffer; the method, the path, the authority and every
//! field name and value are spans of it. Order and duplicates are kept, nothing
//! is hashed, and a head that is reused for the next message on a connection
//! allocates nothing. Names are lower case (what Envoy forwards on HTTP/1 and
//! what HTTP/2 requires); values are raw bytes without surrounding blanks.

use std::ops::Range;

use smallvec::SmallVec;

/// Fields that the proxy itself looks at, so that a head is searched by one
/// byte instead of by name.
///
/// The numeric value is only an in-memory tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum HeaderId {
    /// Any name that is not in this list.
    Other,
    Accept,
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Date,
    Expect,
    GrpcMessage,
    GrpcStatus,
    GrpcTimeout,
    Host,
    KeepAlive,
    ProxyConnection,
    SeldonInternalModel,
    SeldonLogging,
    SeldonModel,
    Server,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    UserAgent,
    Via,
    XEnvoy,
    XEnvoyOriginalPath,
    XEnvoyRatelimited,
    XEnvoyUpstreamServiceTime,
    XForwardedFor,
    XForwardedProto,
    XRequestId,
    XSeldonRoute,
}

impl HeaderId {
    /// The tag of a lower-case name. `x-envoy-*` names without a tag of their
    /// own share [`HeaderId::XEnvoy`].
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"te" => Self::Te,
            b"via" => Self::Via,
            b"host" => Self::Host,
            b"date" => Self::Date,
            b"accept" => Self::Accept,
            b"cookie" => Self::Cookie,
            b"expect" => Self::Expect,
            b"server" => Self::Server,
            b"upgrade" => Self::Upgrade,
            b"trailer" => Self::Trailer,
            b"connection" => Self::Connection,
            b"keep-alive" => Self::KeepAlive,
            b"user-agent" => Self::UserAgent,
            b"content-type" => Self::ContentType,
            b"grpc-status" => Self::GrpcStatus,
            b"grpc-message" => Self::GrpcMessage,
            b"grpc-timeout" => Self::GrpcTimeout,
            b"seldon-model" => Self::SeldonModel,
            b"x-request-id" => Self::XRequestId,
            b"content-length" => Self::ContentLength,
            b"seldon-logging" => Self::SeldonLogging,
            b"x-seldon-route" => Self::XSeldonRoute,
            b"x-forwarded-for" => Self::XForwardedFor,
            b"proxy-connection" => Self::ProxyConnection,
            b"transfer-encoding" => Self::TransferEncoding,
            b"x-forwarded-proto" => Self::XForwardedProto,
            b"seldon-internal-model" => Self::SeldonInternalModel,
            b"x-envoy-original-path" => Self::XEnvoyOriginalPath,
            b"x-envoy-ratelimited" => Self::XEnvoyRatelimited,
            b"x-envoy-upstream-service-time" => Self::XEnvoyUpstreamServiceTime,
            _ if name.starts_with(b"x-envoy-") => Self::XEnvoy,
            _ => Self::Other,
        }
    }
}

/// A range of a head's buffer, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of(self, buf: &[u8]) -> &[u8] {
        &buf[self.start as usize..(self.start + self.len) as usize]
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        let start = u32::try_from(range.start).unwrap_or(u32::MAX);
        Self { start, len: u32::try_from(range.len()).unwrap_or(0) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: Span,
    value: Span,
    id: HeaderId,
}

/// One header field as seen by a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderField<'a> {
    /// The tag of the name.
    pub id: HeaderId,
    /// Lower-case name.
    pub name: &'a [u8],
    /// Value without surrounding blanks.
    pub value: &'a [u8],
}

/// An ordered list of header fields.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    buf: Vec<u8>,
    fields: SmallVec<[Field; 16]>,
}

impl Headers {
    /// Forgets all fields and keeps the memory.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.fields.clear();
    }

    /// Number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// True if there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = u32::try_from(self.buf.len()).unwrap_or(u32::MAX);
        self.buf.extend_from_slice(bytes);
        Span { start, len: u32::try_from(bytes.len()).unwrap_or(0) }
    }

    /// Appends a field. `name` is stored in lower case, `value` as it is.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        let (from, to) = (name.start as usize, (name.start + name.len) as usize);
        self.buf[from..to].make_ascii_lowercase();
        let id = HeaderId::of(&self.buf[from..to]);
        let value = self.store(value);
        self.fields.push(Field { name, value, id });
    }

    /// Appends a field whose lower-case name has a known tag.
    pub fn push_known(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        let value = self.store(value);
        self.fields.push(Field { name, value, id });
    }

    /// Copies a block of bytes of which parts become fields by
    /// [`Headers::push_part`]; says where it begins in the buffer. One copy for a
    /// whole message instead of two for each field.
    pub(crate) fn adopt(&mut self, block: &[u8]) -> usize {
        self.store(block).start as usize
    }

    /// Turns a part of the buffer into lower case and gives its tag.
    pub(crate) fn lower_part(&mut self, part: Range<usize>) -> HeaderId {
        self.buf[part.clone()].make_ascii_lowercase();
        HeaderId::of(&self.buf[part])
    }

    /// A part of the buffer.
    pub(crate) fn part(&self, part: Range<usize>) -> &[u8] {
        &self.buf[part]
    }

    /// Appends a field whose name, in lower case, and value are parts of the
    /// buffer.
    pub(crate) fn push_part(&mut self, id: HeaderId, name: Range<usize>, value: Range<usize>) {
        self.fields.push(Field { name: Span::from(name), value: Span::from(value), id });
    }

    /// All fields in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = HeaderField<'_>> + ExactSizeIterator {
        self.fields.iter().map(|f| HeaderField {
            id: f.id,
            name: f.name.of(&self.buf),
            value: f.value.of(&self.buf),
        })
    }

    /// The field at `index`, if there is one.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<HeaderField<'_>> {
        self.fields.get(index).map(|f| HeaderField {
            id: f.id,
            name: f.name.of(&self.buf),
            value: f.value.of(&self.buf),
        })
    }

    /// The first value of a tagged field.
    #[must_use]
    pub fn first(&self, id: HeaderId) -> Option<&[u8]> {
        self.fields.iter().find(|f| f.id == id).map(|f| f.value.of(&self.buf))
    }

    /// All values of a tagged field, in order.
    pub fn all(&self, id: HeaderId) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter(move |f| f.id == id).map(|f| f.value.of(&self.buf))
    }

    /// True if a tagged field is there.
    #[must_use]
    pub fn has(&self, id: HeaderId) -> bool {
        self.fields.iter().any(|f| f.id == id)
    }

    /// The first value of the field with this lower-case name.
    #[must_use]
    pub fn first_named<'a>(&'a self, name: &'a [u8]) -> Option<&'a [u8]> {
        self.all_named(name).next()
    }

    /// All values of the fields with this lower-case name, in order.
    pub fn all_named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let id = HeaderId::of(name);
        self.fields
            .iter()
            .filter(move |f| f.id == id && (is_exact(id) || f.name.of(&self.buf) == name))
            .map(|f| f.value.of(&self.buf))
    }

    /// Removes every field with this lower-case name; says how many there were.
    pub fn remove_named(&mut self, name: &[u8]) -> usize {
        let id = HeaderId::of(name);
        let buf = &self.buf;
        let before = self.fields.len();
        self.fields.retain(|f| f.id != id || (!is_exact(id) && f.name.of(buf) != name));
        before - self.fields.len()
    }

    /// Removes every field with this tag; says how many there were.
    pub fn remove(&mut self, id: HeaderId) -> usize {
        let before = self.fields.len();
        self.fields.retain(|f| f.id != id);
        before - self.fields.len()
    }

    /// Keeps the fields for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(HeaderField<'_>) -> bool) {
        let buf = &self.buf;
        self.fields.retain(|f| {
            keep(HeaderField { id: f.id, name: f.name.of(buf), value: f.value.of(buf) })
        });
    }

    /// Replaces the value of the first field of this lower-case name in place
    /// and removes the others; false, and no change, if there is none.
    pub fn replace_named(&mut self, name: &[u8], value: &[u8]) -> bool {
        let id = HeaderId::of(name);
        let buf = &self.buf;
        let same = |f: &Field| f.id == id && (is_exact(id) || f.name.of(buf) == name);
        let Some(first) = self.fields.iter().position(same) else {
            return false;
        };
        let mut index = 0;
        self.fields.retain(|f| {
            let keep = index <= first || !same(f);
            index += 1;
            keep
        });
        let span = self.store(value);
        self.fields[first].value = span;
        true
    }

    /// Replaces the value of the field at `index`.
    pub fn replace_at(&mut self, index: usize, value: &[u8]) {
        let span = self.store(value);
        if let Some(field) = self.fields.get_mut(index) {
            field.value = span;
        }
    }

    /// Joins `value` to the field at `index` with a comma, as Envoy folds
    /// repeated standard headers: an empty side adds nothing.
    pub fn append_at(&mut self, index: usize, value: &[u8]) {
        let Some(have) = self.fields.get(index).map(|f| f.value) else {
            return;
        };
        if value.is_empty() {
            return;
        }
        let joined = self.join(have, value);
        if let Some(field) = self.fields.get_mut(index) {
            field.value = joined;
        }
    }

    /// Stores `have,value`; extends in place if `have` is the last thing stored.
    fn join(&mut self, have: Span, value: &[u8]) -> Span {
        if have.len == 0 {
            return self.store(value);
        }
        let (from, to) = (have.start as usize, (have.start + have.len) as usize);
        let mut start = have.start;
        if to != self.buf.len() {
            start = u32::try_from(self.buf.len()).unwrap_or(u32::MAX);
            self.buf.extend_from_within(from..to);
        }
        self.buf.push(b',');
        self.buf.extend_from_slice(value);
        let len = u32::try_from(self.buf.len()).unwrap_or(u32::MAX) - start;
        Span { start, len }
    }

    /// Sets a field: in place if it is there, else appended.
    pub fn set_named(&mut self, name: &[u8], value: &[u8]) {
        if !self.replace_named(name, value) {
            self.push(name, value);
        }
    }
}

/// True if the tag stands for one name only.
fn is_exact(id: HeaderId) -> bool {
    !matches!(id, HeaderId::Other | HeaderId::XEnvoy)
}

/// The request line's or the `:scheme`'s idea of transport security.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

/// A request head, downstream or upstream.
///
/// `host` is not among the fields: it is [`RequestHead::authority`], as in
/// Envoy (`:authority`), and leaves first on HTTP/1.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The fields, without `host`.
    pub headers: Headers,
    /// Transport the request came by.
    pub scheme: Scheme,
    method: Span,
    path: Span,
    authority: Span,
}

impl RequestHead {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.scheme = Scheme::Http;
        self.method = Span::default();
        self.path = Span::default();
        self.authority = Span::default();
    }

    /// The method, as received.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.method.of(&self.headers.buf)
    }

    /// Origin-form target with its query, byte for byte (`:path`).
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.path.of(&self.headers.buf)
    }

    /// `host` / `:authority`; empty if the client sent an empty one.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        self.authority.of(&self.headers.buf)
    }

    /// Sets the method.
    pub fn set_method(&mut self, method: &[u8]) {
        self.method = self.headers.store(method);
    }

    /// Sets the path.
    pub fn set_path(&mut self, path: &[u8]) {
        self.path = self.headers.store(path);
    }

    /// Sets the authority.
    pub fn set_authority(&mut self, authority: &[u8]) {
        self.authority = self.headers.store(authority);
    }

    /// Joins another `host` line to the authority (`h,g`), an empty one adds
    /// nothing.
    pub fn append_authority(&mut self, authority: &[u8]) {
        if !authority.is_empty() {
            self.authority = self.headers.join(self.authority, authority);
        }
    }

    /// True if the `content-type` says gRPC: exactly `application/grpc`, or
    /// `application/grpc+...` (Envoy: `Grpc::Common::hasGrpcContentType`).
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.headers
            .first(HeaderId::ContentType)
            .and_then(|v| v.strip_prefix(b"application/grpc"))
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
    }
}

/// A response head, upstream or downstream.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Status code, 100 to 999.
    pub status: u16,
    /// The fields.
    pub headers: Headers,
}

impl ResponseHead {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.status = 0;
        self.headers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(h: &Headers) -> Vec<(String, String)> {
        h.iter()
            .map(|f| {
                (
                    String::from_utf8_lossy(f.name).into_owned(),
                    String::from_utf8_lossy(f.value).into_owned(),
                )
            })
            .collect()
    }

    #[test]
    fn order_and_duplicates_are_kept_and_names_lowered() {
        let mut h = Headers::default();
        h.push(b"X-A", b"1");
        h.push(b"Host", b"h");
        h.push(b"x-a", b"2");
        assert_eq!(
            list(&h),
            [("x-a", "1"), ("host", "h"), ("x-a", "2")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
        assert_eq!(h.first(HeaderId::Host), Some(&b"h"[..]));
        assert_eq!(h.all_named(b"x-a").collect::<Vec<_>>(), [b"1", b"2"]);
    }

    #[test]
    fn replace_keeps_the_first_place_and_drops_the_rest() {
        let mut h = Headers::default();
        for (n, v) in [("server", "a"), ("x-b", "1"), ("server", "b"), ("x-b", "2")] {
            h.push(n.as_bytes(), v.as_bytes());
        }
        assert!(h.replace_named(b"server", b"envoy"));
        assert!(!h.replace_named(b"x-c", b"z"));
        h.set_named(b"x-c", b"z");
        assert_eq!(h.remove_named(b"x-b"), 2);
        assert_eq!(
            list(&h),
            [("server", "envoy"), ("x-c", "z")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }

    #[test]
    fn untagged_x_envoy_names_do_not_shadow_each_other() {
        let mut h = Headers::default();
        h.push(b"x-envoy-one", b"1");
        h.push(b"x-envoy-two", b"2");
        assert_eq!(h.first_named(b"x-envoy-two"), Some(&b"2"[..]));
        assert_eq!(h.remove_named(b"x-envoy-one"), 1);
        assert_eq!(h.len(), 1);
    }

    #[test]
    fn grpc_content_type_is_exact_or_plus() {
        for (value, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpc;x", false),
        ] {
            let mut head = RequestHead::default();
            head.headers.push(b"content-type", value.as_bytes());
            assert_eq!(head.is_grpc(), want, "{value}");
        }
    }
}
