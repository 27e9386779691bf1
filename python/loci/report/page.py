"""Writes the page. Data lie in it as compressed chunks, which the page's script decodes when they are shown."""
from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import zlib
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Union

from loci import results
from loci.errors import LociError
from loci.report.sections import Section, section_of

__all__ = ["CASES_PER_CHUNK", "write"]

HERE = Path(__file__).parent
CASES_PER_CHUNK = 200


def write(paths: Iterable[Union[str, "os.PathLike[str]"]], output: Union[str, "os.PathLike[str]"], title: str = "loci report") -> str:
    """Writes one HTML page about the results at `paths` to the file `output`, and returns its path.

    The page needs nothing beside itself. It takes the place of an older one when it is whole; where something fails, the older one
    stays. LociError: a result cannot be read or is damaged, none is given, or the page cannot be written.
    """
    paths, output = [os.fspath(path) for path in paths], os.fspath(output)
    if not paths:
        raise LociError("a report needs at least one result file")
    part = f"{output}.part"
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(results.open(path)) for path in paths]
        try:
            with open(part, "w", encoding="utf-8") as file:
                for text in page(opened, title):
                    file.write(text)
            os.replace(part, output)
        except OSError as error:
            raise LociError(f"{output}: cannot be written: {error.strerror or error}") from error
        finally:
            if os.path.exists(part):
                os.remove(part)
    return output


def page(opened: List[results.Result], title: str) -> Iterator[str]:
    text = (HERE / "page.html").read_text(encoding="utf-8")
    text = text.replace("{{title}}", html.escape(title)).replace("{{style}}", (HERE / "page.css").read_text(encoding="utf-8"))
    before, after = text.split("{{data}}")
    yield before
    for number, result in enumerate(opened):
        try:
            yield from chunks(f"{number}", section_of(result))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise LociError(f"{result.path}: its fields do not fit each other: {error}") from error
    yield after.replace("{{script}}", (HERE / "page.js").read_text(encoding="utf-8"))


def chunks(name: str, section: Section) -> Iterator[str]:
    """The chunks of a section: NAME-0, NAME-1, ... with CASES_PER_CHUNK cases each, NAME-cases with all rows, and NAME."""
    rows = []
    for first in range(0, len(section), CASES_PER_CHUNK):
        cases = [section.case(place) for place in range(first, min(first + CASES_PER_CHUNK, len(section)))]
        rows += [row for row, _ in cases]
        yield chunk(f"{name}-{first // CASES_PER_CHUNK}", [detail for _, detail in cases])
    yield chunk(f"{name}-cases", rows)
    yield chunk(name, {**section.data(), "cases_per_chunk": CASES_PER_CHUNK})


def chunk(name: str, data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    packed = base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 3)).decode("ascii")
    return f'<script type="text/plain" id="data-{name}">{packed}</script>\n'
