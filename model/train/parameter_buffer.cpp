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

ParameterBuffer::Group group_of(const Parameter& parameter) {
  switch (kind_of(parameter.role)) {
    case RoleKind::matrix:
      return ParameterBuffer::Group::matrices;
    case RoleKind::table:
      return parameter.role == Role::position_embedding ? ParameterBuffer::Group::vectors
                                                        : ParameterBuffer::Group::embeddings;
    default:
      return ParameterBuffer::Group::vectors;
  }
}

bool writes_residual(Role role) { return role == Role::out_weight || role == Role::down_weight; }

}  // namespace

ParameterBuffer::ParameterBuffer(Context& context, const Architecture& config, int64_t row_multiple) : config_(config) {
  const std::vector<Parameter> infos = parameters_of(config);
  std::map<std::string, int64_t> offsets;
  int64_t end = 0;
  for (size_t g = 0; g < 3; ++g) {
    group_rows_[g] = end / kRowWidth;
    for (const Parameter& info : infos) {
      if (group_of(info) != static_cast<Group>(g)) continue;
      offsets[info.name] = end;
      end += round_up(element_count(info.shape, info.name), kAlignment);
    }
    end = round_up(end, kRowWidth);
  }
  group_rows_[3] = end / kRowWidth;
  values_ = std::make_shared<Tensor>(Tensor::zeros(context, round_up(group_rows_[3], row_multiple), kRowWidth));
  for (const Parameter& info : infos)
    views_[info.name] = View(values_->data() + offsets.at(info.name), info.rows(), info.cols());
  parameters_.blocks.resize(static_cast<size_t>(config.layers));
  visit_parameters(parameters_, config_,
                   [&](const Parameter& parameter, View& view) { view = views_.at(parameter.name); });
  if (config.tied) parameters_.unembedding = parameters_.token_embedding;
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
  const Architecture& config = buffer.config();
  const double residual = deviation / std::sqrt(2.0 * static_cast<double>(config.layers));
  uint64_t index = 0;
  for (const Parameter& parameter : parameters_of(config)) {
    Random random(seed, random_stream(RandomPurpose::initialisation, index++));
    std::vector<float> values(static_cast<size_t>(parameter.rows() * parameter.cols()));
    const RoleKind kind = kind_of(parameter.role);
    if (kind == RoleKind::matrix || kind == RoleKind::table) {
      const double scale = writes_residual(parameter.role) ? residual : deviation;
      for (float& value : values) value = static_cast<float>(scale * random.normal());
    } else if (kind == RoleKind::gain) {
      values.assign(values.size(), 1.0f);
    }
    buffer.set(context, parameter.name, values);
  }
}

}  // namespace loci
