#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "model/executor/executor.h"
#include "records/facts.h"
#include "trace/noise.h"

/// Causal tracing (Meng et al. 2022, section 2): what a model still knows when the subject is corrupted and one of its
/// hidden states is given back. docs/tracing.md tells which computations are left out and why nothing changes.
namespace loci {

/// What is restored: one block output, or a module's outputs in a window of layers.
enum class TraceKind { state, mlp, attn };
inline constexpr std::array kTraceKinds = {TraceKind::state, TraceKind::mlp, TraceKind::attn};
std::string_view trace_kind_name(TraceKind kind);

/// The module that is cut off at the subject's last token while a state is restored.
enum class Sever { mlp, attn };
std::string_view sever_name(Sever sever);

enum class Corruption { add, replace };

enum class Quirks {
  none,
  /// The published code: low_score adds noise even where the other runs replace; the severed graph's second pass draws
  /// noise again, and adds it.
  published,
};

struct TraceOptions {
  std::vector<TraceKind> kinds = {TraceKind::state, TraceKind::mlp, TraceKind::attn};
  std::vector<Sever> sever;
  int64_t window = 10;   ///< layers, for mlp and attn
  int64_t samples = 10;  ///< corrupted copies
  Corruption corruption = Corruption::add;
  Quirks quirks = Quirks::none;
  Noise noise;
  int64_t max_wave_rows = 0;  ///< rows computed at once; 0: what keeps the device busy
};

/// What a severed graph has for each of its three series, which differ in what is severed.
template <typename T>
struct SeveredSeries {
  T ordinary;  ///< nothing severed
  T no_mlp;    ///< empty where not asked for
  T no_attn;
};
struct SeriesName {
  const char* in_files;
  const char* severed;  ///< the module, as options and tables name it; empty for none
  const char* shown;
};
/// Calls visit(name, series...) for each of the three, in the order of files and tables.
template <typename Visit, typename... Series>
void visit_series(Visit&& visit, Series&... series) {
  visit(SeriesName{"ordinary", "", "nothing severed"}, series.ordinary...);
  visit(SeriesName{"no_mlp", "mlp", "MLPs severed"}, series.no_mlp...);
  visit(SeriesName{"no_attn", "attn", "attention severed"}, series.no_attn...);
}

/// The severed graph at the subject's last token: probabilities of the answer by restored layer, [layers].
using SeveredTrace = SeveredSeries<std::vector<float>>;

/// What tracing one fact gave. Scores are probabilities of the answer, averaged over the corrupted copies.
struct FactTrace {
  int32_t answer = -1;   ///< the clean run's most probable token
  bool correct = false;  ///< accepted by the caller; nothing below is set otherwise
  float high_score = 0;  ///< clean
  double low_score = 0;  ///< corrupted, nothing restored
  std::array<std::vector<float>, kTraceKinds.size()> scores;  ///< by kind, [tokens, layers]
  std::optional<SeveredTrace> severed;

  const std::vector<float>& of(TraceKind kind) const { return scores[static_cast<size_t>(kind)]; }
  std::vector<float>& of(TraceKind kind) { return scores[static_cast<size_t>(kind)]; }
};

/// Layers [begin, end) that a window around `layer` restores: max(0, l - w/2) .. min(L, l + ceil(w/2)).
struct LayerWindow {
  int64_t begin = 0;
  int64_t end = 0;
};
LayerWindow layer_window(int64_t layer, int64_t window, int64_t layers);

/// Traces facts together. `accept` decides from a fact and the model's answer whether it is worth tracing.
std::vector<FactTrace> trace_facts(Executor& executor, std::span<const Fact> facts, const TraceOptions& options,
                                   const std::function<bool(const Fact&, int32_t answer)>& accept);

}  // namespace loci
