#pragma once

#include "kernels/activation.h"
#include "kernels/adam.h"
#include "kernels/attention.h"
#include "kernels/cholesky_factor.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/rows.h"
#include "kernels/sampling.h"
#include "kernels/softmax.h"

/// The CUDA backend of every op: the contracts of the public headers, shapes already checked, views possibly empty.
/// Implemented in x_cuda.cu; in a build without CUDA by cuda_absent.cpp.
namespace loci::cuda {

void gemm(Context& context, Transpose transpose_a, ConstView a, Transpose transpose_b, ConstView b, View c, Write write,
          float alpha);
void linear(Context& context, ConstView x, ConstView w, ConstView bias, View y);
void linear_activation(Context& context, ConstView x, ConstView w, ConstView bias, Activation kind, View up, View y);

void layer_norm(Context& context, ConstView x, ConstView gain, ConstView bias, float epsilon, View y, View statistics);
void add_layer_norm(Context& context, ConstView update, View x, ConstView gain, ConstView bias, float epsilon, View y,
                    View statistics);
void layer_norm_backward(Context& context, ConstView x, ConstView gain, ConstView statistics, ConstView dy, View dx,
                         Write write, View dgain, View dbias);

void activation(Context& context, Activation kind, ConstView x, View y);
void activation_backward(Context& context, Activation kind, ConstView x, ConstView dy, View dx);

void embed_rows(Context& context, ConstView table, const DeviceArray<int32_t>& ids, View y);
void embed_rows_backward(Context& context, const DeviceArray<int32_t>& ids, ConstView dy, View table_gradient);
void gather_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y);
void scatter_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y, Write write);
void patch_rows(Context& context, const DeviceArray<RowSource>& patches, View y);
void tap_rows(Context& context, ConstView x, const DeviceArray<RowDestination>& taps);
void collect_rows(Context& context, const DeviceArray<const float*>& sources, View y);
void add(Context& context, ConstView x, View y);
void sum(Context& context, ConstView a, ConstView b, View y);
void scale(Context& context, float factor, View y);
void scale_rows(Context& context, const DeviceArray<float>& factors, View y);
void add_column_sums(Context& context, ConstView x, View y);
void row_dots(Context& context, ConstView a, ConstView b, View out);
void add_low_rank(Context& context, ConstView keys, const DeviceArray<LowRankRows>& terms, View y);

void log_sum_exp(Context& context, ConstView logits, View log_sum);
void softmax(Context& context, ConstView logits, View probabilities);
void target_log_probabilities(Context& context, ConstView logits, const DeviceArray<int64_t>& rows,
                              const DeviceArray<int32_t>& targets, View log_probabilities);
void argmax_rows(Context& context, ConstView logits, DeviceArray<int32_t>& best);
void cross_entropy(Context& context, ConstView logits, const DeviceArray<int32_t>& targets,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write);
void kl_divergence(Context& context, ConstView logits, ConstView reference_log_probabilities,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write);
void log_softmax(Context& context, ConstView logits, View log_probabilities);

void attention(Context& context, const AttentionBatch& batch, int64_t heads, float scale, ConstView queries,
               ConstView keys, ConstView values, View output, View log_sums);
void attention_backward(Context& context, const AttentionBatch& batch, int64_t heads, float scale, ConstView queries,
                        ConstView keys, ConstView values, ConstView output, ConstView log_sums,
                        ConstView output_gradients, View query_gradients, View key_gradients, View value_gradients);

void sample_top_k(Context& context, ConstView logits, int64_t k, double temperature,
                  const DeviceArray<double>& uniforms, DeviceArray<int32_t>& chosen);

void adam_step(Context& context, const AdamOptions& options, int64_t step, ConstView gradient, float gradient_scale,
               View x, View first, View second);
double sum_of_squares(Context& context, ConstView x);
void clamp_row_norms(Context& context, ConstView limits, View x);

void symmetric_update(Context& context, ConstView x, View sum);
/// total += x^T x, lower triangle, fp32 products added to fp64; total [n, n] with n = x.cols.
void add_second_moment(Context& context, ConstView x, double* total);
void add_fp64(Context& context, const double* terms, double* totals, int64_t count);

/// The Cholesky factor of the lower triangle of `matrix` [n * n] (host, row-major), n > 0.
CholeskyAttempt factor_definite(Context& context, std::vector<double> matrix, int64_t n);
/// Replaces `matrix` [n * n] (host, row-major, lower triangle read), n > 0, by its eigenvectors, the columns of V, in
/// the order of their eigenvalues, ascending, in `values` [n]. Returns 0, or the number of values that did not
/// converge.
int64_t eigenvectors(Context& context, std::vector<double>& matrix, int64_t n, std::vector<double>& values);

}  // namespace loci::cuda
