"""Serve a bare Flask "hello" view, to measure the minimum cost of a Flask response."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.route("/")
def hello() -> str:
    return "hello"
