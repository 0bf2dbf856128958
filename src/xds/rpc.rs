//! A streaming gRPC call whose answers can be looked at while they come in (gRPC over
//! HTTP/2, "PROTOCOL-HTTP2").

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, TE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use prost::Message;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::give_way::Responses;

/// Whether a message is compressed, and its length.
const PREFIX: usize = 5;

/// What takes the bytes of a message as they come in.
pub(crate) trait Incoming {
    type Message;

    /// The next bytes.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Status>;

    /// They were the last.
    fn finish(self) -> Result<Self::Message, Status>;
}

/// The answers of a call.
pub(crate) struct Answers<I> {
    responses: Responses,
    body: Body,
    /// What has come and was not looked at yet.
    data: Bytes,
    prefix: [u8; PREFIX],
    /// Bytes of it that are there.
    have: usize,
    /// The message that is coming in, and how many bytes of it are still to come.
    message: Option<(I, usize)>,
}

/// Opens a call.
///
/// # Errors
/// The connection's, the server's, or one that says that it speaks no gRPC.
pub(crate) async fn open<M: Message + Send + 'static, I: Incoming>(
    channel: &mut Channel,
    path: &'static str,
    requests: UnboundedReceiver<M>,
    responses: Responses,
) -> Result<Answers<I>, Status> {
    let frames = UnboundedReceiverStream::new(requests)
        .map(|request| Ok::<_, Status>(Frame::data(frame(&request))));
    let mut request = Request::new(Body::new(StreamBody::new(frames)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().map_err(|e| Status::internal(format!("{path}: {e}")))?;
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let ready = std::future::poll_fn(|cx| channel.poll_ready(cx));
    ready.await.map_err(|e| Status::from_error(e.into()))?;
    let response = channel.call(request).await.map_err(|e| Status::from_error(e.into()))?;
    check(&response)?;
    Ok(Answers {
        responses,
        body: response.into_body(),
        data: Bytes::new(),
        prefix: [0; PREFIX],
        have: 0,
        message: None,
    })
}

/// A message with its prefix.
fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + len);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).expect("a request is small"));
    message.encode(&mut out).expect("there is room");
    out.freeze()
}

fn check<B>(response: &Response<B>) -> Result<(), Status> {
    let headers = response.headers();
    if let Some(status) = Status::from_header_map(headers).filter(|s| s.code() != Code::Ok) {
        return Err(status);
    }
    if response.status() != StatusCode::OK {
        return Err(Status::unavailable(format!("HTTP status {}", response.status())));
    }
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if !headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        return Err(Status::unknown("the answer is not gRPC (content-type)"));
    }
    let encoding = headers.get(HeaderName::from_static("grpc-encoding"));
    match encoding.filter(|value| *value != "identity") {
        Some(value) => Err(Status::unimplemented(format!("grpc-encoding {value:?}"))),
        None => Ok(()),
    }
}

impl<I: Incoming> Answers<I> {
    /// The next message, given to what `begin` makes for its length; none at the end
    /// of the call. Cancel-safe.
    ///
    /// # Errors
    /// The status with which the call ended, or what is wrong with the message.
    pub(crate) async fn next(
        &mut self,
        begin: impl Fn(usize) -> I,
    ) -> Result<Option<I::Message>, Status> {
        if self.message.is_none() {
            self.responses.over();
        }
        loop {
            if let Some(message) = self.take_in(&begin)? {
                return message.finish().map(Some);
            }
            if self.message.is_some() {
                self.responses.more_to_come();
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Looks at what has come; gives the message once it is complete.
    fn take_in(&mut self, begin: impl Fn(usize) -> I) -> Result<Option<I>, Status> {
        while self.have < PREFIX {
            let Some((byte, rest)) = self.data.split_first() else { return Ok(None) };
            self.prefix[self.have] = *byte;
            self.data = self.data.slice_ref(rest);
            self.have += 1;
        }
        let [compressed, len @ ..] = self.prefix;
        if compressed != 0 {
            return Err(Status::unimplemented("a compressed message"));
        }
        let len = u32::from_be_bytes(len) as usize;
        let (mut message, left) = self.message.take().unwrap_or_else(|| (begin(len), len));
        let part = self.data.split_to(self.data.len().min(left));
        message.feed(&part)?;
        if part.len() < left {
            self.message = Some((message, left - part.len()));
            return Ok(None);
        }
        self.have = 0;
        Ok(Some(message))
    }

    /// Waits for data; false at the end of the call.
    async fn more(&mut self) -> Result<bool, Status> {
        while let Some(frame) = self.body.frame().await.transpose()? {
            match frame.into_data() {
                Ok(data) => {
                    self.data = data;
                    return Ok(true);
                }
                Err(other) => match other.trailers_ref().and_then(Status::from_header_map) {
                    Some(status) if status.code() != Code::Ok => return Err(status),
                    _ => {}
                },
            }
        }
        match self.have {
            0 => Ok(false),
            _ => Err(Status::internal("the call ended within a message")),
        }
    }
}
