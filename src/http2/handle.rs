//! A stream as its task sees it.
//!
//! All streams of a connection and its driver share its state and run on one
//! thread; none holds on to it over an await.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Trailers;
use super::connection::Connection;
use super::frame::Reason;
use super::stream::{Ended, Stream};
use crate::headers::{RequestHead, ResponseHead};

/// A connection's state, shared by its streams and its driver.
pub(crate) type Shared = Rc<RefCell<Connection>>;

/// Bytes of body that may wait with a stream before its sender is held back.
const QUEUE_LIMIT: usize = 64 * 1024;

/// The right to one stream; on drop it is reset unless it has ended.
pub(crate) struct StreamHandle {
    shared: Shared,
    key: usize,
}

impl StreamHandle {
    /// The stream at a place that was accepted.
    pub(crate) fn new(shared: &Shared, key: usize) -> Self {
        Self { shared: Rc::clone(shared), key }
    }

    /// Opens a stream and sends the request's head.
    ///
    /// # Errors
    /// The peer takes no more streams.
    pub(crate) fn open(shared: &Shared, head: &RequestHead, end: bool) -> Result<Self, Ended> {
        let mut connection = shared.borrow_mut();
        let key = connection.open(head.method() == b"HEAD")?;
        connection.send_request(key, head, end);
        drop(connection);
        Ok(Self::new(shared, key))
    }

    /// Opens a stream and asks for an upgrade.
    ///
    /// # Errors
    /// The peer takes no more streams.
    #[cold]
    pub(crate) fn open_upgrade(shared: &Shared, head: &RequestHead) -> Result<Self, Ended> {
        let mut connection = shared.borrow_mut();
        let key = connection.open(false)?;
        connection.send_upgrade(key, head);
        drop(connection);
        Ok(Self::new(shared, key))
    }

    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        self.state().streams.at(self.key).map_or(0, |stream| stream.id)
    }

    fn state(&self) -> RefMut<'_, Connection> {
        self.shared.borrow_mut()
    }

    /// Looks at the stream; if `look` finds nothing, its early end, or waits.
    fn poll<T>(
        &self,
        cx: &Context<'_>,
        look: impl FnOnce(&mut Stream) -> Option<T>,
    ) -> Poll<Result<T, Ended>> {
        let mut connection = self.state();
        let Some(stream) = connection.streams.at(self.key) else {
            return Poll::Ready(Err(Ended::Gone));
        };
        if let Some(found) = look(stream) {
            return Poll::Ready(Ok(found));
        }
        if let Some(ended) = stream.ended {
            return Poll::Ready(Err(ended));
        }
        stream.wait(cx);
        Poll::Pending
    }

    /// The next piece of the peer's body; `None` at its end.
    pub(crate) fn poll_data(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Ended>>> {
        let found = self.poll(cx, |stream| match stream.inbox.pop() {
            Some(data) => Some(Some(data)),
            None if stream.received_end => Some(None),
            None => None,
        });
        match found {
            Poll::Ready(Ok(Some(data))) => {
                let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
                self.state().take(self.key, bytes);
                Poll::Ready(Some(Ok(data)))
            }
            Poll::Ready(Ok(None)) => Poll::Ready(None),
            Poll::Ready(Err(e)) => Poll::Ready(Some(Err(e))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The peer's trailers, after its body's end.
    pub(crate) fn take_trailers(&self) -> Option<Trailers> {
        self.state().streams.at(self.key)?.trailers.take()
    }

    /// The answer's final head, and whether it is all; `None` if this is the
    /// status of an interim answer before it.
    pub(crate) fn poll_head(
        &self,
        cx: &Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Option<bool>, Ended>> {
        self.poll(cx, |stream| {
            if let Some(status) = stream.interim.take() {
                head.status = status;
                return Some(None);
            }
            let received = stream.head.take()?;
            *head = *received;
            let all = stream.received_end && stream.inbox.len() == 0 && stream.trailers.is_none();
            Some(Some(all))
        })
    }

    /// Ready with the reason once the stream has ended before its time.
    pub(crate) fn poll_ended(&self, cx: &Context<'_>) -> Poll<Ended> {
        match self.poll(cx, |_| None::<()>) {
            Poll::Ready(Err(ended)) => Poll::Ready(ended),
            _ => Poll::Pending,
        }
    }

    /// Queues an answer's head; `end`: it is all.
    pub(crate) fn send_response(&self, head: &ResponseHead, end: bool) {
        self.state().send_response(self.key, head, end);
    }

    /// Queues `100 Continue`.
    pub(crate) fn send_continue(&self) {
        self.state().send_continue(self.key);
    }

    /// Ready while little waits.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), Ended>> {
        let queued = |stream: &mut Stream| (stream.out_len < QUEUE_LIMIT).then_some(());
        {
            let mut connection = self.state();
            if connection.streams.at(self.key).is_some_and(|s| s.out_len >= QUEUE_LIMIT) {
                connection.push(self.key);
            }
        }
        self.poll(cx, queued)
    }

    /// Queues a piece of body; it leaves with [`StreamHandle::poll_flush`].
    pub(crate) fn send_data(&self, data: Bytes) {
        self.state().send_data(self.key, data);
    }

    /// Queues the end of the body.
    pub(crate) fn finish(&self, trailers: Option<Trailers>) {
        self.state().finish(self.key, trailers);
    }

    /// Ready when everything queued, the end included, is with the connection.
    pub(crate) fn poll_flush(&self, cx: &Context<'_>) -> Poll<Result<(), Ended>> {
        self.state().push(self.key);
        self.poll(cx, |stream| {
            let sent = stream.out_len == 0 && stream.out_end.is_none();
            (sent && (stream.ended.is_none() || stream.sent_end)).then_some(())
        })
    }

    /// Tells the peer to open no more streams, soon.
    pub(crate) fn go_away_soon(&self) {
        self.state().go_away_soon();
    }

    /// Resets the stream unless it has ended.
    pub(crate) fn reset(&self, reason: Reason) {
        self.state().reset(self.key, reason);
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.state().release(self.key);
    }
}
