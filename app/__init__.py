"""How the data is read: the REST API over Postgres. Its only write is asking `tasks` for something."""

from __future__ import annotations

from flask import Flask

from app.assets import agreement, assets, candidates, decisions
from app.quotes import data, latest
from app.runs import anomalies, compare, rejects, runs
from app.sources import drift, sources
from app.status import health, metrics, stats
from app.web import answer_cache, auth, compression, context, docs, envelope, etags, openapi, problems
from settings import Settings, get_settings

LARGEST_BODY = 64 * 1024


def create_app(settings: Settings | None = None, *, connections: int = 8) -> Flask:
    """The web application. connections: to the database, as many as there are threads that answer."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's default provider has it
    settings = settings or get_settings()
    context.install(app, settings, connections)
    compression.install(app)
    envelope.install(app)
    etags.install(app)
    metrics.install(app)
    auth.install(app)
    answer_cache.install(app, settings)
    openapi.install(
        app,
        [
            data,
            latest,
            assets,
            agreement,
            decisions,
            candidates,
            sources,
            drift,
            runs,
            compare,
            rejects,
            anomalies,
            stats,
            health,
            metrics,
        ],
    )
    app.register_blueprint(docs.blueprint)
    problems.install(app)
    return app
