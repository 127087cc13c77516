"""Stands in for the web process: healthy, with one source whose run ends at once.

argv: the variable with its port; how the run ends.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

COUNTERS = dict.fromkeys(("fetched", "inserted", "updated", "unchanged", "deduplicated", "rejected"), 7)
RUN = {"id": "1", "source": "stand_in", "status": sys.argv[2], "counters": COUNTERS, "error": None}
SOURCES = {
    "data": [
        {"name": "stand_in", "paused": False},
        {"name": "resting", "paused": True, "paused_reason": "until somebody says so"},
    ]
}
HAS_KEY = any(name.endswith("_API_KEY") for name in os.environ)


class Answers(BaseHTTPRequestHandler):
    def answer(self, status: int, body: object) -> None:
        sent = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def do_GET(self) -> None:
        answers = {"/runs/1": RUN, "/sources": SOURCES}
        self.answer(200, answers.get(self.path, {"status": "ok", "has_key": HAS_KEY}))

    def do_POST(self) -> None:
        allowed = self.headers["Authorization"] == f"Bearer {os.environ['API_TOKEN']}"
        self.answer(202 if allowed else 401, {"data": [RUN]})


HTTPServer(("127.0.0.1", int(os.environ[sys.argv[1]])), Answers).serve_forever()
