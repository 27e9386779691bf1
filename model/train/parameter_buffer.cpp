#include "model/train/parameter_buffer.h"

#include <array>
#include <cmath>

#include "model/checkpoint.h"
#include "model/train/data.h"
#include "runtime/error.h"
#include "runtime/random.h"

namespace loci {
namespace {

constexpr int64_t kRowWidth = 1024;  // of the block of memory; a group starts a row
constexpr int64_t kAlignment = 16;   // floats: a cache line

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

ParameterBuffer::Group group_of(const TensorInfo& info) {
  if (info.shape.size() == 1 || info.name == "wpe.weight") return ParameterBuffer::Group::vectors;
  return info.name.starts_with("h.") ? ParameterBuffer::Group::matrices : ParameterBuffer::Group::embeddings;
}

bool writes_residual(const std::string& name) { return name.ends_with(".c_proj.weight"); }

}  // namespace

ParameterBuffer::ParameterBuffer(Context& context, const GptConfig& config, int64_t row_multiple) : config_(config) {
  const std::vector<TensorInfo> infos = gpt_parameters(config);
  std::map<std::string, int64_t> offsets;
  int64_t end = 0;
  for (size_t g = 0; g < 3; ++g) {
    group_rows_[g] = end / kRowWidth;
    for (const TensorInfo& info : infos) {
      if (group_of(info) != static_cast<Group>(g)) continue;
      offsets[info.name] = end;
      end += round_up(element_count(info.shape, info.name), kAlignment);
    }
    end = round_up(end, kRowWidth);
  }
  group_rows_[3] = end / kRowWidth;
  values_ = std::make_shared<Tensor>(Tensor::zeros(context, round_up(group_rows_[3], row_multiple), kRowWidth));
  for (const TensorInfo& info : infos)
    views_[info.name] =
        View(values_->data() + offsets.at(info.name), info.shape.size() == 2 ? info.shape[0] : 1, info.shape.back());
  parameters_.blocks.resize(static_cast<size_t>(config.layers));
  visit_parameters(parameters_, config_, [&](const std::string& name, View& view) { view = views_.at(name); });
  if (config.tied) parameters_.unembedding = parameters_.token_embedding;
}

Parameters<const float> ParameterBuffer::constant_parameters() const {
  Parameters<const float> made;
  made.blocks.resize(parameters_.blocks.size());
  visit_parameters(made, config_, [&](const std::string& name, ConstView& view) { view = views_.at(name); });
  made.unembedding = parameters_.unembedding;
  return made;
}

View ParameterBuffer::group(Group which) {
  const auto g = static_cast<size_t>(which);
  return values_->rows_slice(group_rows_[g], group_rows_[g + 1] - group_rows_[g]);
}

void ParameterBuffer::fill_zero(Context& context) {
  context.fill_zero(values_->data(), sizeof(float) * static_cast<size_t>(values_->rows() * values_->cols()));
}

void ParameterBuffer::set(Context& context, const std::string& name, std::span<const float> values) {
  const View view = views_.at(name);
  require<ShapeError>(std::ssize(values) == view.rows * view.cols, "{} values for parameter {} [{}, {}]", values.size(),
                      name, view.rows, view.cols);
  context.copy_to_device(view.data, values.data(), values.size_bytes());
}

std::map<std::string, std::vector<float>> ParameterBuffer::to_host(Context& context) const {
  std::map<std::string, std::vector<float>> made;
  for (const auto& [name, view] : views_) made.emplace(name, loci::to_host(context, view));
  return made;
}

void initialise(Context& context, ParameterBuffer& buffer, double deviation, uint64_t seed) {
  const GptConfig& config = buffer.config();
  const double residual = deviation / std::sqrt(2.0 * static_cast<double>(config.layers));
  uint64_t index = 0;
  for (const TensorInfo& info : gpt_parameters(config)) {
    Random random(seed, random_stream(RandomPurpose::initialisation, index++));
    std::vector<float> values(static_cast<size_t>(element_count(info.shape, info.name)), 0.0f);
    if (info.shape.size() == 2) {
      const double scale = writes_residual(info.name) ? residual : deviation;
      for (float& value : values) value = static_cast<float>(scale * random.normal());
    } else if (info.name.ends_with(".weight")) {
      values.assign(values.size(), 1.0f);
    }
    buffer.set(context, info.name, values);
  }
}

}  // namespace loci
