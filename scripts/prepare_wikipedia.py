#!/usr/bin/python3
"""Turns Wikipedia as it is published into the text that `loci cov --text` and `loci train` read: JSON Lines, one article per line.

    prepare_wikipedia.py INPUT... --output wikipedia.jsonl.zst [--max-documents N] [--every N]

INPUT is one of
  - parquet shards with a column `text`, or folders of them, as Hugging Face publishes `wikimedia/wikipedia`
    (needs pyarrow: pip install pyarrow);
  - a MediaWiki dump, `*-pages-articles.xml.bz2` (also .gz or plain .xml), as dumps.wikimedia.org publishes it
    (needs mwparserfromhell: apt-get install python3-mwparserfromhell, or pip install mwparserfromhell).

The output is compressed as its name says: .jsonl.zst (needs the program zstd), .jsonl.gz or .jsonl. It appears under its name
only when it is complete. Memory does not grow with the input.
"""
import argparse
import bz2
import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import glob
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

REPORT_SECONDS = 10
PARQUET_ROWS = 256  # read at a time
PENDING_PER_PROCESS = 64  # articles that wait for one process: bounds memory


class Failure(Exception):
    """Something that the user can fix, said in one sentence, and the exit code: 2 for input, 5 for the system."""

    def __init__(self, message, code=2):
        super().__init__(message)
        self.code = code


# --- wikitext to plain text -------------------------------------------------------------------------------------------

# mwparserfromhell parses nested templates, tables and links properly, and Hugging Face's published text was made with it.
HIDDEN_TAGS = {"ref", "references", "table", "gallery", "math", "chem", "score", "timeline", "imagemap", "syntaxhighlight", "source"}
LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*$")  # the prefix of a link to the same article in another language
BEHAVIOUR_SWITCH = re.compile(r"__[A-Z]+__")


def is_hidden_link(target, namespaces):
    """Links to files, categories and other languages are not part of the sentence that they stand in."""
    prefix, colon, _ = target.partition(":")
    prefix = prefix.strip()
    return bool(colon) and bool(prefix) and (prefix.lower() in namespaces or LANGUAGE.match(prefix) is not None)


def tidy(text):
    text = BEHAVIOUR_SWITCH.sub("", text).replace("\u00a0", " ")
    text = re.sub(r"\(\s*[,;]?\s*\)", "", text)  # what a removed template leaves
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" +([.,;:)])", r"\1", text)
    text = re.sub(r" *\n *", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def plain_text(wikitext, namespaces):
    """An article as it reads: without templates, tables, references, files and markup. A heading stays where text follows it."""
    import mwparserfromhell

    code = mwparserfromhell.parse(wikitext)
    hidden = code.filter(matches=lambda node: (
        isinstance(node, mwparserfromhell.nodes.Template)
        or isinstance(node, mwparserfromhell.nodes.Tag) and str(node.tag).strip().lower() in HIDDEN_TAGS
        or isinstance(node, mwparserfromhell.nodes.Wikilink) and is_hidden_link(str(node.title), namespaces)))
    for node in hidden:
        with contextlib.suppress(ValueError):  # it went with the node around it
            code.remove(node)
    parts = []
    for section in code.get_sections(flat=True, include_lead=True, include_headings=True):
        headings = section.filter_headings()
        heading = headings[0].title.strip_code() if headings else ""
        for node in headings:
            section.remove(node)
        body = tidy(section.strip_code(normalize=True, collapse=True))
        if body:
            parts.append(f"{tidy(heading)}\n\n{body}" if headings else body)
    return "\n\n".join(parts)


def clean(article):
    wikitext, namespaces = article
    return plain_text(wikitext, namespaces)


# --- inputs: each yields one text per document --------------------------------------------------------------------------

class Counted:
    """A file that knows how much of it was read."""

    def __init__(self, path):
        self.file = open(path, "rb")
        self.bytes = 0

    def read(self, size=-1):
        data = self.file.read(size)
        self.bytes += len(data)
        return data

    def __getattr__(self, name):
        return getattr(self.file, name)


class Parquet:
    def __init__(self, paths):
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise Failure(f"parquet files need the Python package pyarrow ({first_line(error)}): pip install pyarrow, in a "
                          "virtual environment where the system's Python does not take packages from pip")
        self.arrow, self.paths = pyarrow, paths
        self.total = sum(os.path.getsize(p) for p in paths)
        self.done = 0

    def documents(self):
        for path in self.paths:
            try:
                file = self.arrow.parquet.ParquetFile(path, pre_buffer=False)  # else the whole file stays in memory
                if "text" not in file.schema_arrow.names:
                    raise Failure(f"{path}: has no column \"text\", only {', '.join(file.schema_arrow.names)}")
                rows = max(1, file.metadata.num_rows)
                for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=["text"]):
                    yield from batch.column(0).to_pylist()
                    self.done += os.path.getsize(path) * len(batch) // rows
            except (self.arrow.ArrowException, OSError) as error:
                raise Failure(f"{path}: cannot be read as parquet: {first_line(error)}; get the file again")


class Dump:
    def __init__(self, path, processes):
        try:
            import mwparserfromhell  # noqa: F401
        except ImportError as error:
            raise Failure(f"a MediaWiki dump needs the Python package mwparserfromhell ({first_line(error)}): "
                          "apt-get install python3-mwparserfromhell, or pip install mwparserfromhell")
        self.path, self.processes = path, processes
        self.total = os.path.getsize(path)
        self.raw = Counted(path)

    @property
    def done(self):
        return self.raw.bytes

    def documents(self):
        if self.processes == 1:
            yield from map(clean, self.articles())
            return
        # Not multiprocessing.Pool: it waits without end for a process that the system killed, and now and then when it is ended early.
        pool = concurrent.futures.ProcessPoolExecutor(self.processes, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
        try:
            pending = collections.deque()
            for article in self.articles():
                pending.append(pool.submit(clean, article))
                if len(pending) == PENDING_PER_PROCESS * self.processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except concurrent.futures.process.BrokenProcessPool:
            raise Failure("a process that cleans articles was ended from outside, perhaps for want of memory; give fewer with --processes", code=5)
        finally:
            pool.shutdown(cancel_futures=True)

    def articles(self):
        """(wikitext, names of all namespaces but that of articles) of each article; redirects are left out."""
        opener = {".bz2": bz2.open, ".gz": gzip.open}.get(os.path.splitext(self.path)[1])
        stream = opener(self.raw) if opener else self.raw
        namespaces, page, root = {"file", "image", "category", "template"}, {}, None
        try:
            for event, element in xml.etree.ElementTree.iterparse(stream, ("start", "end")):
                tag = element.tag.rpartition("}")[2]
                if event == "start":
                    root = element if root is None else root
                    page = {} if tag == "page" else page
                elif tag == "namespace" and element.text:
                    namespaces.add(element.text.strip().lower())
                elif tag in ("ns", "text"):
                    page[tag] = element.text or ""
                elif tag == "redirect":
                    page["redirect"] = True
                elif tag == "page":
                    root.clear()  # else the tree of the whole dump would grow in memory
                    if page.get("ns") == "0" and "redirect" not in page and page.get("text"):
                        yield page["text"], namespaces
        except xml.etree.ElementTree.ParseError as error:
            raise Failure(f"{self.path}: is not a complete MediaWiki dump: {error}; get the file again")
        except (OSError, EOFError) as error:
            raise Failure(f"{self.path}: the compressed data are damaged or cut short: {first_line(error)}; get the file again")
        if root is None or root.tag.rpartition("}")[2] != "mediawiki":
            raise Failure(f"{self.path}: is XML, but not a MediaWiki dump")


def first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


def expanded(inputs):
    """Files, with a folder replaced by its parquet shards in order."""
    paths = []
    for path in inputs:
        if os.path.isdir(path):
            shards = sorted(glob.glob(os.path.join(path, "*.parquet")))
            if not shards:
                raise Failure(f"{path}: holds no parquet shards (*.parquet)")
            paths += shards
        elif os.path.isfile(path):
            paths.append(path)
        else:
            raise Failure(f"{path}: no such file or folder")
    return paths


def source_of(inputs, processes):
    paths = expanded(inputs)
    if all(p.endswith(".parquet") for p in paths):
        return Parquet(paths)
    if any(p.endswith(".parquet") for p in paths) or len(paths) > 1:
        raise Failure("give parquet shards, or one MediaWiki dump")
    if not re.search(r"\.xml(\.bz2|\.gz)?$", paths[0]):
        raise Failure(f"{paths[0]}: is neither a parquet shard (.parquet) nor a MediaWiki dump (.xml, .xml.bz2, .xml.gz)")
    return Dump(paths[0], processes)


# --- output -------------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def compressed(path, ending):
    """A binary file to write to, compressed as the ending says."""
    with open(path, "wb") as file:
        if ending == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as stream:
                yield stream
        elif ending == ".zst":
            zstd = subprocess.Popen(["zstd", "-q", "-c"], stdin=subprocess.PIPE, stdout=file, start_new_session=True)
            try:
                yield zstd.stdin
            finally:
                with contextlib.suppress(BrokenPipeError):
                    zstd.stdin.close()
                if zstd.wait() != 0 and sys.exc_info()[0] in (None, BrokenPipeError):
                    raise Failure(f"{path}: zstd could not write it; is the disk full?", code=5)
        else:
            yield file
        file.flush()
        os.fsync(file.fileno())


def write(source, arguments, ending):
    """Returns (documents written, empty ones left out)."""
    temporary = arguments.output + ".tmp"
    progress = Progress(source)
    written = empty = 0
    try:
        with compressed(temporary, ending) as stream:
            for number, text in enumerate(source.documents()):
                if number % arguments.every == 0:
                    if text and not text.isspace():
                        stream.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
                        written += 1
                    else:
                        empty += 1
                progress.report(written)
                if written == arguments.max_documents:
                    break
        if written == 0:
            raise Failure(f"{', '.join(arguments.inputs)}: holds no articles")
        os.replace(temporary, arguments.output)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
    return written, empty


class Progress:
    def __init__(self, source):
        self.source, self.begin = source, time.monotonic()
        self.next = self.begin + REPORT_SECONDS

    def report(self, written):
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + REPORT_SECONDS
        share = self.source.done / max(1, self.source.total)
        left = (now - self.begin) * (1 - share) / share / 60 if share > 0 else float("nan")
        print(f"{written} documents, {100 * share:.1f} % of the input read, about {left:.0f} minutes left for all of it",
              file=sys.stderr, flush=True)


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


positive.__name__ = "number above 0"


def checked_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="parquet shards, folders of them, or one MediaWiki dump")
    parser.add_argument("--output", required=True, metavar="FILE", help="FILE.jsonl.zst, FILE.jsonl.gz or FILE.jsonl")
    parser.add_argument("--max-documents", type=positive, metavar="N", help="stop after N documents")
    parser.add_argument("--every", type=positive, default=1, metavar="N",
                        help="keep every N-th article only, so that a part is spread over the whole (default: 1, all)")
    parser.add_argument("--processes", type=positive, default=os.cpu_count(), metavar="N",
                        help="processes that clean the wikitext of a dump (default: one per processor)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return parser.parse_args()


def run(arguments):
    ending = re.search(r"\.jsonl(\.zst|\.gz)?$", arguments.output)
    if not ending:
        raise Failure(f"--output {arguments.output}: must end in .jsonl.zst, .jsonl.gz or .jsonl")
    if os.path.exists(arguments.output) and not arguments.overwrite:
        raise Failure(f"{arguments.output}: exists already; give --overwrite to replace it")
    if not os.path.isdir(os.path.dirname(arguments.output) or "."):
        raise Failure(f"{os.path.dirname(arguments.output)}: is not a folder")
    if ending[1] == ".zst" and not shutil.which("zstd"):
        raise Failure("the program zstd is missing: apt-get install zstd, or write .jsonl.gz")
    written, empty = write(source_of(arguments.inputs, arguments.processes), arguments, ending[1])
    print(f"{arguments.output}: {written} documents" + (f", {empty} empty ones left out" if empty else ""))


def main():
    try:
        run(checked_arguments())
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"error: {error.filename or 'the output'}: {error.strerror or error}", file=sys.stderr)
        return 5
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
