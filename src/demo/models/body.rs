//! Response bodies, without boxes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// A response body.
#[derive(Debug)]
pub(crate) enum Body {
    /// All of it, perhaps nothing.
    Full(Option<Bytes>),
    /// One message, then trailers.
    WithTrailers(Option<Bytes>, Option<HeaderMap>),
    /// That many bytes, all alike.
    Repeat(u64),
    /// Frames as they come.
    Channel(mpsc::Receiver<Frame<Bytes>>),
}

/// A piece of [`Body::Repeat`].
static FILL: [u8; 64 * 1024] = [b'x'; 64 * 1024];

impl Body {
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match self.get_mut() {
            Self::Full(bytes) => bytes.take().map(Frame::data),
            Self::WithTrailers(message, trailers) => {
                let message = message.take().map(Frame::data);
                message.or_else(|| trailers.take().map(Frame::trailers))
            }
            Self::Repeat(0) => None,
            Self::Repeat(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(FILL.len());
                *left -= length as u64;
                Some(Frame::data(Bytes::from_static(&FILL[..length])))
            }
            Self::Channel(frames) => return frames.poll_recv(cx).map(|frame| frame.map(Ok)),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::WithTrailers(message, trailers) => message.is_none() && trailers.is_none(),
            Self::Repeat(left) => *left == 0,
            Self::Channel(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Repeat(left) => SizeHint::with_exact(*left),
            Self::WithTrailers(..) | Self::Channel(_) => SizeHint::new(),
        }
    }
}
