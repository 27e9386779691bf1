"""Runs the command `loci`. What the command says while it works is shown as it comes; its errors become LociError."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterable, List, Sequence, Tuple, Union

from loci import results
from loci.errors import LociError

__all__ = ["command_line", "find_program", "generate", "info", "predict", "run", "tokenize"]

Progress = Union[bool, Callable[[str], None]]
Text = Union[str, "os.PathLike[str]"]
AGAIN = ("prompt",)  # options that are given once per value; lists of others take commas
PROGRESS = re.compile(r"info: \w+: \d+ of \d+")
NOT_TRACED = 7  # the output is complete


def find_program() -> str:
    """The command `loci`: the one that $LOCI names, else of $PATH, else the build in the checkout that holds this package:
    with CUDA where both kinds were built (as scripts/built_loci.sh). LociError: there is none."""
    named = os.environ.get("LOCI")
    if named:
        if not os.access(named, os.X_OK) or os.path.isdir(named):
            raise LociError(f"{named}: is not a program; the environment variable LOCI names it")
        return named
    found = shutil.which("loci")
    if found:
        return found
    for preset in ("cuda", "cpu", "demo"):
        build = Path(__file__).resolve().parents[2] / "build" / preset / "app" / "loci"
        if build.is_file() and os.access(build, os.X_OK):
            return str(build)
    raise LociError("the command loci was not found; build it, and put it in the search path or name it with the environment variable LOCI")


def command_line(command: str, *arguments: Text, **options: Any) -> List[str]:
    """The words of a command after the program: options without their dashes, with underscores for dashes inside.

    True gives a flag; False and None leave the option out. Lists are joined by commas, except for `prompt`, which is given again for
    each. A word that begins with a dash is safe.
    """
    words = [command]
    for name, value in options.items():
        option = "--" + name.strip("_").replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [f"{option}={text}" for text in values_of(name, value)]
    return words + (["--", *(os.fspath(argument) for argument in arguments)] if arguments else [])


def values_of(name: str, value: Any) -> List[str]:
    if isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable):
        return [text_of(value)]
    texts = [text_of(item) for item in value]
    return texts if name in AGAIN else [",".join(texts)]


def text_of(value: Any) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def run(command: str, *arguments: Text, progress: Progress = True, **options: Any) -> Any:
    """Runs `loci COMMAND ARGUMENTS --options`, waits for it, and returns what it made.

        loci.run("trace", "gpt2-xl", facts="facts.json", output="trace.h5", samples=10, sever=["mlp", "attn"])

    progress: True shows messages in the notebook or on standard error; False shows none; a function is called with each line.
    Returns the result that `output` names, opened (a folder: its path); without `output` what the command prints, as text, or as
    Python's objects with json=True.
    A trace of facts none of which the model predicts is returned as well: its facts say what was predicted.
    LociError: the command failed; it says the command's own sentence and has its exit code. An interrupt (Ctrl-C) stops the command,
    and the same call continues the job.
    """
    show, close = reporter(progress)
    try:
        printed = execute(command_line(command, *arguments, **options), show)
    finally:
        close()
    output = options.get("output")
    if output is not None:
        return os.fspath(output) if os.path.isdir(output) else results.open(output)
    return json.loads(printed) if options.get("json") else printed


def execute(words: Sequence[str], show: Callable[[str], None]) -> str:
    """Runs the program and returns its standard output. Each line of its standard error goes to `show`."""
    with tempfile.TemporaryFile() as out:
        try:
            process = subprocess.Popen([find_program(), *words], stdout=out, stderr=subprocess.PIPE, text=True, encoding="utf-8",
                                       errors="replace")
        except OSError as error:
            raise LociError(f"the command loci cannot be run: {error}") from error
        code, said = wait_for(process, show)
        out.seek(0)
        printed = out.read().decode("utf-8", "replace")
    if code not in (0, NOT_TRACED):
        raise LociError(sentence(said, code), code)
    return printed


def wait_for(process: "subprocess.Popen[str]", show: Callable[[str], None]) -> Tuple[int, Iterable[str]]:
    """(exit code, the last lines that were said). Whatever interrupts the wait ends the program, as its own interrupt does."""
    said: Deque[str] = deque(maxlen=50)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            said.append(line.rstrip("\n"))
            show(said[-1])
        return process.wait(), said
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        process.stderr.close()


def sentence(said: Iterable[str], code: int) -> str:
    """The command's own sentence about what went wrong."""
    lines = [line for line in said if line.strip()]
    errors = [line[len("error: "):] for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    return lines[-1] if lines else f"the command loci ended with exit code {code}"


# --- Progress --------------------------------------------------------------------------------------------------------


def reporter(progress: Progress) -> Any:
    """(show a line, close): where messages go."""
    def nothing(*_: Any) -> None:
        pass

    if callable(progress):
        return progress, nothing
    if not progress:
        return nothing, nothing
    return notebook_reporter() or ((lambda line: print(line, file=sys.stderr, flush=True)), nothing)


def notebook_reporter() -> Any:
    """A line that is rewritten in the output of a notebook's cell; None outside of notebooks."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    handle: Any = display(Line(""), display_id=True)
    kept: List[str] = []

    def show(line: str) -> None:
        if PROGRESS.match(line):
            handle.update(Line("\n".join([*kept, line])))
        else:
            kept.append(line)
            handle.update(Line("\n".join(kept)))

    return show, (lambda: handle.update(Line("\n".join(kept))))


class Line:
    """Text that a notebook shows as it is."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


# --- Commands that answer at once ------------------------------------------------------------------------------------


def ask(command: str, model: Text, options: Dict[str, Any]) -> Any:
    return json.loads(execute(command_line(command, model, json=True, **options), lambda line: None))


def predict(model: Text, prompt: Union[str, Sequence[str]], **options: Any) -> List[Dict[str, Any]]:
    """The most likely next tokens: for each prompt {"prompt", "tokens": [{"id", "text", "probability"}]}. Options: top, edits, ..."""
    return ask("predict", model, {"prompt": prompt, **options})["results"]


def generate(model: Text, prompt: Union[str, Sequence[str]], **options: Any) -> List[Dict[str, Any]]:
    """Continues prompts: for each {"prompt", "samples": [{"text", "tokens"}]}. Options: max_tokens, samples, temperature, seed, ..."""
    return ask("generate", model, {"prompt": prompt, **options})["results"]


def tokenize(model: Text, prompt: Union[str, Sequence[str]]) -> List[Dict[str, Any]]:
    """The tokens of prompts: for each {"prompt", "tokens": [{"id", "text", "begin", "end"}]}; begin and end are bytes of the prompt."""
    return ask("tokenize", model, {"prompt": prompt})["results"]


def info(model: Text) -> Dict[str, Any]:
    """Architecture, size, tokenizer check and memory of a model."""
    return ask("info", model, {})
