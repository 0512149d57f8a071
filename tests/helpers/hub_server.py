"""A Hugging Face hub on this machine, in front of a local folder: as much of its protocol as its library needs to
push and to load models whose files are small.

As a program: `hub_server.py FOLDER` prints the port, and serves until it is killed.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_for_this_test_only"


class Hub(BaseHTTPRequestHandler):
    """OWNER/NAME lies in `root`/OWNER/NAME; its newest commit is named by what the files hold."""

    root: Path

    def log_message(self, *words: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        elif parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            existed = (self.root / name).exists()
            (self.root / name).mkdir(parents=True, exist_ok=True)
            (self.root / f"{name}.json").write_text(body.decode())
            self.answer(409 if existed else 200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        elif parts == ["api", "validate-yaml"]:
            self.answer(200, {"errors": [], "warnings": []})
        elif parts[:2] == ["api", "models"] and parts[4] == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif parts[:2] == ["api", "models"] and parts[4] == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    path = self.root / parts[2] / parts[3] / line["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(line["value"]["content"]))
            sha = self.commit(parts[2:4])
            url = f"http://{self.headers['Host']}/{parts[2]}/{parts[3]}/commit/{sha}"
            self.answer(200, {"success": True, "commitOid": sha, "commitUrl": url})
        else:
            self.answer(404, {"error": f"no {self.path}"})

    def do_GET(self) -> None:
        parts = [unquote(one) for one in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self.tell(parts)
            return
        repo, path = self.root / parts[0] / parts[1], self.root.joinpath(*parts[:2], *parts[4:])
        if not path.is_file():
            self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        headers = {"X-Repo-Commit": self.commit([repo.parent.name, repo.name]), "ETag": f'"{blob(content)}"'}
        self.answer(200, content, headers)

    do_HEAD = do_GET

    def tell(self, parts: list[str]) -> None:
        """What is in a repository."""
        repo = self.root / parts[2] / parts[3]
        if not repo.is_dir():
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        files = [one for one in sorted(repo.rglob("*")) if one.is_file()]
        if parts[4] == "tree":
            entries = [
                {
                    "type": "file",
                    "path": str(one.relative_to(repo)),
                    "size": one.stat().st_size,
                    "oid": blob(one.read_bytes()),
                }
                for one in files
            ]
            self.answer(200, entries)
        else:
            siblings = [{"rfilename": str(one.relative_to(repo))} for one in files]
            name = "/".join(parts[2:4])
            self.answer(200, {"id": name, "modelId": name, "sha": self.commit(parts[2:4]), "siblings": siblings})

    def commit(self, name: list[str]) -> str:
        repo = self.root.joinpath(*name)
        parts = [
            str(one.relative_to(repo)).encode() + one.read_bytes()
            for one in sorted(repo.rglob("*"))
            if one.is_file()
        ]
        return hashlib.sha1(b"".join(parts)).hexdigest()

    def answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def blob(content: bytes) -> str:
    """git's name for a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


if __name__ == "__main__":
    Hub.root = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_address[1], flush=True)
    server.serve_forever()
