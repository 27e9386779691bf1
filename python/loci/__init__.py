"""loci locates factual associations in GPT models, edits them and measures the edits. This package runs the command `loci`, reads its
results, draws them and makes reports.

    import loci

    trace = loci.run("trace", "gpt2-xl", prompt="The capital of France is", subject="France", output="trace.h5")
    print(trace.facts[0].scores("mlp"))
"""
from loci.errors import LociError
from loci.jobs import generate, info, predict, run, tokenize
from loci.results import (Average, Case, Comparison, Edit, Edits, Evaluation, Fact, Prompt, Result, SecondMoments, Severed, Target,
                          Tokens, Trace, Training, Update, open)

__version__ = "0.1.0"
__all__ = ["Average", "Case", "Comparison", "Edit", "Edits", "Evaluation", "Fact", "LociError", "Prompt", "Result", "SecondMoments",
           "Severed", "Target", "Tokens", "Trace", "Training", "Update", "generate", "info", "open", "predict", "run", "tokenize"]
