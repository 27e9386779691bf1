#include "model/train/ranks.h"

#include "kernels/rows.h"

namespace loci {

LossSum sum_losses(DeviceCommunicator* ranks, std::vector<LossSum> own, size_t waves, std::string_view what) {
  const size_t size = ranks ? static_cast<size_t>(ranks->ranks().size()) : 1;
  const size_t rounds = (waves + size - 1) / size;
  own.resize(rounds);
  std::vector<LossSum> all = own;
  if (size > 1) {
    all.resize(rounds * size);
    ranks->ranks().all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all)), what);
  }
  LossSum total;
  for (size_t w = 0; w < waves; ++w) {
    const LossSum& part = all[w % size * rounds + w / size];
    total.sum += part.sum;
    total.positions += part.positions;
  }
  return total;
}

GradientSum::GradientSum(Context& context, const Architecture& config, DeviceCommunicator* ranks)
    : context_(context), config_(config), ranks_(ranks), total_(context, config, size()) {
  if (size() > 1) block_ = Tensor(context, total_.padded().rows / size(), total_.padded().cols);
}

ParameterBuffer& GradientSum::own_wave() {
  if (!wave_) wave_ = std::make_unique<ParameterBuffer>(context_, config_, size());
  return *wave_;
}

ParameterBuffer& GradientSum::wave() {
  // Alone, the first wave needs no memory of its own.
  ParameterBuffer& chosen = size() == 1 && added_ == 0 ? total_ : own_wave();
  chosen.fill_zero(context_);
  return chosen;
}

void GradientSum::add_round(int waves) {
  if (size() == 1) {
    if (added_++ > 0) add(context_, own_wave().all(), total_.all());
    return;
  }
  const View received = total_.padded();
  const size_t bytes = sizeof(float) * static_cast<size_t>(block_.rows() * block_.cols());
  ranks_->all_to_all(own_wave().padded().data, received.data, bytes, "the sum of gradients");
  for (int rank = 0; rank < waves; ++rank, ++added_) {
    const View part = received.rows_slice(rank * block_.rows(), block_.rows());
    if (added_ == 0)
      context_.copy_on_device(block_.data(), part.data, bytes);
    else
      add(context_, part, block_.view());
  }
}

void GradientSum::finish() {
  if (size() == 1) return;
  const size_t bytes = sizeof(float) * static_cast<size_t>(block_.rows() * block_.cols());
  ranks_->all_gather(block_.data(), total_.padded().data, bytes, "the gathering of gradients");
}

}  // namespace loci
