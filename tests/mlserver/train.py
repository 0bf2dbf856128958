"""Trains two scikit-learn models and lays them out for MLServer: DIR PORT."""

import json
import pathlib
import sys

import joblib
import numpy
from sklearn.linear_model import LogisticRegression, LinearRegression

root, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
rng = numpy.random.default_rng(7)
x = rng.normal(size=(200, 4))
models = {
    "baseline-predictor": (LinearRegression().fit(x, x.sum(axis=1)), port + 4),
    "enhanced-predictor": (LogisticRegression().fit(x, x.sum(axis=1) > 0), port + 7),
}
for name, (model, http) in models.items():
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "model.joblib")
    (folder / "model-settings.json").write_text(json.dumps({
        "name": name,
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib"},
    }))
    (folder / "settings.json").write_text(json.dumps({
        "host": "127.0.0.1", "http_port": http, "grpc_port": http + 1, "metrics_port": http + 2,
        "parallel_workers": 0, "debug": False,
    }))
