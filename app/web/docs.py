"""Serve the OpenAPI document, Swagger UI and ReDoc, with every file that the pages load."""

from __future__ import annotations

from importlib.resources import files

from flask import (
    Blueprint,
    Response,
    current_app,
    json,
    jsonify,
    redirect,
    render_template,
    send_from_directory,
    url_for,
)
from werkzeug.wrappers import Response as AnyResponse

from app.web.openapi import document
from app.web.problems import Code, Problem, quoted, suggestion

SWAGGER_UI = files("flask_swagger_ui") / "dist"
SWAGGER_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")

# Both pages set style attributes. ReDoc runs its search in a worker that it creates from a blob.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "worker-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

blueprint = Blueprint("docs", __name__)


@blueprint.route("/")
def index() -> AnyResponse:
    return redirect(url_for("docs.swagger"))


@blueprint.route("/openapi.json")
def openapi() -> Response:
    return Response(json.dumps(document(current_app), sort_keys=False), mimetype="application/json")


@blueprint.route("/docs")
def swagger() -> Response:
    return _page("swagger.html")


@blueprint.route("/redoc")
def redoc() -> Response:
    return _page("redoc.html")


@blueprint.route("/docs/assets/<name>")
def asset(name: str) -> Response:
    if name not in SWAGGER_FILES:
        raise Problem(Code.NOT_FOUND, f"There is no file {quoted(name)}.")
    return send_from_directory(str(SWAGGER_UI), name, max_age=86400)


@blueprint.route("/problems/<code>")
def problem(code: str) -> Response:
    """Describe a problem code. The `type` of each problem links to this path."""
    by_slug = {entry.slug: entry for entry in Code}
    if code not in by_slug:
        raise Problem(Code.NOT_FOUND, f"There is no problem code {quoted(code)}{suggestion(code, by_slug) or '.'}")
    match = by_slug[code]
    about = {"code": match.slug, "status": match.status, "title": match.title, "about": match.about, "hint": match.hint}
    return jsonify(about)


def _page(template: str) -> Response:
    return Response(render_template(template), headers={"Content-Security-Policy": POLICY}, mimetype="text/html")
