"""The start page: what the service is, its routes as links, recent transactions, the scorecard.

The page loads nothing from other hosts. Its links are relative, so that it also works below a path
of a proxy.
"""

from __future__ import annotations

import html
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from generator_service.html_style import ICON, STYLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from generator_service.simulator import Configuration

# Ids, card numbers and coordinates are too wide for a table; the routes give them.
_HIDDEN = {
    "transaction_id",
    "customer_id",
    "card_number",
    "merchant_id",
    "latitude",
    "longitude",
    "original_transaction_id",
}
_SENTENCE_END = re.compile(r"[.:](?: |$)")
_REFRESH_SECONDS = 5
_STYLE = f"""{STYLE}
body {{ max-width: 80rem; }}
.wide {{ overflow-x: auto; }}
#sample {{ font-size: .8em; }} #sample td {{ white-space: nowrap; }}
iframe {{ border: 1px solid var(--line); width: 100%; height: 40rem; }}
"""
# The page asks for itself and takes the table from the answer, so that one program writes it.
SCRIPT = f"""
setInterval(async () => {{
  if (document.hidden) return;
  const status = document.getElementById("status");
  try {{
    const answer = await fetch(".");
    if (!answer.ok) throw new Error(`status ${{answer.status}}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.getElementById("sample").replaceWith(page.getElementById("sample"));
    status.textContent = "";
  }} catch (error) {{
    status.textContent = `The sample cannot be updated: ${{error.message}}.`;
  }}
}}, {_REFRESH_SECONDS * 1_000});
"""
"""The script of the page."""

_TRY = '<a href="docs">Try the routes in the browser</a>, or read'
_LIVE = f"""<h2>Scorecard</h2>
<p>How realistic the rows are. It takes a few seconds.
<a href="v1/scorecard?format=html">Open it alone</a></p>
<iframe src="v1/scorecard?format=html" title="Scorecard" loading="lazy"></iframe>
<script>{SCRIPT}</script>
"""


def render_home(
    description: Mapping[str, Any],
    configuration: Configuration,
    rows: Sequence[Mapping[str, Any]] | None,
    *,
    docs: bool,
) -> str:
    """Return the start page as HTML.

    Args:
        description: the OpenAPI description of the service, with examples of all parameters that
            a request needs.
        configuration: the settings that decide the rows.
        rows: recent transactions as JSON carries them, the newest first; None if these, and the
            scorecard, need a key.
        docs: whether there is a page at /docs.
    """
    title, about = (html.escape(description["info"][name]) for name in ("title", "description"))
    made_by = description["info"]["version"]
    if rows is not None:
        # Whoever knows the settings can make the rows.
        settings = (f"{name} {value}" for name, value in asdict(configuration).items())
        made_by = f"{made_by}: {', '.join(settings)}"
    routes = "\n".join(
        f'<tr><td><a href="{html.escape(_example(path, operation["get"]))}">'
        f"{html.escape(path)}</a></td><td>{html.escape(_summary(operation['get']))}</td></tr>"
        for path, operation in description["paths"].items()
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{ICON}">
<style>{_STYLE}</style>
<h1>{title}</h1>
<p>{about} All of them are invented.</p>
<p>{_TRY if docs else "Read"} the <a href="openapi.json">OpenAPI description</a>.</p>
<p><small>Generator {html.escape(made_by)}.</small></p>
{_just_now(rows)}<h2>Routes</h2>
<p>Each link is an example. Add <code>format=csv</code>, <code>ndjson</code>, <code>arrow</code> or
<code>parquet</code> to those that return rows.</p>
<div class="wide"><table>
<thead><tr><th>Route</th><th>Purpose</th></tr></thead>
<tbody>
{routes}
</tbody>
</table></div>
{"" if rows is None else _LIVE}</html>
"""


def _just_now(rows: Sequence[Mapping[str, Any]] | None) -> str:
    if rows is None:
        return "<p>The rows need a key, which requests carry in the header Authorization.</p>\n"
    return f"""<h2>Just now</h2>
<p>The newest transactions, up to now. The page updates them every {_REFRESH_SECONDS} seconds.
<span id="status" class="bad" role="status"></span></p>
<div class="wide">{_table(rows)}</div>
"""


def _example(path: str, operation: Mapping[str, Any]) -> str:
    """Return the relative address of a request with the operation's examples."""
    query: dict[str, str] = {}
    for parameter in operation.get("parameters", ()):
        example = parameter.get("example")
        if example is None:
            continue
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(example, safe=""))
        else:
            query[parameter["name"]] = example
    return path.removeprefix("/") + (f"?{urlencode(query)}" if query else "")


def _summary(operation: Mapping[str, Any]) -> str:
    """Return the beginning of an operation's description: "Return the rows" as "The rows"."""
    begin = _SENTENCE_END.split(" ".join(operation["description"].split()))[0]
    begin = begin.removeprefix("Return ")
    return begin[:1].upper() + begin[1:]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [name for name in rows[0] if name not in _HIDDEN] if rows else []
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "\n".join(
        f"<tr>{''.join(f'<td>{_text(row.get(name))}</td>' for name in columns)}</tr>"
        for row in rows
    )
    return f"""<table id="sample">
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>"""


def _text(value: object) -> str:
    """Return a JSON value as text: booleans as JSON writes them, nothing for null."""
    if value is None:
        return ""
    return html.escape(str(value).lower() if isinstance(value, bool) else str(value))
