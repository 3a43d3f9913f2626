"""The smallest agent in Python that does something: it counts the events of an entity, and emits one for each."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def react(item):
    count = (item["state"]["data"] or 0) + 1
    return {"outputs": [{"type": "evt.bench.done", "data": count}], "state": count}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        self.answer({"protocol": "v1", "deterministic": True, "batch": True})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        single = self.path == "/rhizon/v1/receive"
        self.answer(react(body) if single else {"items": [react(item) for item in body["items"]]})

    def answer(self, value):
        body = json.dumps(value, separators=(",", ":")).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


host, _, port = os.environ["RHIZON_LISTEN"].rpartition(":")
ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
