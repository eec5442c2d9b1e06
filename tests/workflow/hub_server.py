"""A Hugging Face hub on loopback that serves folders: as much of its API as fetching a model or a data set takes."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves {("models" | "datasets", "owner/name"): folder} while the body of `with` runs; `asked` lists the requests."""

    def __init__(self, repositories):
        self.repositories, self.asked = {kind: Path(folder) for kind, folder in repositories.items()}, []

    def __enter__(self):
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def files(self, kind, name):
        folder = self.repositories[kind, name]
        return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}


class Handler(BaseHTTPRequestHandler):
    """/api/{models,datasets}/OWNER/NAME/{revision,tree,paths-info}/REV and [/datasets]/OWNER/NAME/resolve/REV/FILE."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Quiet."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self, body=True):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"{self.command} {self.path}")
        try:
            if parts[0] == "api":
                content = json.dumps(self.told(parts[1], "/".join(parts[2:4]), parts[4:], sent)).encode()
                return self.reply(200, content, {"Content-Type": "application/json"}, body)
            kind = "datasets" if parts[0] == "datasets" else "models"
            owner, name, _, _, *path = parts[1:] if kind == "datasets" else parts
            content = self.hub.files(kind, f"{owner}/{name}")["/".join(path)].read_bytes()
            etag = hashlib.sha1(content).hexdigest()
            return self.reply(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)
        except (KeyError, ValueError):
            return self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)

    def told(self, kind, name, rest, sent):
        """What the API says of a repository: itself, a folder's entries, or some paths."""
        files = self.hub.files(kind, name)
        entries = [
            {"type": "file", "path": path, "size": file.stat().st_size, "oid": hashlib.sha1(file.read_bytes()).hexdigest()}
            for path, file in files.items()
        ]
        if not rest or rest[0] == "revision":
            siblings = [{"rfilename": path} for path in files]
            return {"id": name, "_id": "1", "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        if rest[0] == "tree":
            return entries
        if rest[0] == "paths-info":
            wanted = json.loads(sent)["paths"]
            return [entry for entry in entries if entry["path"] in wanted]
        raise KeyError(rest[0])

    def reply(self, status, content, headers, body):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)
