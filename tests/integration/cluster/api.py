"""A Kubernetes API server in this process, for the objects the launcher knows: real HTTP, real refusals.

What it takes from the real one: bearer tokens, permissions, one object a name (409), preconditions (409), strict field
validation by the official client's models (they are generated from the published OpenAPI document), the rules of the
batch API that no schema holds (422), label and field selectors, foreground deletion. Controllers: `nodes.py`.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiClient, V1Job, V1Service
from pydantic import ValidationError

from tests.integration.cluster.rules import problems

TOKEN = "an-account's-token"
NAMESPACE = "training"
MODELS = {"jobs": V1Job, "services": V1Service}
PATH = re.compile(
    r"/(?:api|apis/[^/]+)/\w+/namespaces/(?P<namespace>[^/]+)/(?P<kind>\w+)(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)


class Refused(Exception):
    """An answer that is not 2xx."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code, self.reason, self.message = code, reason, message


class ApiServer:
    """The objects, and the server in front of them. `lock` guards both against the controllers' thread."""

    def __init__(self, folder: Path) -> None:
        self.lock = threading.RLock()
        self.folder = folder
        self.objects: dict[str, dict[str, dict[str, Any]]] = {
            kind: {} for kind in ("jobs", "services", "pods", "events", "workloads")
        }
        self.allowed = _permissions()
        """`create jobs` and the like: what infra/kubernetes/access.yaml grants."""
        self.forbidden: set[str] = set()
        """Of these, what the account may not do after all."""
        self.groups: dict[str, str] = {"batch": "v1"}
        self.created: list[str] = []
        """Uid of every Job there ever was."""
        self._http: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    def start(self) -> None:
        """Listen; at the port of the last time, if there was one."""
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening; the objects stay, as in etcd."""
        if self._http is None:
            return
        self._http.shutdown()
        self._http.server_close()
        self._http = None

    def kubeconfig(self, token: str = TOKEN) -> Path:
        """A kubeconfig file for this server."""
        path = self.folder / "kubeconfig"
        named = {
            "clusters": {"cluster": {"server": f"http://127.0.0.1:{self._port}"}},
            "users": {"user": {"token": token}},
            "contexts": {"context": {"cluster": "here", "user": "here"}},
        }
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "here"}
        path.write_text(
            yaml.safe_dump({**config, **{key: [{"name": "here", **of}] for key, of in named.items()}})
        )
        return path

    def add(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        """Store an object as the API server stores it."""
        item["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": NAMESPACE, "creationTimestamp": now()}
        item.setdefault("status", {})
        self.objects[kind][item["metadata"]["name"]] = item
        return item

    def create(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        """POST: validated, defaulted, stored."""
        try:
            model = MODELS[kind].model_validate(item)
        except ValidationError as error:
            raise Refused(400, "BadRequest", f"strict decoding error: {error}") from None
        if ApiClient().sanitize_for_serialization(model) != item:
            raise Refused(
                400, "BadRequest", "strict decoding error: a field is not written as the API writes it"
            )
        if found := problems(kind, item):
            raise Refused(
                422, "Invalid", f"{kind} {item['metadata'].get('name')} is invalid: {'; '.join(found)}"
            )
        if (name := item["metadata"]["name"]) in self.objects[kind]:
            raise Refused(409, "AlreadyExists", f'{kind} "{name}" already exists')
        self.add(kind, item)
        if kind == "jobs":
            uid = item["metadata"]["uid"]
            self.created.append(uid)
            ours = {"batch.kubernetes.io/job-name": name, "batch.kubernetes.io/controller-uid": uid}
            item["spec"]["template"]["metadata"]["labels"] |= ours
        return item

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """GET of one."""
        if name not in self.objects[kind]:
            raise Refused(404, "NotFound", f'{kind} "{name}" not found')
        return self.objects[kind][name]

    def delete(self, kind: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """DELETE: at once, or for a Job in the foreground once its pods are gone."""
        item = self.get(kind, name)
        wanted = options.get("preconditions", {}).get("uid", item["metadata"]["uid"])
        if wanted != item["metadata"]["uid"]:
            raise Refused(409, "Conflict", "the UID in the precondition does not match")
        if kind == "jobs":
            assert options.get("propagationPolicy") == "Foreground", "its pods would outlive the Job"
            item["metadata"].setdefault("deletionTimestamp", now())
        else:
            del self.objects[kind][name]
        return item

    def list(self, kind: str, query: dict[str, str]) -> list[dict[str, Any]]:
        """GET of many."""
        items = list(self.objects[kind].values())
        for test in filter(None, query.get("labelSelector", "").split(",")):
            key, _, value = test.partition("=")
            items = [item for item in items if item["metadata"].get("labels", {}).get(key) == value]
        for test in filter(None, query.get("fieldSelector", "").split(",")):
            key, _, value = test.partition("=")
            items = [item for item in items if _field(item, key) == value]
        return items

    def log(self, name: str) -> str:
        """What the container of a pod wrote."""
        self.get("pods", name)
        path = self.folder / f"{name}.out"
        return path.read_text() if path.exists() else ""


def _permissions() -> set[str]:
    path = Path(__file__).resolve().parents[3] / "infra/kubernetes/access.yaml"
    [role] = [item for item in yaml.safe_load_all(path.read_text()) if item["kind"] == "Role"]
    return {f"{v} {r}" for rule in role["rules"] for v in rule["verbs"] for r in rule["resources"]}


def now() -> str:
    """As the API writes a time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _field(item: Any, path: str) -> Any:
    for part in path.split("."):
        item = item.get(part, {})
    return item


def _handler(api: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

        def answer(self, verb: str) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else {}
            try:
                with api.lock:
                    code, said = (201 if verb == "create" else 200), self._do(verb, body)
            except Refused as no:
                code = no.code
                said = {
                    "kind": "Status",
                    "status": "Failure",
                    "reason": no.reason,
                    "message": no.message,
                    "code": code,
                }
            text = isinstance(said, str)
            data = said.encode() if text else json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _do(self, verb: str, body: dict[str, Any]) -> Any:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            path, _, text = self.path.partition("?")
            if path in ("/apis", "/apis/"):
                versions = {n: {"groupVersion": f"{n}/{v}", "version": v} for n, v in api.groups.items()}
                groups = [{"name": n, "versions": [v], "preferredVersion": v} for n, v in versions.items()]
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
            found = PATH.fullmatch(path)
            if found is None or found["kind"] not in api.objects:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            kind, name = found["kind"], found["name"]
            if verb == "get" and not name:
                verb = "list"
            asked = f"{verb} {kind}{found['log'] or ''}"
            if asked not in api.allowed - api.forbidden:
                raise Refused(
                    403, "Forbidden", f'{kind} is forbidden: User "me" cannot {verb} resource "{kind}"'
                )
            if found["namespace"] != NAMESPACE:
                raise Refused(404, "NotFound", f'namespaces "{found["namespace"]}" not found')
            if found["log"]:
                return api.log(name)
            if verb == "create":
                return api.create(kind, body)
            if verb == "delete":
                return api.delete(kind, name, body)
            if verb == "list":
                from urllib.parse import parse_qsl

                return {"kind": "List", "apiVersion": "v1", "items": api.list(kind, dict(parse_qsl(text)))}
            return api.get(kind, name)

        def do_GET(self) -> None:
            self.answer("get")

        def do_POST(self) -> None:
            self.answer("create")

        def do_DELETE(self) -> None:
            self.answer("delete")

    return Handler
