"""Ranking: candidates of one viewer, best first, in two stages (seed section 7).

Owns the features of posts (`pf:{p}`), written from posts.created and posts.updated, and the model that ONNX Runtime
serves. Budget: 0.8 ms of CPU for 500 candidates with the reference model.
"""
