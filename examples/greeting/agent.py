import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Agent(BaseHTTPRequestHandler):
    def answer(self, value): self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(value).encode())
    def do_GET(self): self.answer({"protocol": "v1", "types": ["cmd.person.greet"]})
    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        times = (call["state"]["data"] or {"times": 0})["times"] + 1
        self.answer({"outputs": [{"type": "evt.person.greeted", "data": {"times": times}}], "state": {"times": times}})
host, port = os.environ["RHIZON_LISTEN"].split(":")
HTTPServer((host, int(port)), Agent).serve_forever()
