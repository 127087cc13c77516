"""Turn links to files outside docs/ into links to the repository; mkdocs.yml describes when."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

FENCED = r"^(?P<fence> *(?:```|~~~)).*?^(?P=fence)"
LINK = re.compile(FENCED + r"|\[(?P<text>[^\]]*)\]\((?P<target>\.\.?/[^)\s#]*)(?P<anchor>#[^)\s]*)?\)", re.M | re.S)


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Return a page's Markdown with its links to files outside docs/ replaced."""
    docs, repository = Path(config.docs_dir), Path(config.config_file_path).parent
    url = config.extra["repository_url"].rstrip("/")

    def replace(link: re.Match[str]) -> str:
        if link["fence"]:
            return link[0]
        file = Path(os.path.normpath(docs / page.file.src_uri / ".." / link["target"]))
        if file.is_relative_to(docs) or not file.is_relative_to(repository) or not file.exists():
            return link[0]  # MkDocs reports a broken one
        if not url:
            return link["text"]
        path = file.relative_to(repository).as_posix()
        return f"[{link['text']}]({url}/blob/main/{path}{link['anchor'] or ''})"

    return LINK.sub(replace, markdown)
