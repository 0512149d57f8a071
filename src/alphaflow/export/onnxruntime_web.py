"""The library onnxruntime-web, fetched from npm when a page is exported, so that the page needs nothing from
elsewhere.

One version is used, whose archive is known by its SHA-512: what npm hands over is compared before it is unpacked.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ..errors import UserError
from ..files import cache_folder, locked

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Base64 of the archive's SHA-512, as npm's `dist.integrity` gives it after "sha512-"."""

FILES = {
    "package/dist/ort.wasm.bundle.min.mjs": "ort.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort.wasm",
}
"""The place of each file of the archive in the folder. They end in .js, since some servers do not know .mjs and
browsers then refuse it.
"""

LICENCE = """\
ort.js and ort.wasm are onnxruntime-web {version}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions
of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED
TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
DEALINGS IN THE SOFTWARE.
"""


def vendor(folder: Path) -> None:
    """Put ort.js, ort.wasm and their licence into `folder`, which is made if need be.

    npm is asked once; what it gave is kept in the cache.

    Raises:
        UserError: npm is missing, or cannot reach its registry; the archive is not the one meant; the folder
            cannot be written to.
    """
    archive = cache_folder("npm") / f"{PACKAGE}-{VERSION}.tgz"
    with locked(archive.with_suffix(".lock")):
        if not archive.exists():
            _fetch(archive)
    try:
        unpack(archive, folder)
    except UserError:
        archive.unlink()  # so that the next attempt asks npm again
        raise


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files of `FILES` from the archive, if it is the one meant.

    Raises:
        UserError: the archive is another one, or the folder cannot be written to.
    """
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise UserError(
            f"{archive} is not {PACKAGE} {VERSION} as published (its SHA-512 differs): remove it and try again"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as content:
            for inside, name in FILES.items():
                member = content.extractfile(inside)
                assert member is not None
                with member, (folder / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
        (folder / "LICENSE").write_text(LICENCE.format(version=VERSION))
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another place") from None


def _fetch(archive: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"npm is not on this machine, and the page needs {PACKAGE} from its registry: install Node.js, or put "
            f"{PACKAGE}-{VERSION}.tgz at {archive}"
        )
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        words = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", temporary]
        done = subprocess.run(words, cwd=temporary, capture_output=True, text=True, check=False)
        file = Path(temporary) / archive.name
        if done.returncode or not file.exists():
            said = " ".join(done.stderr.split())[-300:] or f"status {done.returncode}"
            raise UserError(f"npm did not give {PACKAGE} {VERSION} ({said}): is its registry reachable?")
        file.replace(archive)
