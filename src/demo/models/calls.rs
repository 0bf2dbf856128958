//! Who is called: names from labels and paths, and what a model answers.

use super::ServerKind;

/// A model as an answer names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Called {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The model that a request is for: its label (`<model>_<version>`), else what
/// its path or message says, as agents and plain model servers see it. None if
/// a gateway gets something that is no pipeline's.
pub(crate) fn called(kind: ServerKind, label: &str, name: &str, version: &str) -> Option<Called> {
    match kind {
        ServerKind::PipelineGateway => {
            let pipeline = label.strip_suffix(".pipeline")?;
            Some(Called { name: pipeline.to_owned(), version: String::new() })
        }
        ServerKind::Models => {
            let labelled = label.rsplit_once('_').filter(|(_, v)| v.parse::<u32>().is_ok());
            let (name, version) = labelled.unwrap_or((name, version));
            Some(Called { name: name.to_owned(), version: version.to_owned() })
        }
    }
}

/// The elements of a tensor: all that the models here look at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Elements {
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

impl Elements {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        values.into_iter().fold(Self::default(), |mut elements, value| {
            elements.add(value);
            elements
        })
    }

    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
    }

    /// What the models predict: the mean.
    pub(crate) fn mean(self) -> f32 {
        if self.count == 0 { 0.0 } else { (self.sum / self.count as f64) as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_wins_over_the_path() {
        let model = |label: &str| {
            let called = called(ServerKind::Models, label, "path", "7").expect("models serve all");
            (called.name, called.version)
        };
        assert_eq!(model("iris_3"), ("iris".into(), "3".into()));
        assert_eq!(model("a_b_12"), ("a_b".into(), "12".into()));
        assert_eq!(model(""), ("path".into(), "7".into()));
        assert_eq!(model("no_version"), ("path".into(), "7".into()));
    }

    #[test]
    fn a_gateway_serves_pipelines_only() {
        let gateway = |label: &str| called(ServerKind::PipelineGateway, label, "path", "");
        assert_eq!(gateway("p.pipeline").map(|c| c.name), Some("p".to_owned()));
        assert_eq!(gateway("iris_3"), None);
    }
}
