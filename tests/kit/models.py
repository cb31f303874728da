"""Models for tests of ranking."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from foundation.features import FEATURES, FINGERPRINT


def constant_model(value: float, *, fingerprint: int = FINGERPRINT, width: int = len(FEATURES)) -> bytes:
    """A model that scores every row alike."""
    nodes = [
        helper.make_node("ReduceSum", ["features", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "value"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0]),
            helper.make_tensor("value", TensorProto.FLOAT, [1], [value]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"version": "constant", "feature_fingerprint": str(fingerprint)})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
