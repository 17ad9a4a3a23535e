"""Fail if a built page would load anything from another host.

python tests/check_offline.py textbook/_build/html
"""

import re
import sys
from pathlib import Path

TAG = re.compile(r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*>", re.I)
FOREIGN = re.compile(r"\b(?:src|href|data|srcset)\s*=\s*[\"']?\s*(?:https?:)?//", re.I)
SHEET = re.compile(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//[^)\"'\s]+", re.I)


def loads(text: str) -> list[str]:
    """The tags and style rules of a page or a sheet that leave the host."""
    # A canonical address is named, not loaded.
    tags = [t for t in TAG.findall(text) if FOREIGN.search(t) and 'rel="canonical"' not in t]
    return tags + SHEET.findall(text)


def main(root: Path) -> int:
    """Print every load of another host below `root`; 1 if there is one, or no page at all."""
    pages = [p for p in root.rglob("*") if p.suffix in {".html", ".css"}]
    found = [f"{p}: {t[:120]}" for p in pages for t in loads(p.read_text("utf-8"))]
    if not pages:
        found = [f"{root}: no page; build the book first"]
    print("\n".join(found) or f"{root}: {len(pages)} files, nothing is loaded from another host")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
