"""Runs the published reference code (a checkout of kmeng01/rome) as it is, on the CPU.

Nothing in its arithmetic is changed: while its modules are imported, the device name "cuda" in their sources reads "cpu",
and packages that only its downloads and text metrics need are replaced by empty ones where they are not installed.
Needs torch and transformers.
"""
import contextlib
import importlib
import importlib.abc
import importlib.util
import io
import os
import sys
import tempfile
import types
from pathlib import Path

import torch

OPTIONAL_PACKAGES = {
    "datasets": ["load_dataset"], "nltk": ["word_tokenize", "ngrams", "FreqDist"], "hydra": [],
    "sklearn": [], "sklearn.feature_extraction": [], "sklearn.feature_extraction.text": ["TfidfVectorizer"],
    "scipy": [],
}


class _DeviceRenamer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules of the checkout with the device's name replaced."""

    def __init__(self, root, device):
        self.root, self.device = Path(root), device

    def find_spec(self, name, path=None, target=None):
        place = self.root / name.replace(".", "/")
        for source, package in ((place.with_suffix(".py"), False), (place / "__init__.py", True)):
            if source.is_file():
                return importlib.util.spec_from_file_location(
                    name, source, loader=self, submodule_search_locations=[str(place)] if package else None)
        return None

    def exec_module(self, module):
        text = Path(module.__spec__.origin).read_text().replace('"cuda"', f'"{self.device}"')
        exec(compile(text, module.__spec__.origin, "exec"), module.__dict__)


def _stand_in(name, attributes):
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        module.__path__ = []
        for attribute in attributes:
            setattr(module, attribute, type(attribute, (), {}))
        sys.modules[name] = module


class Reference:
    """The reference's modules and a model, ready to run."""

    def __init__(self, checkout, model_dir, device="cpu", attention="sdpa"):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        for name, attributes in OPTIONAL_PACKAGES.items():
            _stand_in(name, attributes)
        sys.meta_path.insert(0, _DeviceRenamer(checkout, device))
        self.checkout = checkout
        here = os.getcwd()
        os.chdir(checkout)  # it reads globals.yml from the current folder
        try:
            self.causal_trace = importlib.import_module("experiments.causal_trace")
            self.rome_main = importlib.import_module("rome.rome_main")
            self.compute_u = importlib.import_module("rome.compute_u")
            self.compute_v = importlib.import_module("rome.compute_v")
            self.layer_stats = importlib.import_module("rome.layer_stats")
            self.hparams = importlib.import_module("rome.rome_hparams").ROMEHyperParams
            self.evaluate = importlib.import_module("experiments.py.eval_utils_counterfact")
            self.evaluate_zsre = importlib.import_module("experiments.py.eval_utils_zsre")
            self.nethook = importlib.import_module("util.nethook")
        finally:
            os.chdir(here)
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation=attention).to(device).eval()
        self.nethook.set_requires_grad(False, self.model)
        # The shape its tracing functions expect; made by hand since its class loads the model once more.
        self.mt = types.SimpleNamespace(model=self.model, tokenizer=self.tokenizer,
                                        num_layers=self.model.config.n_layer)

    def noise_level(self, subjects):
        return self.causal_trace.collect_embedding_std(self.mt, subjects)

    def trace(self, prompt, subject, kind=None, **options):
        """scores [tokens, layers] and the rest of `knowledge_*.npz`; kind: None (states), "mlp" or "attn"."""
        return self.causal_trace.calculate_hidden_flow(self.mt, prompt, subject, kind=kind, **options)

    def fix_context_templates(self, templates):
        self.rome_main.CONTEXT_TEMPLATES_CACHE = list(templates)

    def second_moment(self, documents, layer, cache_dir=None):
        """The reference's statistics of mlp.c_proj's input over documents [{"text": ...}]."""
        self.layer_stats.load_dataset = lambda *_: {"train": documents}
        with tempfile.TemporaryDirectory() as fresh, quiet():
            stat = self.layer_stats.layer_stats(
                self.model, self.tokenizer, f"transformer.h.{layer}.mlp.c_proj", cache_dir or fresh, "wikipedia",
                to_collect=["mom2"], sample_size=len(documents), precision="float32", model_name="model",
                download=False, progress=lambda batches, **_: batches)
        return stat.mom2

    def use_second_moment(self, layer, moment):
        """Hands the editor E[k k^T] instead of letting it collect one."""
        name = self.model.config._name_or_path.replace("/", "_")
        self.compute_u.inv_mom2_cache[(name, f"transformer.h.{layer}.mlp.c_proj")] = torch.inverse(moment).float()

    def edit(self, request, hparams):
        """(u, v, printed log): the update of the down projection is u v^T in its [in, out] layout."""
        log = io.StringIO()
        with contextlib.redirect_stdout(log):
            deltas = self.rome_main.execute_rome(self.model, self.tokenizer, request, self.hparams(**hparams))
        [(u, v)] = deltas.values()
        return u, v, log.getvalue()

    def memit(self, requests, hparams, templates, moments):
        """The factors of MEMIT's updates, by parameter; the checkout is one of kmeng01/memit. `moments`: E[k k^T] by layer."""
        here = os.getcwd()
        os.chdir(self.checkout)
        try:
            main = importlib.import_module("memit.memit_main")
            make_hparams = importlib.import_module("memit.memit_hparams").MEMITHyperParams
        finally:
            os.chdir(here)
        main.CONTEXT_TEMPLATES_CACHE = [[templates[0]], list(templates[1:])]
        name = self.model.config._name_or_path.replace("/", "_")
        for layer, moment in moments.items():
            main.COV_CACHE[(name, f"transformer.h.{layer}.mlp.c_proj")] = moment.float()
        with quiet():
            return main.execute_memit(self.model, self.tokenizer, requests, make_hparams(**hparams))

    def score_counterfact(self, record):
        return self.evaluate.compute_rewrite_quality_counterfact(self.model, self.tokenizer, record, None, None)


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
