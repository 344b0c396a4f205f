"""Build matplotlib's font list into the image, beside matplotlib itself.

matplotlib reads its list only from a cache directory that it can write to, and a fresh sandbox has
nothing but empty tmpfs: every first plot would search the fonts again. So the loader is given one more
place to look. matplotlib is locked by hash; if this line ever changes, the build fails here.
"""

import sys
from pathlib import Path

LINE = '    fm_path = Path(\n        mpl.get_cachedir(), f"fontlist-v{FontManager.__version__}.json")\n'


def main() -> None:
    from matplotlib import font_manager

    source = Path(font_manager.__file__)
    text = source.read_text("utf-8")
    if text.count(LINE) != 1:
        sys.exit(f"{source}: the font list is looked up differently now; adapt fontcache.py")
    font_manager.json_dump(font_manager.fontManager, source.with_name("fontlist.json"))
    fallback = (
        "    if try_read_cache and not fm_path.exists():\n"
        '        fm_path = Path(__file__).with_name("fontlist.json")\n'
    )
    source.write_text(text.replace(LINE, LINE + fallback), "utf-8")


main()
