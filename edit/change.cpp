#include "edit/change.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "runtime/error.h"

namespace loci {
namespace {

/// From sums that a processor adds up side by side.
double dot(std::span<const float> a, std::span<const float> b) {
  std::array<double, 8> sums{};
  size_t i = 0;
  for (; i + sums.size() <= a.size(); i += sums.size())
    for (size_t k = 0; k < sums.size(); ++k) sums[k] += static_cast<double>(a[i + k]) * static_cast<double>(b[i + k]);
  double sum = 0;
  for (; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  for (const double part : sums) sum += part;
  return sum;
}

/// Row by row of K^T V.
double norm_of_product(const LowRank& change) {
  const auto in = std::ssize(change.keys) / change.rank, out = std::ssize(change.values) / change.rank;
  std::vector<double> row(static_cast<size_t>(out));
  double sum = 0;
  for (int64_t i = 0; i < in; ++i) {
    std::ranges::fill(row, 0.0);
    for (int64_t r = 0; r < change.rank; ++r) {
      const double key = static_cast<double>(change.keys[r * in + i]);
      const float* value = change.values.data() + r * out;
      for (int64_t j = 0; j < out; ++j) row[j] += key * static_cast<double>(value[j]);
    }
    for (const double x : row) sum += x * x;
  }
  return std::sqrt(sum);
}

/// |K^T V|^2 = sum over i, j of (k_i . k_j) (v_i . v_j), which takes less than the product while the rank is small.
double norm(const LowRank& change) {
  if (change.rank == 1) return std::sqrt(dot(change.keys, change.keys)) * std::sqrt(dot(change.values, change.values));
  const auto in = std::ssize(change.keys) / change.rank, out = std::ssize(change.values) / change.rank;
  if (4 * change.rank * (in + out) > in * out) return norm_of_product(change);
  double sum = 0;
  for (int64_t i = 0; i < change.rank; ++i)
    for (int64_t j = 0; j <= i; ++j)
      sum += (i == j ? 1 : 2) * dot(change.key(i), change.key(j)) * dot(change.value(i), change.value(j));
  return std::sqrt(std::max(0.0, sum));
}

double norm(const Dense& change) { return std::sqrt(dot(change.delta, change.delta)); }

double norm(const Neurons& change) { return std::sqrt(dot(change.values, change.values)); }

/// The matrix that is changed; the place of its role in the family's table says how it is stored.
Parameter parameter_of(WeightId weight, const Architecture& architecture, std::string_view where) {
  require<InputError>(weight.layer >= 0 && weight.layer < architecture.layers,
                      "{}: changes layer {} of a model with {} layers", where, weight.layer, architecture.layers);
  return parameter_at(architecture, weight);
}

void check(const LowRank& change, const Parameter& parameter, std::string_view where) {
  const bool in_out = parameter.stored == Orientation::in_out;
  const int64_t in = in_out ? parameter.rows() : parameter.cols(), out = in_out ? parameter.cols() : parameter.rows();
  const bool fits =
      change.rank >= 1 && std::ssize(change.keys) == change.rank * in && std::ssize(change.values) == change.rank * out;
  require<InputError>(fits, "{}: {} vectors of {} and {} values do not fit {} ({} to {})", where, change.rank,
                      std::ssize(change.keys) / std::max<int64_t>(1, change.rank),
                      std::ssize(change.values) / std::max<int64_t>(1, change.rank), parameter.name, in, out);
}

void check(const Dense& change, const Parameter& parameter, std::string_view where) {
  const int64_t rows = change.rows.empty() ? parameter.rows() : std::ssize(change.rows);
  require<InputError>(std::ssize(change.delta) == rows * parameter.cols(), "{}: {} values for {} rows of {} [{}, {}]",
                      where, change.delta.size(), rows, parameter.name, parameter.rows(), parameter.cols());
  for (size_t i = 0; i < change.rows.size(); ++i)
    require<InputError>(
        change.rows[i] >= 0 && change.rows[i] < parameter.rows() && (i == 0 || change.rows[i] > change.rows[i - 1]),
        "{}: row {} of {} [{}, {}] lies outside, or comes twice", where, change.rows[i], parameter.name,
        parameter.rows(), parameter.cols());
}

void check(const Neurons& change, const Parameter& down, std::string_view where) {
  const int64_t width = down.stored == Orientation::in_out ? down.cols() : down.rows();
  require<InputError>(change.count() > 0 && std::ssize(change.keys) == change.count() * width &&
                          change.values.size() == change.keys.size(),
                      "{}: {} neurons with {} and {} numbers for keys and values do not fit the width {}", where,
                      change.count(), change.keys.size(), change.values.size(), width);
}

}  // namespace

double norm_of(const Change& change) {
  return std::visit([](const auto& one) { return norm(one); }, change);
}

double norm_of(std::span<const Change> changes) {
  if (changes.size() == 1) return norm_of(changes[0]);
  double sum = 0;
  for (const Change& change : changes) sum += norm_of(change) * norm_of(change);
  return std::sqrt(sum);
}

namespace {

bool all_finite(std::span<const float> values) {
  return std::ranges::all_of(values, [](float x) { return std::isfinite(x); });
}
bool finite(const LowRank& change) { return all_finite(change.keys) && all_finite(change.values); }
bool finite(const Dense& change) { return all_finite(change.delta); }
bool finite(const Neurons& change) {
  return all_finite(change.keys) && all_finite(change.bias) && all_finite(change.values);
}

}  // namespace

bool is_finite(const Change& change) {
  return std::visit([](const auto& one) { return finite(one); }, change);
}

Dense dense_of(const LowRank& change, const Architecture& architecture) {
  const bool in_out = parameter_at(architecture, change.weight).stored == Orientation::in_out;
  const std::vector<float>&left = in_out ? change.keys : change.values, &right = in_out ? change.values : change.keys;
  const size_t terms = static_cast<size_t>(change.rank), rows = left.size() / terms, cols = right.size() / terms;
  Dense dense{change.weight, {}, std::vector<float>(rows * cols)};
  std::vector<double> row(cols);
  for (size_t r = 0; r < rows; ++r) {
    std::ranges::fill(row, 0);
    for (size_t t = 0; t < terms; ++t)
      for (size_t c = 0; c < cols; ++c)
        row[c] += static_cast<double>(left[t * rows + r]) * static_cast<double>(right[t * cols + c]);
    for (size_t c = 0; c < cols; ++c) dense.delta[r * cols + c] = static_cast<float>(row[c]);
  }
  return dense;
}

void check_fits(const Change& change, const Architecture& architecture, std::string_view where) {
  const Parameter parameter = parameter_of(weight_of(change), architecture, where);
  std::visit([&](const auto& one) { check(one, parameter, where); }, change);
}

}  // namespace loci
