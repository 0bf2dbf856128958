//! What the demo says about itself.

use std::fmt;

use super::{BASELINE, Demo, ENHANCED, EXPERIMENT, MIRROR_EXPERIMENT, PIPELINE, SHADOW};

impl fmt::Display for Demo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host;
        let ports = self.ports;
        writeln!(f, "Running:")?;
        writeln!(f, "  requests    http://{host}:{}  (HTTP/1.1, h2c, gRPC)", ports.http)?;
        writeln!(f, "  readiness   http://{host}:{}/ready, /stats/prometheus", ports.utility)?;
        writeln!(f, "  admin       http://{host}:{}", ports.admin)?;
        writeln!(f, "  scheduler   {host}:{} (delta ADS)", ports.scheduler)?;
        writeln!(f, "  control     http://{host}:{}/state", ports.control)?;
        writeln!(f)?;
        writeln!(
            f,
            "  experiment  {EXPERIMENT}: {BASELINE} 70, {ENHANCED} 30 (default {BASELINE})"
        )?;
        writeln!(f, "  experiment  {MIRROR_EXPERIMENT}: 60/40, 20 % copied to {SHADOW}")?;
        writeln!(f, "  pipeline    {PIPELINE}")?;
        if self.models > 0 {
            writeln!(f, "  models      {} more, model-00000 and on", self.models)?;
        }
        self.requests(f)
    }
}

impl Demo {
    fn requests(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host;
        let ports = self.ports;
        let input =
            r#"{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP32","data":[1.0,2.0,3.0]}]}"#;
        let message = format!(
            r#"{{"model_name":"{BASELINE}","inputs":[{{"name":"input","datatype":"FP32","shape":[1,3],"contents":{{"fp32_contents":[1,2,3]}}}}]}}"#
        );
        write!(
            f,
            r#"
Ask (x-seldon-route tells which arm answered; send it back to stay there):
  curl -i http://{host}:{http}/v2/models/{BASELINE}/infer \
    -H 'content-type: application/json' -H 'seldon-model: {EXPERIMENT}.experiment' \
    -d '{input}'

The same by gRPC:
  grpcurl -plaintext -proto config/open_inference_grpc.proto \
    -rpc-header 'seldon-model: {EXPERIMENT}.experiment' -d '{message}' \
    {host}:{http} inference.GRPCInferenceService/ModelInfer

Change the weights while it runs:
  curl http://{host}:{control}/experiments/{EXPERIMENT} \
    -d '{{"candidates": {{"{BASELINE}": 10, "{ENHANCED}": 90}}}}'

Roll a model to its next version:
  curl -X POST http://{host}:{control}/models/{BASELINE}

"#,
            http = ports.http,
            control = ports.control,
        )
    }
}
