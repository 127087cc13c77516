"""Write the tables of the reference pages from the code: `make reference`.

Each page holds its prose, and its tables between `<!-- table: name -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from app.web.problems import Code
from settings import Settings, SourceSettings, table
from sources.record_rules import CONTRADICTION_RULES, FIELD_RULES
from sources.reject_codes import REJECT_CODES
from tasks.cli import clock_command, decide_command, replay_command, try_command
from tasks.runs import codes
from tasks.runtime.log_events import EVENTS

ROOT = Path(__file__).parents[2]
PAGES = Path(__file__).parent
LEVELS = ("debug", "info", "warning", "error", "exception")
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Rows = Iterator[tuple[str, ...]]


def settings() -> Rows:
    yield "Variable", "Default", "Meaning"
    yield from _settings(Settings, "")


def source_settings() -> Rows:
    yield "Variable", "Default", "Meaning"
    yield from _settings(SourceSettings, "…_")


def _settings(kind: type, prefix: str) -> Rows:
    for name, default, about in table(kind):
        yield f"`{prefix}{name}`", f"`{default}`" if default else "", about


def api_errors() -> Rows:
    yield "Code", "Status", "Title", "Meaning", "Next step"
    for code in sorted(Code, key=lambda code: (code.status, code.slug)):
        yield f"`{code.slug}`", str(code.status), code.title, code.about, code.hint


def run_states() -> Rows:
    yield "State", "Meaning"
    for state, meaning in codes.STATES.items():
        yield f"`{state}`", meaning


def waiting_codes() -> Rows:
    yield "Code", "Meaning", "Next step"
    yield from _codes(codes.WAITING)


def failed_codes() -> Rows:
    yield "Code", "Meaning", "Next step"
    yield from _codes(codes.FAILED)


def partial_codes() -> Rows:
    yield "Code", "Meaning", "Next step"
    yield from _codes(codes.PARTIAL)


def _codes(catalogue: Mapping[str, codes.Code]) -> Rows:
    for name, code in catalogue.items():
        yield f"`{name}`", code.meaning, code.next_step


def reject_codes() -> Rows:
    yield "Code", "Meaning"
    for code, meaning in REJECT_CODES.items():
        yield f"`{code}`", meaning


def record_fields() -> Rows:
    yield "Field", "Valid", "Otherwise"
    for name, rule in FIELD_RULES.items():
        yield f"`{name}`", rule.valid, "the item is rejected" if rule.refuses else "the value is dropped"


def contradictions() -> Rows:
    yield "Code", "Contradiction", "Dropped"
    for code, rule in CONTRADICTION_RULES.items():
        yield f"`{code}`", rule.meaning, ", ".join(f"`{field}`" for field in rule.dropped)


def log_events() -> Rows:
    yield "Event", "Level", "Meaning"
    levels = logged_events()
    for event, meaning in EVENTS.items():
        yield f"`{event}`", ", ".join(sorted(levels[event], key=LEVELS.index)), meaning


def metrics() -> Rows:
    yield "Metric", "Labels", "Meaning"
    for call in _calls(ROOT / "app/status/metrics.py"):
        name, about = (_text(argument) for argument in (*call.args, ast.Constant(""), ast.Constant(""))[:2])
        if name.startswith("kasparro_"):
            is_counter = "Counter" in ast.unparse(call.func)
            labels = next((ast.literal_eval(kw.value) for kw in call.keywords if kw.arg == "labels"), ())
            labels = labels or (ast.literal_eval(call.args[2]) if len(call.args) > 2 else ())
            yield f"`{name}{'_total' if is_counter else ''}`", ", ".join(f"`{label}`" for label in labels), about


def make_targets() -> Rows:
    yield "Command", "What it does"
    for name, about in re.findall(r"^([a-z]+):.*?## (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE):
        yield f"`make {name}`", about


def task_commands() -> Rows:
    yield "Command", "Argument or option", "Meaning"
    for module in (try_command, replay_command, decide_command, clock_command):
        yield from _arguments(module.parser())


def _arguments(parser: argparse.ArgumentParser) -> Rows:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _arguments(subparser)
        elif not isinstance(action, argparse._HelpAction):
            name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            yield f"`{parser.prog}`", f"`{name}`", action.help or ""


TABLES: Mapping[str, Callable[[], Rows]] = {
    function.__name__: function
    for function in (
        api_errors,
        contradictions,
        failed_codes,
        partial_codes,
        log_events,
        make_targets,
        metrics,
        record_fields,
        reject_codes,
        run_states,
        settings,
        source_settings,
        task_commands,
        waiting_codes,
    )
}


def logged_events() -> Mapping[str, set[str]]:
    """Return every event that the code logs, with its levels.

    An event whose end is computed stands for the documented events with that beginning that no call names in full.
    """
    levels: dict[str, set[str]] = {"event_dropped": {"error"}}  # Logged by the handler itself.
    by_prefix: dict[str, str] = {}
    for folder in ("app", "tasks", "sources", "store"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for call in _calls(file):
                level = ast.unparse(call.func).removeprefix("log.")
                if level not in LEVELS or not call.args:
                    continue
                level = "error" if level == "exception" else level
                if isinstance(name := call.args[0], ast.JoinedStr):
                    by_prefix[_text(name.values[0])] = level
                else:
                    levels.setdefault(_text(name), set()).add(level)
    computed = {event: {level} for prefix, level in by_prefix.items() for event in EVENTS if event.startswith(prefix)}
    return computed | levels


def _calls(file: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def markdown(rows: Rows) -> str:
    """Return rows as a Markdown table. The first row is the header."""
    header, *lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([header, re.sub(r"[^|]+", " --- ", header.replace("\\|", "")), *lines]) + "\n"


def generated(page: str) -> str:
    """Return the text of a page with fresh tables."""
    return TABLE.sub(lambda found: found[1] + markdown(TABLES[found[2]]()) + found[3], page)


def main() -> None:
    for file in sorted(PAGES.glob("*.md")):
        page = file.read_text()
        if (fresh := generated(page)) != page:
            file.write_text(fresh)
            print(f"{file.relative_to(ROOT)}: written")  # noqa: T201 — a command


if __name__ == "__main__":
    main()
