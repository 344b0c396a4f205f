"""Run by `markdown.py`: HTML on stdin, markdown on stdout. Imports nothing of ours."""

from __future__ import annotations

import re
import resource
import sys

from bs4 import BeautifulSoup, Comment
from markdownify import ATX, MarkdownConverter

_MEMORY = 768 * 1024**2
_CPU_SECONDS = 20
_UNSEEN = ["script", "style", "noscript", "template", "svg", "head", "iframe", "object", "nav"]


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soup = BeautifulSoup(sys.stdin.buffer.read().decode(errors="replace"), "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for unseen in soup.find_all(_UNSEEN):
        unseen.decompose()
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()
    text = MarkdownConverter(heading_style=ATX, bullets="-").convert_soup(soup)
    text = re.sub(r"[ \t]+\n", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    head = f"# {title}\n\n" if title and not text.startswith("# ") else ""
    sys.stdout.buffer.write(f"{head}{text}\n".encode(errors="replace"))


if __name__ == "__main__":
    main()
