"""The names of a cache on a plain web server, from the pages that list its folders."""

from __future__ import annotations

import html.parser
import urllib.error
import urllib.parse
import urllib.request

from reed.errors import StoreError


def names(url: str, seconds: float) -> dict[str, str]:
    """Return the objects in a folder and in the folders in it, with what tells their versions.

    Args:
        url: URL of the folder.
        seconds: Timeout of a request.
    """
    found: dict[str, str] = {}
    for name in _links(url, seconds):
        if name.endswith("/"):
            found |= dict.fromkeys((name + each for each in _links(f"{url}/{name}", seconds)), "")
        else:
            found[name] = ""
    return {name: tag for name, tag in found.items() if not name.endswith("/")}


class _Links(html.parser.HTMLParser):
    """The targets of the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _links(url: str, seconds: float) -> list[str]:
    """Return what a folder holds: names of files, and of folders with a slash at the end."""
    folder = url.rstrip("/") + "/"
    try:
        with urllib.request.urlopen(folder, timeout=seconds) as answer:
            kind, page = answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        raise OSError(f"status code: {error.code} of {folder}") from error
    if kind != "text/html":
        raise StoreError(
            f"{folder} is {kind}, not a page with the names of its files; let the server list its "
            "folders (nginx: autoindex on), or read the cache from an object store"
        )

    # A page may have links to elsewhere, such as the folder above or another order of the lines.
    links = _Links()
    links.feed(page.decode(errors="replace"))
    below = []
    for link in links.found:
        whole = urllib.parse.urldefrag(urllib.parse.urljoin(folder, link))[0]
        name = urllib.parse.unquote(whole.removeprefix(folder)) if whole.startswith(folder) else ""
        if name and "?" not in name and "/" not in name[:-1] and not name.startswith("."):
            below.append(name)
    return sorted(set(below))
