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
#include "kernels/token_scores.h"

/// The CPU backend of every op: the contracts of the public headers, shapes already checked.
namespace loci::cpu {

decltype(loci::gemm) gemm;
decltype(loci::linear) linear;
decltype(loci::linear_activation) linear_activation;
decltype(loci::linear_backward) linear_backward;

/// One single-threaded product on the calling thread: c = op(a) op(b) + beta c, row-major with leading
/// dimensions.
struct Product {
  Transpose transpose_a = Transpose::no;
  Transpose transpose_b = Transpose::no;
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  int64_t lda = 0;
  const float* b = nullptr;
  int64_t ldb = 0;
  float beta = 0;
  float* c = nullptr;
  int64_t ldc = 0;
};
void multiply(const Product& product);

/// Lets the library compile its kernels.
void prepare_products();

/// to [rows, cols], close together, = from in fp32, on the calling thread.
void to_fp32(const StoredView& from, float* to);

/// The second operand op(b) [k, n] of products a op(b), and how a product gets some of its columns in fp32.
struct SecondOperand {
  StoredView matrix;                    ///< b, or op(b) where it was transposed
  Transpose transpose = Transpose::no;  ///< of `matrix`
  bool turned = false;                  ///< columns are transposed for the product that needs them
  Tensor made;                          ///< what `matrix` views, where it is not kept

  /// Whether products read the matrix where it lies. Else each needs room for its columns of it.
  bool in_place() const { return matrix.type == StoredType::fp32 && !turned; }

  struct Columns {
    Transpose transpose;
    const float* data;
    int64_t stride;
  };
  /// Columns first .. first + count - 1 of op(b), made in `room` [k * count] unless in_place(); on the calling thread.
  Columns columns(int64_t first, int64_t count, float* room) const;
};
/// For op(b) = b^T, chosen for products of `products_rows` rows: as it is, which sums in an order that depends on the
/// extents of products, or turned, as a whole or by columns. Which one follows from b's shape, whether it is constant,
/// and that number alone, so the bits do not depend on the memory there is.
SecondOperand second_operand(Context& context, const StoredView& b, int64_t products_rows);
/// The same for x W; as it is where W is stored as [in, out].
SecondOperand second_operand(Context& context, const WeightView& w, int64_t products_rows);

decltype(loci::normalise) normalise;
decltype(loci::add_normalise) add_normalise;
decltype(loci::normalise_backward) normalise_backward;

decltype(loci::activation) activation;
/// x += bias [1, cols] in every row, y = f(x); y may be x.
void biased_activation(Context& context, Activation kind, ConstView bias, View x, View y);
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
decltype(loci::score_tokens) score_tokens;

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

}  // namespace loci::cpu
