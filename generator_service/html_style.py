"""The style of the service's own pages, and their policy: they load nothing from other hosts."""

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a2e; --paper: #fff; --line: #8884; --mark: #2a6fdb;
  --good: #1a7f37; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6ef; --paper: #15151d; --mark: #7fb0ff;
  --good: #5ac878; --bad: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
a { color: var(--mark); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
small { opacity: .75; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
figure { display: inline-block; margin: 1rem 1.5rem 1rem 0; }
svg { background: transparent; } svg text { fill: currentColor; font-size: 10px; }
"""

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect x='1' y='3' width='14' height='10' rx='2' fill='%232a6fdb'/%3E"
    "%3Crect x='1' y='5' width='14' height='2' fill='%23fff'/%3E%3C/svg%3E"
)
"""A bank card, as the address of an image."""


def content_policy(*scripts: str) -> dict[str, str]:
    """Return the header that lets a page load files of the service only.

    Args:
        scripts: the scripts within the page that may run.
    """
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    ]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *digests]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "frame-src": "'self'",
        "frame-ancestors": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items())
    }
