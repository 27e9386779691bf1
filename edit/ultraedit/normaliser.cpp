#include "edit/ultraedit/normaliser.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/error.h"

namespace loci {
namespace {

/// Of fp32, in which the published code computes.
constexpr double kEpsilon = static_cast<double>(std::numeric_limits<float>::epsilon());

/// Columns that one thread takes at least.
constexpr int64_t kColumns = 256;

}  // namespace

Normaliser::Normaliser(int64_t in, int64_t out)
    : in_(in), out_(out), mean_(static_cast<size_t>(in + out)), squares_(mean_.size()) {}

void Normaliser::add(Context& context, const ProjectionRows& rows) {
  const int64_t r = std::ssize(rows.keys) / in_;
  require<ShapeError>(std::ssize(rows.keys) == r * in_ && std::ssize(rows.gradients) == r * out_,
                      "{} keys and {} gradients are not rows of {} and {}", rows.keys.size(), rows.gradients.size(),
                      in_, out_);
  if (r == 0) return;
  add_columns(context, rows.keys, r, 0, in_);
  add_columns(context, rows.gradients, r, in_, out_);
  count_ += r;
}

/// Adds columns of the rows; those of `values` [rows, width] stand at `first` and behind.
void Normaliser::add_columns(Context& context, std::span<const float> values, int64_t rows, int64_t first,
                             int64_t width) {
  const auto r = static_cast<double>(rows), before = static_cast<double>(count_), all = before + r;
  context.threads().parallel_for(width, kColumns, [&](int64_t begin, int64_t end) {
    std::vector<double> means(static_cast<size_t>(end - begin)), deviations(means.size());
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t c = begin; c < end; ++c) means[c - begin] += static_cast<double>(values[row * width + c]);
    for (double& mean : means) mean /= r;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t c = begin; c < end; ++c) {
        const double deviation = static_cast<double>(values[row * width + c]) - means[c - begin];
        deviations[c - begin] += deviation * deviation;
      }
    for (int64_t c = begin; c < end; ++c) {
      const double variance = rows > 1 ? deviations[c - begin] / (r - 1) : 0;
      const double d = means[c - begin] - mean_[first + c];
      mean_[first + c] += r * d / all;
      squares_[first + c] += r * variance + before * r * d * d / all;
    }
  });
}

std::vector<float> Normaliser::values(Context& context, const ProjectionRows& rows, double rate) const {
  const int64_t r = std::ssize(rows.keys) / in_;
  std::vector<double> scales(squares_.size());
  for (size_t i = 0; i < scales.size(); ++i)
    scales[i] = 1 / (std::sqrt(squares_[i] / (static_cast<double>(count_ - 1) + kEpsilon)) + kEpsilon);
  std::vector<float> made(rows.gradients.size());
  context.threads().parallel_for(r, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      double square = 0;  // |h^|^2
      for (int64_t i = 0; i < in_; ++i) {
        const double h = (static_cast<double>(rows.keys[row * in_ + i]) - mean_[i]) * scales[i];
        square += h * h;
      }
      for (int64_t i = 0; i < out_; ++i) {
        const double g = (static_cast<double>(rows.gradients[row * out_ + i]) - mean_[in_ + i]) * scales[in_ + i];
        made[row * out_ + i] = static_cast<float>(-rate * square * g);
      }
    }
  });
  return made;
}

// --- What a sequence needs to go on ----------------------------------------------------------------------------------

std::string Normaliser::name(const char* what) const { return fmt::format("normaliser/{}x{}/{}", in_, out_, what); }

void Normaliser::add_to(std::vector<RecordedValues>& state) const {
  state.push_back({.name = name("n"),
                   .long_name = "rows of inputs and gradients that projections of this shape have seen",
                   .values = {},
                   .integers = {count_}});
  state.push_back({.name = name("mean"), .long_name = "their mean", .values = {}, .doubles = mean_});
  state.push_back({.name = name("sum_squares"),
                   .long_name = "sum of their squared deviations, from which their spread follows",
                   .values = {},
                   .doubles = squares_});
}

void Normaliser::restore(std::span<const RecordedValues> state) {
  const auto find = [&](const char* what) -> const RecordedValues& {
    const auto found = std::ranges::find(state, name(what), &RecordedValues::name);
    require<InputError>(found != state.end(), "ultraedit: the state of an earlier batch lacks {}", name(what));
    return *found;
  };
  const RecordedValues &n = find("n"), &mean = find("mean"), &squares = find("sum_squares");
  require<InputError>(
      n.integers.size() == 1 && mean.doubles.size() == mean_.size() && squares.doubles.size() == mean_.size(),
      "ultraedit: in the state of an earlier batch {} is of another shape", name("mean"));
  count_ = n.integers[0];
  mean_ = mean.doubles;
  squares_ = squares.doubles;
}

}  // namespace loci
