//! The upstream end of an exchange on HTTP/2.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{HeaderMap, Method, Request, Uri};

use crate::exchange::{Body, Upstream};
use crate::headers::{HeaderId, RequestHead, ResponseHead, Scheme};
use crate::http2::{ReceiveHalf, SendHalf, read_headers, write_headers};
use crate::local_reply::UpstreamError;
use crate::logic::mutation::Side;
use crate::pool::StreamPlace;

/// One stream of a pooled connection.
pub(crate) struct Http2 {
    sender: h2::client::SendRequest<Bytes>,
    place: StreamPlace,
    response: Option<ResponseFuture>,
    send: SendHalf,
    receive: ReceiveHalf,
}

impl Http2 {
    /// Takes a place on a connection; waits until it may open a stream.
    ///
    /// # Errors
    /// The connection has ended meanwhile.
    pub(crate) async fn open(place: StreamPlace) -> Result<Self, UpstreamError> {
        let mut sender = place.sender();
        if let Err(e) = poll_fn(|cx| sender.poll_ready(cx)).await {
            place.retire();
            return Err(reason(&e));
        }
        Ok(Self {
            sender,
            place,
            response: None,
            send: SendHalf::default(),
            receive: ReceiveHalf::default(),
        })
    }
}

impl Upstream for Http2 {
    fn send_head(&mut self, head: &RequestHead, body: Body) -> Result<(), UpstreamError> {
        let request = request(head).ok_or(UpstreamError::ProtocolError)?;
        let empty = body == Body::Empty;
        match self.sender.send_request(request, empty) {
            Ok((response, stream)) => {
                self.response = Some(response);
                self.send = SendHalf::new((!empty).then_some(stream));
                Ok(())
            }
            Err(e) => {
                self.place.retire();
                Err(reason(&e))
            }
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.send.poll_room(cx).map_err(|e| reason(&e))
    }

    fn send_data(&mut self, data: Bytes) {
        self.send.push(data);
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) {
        self.send.finish(trailers);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.send.poll_flush(cx).map_err(|e| reason(&e))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Body, UpstreamError>> {
        let Some(response) = &mut self.response else {
            return Poll::Ready(Err(UpstreamError::ProtocolError));
        };
        let response = match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => response,
            Err(e) => {
                if e.is_go_away() || e.is_io() {
                    self.place.retire();
                }
                return Poll::Ready(Err(reason(&e)));
            }
        };
        self.response = None;
        let (parts, stream) = response.into_parts();
        head.clear();
        head.status = parts.status.as_u16();
        read_headers(&parts.headers, Side::Response, &mut head.headers);
        self.receive = ReceiveHalf::new(stream);
        Poll::Ready(Ok(if self.receive.is_done() {
            Body::Empty
        } else {
            declared_length(head).map_or(Body::Unknown, Body::Length)
        }))
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        self.receive.poll_data(cx).map(|next| next.map(|data| data.map_err(|e| reason(&e))))
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.receive.take_trailers()
    }
}

fn declared_length(head: &ResponseHead) -> Option<u64> {
    let value = head.headers.first(HeaderId::ContentLength)?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn request(head: &RequestHead) -> Option<Request<()>> {
    let scheme = match head.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let mut uri = Uri::builder().scheme(scheme).path_and_query(head.path());
    uri = uri.authority(head.authority());
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method()).ok()?;
    *request.uri_mut() = uri.build().ok()?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = write_headers(&head.headers);
    Some(request)
}

/// What an HTTP/2 error means for the attempt.
fn reason(error: &h2::Error) -> UpstreamError {
    if error.is_go_away() {
        return if error.is_remote() {
            UpstreamError::RefusedStream
        } else {
            UpstreamError::ProtocolError
        };
    }
    if error.is_io() {
        return UpstreamError::ConnectionTermination;
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => UpstreamError::RefusedStream,
        // Envoy's codec makes no difference between the peer's finding and its own.
        Some(h2::Reason::PROTOCOL_ERROR) => UpstreamError::ProtocolError,
        Some(_) if error.is_remote() => UpstreamError::RemoteReset,
        Some(_) => UpstreamError::ProtocolError,
        None => UpstreamError::ConnectionTermination,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_that_names_a_protocol_error_is_one() {
        let error = h2::Error::from(h2::Reason::PROTOCOL_ERROR);
        assert_eq!(reason(&error), UpstreamError::ProtocolError);
        let error = h2::Error::from(h2::Reason::REFUSED_STREAM);
        assert_eq!(reason(&error), UpstreamError::RefusedStream);
    }
}
