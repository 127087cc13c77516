"""Regenerate the invented data: `python -m tests.data`. The result is always the same."""

from __future__ import annotations

from tests.data.content import DATA, content


def main() -> None:
    for name, body in content().items():
        file = DATA / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)


if __name__ == "__main__":
    main()
