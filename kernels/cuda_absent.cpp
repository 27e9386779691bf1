#include "kernels/cuda.h"
#include "runtime/error.h"

// The CUDA backend of a build without CUDA. No CUDA context can be made there, so none of these is ever reached.
namespace loci::cuda {
namespace {

[[noreturn]] void absent() { throw_error<SystemError>("{}", CudaDevice::why_none()); }

}  // namespace

void gemm(Context&, Transpose, ConstView, Transpose, ConstView, View, Write, float) { absent(); }
void linear(Context&, ConstView, const WeightView&, ConstView, View) { absent(); }
void linear_activation(Context&, ConstView, const WeightView&, ConstView, Activation, View, View) { absent(); }
void linear_backward(Context&, ConstView, const WeightView&, View, Write) { absent(); }
void normalise(Context&, Norm, ConstView, ConstView, ConstView, float, View, View) { absent(); }
void add_normalise(Context&, Norm, ConstView, View, ConstView, ConstView, float, View, View) { absent(); }
void normalise_backward(Context&, Norm, ConstView, ConstView, ConstView, ConstView, View, Write, View, View) {
  absent();
}
void activation(Context&, Activation, ConstView, View) { absent(); }
void activation_backward(Context&, Activation, ConstView, ConstView, View) { absent(); }
void embed_rows(Context&, const StoredView&, const DeviceArray<int32_t>&, View) { absent(); }
void embed_rows_backward(Context&, const DeviceArray<int32_t>&, ConstView, View) { absent(); }
void gather_rows(Context&, ConstView, const DeviceArray<int64_t>&, View) { absent(); }
void scatter_rows(Context&, ConstView, const DeviceArray<int64_t>&, View, Write) { absent(); }
void patch_rows(Context&, const DeviceArray<RowSource>&, View) { absent(); }
void tap_rows(Context&, ConstView, const DeviceArray<RowDestination>&) { absent(); }
void collect_rows(Context&, const DeviceArray<const float*>&, View) { absent(); }
void add(Context&, ConstView, View) { absent(); }
void sum(Context&, ConstView, ConstView, View) { absent(); }
void product(Context&, ConstView, ConstView, View) { absent(); }
void scale(Context&, float, View) { absent(); }
void clamp(Context&, float, View) { absent(); }
void scale_rows(Context&, const DeviceArray<float>&, View) { absent(); }
void add_column_sums(Context&, ConstView, View) { absent(); }
void row_dots(Context&, ConstView, ConstView, View) { absent(); }
void add_low_rank(Context&, ConstView, const DeviceArray<LowRankRows>&, View) { absent(); }
void log_sum_exp(Context&, ConstView, View) { absent(); }
void softmax(Context&, ConstView, View) { absent(); }
void target_log_probabilities(Context&, ConstView, const DeviceArray<int64_t>&, const DeviceArray<int32_t>&, View) {
  absent();
}
void argmax_rows(Context&, ConstView, DeviceArray<int32_t>&) { absent(); }
void cross_entropy(Context&, ConstView, const DeviceArray<int32_t>&, const DeviceArray<float>&, View, View, Write,
                   float) {
  absent();
}
void kl_divergence(Context&, ConstView, ConstView, const DeviceArray<float>&, View, View, Write) { absent(); }
void log_softmax(Context&, ConstView, View) { absent(); }
void attention(Context&, const AttentionBatch&, const AttentionShape&, const AttentionInputs&, View, View) { absent(); }
void attention_backward(Context&, const AttentionBatch&, const AttentionShape&, const AttentionInputs&, ConstView,
                        ConstView, ConstView, const AttentionGradients&) {
  absent();
}
void rotate(Context&, RotaryPairs, Turn, int64_t, const DeviceArray<int32_t>&, ConstView, ConstView, View) { absent(); }
void sample_top_k(Context&, ConstView, int64_t, double, const DeviceArray<double>&, DeviceArray<int32_t>&) { absent(); }
void adam_step(Context&, const AdamOptions&, int64_t, ConstView, float, View, View, View) { absent(); }
double sum_of_squares(Context&, ConstView) { absent(); }
void clamp_row_norms(Context&, ConstView, View) { absent(); }
void symmetric_update(Context&, ConstView, View) { absent(); }
void add_second_moment(Context&, ConstView, double*) { absent(); }
void add_fp64(Context&, const double*, double*, int64_t) { absent(); }
CholeskyAttempt factor_definite(Context&, std::vector<double>, int64_t) { absent(); }
int64_t eigenvectors(Context&, std::vector<double>&, int64_t, std::vector<double>&) { absent(); }

}  // namespace loci::cuda
