"""A bare Flask hello: the least that an answer of Flask can cost."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.route("/")
def hello() -> str:
    return "hello"
