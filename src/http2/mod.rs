//! HTTP/2 on the `h2` crate, without hyper in between: what its server and
//! client ends have in common.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use crate::headers::{HeaderId, Headers};
use crate::logic::mutation::{self, Side};

/// Bytes of body that may wait for flow control per stream before the sender
/// is held back.
const QUEUE_LIMIT: usize = 64 * 1024;

/// The sending half of a stream: body pieces that wait for the peer's window.
#[derive(Debug, Default)]
pub(crate) struct SendHalf {
    stream: Option<SendStream<Bytes>>,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The end, once known: trailers or none.
    end: Option<Option<HeaderMap>>,
}

impl SendHalf {
    /// A stream whose head has been sent; none if the head ended it.
    pub(crate) fn new(stream: Option<SendStream<Bytes>>) -> Self {
        Self { stream, ..Self::default() }
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.queued += data.len();
            self.queue.push_back(data);
        }
    }

    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        self.end = Some(trailers);
    }

    pub(crate) fn reset(&mut self, reason: h2::Reason) {
        if let Some(stream) = &mut self.stream {
            stream.send_reset(reason);
        }
        self.stream = None;
    }

    /// Ready while little is queued.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.queued < QUEUE_LIMIT { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    /// Ready when everything queued, the end included, is with the connection.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let Some(stream) = &mut self.stream else {
            self.queue.clear();
            self.queued = 0;
            return Poll::Ready(Ok(()));
        };
        while let Some(front) = self.queue.front_mut() {
            if stream.capacity() == 0 {
                stream.reserve_capacity(self.queued);
                match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(e)) => return Poll::Ready(Err(e)),
                    None => return Poll::Ready(Err(h2::Reason::CANCEL.into())),
                }
            }
            let room = stream.capacity().min(front.len());
            if room == 0 {
                continue;
            }
            let piece = front.split_to(room);
            self.queued -= room;
            if front.is_empty() {
                self.queue.pop_front();
            }
            let last = self.queue.is_empty() && matches!(self.end, Some(None));
            stream.send_data(piece, last)?;
            if last {
                self.stream = None;
                return Poll::Ready(Ok(()));
            }
        }
        match self.end.take() {
            Some(Some(trailers)) => stream.send_trailers(trailers)?,
            Some(None) => stream.send_data(Bytes::new(), true)?,
            None => return Poll::Ready(Ok(())),
        }
        self.stream = None;
        Poll::Ready(Ok(()))
    }
}

/// The receiving half of a stream. The peer may send on as pieces are taken.
#[derive(Debug, Default)]
pub(crate) struct ReceiveHalf {
    stream: Option<RecvStream>,
    trailers: Option<HeaderMap>,
}

impl ReceiveHalf {
    /// A stream whose head was received.
    pub(crate) fn new(stream: RecvStream) -> Self {
        if stream.is_end_stream() {
            return Self::default();
        }
        Self { stream: Some(stream), trailers: None }
    }

    /// True if nothing is to come.
    pub(crate) fn is_done(&self) -> bool {
        self.stream.is_none()
    }

    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                stream.flow_control().release_capacity(data.len())?;
                Poll::Ready(Some(Ok(data)))
            }
            Some(Err(e)) => Poll::Ready(Some(Err(e))),
            None => {
                self.trailers = ready!(stream.poll_trailers(cx))?;
                self.stream = None;
                Poll::Ready(None)
            }
        }
    }

    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }
}

/// Copies a header map, in its order.
pub(crate) fn read_headers(map: &HeaderMap, side: Side, into: &mut Headers) {
    for (name, value) in map {
        mutation::append(into, side, name.as_str().as_bytes(), value.as_bytes());
    }
}

/// Makes a header map of fields; fields that HTTP/2 forbids are left out.
pub(crate) fn write_headers(from: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(from.len());
    for field in from.iter() {
        let forbidden = matches!(
            field.id,
            HeaderId::Connection
                | HeaderId::KeepAlive
                | HeaderId::ProxyConnection
                | HeaderId::TransferEncoding
                | HeaderId::Upgrade
        );
        if forbidden {
            continue;
        }
        let name = http::HeaderName::from_lowercase(field.name);
        let value = http::HeaderValue::from_bytes(field.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

impl SendHalf {
    /// Ready once the peer has reset the stream.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(cx).map(|_| ()),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_standard_lines_of_a_request_are_joined_as_on_http1() {
        let mut map = HeaderMap::new();
        for (name, value) in [("accept", "a"), ("accept", "b"), ("x-a", "1"), ("x-a", "2")] {
            map.append(name, http::HeaderValue::from_static(value));
        }
        let mut headers = Headers::default();
        read_headers(&map, Side::Request, &mut headers);
        let lines: Vec<_> = headers.iter().map(|f| (f.name, f.value)).collect();
        assert_eq!(
            lines,
            [(&b"accept"[..], &b"a,b"[..]), (&b"x-a"[..], &b"1"[..]), (&b"x-a"[..], &b"2"[..])]
        );
    }
}
