"""A small Hub on the loopback interface: enough of the real one's endpoints to push a checkpoint and load it again.

It keeps repositories in memory, asks for no token and takes every file above 10 MB or with a weight's ending as LFS,
as the real Hub does. Cards are validated: YAML that cannot be read, or fields the Hub would refuse, are errors. Point
``HF_ENDPOINT`` at `HubServer.url` and set ``HF_HUB_DISABLE_XET=1`` before huggingface_hub is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import yaml

from loopback_server import LoopbackServer, QuietHandler

LFS_ENDINGS = (".safetensors", ".bin", ".parquet", ".gz")
LFS_BYTES = 10_000_000


@dataclass
class Repository:
    """Files and commits of one repository; there is one branch, ``main``."""

    kind: str
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    private: bool = False

    @property
    def sha(self) -> str:
        """The newest commit."""
        return self._sha(len(self.commits))

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit's hash stands for."""
        if revision == "main":
            return self.sha
        known = {self._sha(count) for count in range(len(self.commits) + 1)}
        return revision if revision in known else None

    def at(self, commit: str) -> dict[str, bytes]:
        """The files of a commit."""
        for count in range(1, len(self.commits) + 1):
            if self._sha(count) == commit:
                return self.commits[count - 1]
        return {}

    def _sha(self, count: int) -> str:
        return hashlib.sha1(f"{id(self)}-{count}".encode()).hexdigest()


def card_problems(content: str) -> tuple[list[str], list[str]]:
    """What the Hub would say about a card: errors, which stop an upload, and warnings."""
    head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if head is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(head[1])
    except yaml.YAMLError as error:
        return [f"the YAML cannot be read: {error}"], []
    if not isinstance(metadata, dict):
        return ["the YAML must be a mapping"], []
    errors = []
    for name in ("language", "tags", "datasets", "base_model"):
        values = metadata.get(name, [])
        values = [values] if isinstance(values, str) else values
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            errors.append(f'"{name}" must be a string or a list of strings')
        elif name in ("datasets", "base_model") and not all(re.fullmatch(r"[\w.\-]+/[\w.\-]+", v) for v in values):
            errors.append(f'"{name}" with value {values} is not valid: use ids of the Hub')
    if metadata.get("license", "mit") not in ("apache-2.0", "mit", "cc-by-4.0", "gemma", "other"):
        errors.append(f'"license" must be one of the known ones, got {metadata["license"]}')
    if metadata.get("base_model_relation", "adapter") not in ("adapter", "merge", "quantized", "finetune"):
        errors.append('"base_model_relation" must be adapter, merge, quantized or finetune')
    return errors, []


class HubServer(LoopbackServer):
    """Serves while the ``with`` block lasts.

    Attributes:
        url: what ``HF_ENDPOINT`` has to be.
        repositories: by ``owner/name``.
        requests: method and path of every request, in order.
        cards: every card that was sent to be validated, in order.
    """

    def __init__(self, handler: type[HubHandler] | None = None) -> None:
        super().__init__(handler or HubHandler)
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cards: list[str] = []


class HubHandler(QuietHandler):
    owner: HubServer

    def do_HEAD(self) -> None:
        self._get(with_body=False)

    def do_GET(self) -> None:
        self._get(with_body=True)

    def do_PUT(self) -> None:
        body = self._body()
        oid = self.path.rsplit("/", 1)[-1]
        if hashlib.sha256(body).hexdigest() != oid:
            return self._error(400, "BadRequest", "content does not match its hash")
        self.owner.blobs[oid] = body
        return self._json({})

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/validate-yaml":
            return self._validate_card(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._lfs_batch(json.loads(body))
        kind, name, action, _ = self._split_api(path)
        repository = self.owner.repositories.get(name)
        if repository is None:
            return self._error(404, "RepoNotFound", f"no repository {name}")
        if action == "preupload":
            return self._preupload(repository, json.loads(body))
        if action == "commit":
            return self._commit(kind, name, repository, body)
        return self._error(404, "NotFound", path)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _get(self, with_body: bool) -> None:
        self._body()
        path = unquote(urlsplit(self.path).path)
        if path in ("", "/"):
            return self._send(200, b"hub", {"Content-Type": "text/plain"}, with_body)
        if path.startswith("/api/"):
            return self._api_get(path)
        name, _, rest = path.lstrip("/").removeprefix("datasets/").partition("/resolve/")
        repository = self.owner.repositories.get(name)
        if repository is None:
            return self._error(404, "RepoNotFound", f"no repository {name}", with_body)
        revision, _, file = rest.partition("/")
        commit = repository.resolve(revision)
        if commit is None:
            return self._error(404, "RevisionNotFound", f"no revision {revision}", with_body)
        content = repository.at(commit).get(file)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            return self._error(404, "EntryNotFound", f"no file {file}", with_body, headers)
        headers |= {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Content-Type": "application/octet-stream"}
        return self._send(200, content, headers, with_body)

    def _api_get(self, path: str) -> None:
        if path == "/api/whoami-v2":
            return self._json({"type": "user", "name": "tester", "orgs": []})
        _, name, action, revision = self._split_api(path)
        repository = self.owner.repositories.get(name)
        if repository is None:
            return self._error(404, "RepoNotFound", f"no repository {name}")
        commit = repository.resolve(revision.split("/")[0] or "main")
        if commit is None:
            return self._error(404, "RevisionNotFound", f"no revision {revision}")
        if action == "tree":
            return self._tree(repository.at(commit), revision.partition("/")[2])
        if action == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.sha}
            return self._json({"branches": [branch], "tags": [], "converts": []})
        siblings = [{"rfilename": file} for file in sorted(repository.at(commit))]
        return self._json(
            {"_id": name, "id": name, "sha": commit, "private": repository.private, "siblings": siblings}
        )

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        """The files below a folder; its folders too, unless everything in them is asked for."""
        prefix, recursive = f"{folder}/" if folder else "", "recursive=true" in urlsplit(self.path).query.lower()
        below = {path: content for path, content in sorted(files.items()) if path.startswith(prefix)}
        if folder and not below:
            return self._error(404, "EntryNotFound", f"no folder {folder}")
        rows: dict[str, dict] = {}
        for path, content in below.items():
            child = path if recursive else prefix + path.removeprefix(prefix).split("/")[0]
            kind = "file" if child == path else "directory"
            rows[child] = {"type": kind, "path": child, "oid": hashlib.sha1(content).hexdigest()}
            rows[child] |= {"size": len(content)} if kind == "file" else {"size": 0}
        return self._json(list(rows.values()))

    # -- writing ------------------------------------------------------------------------------------------------------

    def _create(self, request: dict) -> None:
        owner = request.get("organization") or "tester"
        name, kind = f"{owner}/{request['name']}", request.get("type") or "model"
        private = bool(request.get("private")) or request.get("visibility") == "private"
        if name in self.owner.repositories:
            return self._json(
                {"error": "You already created this repo", "url": f"{self.owner.url}/{name}"}, status=409
            )
        self.owner.repositories[name] = Repository(kind, private=private)
        return self._json({"url": f"{self.owner.url}/{'datasets/' if kind == 'dataset' else ''}{name}", "name": name})

    def _validate_card(self, content: str) -> None:
        self.owner.cards.append(content)
        errors, warnings = card_problems(content)
        answer = {
            key: [{"message": text} for text in texts] for key, texts in (("errors", errors), ("warnings", warnings))
        }
        self._json(answer, status=400 if errors else 200)

    def _preupload(self, repository: Repository, request: dict) -> None:
        answers = []
        for file in request["files"]:
            lfs = file["path"].endswith(LFS_ENDINGS) or file["size"] > LFS_BYTES
            answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            content = repository.files.get(file["path"])
            if content is not None:  # what has not changed is not sent again
                blob = b"blob %d\0%s" % (len(content), content)
                answer["oid"] = hashlib.sha256(content).hexdigest() if lfs else hashlib.sha1(blob).hexdigest()
            answers.append(answer)
        self._json({"files": answers})

    def _lfs_batch(self, request: dict) -> None:
        objects = []
        for item in request["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.owner.blobs:
                answer["actions"] = {"upload": {"href": f"{self.owner.url}/lfs/{item['oid']}"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, kind: str, name: str, repository: Repository, body: bytes) -> None:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.owner.blobs:
                    return self._error(400, "BadRequest", f"{value['path']} was not uploaded")
                repository.files[value["path"]] = self.owner.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                repository.files.pop(value["path"], None)
        repository.commits.append(dict(repository.files))
        prefix = "datasets/" if kind == "datasets" else ""
        url = f"{self.owner.url}/{prefix}{name}/commit/{repository.sha}"
        return self._json({"success": True, "commitOid": repository.sha, "commitUrl": url, "hookOutput": ""})

    # -- answering ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _split_api(path: str) -> tuple[str, str, str, str]:
        """``/api/models/owner/name/tree/main`` -> kind, name, action, the rest."""
        _, _, kind, owner, name, *rest = [*path.split("/"), *[""] * 5][: max(5, len(path.split("/")))]
        return kind, f"{owner}/{name}", rest[0] if rest else "", "/".join(rest[1:])

    def _body(self) -> bytes:
        self.owner.requests.append(f"{self.command} {urlsplit(self.path).path}")
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"}, self.command != "HEAD")

    def _error(
        self, status: int, code: str, message: str, with_body: bool = True, headers: dict[str, str] | None = None
    ) -> None:
        error = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        self._send(status, json.dumps({"error": message}).encode(), error | (headers or {}), with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)
