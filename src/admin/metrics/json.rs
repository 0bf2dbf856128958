//! `/stats?format=json`.

use bytes::Bytes;
use serde_json::json;

use super::text::{Line, Walk};
use super::{Buckets, HistogramForm, QUANTILES, Value};
use crate::admin::reply::PIECE_BYTES;

/// `{"stats":[...]}` in pieces.
pub(in crate::admin) struct Json {
    walk: Walk,
    form: HistogramForm,
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
    pub(in crate::admin) fn new(walk: Walk, form: HistogramForm) -> Self {
        Self { walk, form, stage: Stage::Start }
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
                    *out += &format!("{comma}{{\"histograms\":{}", opening(self.form));
                }
                *out += &told(name, buckets, self.form).to_string();
            }
        }
    }
}

/// What stands before the first histogram.
fn opening(form: HistogramForm) -> String {
    let quantiles = QUANTILES.map(|q| q.to_string()).join(",");
    match form {
        HistogramForm::Summary => {
            format!("{{\"supported_quantiles\":[{quantiles}],\"computed_quantiles\":[")
        }
        HistogramForm::Detailed => {
            format!("{{\"supported_percentiles\":[{quantiles}],\"details\":[")
        }
        HistogramForm::Cumulative | HistogramForm::Disjoint => "[".to_owned(),
    }
}

/// What there is since start; there are no intervals here.
fn told(name: &str, buckets: &Buckets, form: HistogramForm) -> serde_json::Value {
    let quantiles =
        || QUANTILES.map(|q| json!({"cumulative": buckets.quantile(q / 100.0), "interval": null}));
    match form {
        HistogramForm::Summary => json!({"name": name, "values": quantiles()}),
        HistogramForm::Cumulative | HistogramForm::Disjoint => {
            let each = buckets.by_bound(form == HistogramForm::Disjoint);
            let each = each
                .map(|(bound, n)| json!({"upper_bound": bound, "interval": 0, "cumulative": n}));
            json!({"name": name, "buckets": each.collect::<Vec<_>>()})
        }
        HistogramForm::Detailed => {
            let filled = buckets
                .filled()
                .map(|(lower, width, n)| json!({"lower_bound": lower, "width": width, "count": n}));
            json!({
                "name": name, "totals": filled.collect::<Vec<_>>(), "intervals": [],
                "percentiles": quantiles(),
            })
        }
    }
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
                out.push_str(match self.form {
                    _ if !histograms => "]}",
                    HistogramForm::Summary | HistogramForm::Detailed => "]}}]}",
                    HistogramForm::Cumulative | HistogramForm::Disjoint => "]}]}",
                });
                self.stage = Stage::End;
            }
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}
