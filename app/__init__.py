"""Serve the REST API: read Postgres directly, and pass every change to `tasks`."""

from __future__ import annotations

from flask import Flask

from app.assets import agreement, assets, candidates, decisions
from app.quotes import data, latest, origin
from app.runs import anomalies, compare, dropped_values, rejects, runs
from app.sources import drift, missing_partitions, sources
from app.status import health, metrics, stats
from app.web import auth, compression, context, docs, envelope, error_handlers, etags, openapi, response_cache
from settings import Settings, get_settings

MAX_BODY_BYTES = 64 * 1024


def create_app(settings: Settings | None = None, *, connections: int = 8) -> Flask:
    """Create the web application. connections: size of the database pool, one for each thread."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]  # only on Flask's default provider
    settings = settings or get_settings()
    context.install(app, settings, connections)
    compression.install(app)
    envelope.install(app)
    etags.install(app)
    metrics.install(app)
    auth.install(app)
    response_cache.install(app, settings)
    openapi.install(
        app,
        [
            data,
            latest,
            origin,
            assets,
            agreement,
            decisions,
            candidates,
            sources,
            drift,
            missing_partitions,
            runs,
            compare,
            rejects,
            dropped_values,
            anomalies,
            stats,
            health,
            metrics,
        ],
    )
    app.register_blueprint(docs.blueprint)
    error_handlers.install(app)
    return app
