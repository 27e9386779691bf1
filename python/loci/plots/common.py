"""What all plots share: text that survives any character, titles that fit, and figures that fail one by one."""
from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
import warnings
from typing import Any, Callable, Iterable, Iterator, NoReturn, Optional, Set

import matplotlib
import matplotlib.font_manager
import matplotlib.pyplot as plt  # noqa: F401 (the modules beside take it from here)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from loci import results
from loci.errors import LociError

# A prompt's dollars are not formulas.
STYLE: Any = {"text.parse_math": False, "text.usetex": False, "pdf.fonttype": 42, "axes.titlesize": 8, "axes.labelsize": 7,
         "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.frameon": False}


def complain(message):
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)


def say(text):
    """A line on standard output; who reads it may have left."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")


def fail(message: str, code: int = 2) -> NoReturn:
    complain(message)
    sys.exit(code)


def use_style():
    """For a program that only draws: every figure has the style."""
    matplotlib.use("Agg")
    if "text.parse_math" not in matplotlib.rcParams:
        fail(f"matplotlib {matplotlib.__version__} is too old; 3.6 or newer is needed")
    matplotlib.rcParams.update(STYLE)


def draw_file(path: str, kind: str, draw: Callable[[Any], int]) -> int:
    """The work of a plotting command: `draw(result)` of the result file at `path`, which must be of this kind. Returns the exit
    code that `draw` returns; ends the program with a sentence where something is wrong."""
    use_style()
    try:
        with results.open(path, kind) as result:
            return draw(result)
    except LociError as error:
        fail(str(error), error.code or 2)


@contextlib.contextmanager
def style(texts: Iterable[str]) -> Iterator[None]:
    """For a library: figures that are drawn within have the style and fonts for these texts; nothing changes for others."""
    with matplotlib.rc_context(STYLE):
        missing = find_fonts(texts)
        if missing:
            warnings.warn(missing, stacklevel=4)
        yield


def drawn(figure: Figure) -> Figure:
    """The figure with its tick labels made, which matplotlib else does after the style has ended."""
    figure.draw_without_rendering()
    return figure


def subplots(rows=1, columns=1, *, figsize, dpi=200, **options):
    """(figure, axes), laid out so that nothing overlaps. The figure belongs to its holder alone: it need not be closed."""
    figure = Figure(figsize=figsize, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


# --- Text ------------------------------------------------------------------------------------------------------------

ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
BOX = "\u25a1"  # stands for what no font has
lacking: Set[str] = set()
# Looked at first, since most systems have many fonts.
PREFERRED = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK KR", "Source Han Sans", "WenQuanYi Zen Hei",
             "Droid Sans Fallback", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Symbols2",
             "Symbola", "Noto Emoji")


def visible(text):
    """Control characters, invisible ones and all spaces but the usual one, as their escapes."""
    def shown(c):
        category = unicodedata.category(c)
        if category[0] != "C" and category not in ("Zl", "Zp") and (category != "Zs" or c in " \u3000"):
            return c
        number = ord(c)
        return ESCAPES.get(c) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}")
    return "".join(map(shown, text))


def visual(text):
    """In the order in which it is seen: matplotlib draws from left to right, so runs of Hebrew, Arabic and so on are turned
    around, with their numbers as they are."""
    classes = [unicodedata.bidirectional(c) for c in text]
    if not {"R", "AL"} & set(classes):
        return text
    out, i = [], 0
    while i < len(text):
        if classes[i] not in ("R", "AL"):
            out.append(text[i])
            i += 1
            continue
        end = next((j for j in range(i, len(text)) if classes[j] == "L"), len(text))
        while classes[end - 1] not in ("R", "AL", "NSM"):  # spaces and stops at the end belong to what follows
            end -= 1
        out.append("".join(reversed(clusters(text[i:end]))))
        i = end
    return "".join(out)


def clusters(text):
    """Characters with their marks, and whole numbers: what stays in its order where a run is turned around."""
    parts = []
    for c in text:
        joins = parts and (unicodedata.combining(c) or (c.isdigit() and parts[-1][-1].isdigit()))
        parts[-1:] = [parts[-1] + c] if joins else parts[-1:] + [c]
    return parts


def label(text, longest=40):
    """Any text as it can be drawn."""
    text = "".join(BOX if c in lacking else c for c in visible(text))
    return visual(text if len(text) <= longest else text[:longest - 1] + "\u2026")


def characters_of(path):
    try:
        return set(map(chr, matplotlib.ft2font.FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):  # a font of pictures
        return set()


def find_fonts(texts: Iterable[str]) -> Optional[str]:
    """Chooses fonts that have the characters of these texts. Returns a sentence about those that none has, else None."""
    needed = set("".join(map(visible, texts))) - characters_of(matplotlib.font_manager.findfont("DejaVu Sans"))
    families = ["DejaVu Sans"]
    fonts = matplotlib.font_manager.fontManager.ttflist
    for font in sorted(fonts, key=lambda f: PREFERRED.index(f.name) if f.name in PREFERRED else len(PREFERRED)):
        if not needed:
            break
        found = needed & characters_of(font.fname) if font.style == "normal" and font.name not in families else ()
        if found:
            families.append(font.name)
            needed -= found
    matplotlib.rcParams["font.family"] = families
    if len(families) > 1:
        matplotlib.rcParams["pdf.fonttype"] = 3  # 42, which publishers like better, holds no glyphs of fonts such as Noto Sans CJK
    lacking.update(needed)
    if not needed:
        return None
    some = "".join(sorted(needed)[:20])
    return (f"no font of this machine has {len(needed)} of the characters ({some}); they are drawn as {BOX}. Debian's package "
            "fonts-noto-cjk has the Chinese, Japanese and Korean ones, fonts-noto-core those of most other scripts.")


# --- Titles that fit -------------------------------------------------------------------------------------------------


def breaks(text, width_of, width):
    """Lines of at most this width, broken at spaces, and inside of words that are wider."""
    lines, line = [], ""
    for word in text.split(" "):
        if width_of(f"{line} {word}" if line else word) <= width:
            line = f"{line} {word}" if line else word
            continue
        if line:
            lines.append(line)
        while width_of(word) > width and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or width_of(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return lines + [line]


def fit(figure, text, size, inches, most_lines=6):
    """`text` (as visible() leaves it) in lines that are at most so wide; of too many, those in the middle go."""
    probe = figure.text(0, 0, "", fontsize=size)
    renderer = figure.canvas.get_renderer()

    def width_of(line):
        probe.set_text(line)
        return probe.get_window_extent(renderer).width

    lines = breaks(text, width_of, inches * figure.dpi)
    probe.remove()
    if len(lines) > most_lines:
        half = most_lines // 2
        lines = lines[:half] + ["\u2026"] + lines[len(lines) - (most_lines - half - 1):]
    return [visual(line) for line in lines]


def set_title(figure, paragraphs, size=8):
    """The figure's title: each paragraph in as many lines as it needs. The figure grows by the height of these."""
    width, height = figure.get_size_inches()
    lines = [line for text in paragraphs
             for line in fit(figure, "".join(BOX if c in lacking else c for c in visible(text)), size, 0.95 * width)]
    figure.set_size_inches(width, height + len(lines) * size * 1.25 / 72)
    figure.suptitle("\n".join(lines), fontsize=size, linespacing=1.2)


# --- Files -----------------------------------------------------------------------------------------------------------


def choose_fonts(texts):
    """For a program: says what no font has."""
    missing = find_fonts(texts)
    if missing:
        complain(missing)


def make_folder(path):
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        fail(f"{path}: cannot be made: {error.strerror}")


class Figures:
    """Where figures go. One that fails is told, and the others are drawn."""

    def __init__(self, folder, ending):
        self.folder, self.ending, self.drawn, self.failed = folder, ending, 0, 0

    @contextlib.contextmanager
    def one(self, name):
        """with figures.one(name) as save: save(figure)"""
        path = os.path.join(self.folder, f"{name}.{self.ending}")
        try:
            yield lambda figure: self.save(figure, path)
        except Exception as error:  # whatever it is, it is about this figure alone
            self.failed += 1
            reason = str(error) if isinstance(error, LociError) else f"{type(error).__name__}: {error}"
            complain(f"{path} could not be drawn: {reason}")

    def save(self, figure: Any, path: str) -> None:
        part = f"{path}.part"
        try:
            figure.savefig(part, format=self.ending)
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.remove(part)
        self.drawn += 1
        say(path)

    def exit_code(self):
        return 1 if self.failed else 0
