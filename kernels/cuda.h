#pragma once

#include "kernels/activation.h"
#include "kernels/adam.h"
#include "kernels/attention.h"
#include "kernels/cholesky_factor.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/rotary.h"
#include "kernels/rows.h"
#include "kernels/sampling.h"
#include "kernels/softmax.h"
#include "kernels/symmetric_update.h"

/// The CUDA backend of every op: the contracts of the public headers, shapes already checked, views possibly empty.
/// Implemented in x_cuda.cu; in a build without CUDA by cuda_absent.cpp.
namespace loci::cuda {

decltype(loci::gemm) gemm;
decltype(loci::linear) linear;
decltype(loci::linear_activation) linear_activation;
decltype(loci::linear_backward) linear_backward;

decltype(loci::normalise) normalise;
decltype(loci::add_normalise) add_normalise;
decltype(loci::normalise_backward) normalise_backward;

decltype(loci::activation) activation;
decltype(loci::activation_backward) activation_backward;

decltype(loci::embed_rows) embed_rows;
decltype(loci::embed_rows_backward) embed_rows_backward;
decltype(loci::gather_rows) gather_rows;
decltype(loci::scatter_rows) scatter_rows;
decltype(loci::patch_rows) patch_rows;
decltype(loci::tap_rows) tap_rows;
decltype(loci::collect_rows) collect_rows;
decltype(loci::add) add;
decltype(loci::sum) sum;
decltype(loci::product) product;
decltype(loci::scale) scale;
decltype(loci::clamp) clamp;
decltype(loci::scale_rows) scale_rows;
decltype(loci::add_column_sums) add_column_sums;
decltype(loci::row_dots) row_dots;
decltype(loci::add_low_rank) add_low_rank;

decltype(loci::log_sum_exp) log_sum_exp;
decltype(loci::softmax) softmax;
decltype(loci::target_log_probabilities) target_log_probabilities;
decltype(loci::argmax_rows) argmax_rows;
decltype(loci::cross_entropy) cross_entropy;
decltype(loci::kl_divergence) kl_divergence;
decltype(loci::log_softmax) log_softmax;

decltype(loci::attention) attention;
decltype(loci::attention_backward) attention_backward;

decltype(loci::rotate) rotate;

decltype(loci::sample_top_k) sample_top_k;

decltype(loci::adam_step) adam_step;
decltype(loci::sum_of_squares) sum_of_squares;
decltype(loci::clamp_row_norms) clamp_row_norms;

decltype(loci::symmetric_update) symmetric_update;
/// total += x^T x, lower triangle, fp32 products added to fp64; total [n, n] with n = x.cols.
void add_second_moment(Context& context, ConstView x, double* total);
decltype(loci::add_fp64) add_fp64;

/// The Cholesky factor of the lower triangle of `matrix` [n * n] (host, row-major), n > 0.
CholeskyAttempt factor_definite(Context& context, std::vector<double> matrix, int64_t n);
/// Replaces `matrix` [n * n] (host, row-major, lower triangle read), n > 0, by its eigenvectors, the columns of V, in
/// the order of their eigenvalues, ascending, in `values` [n]. Returns 0, or the number of values that did not
/// converge.
int64_t eigenvectors(Context& context, std::vector<double>& matrix, int64_t n, std::vector<double>& values);

}  // namespace loci::cuda
