#include "trace/noise.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "kernels/symmetric_eigen.h"
#include "kernels/symmetric_update.h"
#include "runtime/error.h"
#include "runtime/random.h"
#include "runtime/wording.h"

namespace loci {
namespace {

/// Embeddings are of order 1; what is far beyond this overflows in the forward pass.
constexpr double kMostNoise = 1e6;

/// Chi-square draws of Student's noise are fixed: one for each (sample, token), the same in every fact.
constexpr uint32_t kChiSquareSeed = 2;

double parse_value(const std::string& text, size_t begin) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data() + begin, end, value);
  require<InputError>(error == std::errc() && stopped == end && value >= 0 && value <= kMostNoise,
                      "{} {}: write a level such as 0.1, or s3, u3, m or t3; numbers go to 1e6", option("noise"), text);
  return value;
}

std::vector<float> embedding_row(Context& context, const Model& model, int32_t token) {
  return stored_to_host(context, model.parameters().token_embedding.rows_slice(token, 1));
}

/// Normal vectors x become R x + mean.
void apply_law(const EmbeddingLaw& law, std::vector<double>& values) {
  const auto width = static_cast<size_t>(law.width);
  std::vector<double> made(width);
  for (size_t first = 0; first < values.size(); first += width) {
    for (size_t i = 0; i < width; ++i) {
      double sum = law.mean[i];
      for (size_t j = 0; j < width; ++j) sum += law.root[i * width + j] * values[first + j];
      made[i] = sum;
    }
    std::copy(made.begin(), made.end(), values.begin() + static_cast<std::ptrdiff_t>(first));
  }
}

/// Multiplies vector i by sqrt((degrees - 2) / u_i) with u_i ~ chi-square(degrees): Student's t of the law's
/// covariance.
void make_student(double degrees, int64_t width, std::vector<double>& values) {
  LegacyRandom random(kChiSquareSeed);
  for (size_t first = 0; first < values.size(); first += static_cast<size_t>(width)) {
    const double factor = std::sqrt((degrees - 2) / random.chi_square(degrees));
    for (size_t j = 0; j < static_cast<size_t>(width); ++j) values[first + j] *= factor;
  }
}

std::vector<double> mean_embedding(Context& context, const Model& model, std::span<const int64_t> counts,
                                   int64_t total) {
  std::vector<double> mean(static_cast<size_t>(model.config().width));
  for (size_t id = 0; id < counts.size(); ++id) {
    if (counts[id] == 0) continue;
    const auto row = embedding_row(context, model, static_cast<int32_t>(id));
    for (size_t j = 0; j < mean.size(); ++j) mean[j] += static_cast<double>(counts[id]) * static_cast<double>(row[j]);
  }
  for (double& value : mean) value /= static_cast<double>(total);
  return mean;
}

/// sum_id counts[id] (e_id - mean)(e_id - mean)^T: each token enters once, scaled by the root of its count.
std::vector<double> scatter_matrix(Context& context, const Model& model, std::span<const int64_t> counts,
                                   const std::vector<double>& mean) {
  const int64_t width = model.config().width;
  SecondMoment moment(width);
  std::vector<float> rows;
  const auto flush = [&] {
    const auto count = std::ssize(rows) / width;
    moment.add(context, Tensor::from_host(context, rows, count, width).view());
    rows.clear();
  };
  for (size_t id = 0; id < counts.size(); ++id) {
    if (counts[id] == 0) continue;
    const auto row = embedding_row(context, model, static_cast<int32_t>(id));
    const double weight = std::sqrt(static_cast<double>(counts[id]));
    for (size_t j = 0; j < mean.size(); ++j)
      rows.push_back(static_cast<float>(weight * (static_cast<double>(row[j]) - mean[j])));
    if (std::ssize(rows) >= SecondMoment::flush_rows(context) * width) flush();
  }
  if (!rows.empty()) flush();
  return moment.sum(context);
}

}  // namespace

NoiseRule NoiseRule::parse(const std::string& text) {
  require<InputError>(!text.empty(), "{}: write a level such as 0.1, or s3, u3, m or t3", option("noise"));
  if (text == "m") return {Kind::multivariate, 0};
  if (text == "s") return {Kind::subjects, 1};
  switch (text[0]) {
    case 's':
      return {Kind::subjects, parse_value(text, 1)};
    case 'u':
      return {Kind::uniform, parse_value(text, 1)};
    case 't': {
      const double degrees = parse_value(text, 1);
      require<InputError>(degrees > 2, "{} {}: Student's t has a covariance only above 2 degrees of freedom",
                          option("noise"), text);
      return {Kind::student, degrees};
    }
    default:
      return {Kind::fixed, parse_value(text, 0)};
  }
}

std::vector<std::vector<double>> Noise::draw(int64_t draws, int64_t samples, int64_t tokens, int64_t width) const {
  LegacyRandom random(seed);
  std::vector<std::vector<double>> made;
  for (int64_t i = 0; i < draws; ++i) {
    std::vector<double>& values = made.emplace_back(static_cast<size_t>(samples * tokens * width));
    for (double& value : values)
      value = rule.kind == NoiseRule::Kind::uniform ? random.uniform(-1, 1) : random.normal();
    if (law)
      apply_law(*law, values);
    else
      for (double& value : values) value *= level;
    if (rule.kind == NoiseRule::Kind::student) make_student(rule.value, width, values);
  }
  return made;
}

double embedding_deviation(Context& context, const Model& model, std::span<const std::vector<int32_t>> texts) {
  // Two passes in fp64 over rows fetched once each.
  std::vector<int64_t> counts(static_cast<size_t>(model.config().vocabulary));
  for (const auto& text : texts)
    for (const int32_t token : text) ++counts.at(static_cast<size_t>(token));
  double scalars = 0, sum = 0;
  std::vector<std::pair<double, std::vector<float>>> rows;
  for (size_t id = 0; id < counts.size(); ++id) {
    if (counts[id] == 0) continue;
    const auto& [count, row] =
        rows.emplace_back(static_cast<double>(counts[id]), embedding_row(context, model, static_cast<int32_t>(id)));
    for (const float value : row) sum += count * static_cast<double>(value);
    scalars += count * static_cast<double>(row.size());
  }
  require<InputError>(scalars >= 2, "{} s: the subjects of the fact file have no tokens to measure the noise level on",
                      option("noise"));
  const double mean = sum / scalars;
  double squares = 0;
  for (const auto& [count, row] : rows)
    for (const float value : row)
      squares += count * (static_cast<double>(value) - mean) * (static_cast<double>(value) - mean);
  return static_cast<double>(static_cast<float>(std::sqrt(squares / (scalars - 1))));
}

EmbeddingLaw embedding_law(Context& context, const Model& model, std::span<const int64_t> counts) {
  int64_t total = 0;
  for (const int64_t count : counts) total += count;
  require<InputError>(total >= 2, "{}: the text has {} tokens, too few for a covariance", option("noise-text"), total);
  EmbeddingLaw law;
  law.width = model.config().width;
  law.mean = mean_embedding(context, model, counts, total);
  auto covariance = scatter_matrix(context, model, counts, law.mean);
  for (double& value : covariance) value /= static_cast<double>(total - 1);
  auto eigen = symmetric_eigen(context, std::move(covariance), law.width, "covariance of the token embeddings");
  law.root = std::move(eigen.vectors);
  const auto width = static_cast<size_t>(law.width);
  for (size_t i = 0; i < width; ++i)
    for (size_t j = 0; j < width; ++j) law.root[i * width + j] *= std::sqrt(std::max(0.0, eigen.values[j]));
  return law;
}

}  // namespace loci
