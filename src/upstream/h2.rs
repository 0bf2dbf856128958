//! The upstream end of an exchange on HTTP/2.

use std::task::{Context, Poll, ready};

use crate::exchange::{Body, Upstream};
use crate::headers::{HeaderId, RequestHead, ResponseHead};
use crate::http2::{Ended, Reason, StreamHandle, Trailers};
use crate::local_reply::UpstreamError;
use crate::pipes::{Carrier, Piece};
use crate::pool::StreamPlace;

/// One stream of a pooled connection.
pub(crate) struct Http2 {
    stream: Option<StreamHandle>,
    /// What the request wants to be upgraded to.
    upgrade: Option<Box<[u8]>>,
    /// Given back after the stream.
    place: StreamPlace,
}

impl Http2 {
    /// A stream that is opened with the request's head.
    pub(crate) fn new(place: StreamPlace) -> Self {
        Self { stream: None, upgrade: None, place }
    }

    #[cold]
    fn ask_upgrade(&mut self, head: &RequestHead) -> Result<(), UpstreamError> {
        self.upgrade = head.headers.first(HeaderId::Upgrade).map(Box::from);
        let opened = StreamHandle::open_upgrade(self.place.shared(), head);
        self.stream = Some(opened.map_err(|ended| self.error(ended))?);
        Ok(())
    }

    /// What the stream's early end means for the attempt.
    fn error(&self, ended: Ended) -> UpstreamError {
        if matches!(ended, Ended::Gone | Ended::Unconnected(_) | Ended::Refused | Ended::Protocol) {
            self.place.retire();
        }
        error(ended)
    }
}

impl Upstream for Http2 {
    fn send_head(&mut self, head: &RequestHead, body: Body) -> Result<(), UpstreamError> {
        if body == Body::Tunnel {
            return self.ask_upgrade(head);
        }
        let opened = StreamHandle::open(self.place.shared(), head, body == Body::Empty);
        self.stream = Some(opened.map_err(|ended| self.error(ended))?);
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        let Some(stream) = &self.stream else { return Poll::Ready(Ok(())) };
        stream.poll_room(cx).map_err(|ended| self.error(ended))
    }

    fn send_data(&mut self, data: Piece) {
        if let (Some(stream), Some(data)) = (&self.stream, data.into_memory()) {
            stream.send_data(data);
        }
    }

    fn finish(&mut self, trailers: Option<Trailers>) {
        if let Some(stream) = &self.stream {
            stream.finish(trailers);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        let Some(stream) = &self.stream else { return Poll::Ready(Ok(())) };
        stream.poll_flush(cx).map_err(|ended| self.error(ended))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Option<Body>, UpstreamError>> {
        let Some(stream) = &self.stream else {
            return Poll::Ready(Err(UpstreamError::ProtocolError));
        };
        let found = ready!(stream.poll_head(cx, head)).map_err(|ended| self.error(ended))?;
        let Some(end) = found else { return Poll::Ready(Ok(None)) };
        if let Some(upgrade) = &self.upgrade
            && head.status == 200
        {
            grant(head, upgrade);
            return Poll::Ready(Ok(Some(Body::Tunnel)));
        }
        Poll::Ready(Ok(Some(if end {
            Body::Empty
        } else {
            declared_length(head).map_or(Body::Unknown, Body::Length)
        })))
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        _by: Carrier,
    ) -> Poll<Option<Result<Piece, UpstreamError>>> {
        let Some(stream) = &self.stream else { return Poll::Ready(None) };
        stream
            .poll_data(cx)
            .map(|next| next.map(|data| data.map(Piece::Memory).map_err(|ended| self.error(ended))))
    }

    fn take_trailers(&mut self) -> Option<Trailers> {
        self.stream.as_ref()?.take_trailers()
    }
}

/// The answer to an extended CONNECT as that to an HTTP/1 upgrade.
#[cold]
fn grant(head: &mut ResponseHead, upgrade: &[u8]) {
    head.status = 101;
    head.headers.set_named(b"upgrade", upgrade);
    head.headers.set_named(b"connection", b"upgrade");
}

fn declared_length(head: &ResponseHead) -> Option<u64> {
    let value = head.headers.first(HeaderId::ContentLength)?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn error(ended: Ended) -> UpstreamError {
    match ended {
        Ended::Refused | Ended::Reset(Reason::REFUSED_STREAM) => UpstreamError::RefusedStream,
        // Envoy's codec makes no difference between the peer's finding and its own.
        Ended::Reset(Reason::PROTOCOL_ERROR) | Ended::Violation | Ended::Protocol => {
            UpstreamError::ProtocolError
        }
        Ended::Reset(_) => UpstreamError::RemoteReset,
        Ended::Unconnected(failure) => UpstreamError::ConnectFailure(failure),
        Ended::Gone | Ended::Local => UpstreamError::ConnectionTermination,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_that_names_a_protocol_error_is_one() {
        let reset = |reason| error(Ended::Reset(reason));
        assert_eq!(reset(Reason::PROTOCOL_ERROR), UpstreamError::ProtocolError);
        assert_eq!(reset(Reason::REFUSED_STREAM), UpstreamError::RefusedStream);
        assert_eq!(reset(Reason::CANCEL), UpstreamError::RemoteReset);
    }
}
