"""Figures of results, with matplotlib: each function takes a result and returns a matplotlib Figure.

    from loci import plots

    figure = plots.heat_maps(loci.open("trace.h5"))
    figure.savefig("average.pdf")
"""
from loci.plots.comparison import methods, retention
from loci.plots.edit import before_after, loss
from loci.plots.trace import average_lines, heat_maps, severed

__all__ = ["average_lines", "before_after", "heat_maps", "loss", "methods", "retention", "severed"]
