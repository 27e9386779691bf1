#pragma once

#include <string>

/// Figures of results: drawn by the Python scripts that come with loci.
namespace loci::app {

/// Throws InputError unless a figure of this name can be drawn: its ending says how, and its folder exists.
void check_figure_name(const std::string& figure);

/// Runs `script` ("plot_trace.py") on the result file. Throws SystemError where the script, or a Python with what it
/// needs, is missing, and where the script fails; the message says how to draw the figure later.
void draw_figure(const std::string& script, const std::string& result, const std::string& figure);

}  // namespace loci::app
