#!/usr/bin/env bash
# torch.distributed.checkpoint can store its checkpoints as safetensors (HuggingFaceStorageWriter). A state that holds
# a plain number beside its tensors, as a step or an optimizer's settings are, is saved without an error; but the file
# begins with that number as torch.save writes it, so neither safetensors nor torch's own reader opens it, and the
# tensors in it are lost as well (torch 2.13.0, safetensors 0.8.0, CPU). The same state without the number comes back.
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "torch==2.13.0" "safetensors==0.8.0" numpy
"$here/venv/bin/python" - "$here" <<'PY'
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

warnings.simplefilter("ignore")
print("torch", torch.__version__)
readable = {}
for name, state in {"tensors": {"w": torch.arange(4.0)}, "with a number": {"w": torch.arange(4.0), "step": 3}}.items():
    folder = Path(sys.argv[1], name)
    dcp.save(state, storage_writer=HuggingFaceStorageWriter(str(folder)), no_dist=True)
    (file,) = folder.glob("*.safetensors")
    try:
        with safe_open(file, framework="pt") as opened:
            readable[name] = torch.equal(opened.get_tensor("w"), state["w"])
    except SafetensorError as error:
        readable[name] = False
        print("safetensors:", error)
    target = {"w": torch.zeros(4), "step": 0} if "step" in state else {"w": torch.zeros(4)}
    try:
        dcp.load(target, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
        loaded = torch.equal(target["w"], state["w"])
    except dcp.CheckpointException:
        loaded = False
    print(name, "| begins with", file.read_bytes()[:2], "| safetensors reads it:", readable[name], "| torch:", loaded)
    assert loaded == readable[name], "the behaviour has changed"
assert readable == {"tensors": True, "with a number": False}, "the behaviour has changed"
PY
