#!/usr/bin/env python3
"""The agent `permits`: follows each application for a permit through its procedure.

It handles `cmd.permit.record`. The entity is the application (the event's subject); its state is
`{"steps": n, "digest": d}`, where `digest` chains the activities in their order, so a lost, repeated or
re-ordered event shows. For each command it emits `evt.permit.recorded` about the officer who did it.

The agent keeps nothing between calls: Rhizon sends the entity's state along and stores what comes back.
That is all of the agent protocol (v1) that a deterministic agent needs, in Python's standard library.
"""

import hashlib
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANDLES = "cmd.permit.record"
EMITS = "evt.permit.recorded"
DESCRIPTION = {"protocol": "v1", "types": [HANDLES], "deterministic": True, "batch": True}


class Rejected(Exception):
    """The input is at fault: sending it again would not help."""


def react(item):
    """One event and its entity's state in, outputs and the new state out. Nothing else is looked at."""
    envelope = item["envelope"]
    if envelope["type"] != HANDLES:
        raise Rejected(f"this agent handles {HANDLES}, not {envelope['type']}")
    data = envelope.get("data")
    activity = data.get("activity") if isinstance(data, dict) else None
    officer = data.get("resource") if isinstance(data, dict) else None
    if not isinstance(activity, str) or not isinstance(officer, str) or not officer:
        raise Rejected("data needs `activity` and `resource`, both strings")

    state = (item.get("state") or {}).get("data") or {"steps": 0, "digest": ""}
    steps = state["steps"] + 1
    digest = hashlib.sha256(f"{state['digest']}|{activity}".encode()).hexdigest()
    output = {
        "type": EMITS,
        "subject": officer,
        "data": {"application": envelope["subject"], "activity": activity, "steps": steps},
    }
    return {"outputs": [output], "state": {"steps": steps, "digest": digest}}


def react_or_error(item):
    """In a batch, an item that is rejected fails only itself."""
    try:
        return react(item)
    except Rejected as rejected:
        return {"problem": problem(422, str(rejected))}


def problem(status, detail):
    return {"title": "rejected", "status": status, "detail": detail, "retry": False}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive: the sidecar holds a few connections
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one write

    def do_GET(self):
        if self.path == "/rhizon/v1/agent":
            self.answer(200, DESCRIPTION)
        else:
            self.answer(404, problem(404, f"no such path: {self.path}"))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.path == "/rhizon/v1/receive":
                self.answer(200, react(json.loads(body)))
            elif self.path == "/rhizon/v1/receive-batch":
                self.answer(200, {"items": [react_or_error(item) for item in json.loads(body)["items"]]})
            else:
                self.answer(404, problem(404, f"no such path: {self.path}"))
        except (Rejected, ValueError, KeyError) as error:
            self.answer(422, problem(422, str(error)))

    def answer(self, status, value):
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """One line per request would only repeat what the sidecar's metrics and traces say."""


class Server(ThreadingHTTPServer):
    daemon_threads = True  # a kept-alive connection doesn't hold up the end of the process
    request_queue_size = 128


def main():
    host, _, port = os.environ.get("RHIZON_LISTEN", "127.0.0.1:8080").rpartition(":")
    with Server((host, int(port)), Handler) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"permits listens on {host}:{port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
