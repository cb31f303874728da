"""The reference model of every figure: a seeded LightGBM of 60 trees with 31 leaves over the 19 features, as ONNX.

Trained on made-up data whose labels follow the rule-based score with noise: the trees are as deep and as branching as
real ones, which is what costs time. Thresholds are floored to float32, so that ONNX and LightGBM agree on every row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foundation.features import FEATURES, FINGERPRINT

TREES = 60
LEAVES = 31
ROWS = 20_000
SEED = 19
VERSION = "reference-1"


def build(path: Path) -> float:
    """Write the model to *path*; the greatest difference to LightGBM on rows that lie on thresholds."""
    import lightgbm
    import onnx
    from onnxmltools.convert import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    chance = np.random.default_rng(SEED)
    features = _made_up(chance)
    labels = _labels(features, chance)
    booster = lightgbm.train(
        {
            "objective": "regression",
            "num_leaves": LEAVES,
            "seed": SEED,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        },
        lightgbm.Dataset(features, labels),
        num_boost_round=TREES,
    )
    model = convert_lightgbm(
        booster, initial_types=[("features", FloatTensorType([None, len(FEATURES)]))], target_opset=15, zipmap=False
    )
    _floor_thresholds(model, booster)
    onnx.helper.set_model_props(model, {"version": VERSION, "feature_fingerprint": str(FINGERPRINT)})
    path.write_bytes(model.SerializeToString())
    return _greatest_difference(path, booster, features)


def _made_up(chance: np.random.Generator) -> Any:
    features = chance.gamma(0.7, 80.0, size=(ROWS, len(FEATURES)))
    for name, high in (("is_video", 2), ("has_hashtags", 2), ("hour_of_day", 24), ("day_of_week", 7)):
        features[:, FEATURES.index(name)] = chance.integers(0, high, size=ROWS)
    features[:, FEATURES.index("post_age_hours")] = chance.uniform(0, 168, size=ROWS)
    features[:, FEATURES.index("user_author_affinity")] = chance.uniform(0, 1, size=ROWS)
    # Serving has float32: training sees the same numbers.
    return features.astype(np.float32)


def _labels(features: Any, chance: np.random.Generator) -> Any:
    def column(name: str) -> Any:
        return features[:, FEATURES.index(name)]

    score = 0.5 * np.exp(-column("post_age_hours") / 12) + 0.02 * np.log1p(column("like_count"))
    score += 0.2 * column("user_author_affinity") + 0.01 * np.log1p(column("caption_length"))
    return score + chance.normal(0, 0.05, size=ROWS)


def _floor_thresholds(model: Any, booster: Any) -> None:
    """`x <= t` for float32 x is `x <= floor32(t)`; the converter rounds to the nearest instead."""
    exact = _thresholds(booster)
    for node in model.graph.node:
        if not node.op_type.startswith("TreeEnsemble"):
            continue
        attributes = {attribute.name: attribute for attribute in node.attribute}
        values, modes = attributes["nodes_values"].floats, attributes["nodes_modes"].strings
        for place, (value, mode) in enumerate(zip(values, modes, strict=True)):
            if mode != b"BRANCH_LEQ":
                continue
            nearest = exact[np.abs(exact - value).argmin()]
            if np.float64(np.float32(value)) > nearest:
                values[place] = float(np.nextafter(np.float32(value), np.float32(-np.inf)))


def _thresholds(booster: Any) -> Any:
    found: list[float] = []

    def walk(node: dict[str, Any]) -> None:
        if "threshold" in node:
            found.append(float(node["threshold"]))
            walk(node["left_child"])
            walk(node["right_child"])

    for tree in booster.dump_model()["tree_info"]:
        walk(tree["tree_structure"])
    return np.array(found)


def _greatest_difference(path: Path, booster: Any, features: Any) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = features[:4_000].copy()
    edges = _thresholds(booster).astype(np.float32)
    chance = np.random.default_rng(SEED)
    # Rows that lie on thresholds are where the two would differ.
    for place in range(rows.shape[1]):
        rows[::2, place] = chance.choice(edges, size=len(rows[::2]))
    (scores,) = session.run(None, {session.get_inputs()[0].name: rows})
    return float(np.abs(np.asarray(scores).reshape(-1) - booster.predict(rows)).max())


if __name__ == "__main__":
    import sys

    print(build(Path(sys.argv[1])))
