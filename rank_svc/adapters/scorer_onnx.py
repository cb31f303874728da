"""The model in ONNX Runtime: one thread of its own, so that the event loop goes on while trees are walked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import onnxruntime

from foundation.errors import Internal
from foundation.features import FEATURES, FINGERPRINT
from rank_svc.model import Matrix


class ModelRefused(Exception):
    """A model that does not fit this layout of features."""


class OnnxScorer:
    """rank_svc.ports.Scorer. Made by onnx_scorer."""

    def __init__(self, model: bytes | str, executor: ThreadPoolExecutor) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # ONNX Runtime raises types of its own without a common base
            raise ModelRefused(f"the model cannot be loaded: {exc}") from exc
        properties = self._session.get_modelmeta().custom_metadata_map
        if properties.get("feature_fingerprint") != str(FINGERPRINT):
            raise ModelRefused(
                f"the model was made for features {properties.get('feature_fingerprint')},"
                f" this service has {FINGERPRINT}: train it again with this version"
            )
        (given,) = self._session.get_inputs()
        if given.shape[1] != len(FEATURES):
            raise ModelRefused(f"the model takes {given.shape[1]} features, this service has {len(FEATURES)}")
        self._input = given.name
        self._output = self._session.get_outputs()[0].name
        self._version: str = properties.get("version", "unnamed")
        self._executor = executor

    @property
    def version(self) -> str:
        return self._version

    async def score(self, matrix: Matrix) -> Matrix:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, matrix)

    def _run(self, matrix: Matrix) -> Matrix:
        try:
            (scores,) = self._session.run([self._output], {self._input: matrix})
        except Exception as exc:
            raise Internal("MODEL_FAILED", "the model failed", model=self._version) from exc
        return np.asarray(scores, dtype=np.float32).reshape(-1)


@asynccontextmanager
async def onnx_scorer(model: bytes | str) -> AsyncIterator[OnnxScorer]:
    """A scorer of a serialised model or of the file at a path. Raises ModelRefused."""
    with ThreadPoolExecutor(1, thread_name_prefix="onnx") as executor:
        yield OnnxScorer(model, executor)
