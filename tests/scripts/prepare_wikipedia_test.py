#!/usr/bin/python3
"""scripts/prepare_wikipedia.py on small dumps and shards that are made here."""
import bz2
import gzip
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/prepare_wikipedia.py")
sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("prepare_wikipedia", SCRIPT)
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)
try:
    import pyarrow
    import pyarrow.parquet
except ImportError:  # not in Debian 12
    pyarrow = None

ARTICLE = """{{Infobox tower|name={{nobr|Eiffel Tower}}}}
'''Eiffel&nbsp;Tower''' ({{lang|fr|tour Eiffel}}) is a [[tower]] in [[Paris, France|Paris]].<ref name="a">A [http://x.org book]</ref><ref name="b"/><!-- note -->
[[File:Tower.jpg|thumb|upright=1.2|A ''caption'' with a [[link]]]] [[Datei:Turm.jpg|mini]]
{| class="wikitext"
! head
|-
| cell || {{x}}
|}

== History ==
It is [http://example.org very tall] &mdash; 330&#160;m.
* first item

== References ==
{{reflist}}
[[Category:Towers]] [[fr:Tour Eiffel]]
__NOTOC__
"""
TEXT = "Eiffel Tower is a tower in Paris.\n\nHistory\n\nIt is very tall — 330 m.\nfirst item"


def page(title, text, namespace=0, redirect=""):
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return (f"<page><title>{title}</title><ns>{namespace}</ns><id>1</id>{redirect}"
            f"<revision><id>2</id><text xml:space=\"preserve\">{escaped}</text></revision></page>\n")


def dump(pages):
    return ('<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de"><siteinfo><namespaces>'
            '<namespace key="0" /><namespace key="6">Datei</namespace></namespaces></siteinfo>\n' + "".join(pages) + "</mediawiki>\n")


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def run_script(self, *arguments, python=(sys.executable,)):
        return subprocess.run([*python, SCRIPT, *arguments], capture_output=True, text=True, timeout=60)

    def converted(self, *arguments, output="out.jsonl"):
        """The texts that the script writes, however they are compressed."""
        result = self.run_script(*arguments, "--output", self.path(output))
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(self.path(output), "rb") as file:
            data = file.read()
        if output.endswith(".gz"):
            data = gzip.decompress(data)
        if output.endswith(".zst"):
            data = subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
        self.assertFalse(os.path.exists(self.path(output + ".tmp")))
        return [json.loads(line)["text"] for line in data.decode().splitlines()]

    def refused(self, *arguments, code=2):
        """The message of a call that ends with this exit code, and leaves no file behind."""
        result = self.run_script(*arguments)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        self.assertEqual([name for name in os.listdir(self.folder) if name.startswith("out")], [])
        return result.stderr


class Dumps(Case):
    def pages(self):
        return [page("Eiffel Tower", ARTICLE), page("Tour", "#REDIRECT [[Eiffel Tower]]", redirect='<redirect title="Eiffel Tower" />'),
                page("Talk", "gossip", namespace=1), page("Empty", "{{only a template}}"), page("Rome", "''Rome'' is a city & a \"capital\".")]

    def test_articles_are_plain_text_in_the_order_of_the_dump(self):
        path = self.write("wiki-pages-articles.xml.bz2", bz2.compress(dump(self.pages()).encode()))
        expected = [TEXT, 'Rome is a city & a "capital".']
        for output in "out.jsonl", "out.jsonl.gz", "out.jsonl.zst":
            self.assertEqual(self.converted(path, "--processes", "2", output=output), expected)
        self.assertEqual(self.converted(path, "--processes", "1", output="one.jsonl"), expected)

    def test_markup(self):
        for wikitext, text in (("H<sub>2</sub>O", "H2O"), ("a <nowiki>[[b]]</nowiki>", "a [[b]]"), ("[[a#b|c]]d [[:Category:e|f]]", "cd f"),
                               ("'''unclosed [[link", "'''unclosed [[link"), ("{{unclosed|a", "{{unclosed|a"), ("a<br/>b", "ab"),
                               ("x\n<gallery>\na.jpg|b\n</gallery>\ny", "x\n\ny"), ("[[A: B|c]]", "c"), ("== Only a heading ==", "")):
            self.assertEqual(prepare.plain_text(wikitext, {"category", "file"}), text)

    def test_a_dump_of_several_bzip2_streams(self):
        whole = dump(self.pages()).encode()
        data = bz2.compress(whole[:900]) + bz2.compress(whole[900:])
        self.assertEqual(len(self.converted(self.write("multistream.xml.bz2", data))), 2)

    def test_a_part(self):
        path = self.write("a.xml", dump([page(str(i), f"Text {i}.") for i in range(300)]).encode())
        self.assertEqual(self.converted(path, "--max-documents", "3"), ["Text 0.", "Text 1.", "Text 2."])
        self.assertEqual(self.converted(path, "--every", "100", output="b.jsonl"), ["Text 0.", "Text 100.", "Text 200."])

    def test_damaged_dumps(self):
        out = ("--output", self.path("out.jsonl.zst"))
        data = bz2.compress(dump(self.pages()).encode())
        self.assertIn("cut short", self.refused(self.write("short.xml.bz2", data[:-20]), *out))
        self.assertIn("not a complete MediaWiki dump", self.refused(self.write("half.xml", dump(self.pages()).encode()[:-30]), *out))
        self.assertIn("not a MediaWiki dump", self.refused(self.write("other.xml", b"<rss><text/></rss>"), *out))
        self.assertIn("holds no articles", self.refused(self.write("none.xml", dump([]).encode()), *out))


class Calls(Case):
    def test_bad_calls(self):
        out = ("--output", self.path("out.jsonl"))
        xml = self.write("a.xml", dump([page("A", "Text.")]).encode())
        self.assertIn("no such file", self.refused(self.path("missing.xml"), *out))
        self.assertIn("holds no parquet shards", self.refused(self.folder, *out))
        self.assertIn("neither a parquet shard", self.refused(self.write("a.zip", b"PK"), *out))
        self.assertIn("one MediaWiki dump", self.refused(xml, xml, *out))
        self.assertIn("must end in .jsonl.zst", self.refused(xml, "--output", self.path("out.txt")))
        self.assertIn("is not a folder", self.refused(xml, "--output", self.path("nowhere/out.jsonl")))
        self.assertIn("number above 0", self.refused(xml, *out, "--every", "0"))

    def test_an_existing_output_is_kept(self):
        xml = self.write("a.xml", dump([page("A", "Text.")]).encode())
        kept = self.write("kept.jsonl", b"kept")
        self.assertIn("--overwrite", self.refused(xml, "--output", kept))
        with open(kept, "rb") as file:
            self.assertEqual(file.read(), b"kept")
        self.assertEqual(self.converted(xml, "--overwrite", output="kept.jsonl"), ["Text."])

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_a_full_disk(self):
        xml = self.write("a.xml", dump([page("A", "Text.")]).encode())
        for ending in "", ".gz", ".zst":
            os.symlink("/dev/full", self.path(f"full.jsonl{ending}.tmp"))
            result = self.run_script(xml, "--output", self.path("full.jsonl" + ending))
            self.assertEqual(result.returncode, 5, result.stderr)
            self.assertFalse(os.path.exists(self.path("full.jsonl" + ending)))

    def test_missing_libraries_are_named(self):
        out = ("--output", self.path("out.jsonl"))
        without = (sys.executable, "-S", "-E")  # Python without any package
        self.assertIn("pip install pyarrow", self.run_script(self.write("a.parquet", b"PAR1"), *out, python=without).stderr)
        self.assertIn("python3-mwparserfromhell", self.run_script(self.write("a.xml", b"<x/>"), *out, python=without).stderr)


@unittest.skipUnless(pyarrow, "pyarrow cannot be imported")
class Shards(Case):
    def shard(self, name, columns):
        pyarrow.parquet.write_table(pyarrow.table(columns), self.path(name), row_group_size=100)

    def test_shards_of_a_folder_in_order(self):
        self.shard("train-00001-of-00002.parquet", {"id": ["3"], "text": ["three\nlines\n\nè"]})
        self.shard("train-00000-of-00002.parquet", {"id": ["1", "2"], "text": ["one", ""]})
        self.assertEqual(self.converted(self.folder, output="out.jsonl.zst"), ["one", "three\nlines\n\nè"])

    def test_a_part(self):
        self.shard("a.parquet", {"text": [f"Text {i}." for i in range(1000)]})
        self.assertEqual(self.converted(self.path("a.parquet"), "--every", "400", "--max-documents", "2"), ["Text 0.", "Text 400."])

    def test_damaged_shards(self):
        out = ("--output", self.path("out.jsonl"))
        self.shard("a.parquet", {"title": ["a"]})
        self.assertIn('no column "text"', self.refused(self.path("a.parquet"), *out))
        self.assertIn("cannot be read as parquet", self.refused(self.write("b.parquet", b"PAR1 and so on"), *out))


if __name__ == "__main__":
    unittest.main()
