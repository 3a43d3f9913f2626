#!/usr/bin/env python3
"""An agent that counts per entity and chains the events' ids, so that a lost, repeated or re-ordered event shows.

What else it does is in the event's data: `deliverAt` delays the output, `pad` makes the state as large, `outputs` makes as many,
each with `bytes`, `refuse` rejects the event, `fail` fails it, and `leave` closes the
connection without an answer, as a process that dies would: when the event comes in a `batch`, or `always`.
"""

import hashlib
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DESCRIPTION = {"protocol": "v1", "types": ["cmd.order.count"], "deterministic": True, "batch": True}


def react(item):
    envelope = item["envelope"]
    data, entity = envelope["data"], envelope["subject"]
    if data.get("refuse"):
        return {"problem": {"title": "refused", "status": 422, "detail": "as it asked", "retry": False}}
    if data.get("fail"):
        return {"problem": {"title": "failed", "status": 500, "detail": "as it asked"}}
    state = (item.get("state") or {}).get("data") or {"count": 0, "digest": ""}
    count = state["count"] + 1
    digest = hashlib.sha256(f"{state['digest']}|{envelope['id']}".encode()).hexdigest()
    after = {"count": count, "digest": digest}
    if "pad" in data:
        after["pad"] = "x" * data["pad"]
    output = {"type": "evt.order.counted", "subject": entity, "data": {"count": count, "more": "x" * data.get("bytes", 0)}}
    if "deliverAt" in data:
        output["deliverAt"] = data["deliverAt"]
    return {"outputs": [output] * data.get("outputs", 1), "state": after}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        self.answer(200, DESCRIPTION)

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_batch = self.path.endswith("-batch")
        items = call["items"] if is_batch else [call]
        leaves = ("batch", "always") if is_batch else ("always",)
        if any(item["envelope"]["data"].get("leave") in leaves for item in items):
            self.close_connection = True
            return
        answers = [react(item) for item in items]
        if is_batch:
            self.answer(200, {"items": answers})
        elif "problem" in answers[0]:
            self.answer(answers[0]["problem"]["status"], answers[0]["problem"])
        else:
            self.answer(200, answers[0])

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


host, _, port = os.environ["RHIZON_LISTEN"].rpartition(":")
Server((host, int(port)), Handler).serve_forever()
