"""How the data is read: the REST API over Postgres. Its only write is asking `tasks` for something."""

from __future__ import annotations

from flask import Flask

from app import (
    agreement,
    anomalies,
    answer_cache,
    assets,
    auth,
    candidates,
    compression,
    conditional,
    data,
    decisions,
    docs,
    drift,
    envelope,
    health,
    latest,
    metrics,
    openapi,
    problems,
    rejects,
    runs,
    sources,
    state,
    stats,
)
from settings import Settings, get_settings

LARGEST_BODY = 64 * 1024


def create_app(settings: Settings | None = None, *, connections: int = 8) -> Flask:
    """The web application. connections: to the database, as many as there are threads that answer."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's default provider has it
    settings = settings or get_settings()
    state.install(app, settings, connections)
    compression.install(app)
    envelope.install(app)
    conditional.install(app)
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
