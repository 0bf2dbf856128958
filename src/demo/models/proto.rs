//! Messages of the open inference protocol over gRPC, package `inference`, as
//! far as they are used here. `config/open_inference_grpc.proto` is the same
//! in proto3.

use std::collections::HashMap;

use prost::{Message, Oneof};

/// Name of the gRPC service.
pub const SERVICE: &str = "inference.GRPCInferenceService";

/// `ServerLiveResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ServerLiveResponse {
    /// The server runs.
    #[prost(bool, tag = "1")]
    pub live: bool,
}

/// `ServerReadyResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ServerReadyResponse {
    /// The server can infer.
    #[prost(bool, tag = "1")]
    pub ready: bool,
}

/// `ServerMetadataResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ServerMetadataResponse {
    /// Server name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Server version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Extensions of the protocol.
    #[prost(string, repeated, tag = "3")]
    pub extensions: Vec<String>,
}

/// `ModelReadyRequest` and `ModelMetadataRequest`: they are alike.
#[derive(Clone, PartialEq, Message)]
pub struct ModelRequest {
    /// Model name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Model version; empty: any.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// `ModelReadyResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelReadyResponse {
    /// The model can infer.
    #[prost(bool, tag = "1")]
    pub ready: bool,
}

/// `ModelMetadataResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelMetadataResponse {
    /// Model name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Versions that can infer.
    #[prost(string, repeated, tag = "2")]
    pub versions: Vec<String>,
    /// Framework.
    #[prost(string, tag = "3")]
    pub platform: String,
    /// Inputs.
    #[prost(message, repeated, tag = "4")]
    pub inputs: Vec<TensorMetadata>,
    /// Outputs.
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<TensorMetadata>,
}

/// `ModelMetadataResponse.TensorMetadata`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorMetadata {
    /// Tensor name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type of its elements, `FP32` for instance.
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// Its shape; -1: any.
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

/// `ModelInferRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelInferRequest {
    /// Model name.
    #[prost(string, tag = "1")]
    pub model_name: String,
    /// Model version; empty: any.
    #[prost(string, tag = "2")]
    pub model_version: String,
    /// Comes back in the response.
    #[prost(string, tag = "3")]
    pub id: String,
    /// Parameters.
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    /// Inputs.
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<InferTensor>,
    /// Inputs' data in raw form, little-endian, instead of their contents.
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub raw_input_contents: Vec<bytes::Bytes>,
}

/// `ModelInferResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelInferResponse {
    /// Model name.
    #[prost(string, tag = "1")]
    pub model_name: String,
    /// Model version.
    #[prost(string, tag = "2")]
    pub model_version: String,
    /// The request's.
    #[prost(string, tag = "3")]
    pub id: String,
    /// Parameters.
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    /// Outputs.
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<InferTensor>,
    /// Outputs' data in raw form.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub raw_output_contents: Vec<bytes::Bytes>,
}

/// `InferParameter`.
#[derive(Clone, PartialEq, Message)]
pub struct InferParameter {
    /// Its value.
    #[prost(oneof = "ParameterChoice", tags = "1, 2, 3")]
    pub parameter_choice: Option<ParameterChoice>,
}

/// `InferParameter.parameter_choice`.
#[derive(Clone, PartialEq, Oneof)]
pub enum ParameterChoice {
    /// A truth value.
    #[prost(bool, tag = "1")]
    Bool(bool),
    /// A number.
    #[prost(int64, tag = "2")]
    Int64(i64),
    /// A text.
    #[prost(string, tag = "3")]
    String(String),
}

/// `InferInputTensor` and `InferOutputTensor`: they are alike.
#[derive(Clone, PartialEq, Message)]
pub struct InferTensor {
    /// Tensor name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type of its elements.
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// Its shape.
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    /// Parameters.
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    /// Its data.
    #[prost(message, optional, tag = "5")]
    pub contents: Option<InferTensorContents>,
}

/// `InferTensorContents`.
#[derive(Clone, PartialEq, Message)]
pub struct InferTensorContents {
    /// BOOL.
    #[prost(bool, repeated, tag = "1")]
    pub bool_contents: Vec<bool>,
    /// INT8, INT16, INT32.
    #[prost(int32, repeated, tag = "2")]
    pub int_contents: Vec<i32>,
    /// INT64.
    #[prost(int64, repeated, tag = "3")]
    pub int64_contents: Vec<i64>,
    /// UINT8, UINT16, UINT32.
    #[prost(uint32, repeated, tag = "4")]
    pub uint_contents: Vec<u32>,
    /// UINT64.
    #[prost(uint64, repeated, tag = "5")]
    pub uint64_contents: Vec<u64>,
    /// FP32.
    #[prost(float, repeated, tag = "6")]
    pub fp32_contents: Vec<f32>,
    /// FP64.
    #[prost(double, repeated, tag = "7")]
    pub fp64_contents: Vec<f64>,
    /// BYTES.
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub bytes_contents: Vec<bytes::Bytes>,
}
