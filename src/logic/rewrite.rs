//! `rewrite`: the chosen arm's model name goes into the request, so that model
//! servers without an agent in front answer to it.
//!
//! REST: the segment after `/v2/models/` of the path. gRPC: field 1 (`name` or
//! `model_name`) of each request message. The messages, with their tensors, are
//! not decoded: the last occurrence of a singular protobuf field wins, so the
//! name is appended to each message and its length prefix raised.

use bytes::{BufMut, Bytes, BytesMut};

const MODELS: &[u8] = b"/v2/models/";

/// gRPC methods whose requests name a model in field 1.
const METHODS: [&[u8]; 4] = [
    b"/inference.GRPCInferenceService/ModelInfer",
    b"/inference.GRPCInferenceService/ModelStreamInfer",
    b"/inference.GRPCInferenceService/ModelMetadata",
    b"/inference.GRPCInferenceService/ModelReady",
];

/// The path with the model's name replaced; none if the path names no model.
#[must_use]
pub fn path(path: &[u8], model: &str) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(MODELS)?;
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    Some([MODELS, model.as_bytes(), &rest[end..]].concat())
}

/// True if requests to this path name a model in field 1.
#[must_use]
pub fn is_named_method(path: &[u8]) -> bool {
    METHODS.contains(&path)
}

/// Appends the model's name to each message of a gRPC request's body.
///
/// Compressed messages pass unchanged.
#[derive(Debug)]
pub struct GrpcRename {
    /// The encoded field: tag, length, name.
    field: Bytes,
    /// Prefix bytes seen of the message that comes next.
    prefix: BytesMut,
    /// Bytes to come of the message at hand.
    left: u64,
    /// The message at hand gets the field.
    rename: bool,
}

impl GrpcRename {
    /// Renames to `model`.
    #[must_use]
    pub fn new(model: &str) -> Self {
        let mut field = BytesMut::with_capacity(model.len() + 6);
        field.put_u8(0x0a);
        let mut len = model.len();
        while len >= 0x80 {
            field.put_u8((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        field.put_u8(len as u8);
        field.put_slice(model.as_bytes());
        Self { field: field.freeze(), prefix: BytesMut::new(), left: 0, rename: false }
    }

    /// Passes a piece of body through; `out` gets what is to be sent for it.
    /// Large pieces of messages are not copied.
    pub fn push(&mut self, mut data: Bytes, out: &mut impl FnMut(Bytes)) {
        while !data.is_empty() {
            if self.left > 0 {
                let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
                out(data.split_to(n));
                self.left -= n as u64;
                self.end_message(out);
                continue;
            }
            let missing = 5 - self.prefix.len();
            let n = missing.min(data.len());
            self.prefix.extend_from_slice(&data.split_to(n));
            if self.prefix.len() == 5 {
                self.begin_message(out);
            }
        }
    }

    /// What is left of an unfinished prefix when the body ends.
    pub fn finish(&mut self) -> Option<Bytes> {
        (!self.prefix.is_empty()).then(|| self.prefix.split().freeze())
    }

    fn begin_message(&mut self, out: &mut impl FnMut(Bytes)) {
        let mut prefix = self.prefix.split();
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        let raised = u32::try_from(self.field.len()).ok().and_then(|n| len.checked_add(n));
        self.rename = prefix[0] == 0 && raised.is_some();
        self.left = u64::from(len);
        if let (true, Some(raised)) = (self.rename, raised) {
            prefix[1..5].copy_from_slice(&raised.to_be_bytes());
        }
        out(prefix.freeze());
        self.end_message(out);
    }

    fn end_message(&mut self, out: &mut impl FnMut(Bytes)) {
        if self.left == 0 && self.rename {
            self.rename = false;
            out(self.field.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    struct Infer {
        #[prost(string, tag = "1")]
        model_name: String,
        #[prost(bytes = "vec", repeated, tag = "7")]
        raw: Vec<Vec<u8>>,
    }

    #[test]
    fn only_the_model_segment_of_a_path_changes() {
        for (from, want) in [
            ("/v2/models/iris/infer", Some("/v2/models/arm/infer")),
            ("/v2/models/e.experiment/versions/1/infer", Some("/v2/models/arm/versions/1/infer")),
            ("/v2/models/iris?x=/y", Some("/v2/models/arm?x=/y")),
            ("/v2/models/iris", Some("/v2/models/arm")),
            ("/v2/health/ready", None),
            ("/x/v2/models/iris", None),
        ] {
            let got = path(from.as_bytes(), "arm");
            assert_eq!(got.as_deref(), want.map(str::as_bytes), "{from}");
        }
    }

    proptest! {
        /// However the body is cut, each message decodes to the same but for
        /// its name.
        #[test]
        fn messages_keep_all_but_their_name(
            names in prop::collection::vec(("[a-z]{0,8}", prop::collection::vec(any::<u8>(), 0..40)), 1..5),
            cuts in prop::collection::vec(1usize..30, 1..20),
            model in "[a-z]{1,200}",
        ) {
            let mut body = Vec::new();
            for (name, raw) in &names {
                let message = Infer { model_name: name.clone(), raw: vec![raw.clone()] }.encode_to_vec();
                body.push(0);
                body.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
                body.extend_from_slice(&message);
            }
            let mut rename = GrpcRename::new(&model);
            let mut got = Vec::new();
            let mut rest = Bytes::from(body);
            let mut cuts = cuts.into_iter().cycle();
            while !rest.is_empty() {
                let n = cuts.next().expect("cycles").min(rest.len());
                rename.push(rest.split_to(n), &mut |piece| got.extend_from_slice(&piece));
            }
            prop_assert!(rename.finish().is_none());
            let mut at = &got[..];
            for (_, raw) in &names {
                let len = u32::from_be_bytes(at[1..5].try_into().expect("four")) as usize;
                let message = Infer::decode(&at[5..5 + len]).expect("decodes");
                prop_assert_eq!(&message, &Infer { model_name: model.clone(), raw: vec![raw.clone()] });
                at = &at[5 + len..];
            }
            prop_assert!(at.is_empty());
        }
    }

    #[test]
    fn compressed_messages_pass() {
        let body = Bytes::from_static(&[1, 0, 0, 0, 2, 9, 9]);
        let mut got = Vec::new();
        GrpcRename::new("m").push(body.clone(), &mut |piece| got.extend_from_slice(&piece));
        assert_eq!(got, body);
    }
}
