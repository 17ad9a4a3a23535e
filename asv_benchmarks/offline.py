"""Make asv's published pages load nothing from the network: ``python offline.py html``.

asv's index.html takes ten files from three hosts and shows an error page without them. This
copies the same libraries from vendor/ (licences in vendor/LICENSES) and rewrites the tags. It
stops if asv should ever ask for a file it does not know, rather than publish a broken page.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

VENDOR = Path(__file__).resolve().parent / "vendor"
CLOUDFLARE = "https://cdnjs.cloudflare.com/ajax/libs"
# The four flot files and stupidtable come unminified or a little newer from npm; the other five
# have exactly the hashes that asv's page asks for.
FILES = {
    "https://code.jquery.com/jquery-3.3.1.min.js": "jquery.min.js",
    f"{CLOUDFLARE}/flot/0.8.3/jquery.flot.min.js": "jquery.flot.js",
    f"{CLOUDFLARE}/flot/0.8.3/jquery.flot.time.min.js": "jquery.flot.time.js",
    f"{CLOUDFLARE}/flot/0.8.3/jquery.flot.selection.min.js": "jquery.flot.selection.js",
    f"{CLOUDFLARE}/flot/0.8.3/jquery.flot.categories.min.js": "jquery.flot.categories.js",
    "https://cdn.jsdelivr.net/npm/flot-orderbars@1.0.0/js/jquery.flot.orderBars.js":
        "jquery.flot.orderBars.js",
    f"{CLOUDFLARE}/stupidtable/1.0.1/stupidtable.min.js": "stupidtable.min.js",
    f"{CLOUDFLARE}/blueimp-md5/2.19.0/js/md5.min.js": "md5.min.js",
    "https://cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/js/bootstrap.min.js": "bootstrap.min.js",
    "https://cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/css/bootstrap.min.css": "bootstrap.min.css",
}
TAG = re.compile(r"<(script|link)\b[^>]*>")
REMOTE = re.compile(r'\b(?:src|href)="((?:https?:)?//[^"]+)"')


def localize(page: str) -> tuple[str, list[str]]:
    """The page with local files in its tags, and the files it needs."""
    needed: list[str] = []

    def local(tag: re.Match[str]) -> str:
        remote = REMOTE.search(tag[0])
        if remote is None:
            return tag[0]
        if remote[1] not in FILES:
            raise ValueError(f"asv's page must load only files of vendor/; got {remote[1]}")
        name = FILES[remote[1]]
        needed.append(name)
        if tag[1] == "link":
            return f'<link rel="stylesheet" href="vendor/{name}">'
        return f'<script src="vendor/{name}" onerror="js_load_failure()">'

    return TAG.sub(local, page), needed


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: offline.py FOLDER-OF-ASV-PUBLISH", file=sys.stderr)
        return 2
    html = Path(sys.argv[1])
    try:
        page, needed = localize((html / "index.html").read_text())
    except (OSError, ValueError) as err:
        print(f"offline.py: {err}", file=sys.stderr)
        return 2
    target = html / "vendor"
    target.mkdir(exist_ok=True)
    for name in [*needed, "LICENSES"]:
        shutil.copyfile(VENDOR / name, target / name)
    (html / "index.html").write_text(page)
    print(f"{len(needed)} files of the dashboard are local now")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
