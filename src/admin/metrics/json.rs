//! `/stats?format=json`.

use bytes::Bytes;
use serde_json::json;

use super::text::{Line, Walk};
use super::{Buckets, QUANTILES, Value};
use crate::admin::reply::PIECE_BYTES;

/// `{"stats":[...]}` in pieces.
pub(in crate::admin) struct Json {
    walk: Walk,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    /// Something was written / the histogram object is open.
    Open {
        first: bool,
        histograms: bool,
    },
    End,
}

impl Json {
    pub(in crate::admin) fn new(walk: Walk) -> Self {
        Self { walk, stage: Stage::Start }
    }

    fn write(&mut self, line: &Line, out: &mut String) {
        let Stage::Open { first, histograms } = &mut self.stage else { return };
        let comma = if std::mem::replace(first, false) { "" } else { "," };
        match line {
            Line::Text(name, value) => {
                *out += &format!("{comma}{}", json!({"name": name, "value": value}));
            }
            Line::Stat(name, Value::Number(n)) => {
                *out += &format!("{comma}{}", json!({"name": name, "value": n}));
            }
            Line::Stat(name, Value::Histogram(buckets)) => {
                if std::mem::replace(histograms, true) {
                    out.push(',');
                } else {
                    let quantiles = QUANTILES.map(|q| q.to_string()).join(",");
                    *out += &format!(
                        "{comma}{{\"histograms\":{{\"supported_quantiles\":[{quantiles}],\
                         \"computed_quantiles\":["
                    );
                }
                *out += &computed(name, buckets).to_string();
            }
        }
    }
}

/// Quantiles since start; there are no intervals here.
fn computed(name: &str, buckets: &Buckets) -> serde_json::Value {
    let values =
        QUANTILES.map(|q| json!({"cumulative": buckets.quantile(q / 100.0), "interval": null}));
    json!({"name": name, "values": values})
}

impl Iterator for Json {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::new();
        if self.stage == Stage::Start {
            out.push_str("{\"stats\":[");
            self.stage = Stage::Open { first: true, histograms: false };
        }
        while out.len() < PIECE_BYTES {
            let Stage::Open { histograms, .. } = self.stage else { break };
            if let Some(lines) = self.walk.next_group() {
                lines.iter().for_each(|line| self.write(line, &mut out));
            } else {
                out.push_str(if histograms { "]}}]}" } else { "]}" });
                self.stage = Stage::End;
            }
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}
