#!/usr/bin/env bash
# Debian's dataset-fashion-mnist (0.0~git20200523.55506a9-1) holds the four published files under their published
# names, and none of them has the published hash (those that torchvision 0.28.0 asks for): gzip's header has lost the
# file's own name, and its time is the package's. What is packed is the published data: with the name
# and the published time put back, and nothing else, each file has its published hash. Whoever checks a copy by the
# hash of the .gz calls a good one damaged; the hash of what is in it tells.
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
chmod 755 "$here"
cd "$here"
apt-get download -q "dataset-fashion-mnist=0.0~git20200523.55506a9-1" 2>/dev/null
dpkg-deb -x dataset-fashion-mnist_*.deb .
python3 -m venv venv
venv/bin/pip download -q --no-deps --only-binary :all: --python-version 3.11 --platform manylinux_2_28_x86_64 \
  "torchvision==0.28.0"
venv/bin/python - <<'PY'
import ast, hashlib, struct, zipfile
from pathlib import Path

source = zipfile.ZipFile(next(Path().glob("torchvision-*.whl"))).read("torchvision/datasets/mnist.py")
kind = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "FashionMNIST")
listed = next(n.value for n in kind.body if isinstance(n, ast.Assign) and n.targets[0].id == "resources")
folder, times = Path("usr/share/datasets/fashion-mnist"), {"train": 1504176606, "t10k": 1504176627}
for name, published in ast.literal_eval(listed):
    packed, own = (folder / name).read_bytes(), name.removesuffix(".gz")
    header = b"\x1f\x8b\x08\x08" + struct.pack("<I", times[name.partition("-")[0]]) + packed[8:10]
    found = hashlib.md5(packed).hexdigest()
    restored = hashlib.md5(header + own.encode() + b"\0" + packed[10:]).hexdigest()
    print(name, "published", published, "Debian", found, "with name and time", restored)
    assert packed[3] == 0 and found != published == restored, "the behaviour has changed"
PY
