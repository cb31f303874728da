"""The rule-based score of seed section 2.4 as a small ONNX graph, so that a trained model swaps in as is."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from foundation.features import FEATURES, FINGERPRINT

VERSION = "rules-1"
_HALF_LIFE_H = 12.0
_ENGAGEMENT_SCALE = 15.0


def rule_model(*, recency: float, engagement: float, affinity: float) -> bytes:
    """A serialised model: recency * exp(-age / 12 h) + engagement * log-scaled counts / 15 + affinity * affinity."""
    nodes = []
    constants = []

    def constant(name: str, values: list[float] | list[int], kind: int, shape: list[int]) -> str:
        constants.append(helper.make_tensor(name, kind, shape, values))
        return name

    def column(feature: str) -> str:
        index = constant(f"{feature}_index", [FEATURES.index(feature)], TensorProto.INT64, [1])
        nodes.append(helper.make_node("Gather", ["features", index], [feature], axis=1))
        return feature

    def scaled(name: str, value: str, factor: float) -> str:
        by = constant(f"{name}_factor", [factor], TensorProto.FLOAT, [1])
        nodes.append(helper.make_node("Mul", [value, by], [name]))
        return name

    nodes.append(helper.make_node("Exp", [scaled("aged", column("post_age_hours"), -1.0 / _HALF_LIFE_H)], ["recency"]))
    one = constant("one", [1.0], TensorProto.FLOAT, [1])
    parts = [scaled("recency_part", "recency", recency)]
    for feature, weight in (("like_count", 0.5), ("comment_count", 0.3), ("save_count", 0.2)):
        nodes.append(helper.make_node("Add", [column(feature), one], [f"{feature}_more"]))
        nodes.append(helper.make_node("Log", [f"{feature}_more"], [f"{feature}_log"]))
        parts.append(scaled(f"{feature}_part", f"{feature}_log", engagement * weight / _ENGAGEMENT_SCALE))
    parts.append(scaled("affinity_part", column("user_author_affinity"), affinity))
    nodes.append(helper.make_node("Sum", parts, ["score"]))
    graph = helper.make_graph(
        nodes,
        VERSION,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(FEATURES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"version": VERSION, "feature_fingerprint": str(FINGERPRINT)})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
