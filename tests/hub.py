"""A stand-in of the Hugging Face hub's HTTP interface, for `fewshot push` and `pull`: repositories in memory.

Tests run it in a thread. By hand: `python tests/hub.py 8123`, then HF_ENDPOINT=http://127.0.0.1:8123, HF_TOKEN=writer
and, since the client would else upload to a storage service of its own, HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
LFS_FROM = 1000
"""Bytes from which a file goes to the large-file storage."""


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid


class Hub(ThreadingHTTPServer):
    """The hub: `repos` by name; who has the token "writer" may write everywhere but to what "others" own."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.repos: dict[str, Repo] = {}
        self.stored: Files = {}
        self.asked: Counter[str] = Counter()
        """How often each thing was asked for: its method and what kind of address it is."""
        self.faults: dict[str, str | int] = {}
        """By what is asked for: "break" the connection, "change" a byte, "cut" the file short, or a status."""
        self.leaked = False
        """Whether the storage was ever sent a token."""
        self.meanwhile: Any = None
        """Called once, before the next commit."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage(self) -> str:
        """Where large files lie: on another host, as far as a client can tell, which must not see the token."""
        return f"http://localhost:{self.server_port}/stored"

    def add(self, name: str, files: Files, **how: Any) -> Repo:
        self.repos[name] = Repo(**how)
        self.repos[name].commit("main", {".gitattributes": b""} | files)
        return self.repos[name]

    def files(self, name: str, branch: str = "main") -> Files:
        repo = self.repos[name]
        return {k: v for k, v in repo.commits[repo.branches[branch]].items() if k != ".gitattributes"}

    def start(self) -> "Hub":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news."""


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        if __name__ == "__main__":
            super().log_message(format, *args)

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.what = f"{self.command} {self._kind(parts)}"
        self.server.asked[self.what] += 1
        fault = self.server.faults.get(self.what)
        if fault == "break":
            self.close_connection = True
            self.connection.close()
            return
        try:
            if isinstance(fault, int):
                raise Refused(fault)
            getattr(self, f"_{self._kind(parts)}")(parts)
        except Refused as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            self._send(json.dumps({"error": str(refusal)}).encode(), refusal.status, headers)

    @staticmethod
    def _kind(parts: list[str]) -> str:
        if parts[:2] == ["api", "models"]:
            return parts[4] if len(parts) > 4 and parts[4] != "revision" else "info"
        if parts[0] == "api":
            return parts[-1].replace("-", "_")
        if "resolve" in parts:
            return "resolve"
        return "stored" if parts[0] == "stored" else "batch"

    def _send(self, body: bytes = b"", status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: Any) -> None:
        self._send(json.dumps(content).encode(), headers={"Content-Type": "application/json"})

    # who may what

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _may_write(self, owner: str) -> None:
        if not self._token:
            raise Refused(401, "", "Invalid username or password.")
        if self._token != "writer" or owner == "others":
            raise Refused(403, "", "You don't have the rights to write here")

    def _repo(self, name: str) -> Repo:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self._token != "writer"):
            raise Refused(404 if self._token else 401, "RepoNotFound", "Repository not found")
        return repo

    def _files(self, name: str, revision: str) -> tuple[str, Files]:
        repo = self._repo(name)
        oid = repo.branches.get(revision, revision)
        if oid not in repo.commits:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        return oid, repo.commits[oid]

    # what may be asked for

    def _agent_harnesses(self, parts: list[str]) -> None:
        self._json({"standardEnvVars": [], "harnesses": {}})

    def _create(self, parts: list[str]) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        self._may_write(asked["organization"])
        if name in self.server.repos:
            content = json.dumps({"error": "You already created this model repo", "url": f"{self.server.url}/{name}"})
            self._send(content.encode(), 409)
            return
        self.server.add(name, {}, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        self._json({"url": f"{self.server.url}/{name}"})

    def _info(self, parts: list[str]) -> None:
        name = "/".join(parts[2:4])
        oid, files = self._files(name, parts[5] if len(parts) > 5 else "main")
        siblings = [{"rfilename": file} for file in sorted(files)]
        self._json({"id": name, "sha": oid, "private": self._repo(name).private, "siblings": siblings})

    def _branch(self, parts: list[str]) -> None:
        self._may_write(parts[2])
        repo = self._repo("/".join(parts[2:4]))
        if parts[5] in repo.branches:
            raise Refused(409, "", "Reference already exists")
        repo.branches[parts[5]] = repo.branches["main"]
        self._send()

    def _validate_yaml(self, parts: list[str]) -> None:
        import yaml

        front = json.loads(self.body)["content"].split("---\n")[1]
        assert isinstance(yaml.safe_load(front), dict)
        self._json({"warnings": [], "errors": []})

    def _preupload(self, parts: list[str]) -> None:
        self._may_write(parts[2])
        self._files("/".join(parts[2:4]), parts[5])
        modes = {True: "lfs", False: "regular"}
        files = json.loads(self.body)["files"]
        mode = [{"path": file["path"], "uploadMode": modes[_is_large(file)], "shouldIgnore": False} for file in files]
        self._json({"files": mode})

    def _batch(self, parts: list[str]) -> None:
        self._may_write(parts[0])
        objects = [
            asked | {}
            if asked["oid"] in self.server.stored
            else asked | {"actions": {"upload": {"href": f"{self.server.storage}/{asked['oid']}"}}}
            for asked in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _stored(self, parts: list[str]) -> None:
        self.server.leaked |= bool(self._token)
        if self.command == "PUT":
            assert hashlib.sha256(self.body).hexdigest() == parts[1]
            self.server.stored[parts[1]] = self.body
            self._send()
        else:
            self._send(self._spoilt(self.server.stored[parts[1]]), headers={"ETag": f'"{parts[1]}"'})

    def _commit(self, parts: list[str]) -> None:
        name, branch = "/".join(parts[2:4]), parts[5]
        self._may_write(parts[2])
        meanwhile, self.server.meanwhile = self.server.meanwhile, None
        if meanwhile:
            meanwhile()
        head, *lines = (json.loads(line) for line in self.body.splitlines())
        oid, files = self._files(name, branch)
        if head["value"].get("parentCommit") not in (None, oid):
            raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(files)
        for line in lines:
            value = line["value"]
            is_large = line["key"] == "lfsFile"
            files[value["path"]] = self.server.stored[value["oid"]] if is_large else base64.b64decode(value["content"])
        done = self._repo(name).commit(branch, files)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{done}", "commitOid": done, "success": True})

    def _resolve(self, parts: list[str]) -> None:
        name = "/".join(parts[:2])
        if self._repo(name).gated:
            raise Refused(403, "GatedRepo", "Access to this model is restricted")
        oid, files = self._files(name, parts[3])
        path = "/".join(parts[4:])
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        content = files[path]
        etag = hashlib.sha256(content).hexdigest()
        facts = {"X-Repo-Commit": oid, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if len(content) >= LFS_FROM:
            self.server.stored[etag] = content
            self._send(status=302, headers=facts | {"Location": f"{self.server.storage}/{etag}"})
        else:
            self._send(self._spoilt(content), headers=facts | {"ETag": f'"{etag}"'})

    def _spoilt(self, content: bytes) -> bytes:
        match self.server.faults.get(self.what):
            case "change":
                return content[:-1] + bytes([content[-1] ^ 1])
            case "cut" if self.command == "GET":
                return content[: len(content) // 2]
        return content


def _is_large(file: dict[str, Any]) -> bool:
    return int(file["size"]) >= LFS_FROM and b"\0" in base64.b64decode(file["sample"])


if __name__ == "__main__":
    hub = Hub(int(sys.argv[1]) if len(sys.argv) > 1 else 8123)
    print(f"a stand-in of the hub at {hub.url}", flush=True)
    hub.serve_forever()
