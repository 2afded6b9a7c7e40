"""A bucket on this machine: as much of Google Cloud Storage's JSON interface as a training uses."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

NAME = "bucket"
# Where the clients look for a server: of gcsfs, of orbax's tensorstore, and of array_record.
ENDPOINTS = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT")


class Bucket:
    """Objects by name, each with the number of its generation."""

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.lock = threading.Lock()
        self.uploads: list[tuple[str, bytearray, dict[str, str]]] = []
        self._generation = 0

    def write(self, name: str, data: bytes) -> None:
        self._generation += 1
        self.objects[name] = data, self._generation

    def names(self, prefix: str) -> list[str]:
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def about(self, name: str) -> dict[str, str]:
        data, generation = self.objects[name]
        return {
            "kind": "storage#object",
            "bucket": NAME,
            "name": name,
            "generation": str(generation),
            "size": str(len(data)),
            "updated": "2026-01-01T00:00:00.000Z",
        }


@contextmanager
def serving():
    """The bucket, and the environment in which programs find it at gs://bucket."""
    bucket = Bucket()

    class Handler(_Handler):
        pass

    Handler.bucket = bucket
    server = ThreadingHTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://localhost:{server.server_port}"
    try:
        yield bucket, dict.fromkeys(ENDPOINTS, address) | {"GOOGLE_CLOUD_PROJECT": "test"}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *arguments) -> None:
        pass

    def answer(self, status: int, body=b"", headers=()) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int) -> None:
        self.answer(status, {"error": {"code": status, "message": "refused"}})

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.bucket.lock:
            if url.path.startswith("/upload/"):
                return self.upload(query, body)
            _, _, name = url.path.partition(f"/b/{NAME}/o")
            if not name:
                return self.list(query) if url.path.endswith("/o") else self.answer(200, {})
            moved = re.fullmatch("/(.+)/(moveTo|rewriteTo|copyTo)/(?:b/.+/)?o/(.+)", name)
            if moved:
                return self.copy(unquote(moved[1]), unquote(moved[3]), moved[2])
            return self.object(unquote(name[1:]), query)

    do_GET = do_POST = do_PUT = do_DELETE = handle_request

    def list(self, query: dict[str, str]) -> None:
        prefix, cut = query.get("prefix", ""), query.get("delimiter")
        first, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
        items, folders = [], set()
        for name in sorted(self.bucket.objects):
            if name.startswith(prefix) and first <= name < end:
                folder, found, _ = name[len(prefix) :].partition(cut) if cut else ("", "", "")
                if found:
                    folders.add(prefix + folder + found)
                else:
                    items.append(self.bucket.about(name))
        self.answer(200, {"items": items, "prefixes": sorted(folders)})

    def upload(self, query: dict[str, str], body: bytes) -> None:
        uploads = self.bucket.uploads
        if query["uploadType"] == "media":
            return self.store(query["name"], body, query)
        if query["uploadType"] == "multipart":
            mark = re.search('boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            about, data = (
                re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1]
                for part in body.split(b"--" + mark)[1:3]
            )
            return self.store(json.loads(about)["name"], re.sub(rb"\r?\n\Z", b"", data), query)
        if "upload_id" not in query:
            uploads.append((query.get("name") or json.loads(body)["name"], bytearray(), query))
            place = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
            place += f"?uploadType=resumable&upload_id={len(uploads) - 1}"
            return self.answer(200, {}, {"Location": place}.items())
        name, data, first_query = uploads[int(query["upload_id"])]
        data += body
        if self.headers.get("Content-Range", "").endswith("/*"):
            return self.answer(308, b"", {"Range": f"bytes=0-{len(data) - 1}"}.items())
        return self.store(name, bytes(data), first_query)

    def store(self, name: str, data: bytes, query: dict[str, str]) -> None:
        _, generation = self.bucket.objects.get(name, (b"", 0))
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            return self.refuse(412)
        self.bucket.write(name, data)
        return self.answer(200, self.bucket.about(name))

    def copy(self, source: str, target: str, way: str) -> None:
        if source not in self.bucket.objects:
            return self.refuse(404)
        self.bucket.write(target, self.bucket.objects[source][0])
        if way == "moveTo":
            del self.bucket.objects[source]
        about = self.bucket.about(target)
        return self.answer(200, about | {"done": True, "resource": about})

    def object(self, name: str, query: dict[str, str]) -> None:
        if name not in self.bucket.objects:
            return self.refuse(404)
        data, generation = self.bucket.objects[name]
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            return self.refuse(412)
        if self.command == "DELETE":
            del self.bucket.objects[name]
            return self.answer(204)
        if query.get("alt") != "media":
            return self.answer(200, self.bucket.about(name))
        headers = {"x-goog-generation": generation}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.answer(200, data, headers.items())
        end = len(data)
        begin = int(wanted[1]) if wanted[1] else end - int(wanted[2])
        last = min(int(wanted[2] or end), end - 1) if wanted[1] else end - 1
        if begin >= end:
            return self.answer(416)
        headers["Content-Range"] = f"bytes {begin}-{last}/{end}"
        return self.answer(206, data[begin : last + 1], headers.items())
