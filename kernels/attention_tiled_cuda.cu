#include "kernels/attention_cuda.h"
namespace loci::cuda {
bool tiled_attention(Context&, const AttentionJob&, int64_t) { return false; }
bool tiled_attention_backward(Context&, const AttentionBackwardJob&, int64_t) { return false; }
}  // namespace loci::cuda
