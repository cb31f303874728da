"""Generate the Python code in gen/ and the descriptor set for Envoy from proto/. `make gen` runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GEN = ROOT / "gen"
PROTO = ROOT / "proto"


def main() -> None:
    """Replace gen/feedmesh and gen/buf, drop empty service modules, write envoy/feedmesh.binpb."""
    bin_dir = Path(sys.executable).parent
    ours = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("feedmesh/**/*.proto"))
    for package in ("feedmesh", "buf"):
        shutil.rmtree(GEN / package, ignore_errors=True)
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}",
            f"--plugin=protoc-gen-mypy={bin_dir}/protoc-gen-mypy",
            f"--plugin=protoc-gen-mypy_grpc={bin_dir}/protoc-gen-mypy_grpc",
            f"--python_out={GEN}", f"--grpc_python_out={GEN}",
            f"--mypy_out=quiet,readable_stubs:{GEN}", f"--mypy_grpc_out=quiet,only_async:{GEN}",
            *ours, "buf/validate/validate.proto",
        ],
        check=True,
    )  # fmt: skip
    for path in [*GEN.rglob("*_pb2_grpc.py"), *GEN.rglob("*_pb2_grpc.pyi")]:
        stem = path.name.split("_pb2_grpc")[0]
        if not stem.endswith("_service"):
            path.unlink()
    (ROOT / "envoy").mkdir(exist_ok=True)
    subprocess.run(
        [bin_dir / "buf", "build", "--as-file-descriptor-set", "-o", "envoy/feedmesh.binpb"], cwd=ROOT, check=True
    )


if __name__ == "__main__":
    main()
