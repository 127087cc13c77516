"""Replace the web process with a healthy API that has one active source and a first run with a fixed status.

Arguments: the name of the variable that holds the port, the status of the run, and optionally a file for the path and
the Authorization header of each request.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

COUNTERS = dict.fromkeys(
    ("fetched", "inserted", "updated", "unchanged", "superseded", "deduplicated", "rejected", "left_out"), 7
)
RUN = {"id": "1", "source": "stand_in", "status": sys.argv[2], "counters": COUNTERS, "error": None}
SOURCES = {
    "data": [
        {"name": "stand_in", "paused": False},
        {"name": "resting", "paused": True, "paused_reason": "maintenance"},
    ]
}
HAS_KEY = any(name.endswith("_API_KEY") for name in os.environ)


class Handler(BaseHTTPRequestHandler):
    def respond(self, status: int, document: object) -> None:
        for file in sys.argv[3:]:
            with Path(file).open("a") as log:
                log.write(f"{self.path} {self.headers['Authorization']}\n")
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        documents = {"/runs": {"data": []}, "/runs/1": RUN, "/sources": SOURCES}
        self.respond(200, documents.get(self.path.partition("?")[0], {"status": "ok", "has_key": HAS_KEY}))

    def do_POST(self) -> None:
        is_allowed = self.headers["Authorization"] == f"Bearer {os.environ['API_TOKEN']}"
        self.respond(202 if is_allowed else 401, {"data": [RUN]})


HTTPServer(("127.0.0.1", int(os.environ[sys.argv[1]])), Handler).serve_forever()
