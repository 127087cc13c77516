"""Open sessions with upstreams: with deadlines, without automatic redirects, and with a header that names us."""

from __future__ import annotations

import requests

from settings import VERSION
from sources.http.deadline import DeadlineAdapter


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, since the client follows redirects itself. requests would read their bodies without a limit."""


def open_session(contact: str | None = None) -> requests.Session:
    """Return a session. contact: the address that `User-Agent` names, for upstreams that want to reach the operator."""
    session = _Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter())
    # Without an `auth`, requests would send the host's login from the user's .netrc file.
    session.auth = lambda request: request
    session.headers.update(
        {"User-Agent": user_agent(contact), "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
    )
    return session


def user_agent(contact: str | None) -> str:
    """Return the value of `User-Agent`: name, version and contact."""
    return f"kasparro/{VERSION}" + (f" (+{contact})" if contact else "")
