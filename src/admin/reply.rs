//! Replies of the admin and utility listeners.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, HeaderName, HeaderValue, SERVER};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

/// Body of every reply.
pub(super) type ReplyBody = UnsyncBoxBody<Bytes, Infallible>;

/// A body made piece by piece, as the peer takes it.
pub(super) type Pieces = Box<dyn Iterator<Item = Bytes> + Send>;

/// Streamed bodies are cut into pieces of about this many bytes: large enough
/// to amortise a write, small enough that twenty thousand clusters need no
/// buffer worth mentioning.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// What an admin path answers, before it is HTTP.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) pieces: Pieces,
}

pub(super) const TEXT: &str = "text/plain; charset=UTF-8";
/// Envoy's own spelling for errors of `/config_dump`.
pub(super) const PLAIN: &str = "text/plain";
pub(super) const JSON: &str = "application/json";
pub(super) const HTML: &str = "text/html; charset=UTF-8";

impl Reply {
    /// 200 with this text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::whole(StatusCode::OK, TEXT, text.into())
    }

    /// An error with this text.
    pub(super) fn error(status: StatusCode, text: impl Into<String>) -> Self {
        Self::whole(status, TEXT, text.into())
    }

    /// 200 with this JSON, as Envoy prints it (one blank per level).
    pub(super) fn json(value: &serde_json::Value) -> Self {
        let mut text = pretty(value);
        text.push('\n');
        Self::whole(StatusCode::OK, JSON, text)
    }

    /// A body known in full.
    pub(super) fn whole(status: StatusCode, content_type: &'static str, text: String) -> Self {
        let pieces = Box::new((!text.is_empty()).then(|| Bytes::from(text)).into_iter());
        Self { status, content_type, pieces }
    }

    /// 200 with a streamed body.
    pub(super) fn streamed(content_type: &'static str, pieces: Pieces) -> Self {
        Self { status: StatusCode::OK, content_type, pieces }
    }

    /// The HTTP response with the admin listener's headers, in Envoy's order;
    /// hyper appends `transfer-encoding: chunked`.
    pub(super) fn into_response(self) -> Response<ReplyBody> {
        let mut response = Response::new(stream_body(self.pieces));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
        headers.insert(
            HeaderName::from_static("x-content-type-options"),
            HeaderValue::from_static("nosniff"),
        );
        date_and_server(headers);
        response
    }
}

/// `date` and `server`, which every reply carries in this order.
pub(super) fn date_and_server(headers: &mut http::HeaderMap) {
    if let Ok(now) = HeaderValue::from_str(&http_date(std::time::SystemTime::now())) {
        headers.insert(DATE, now);
    }
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
}

/// A body of no bytes: `content-length: 0`.
pub(super) fn empty_body() -> ReplyBody {
    Full::default().boxed_unsync()
}

/// A body of these bytes with their `content-length`.
pub(super) fn sized_body(text: &'static str) -> ReplyBody {
    Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync()
}

/// Chunked. Gives way to the other tasks of the control thread between pieces:
/// a scrape of thousands of clusters must not delay an update.
fn stream_body(pieces: Pieces) -> ReplyBody {
    let frames = stream::unfold(pieces, |mut pieces| async move {
        tokio::task::yield_now().await;
        let piece = pieces.next()?;
        Some((Ok(Frame::data(piece)), pieces))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Joins small texts into pieces worth a write.
pub(super) fn pieces(mut texts: impl Iterator<Item = String> + Send + 'static) -> Pieces {
    Box::new(std::iter::from_fn(move || {
        let mut piece = String::new();
        while piece.len() < PIECE_BYTES {
            let Some(text) = texts.next() else { break };
            piece.push_str(&text);
        }
        (!piece.is_empty()).then(|| Bytes::from(piece))
    }))
}

/// JSON as [`pretty`] makes it, inside something `depth` levels deep: the
/// first line is not indented.
pub(super) fn pretty_at(depth: usize, value: &serde_json::Value) -> String {
    pretty(value).replace('\n', &format!("\n{:depth$}", ""))
}

/// JSON with one blank per level, without a final newline. Angle brackets, which
/// only strings can hold, are escaped as protobuf does it.
pub(super) fn pretty(value: &serde_json::Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => {
            let text = String::from_utf8_lossy(&out);
            if text.contains(['<', '>']) {
                text.replace('<', "\\u003c").replace('>', "\\u003e")
            } else {
                text.into_owned()
            }
        }
        Err(e) => format!("{{\"error\": \"{e}\"}}"),
    }
}

/// RFC 9110 5.6.7 date.
pub(super) fn http_date(at: std::time::SystemTime) -> String {
    use time::macros::format_description;
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time::OffsetDateTime::from(at).format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_are_of_the_http_kind() {
        let at = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(http_date(at), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn json_is_indented_by_one_blank() {
        let value = serde_json::json!({"a": [1], "b": {}, "c": []});
        assert_eq!(pretty(&value), "{\n \"a\": [\n  1\n ],\n \"b\": {},\n \"c\": []\n}");
    }
}
