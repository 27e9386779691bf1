#pragma once

#include <cstdint>

#include "kernels/gemm.h"

/// The calls into NVIDIA's libraries, as few and as thin as can be: everything around them (precision, padding, panels,
/// fallbacks) is in the *_cuda.cu files, which also run under emulation. Implemented in cuda_vendor.cu over cuBLASLt,
/// cuBLAS and cuSOLVER, and in kernels/cuda_vendor_emulated.cpp over the host's libraries. All pointers are device
/// memory; all calls are issued on the context's stream.
namespace loci::cuda::vendor {

/// What happens to a sum before it is written, and what is written beside it.
enum class Epilogue {
  none,
  bias,           ///< + bias[column]
  gelu_bias,      ///< gelu_new(s + bias[column]); its tanh may be the hardware's, good to 2^-11
  gelu_aux_bias,  ///< the same, and s + bias[column] goes to aux
};

/// c = f(alpha op(a) op(b) + beta c), row-major: op(a) [m, k], op(b) [k, n], c [m, n], each of `batch` times. None of
/// the extents is 0. `bias` [n], `aux` [m, n].
struct Product {
  Transpose transpose_a = Transpose::no;
  Transpose transpose_b = Transpose::no;
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;  ///< bf16 where the context's precision is bf16, else fp32; the same for b
  int64_t lda = 0;          ///< elements from row to row, at least the row's length; the same for the others
  const void* b = nullptr;
  int64_t ldb = 0;
  float* c = nullptr;
  int64_t ldc = 0;
  float alpha = 1;
  float beta = 0;
  Epilogue epilogue = Epilogue::none;
  const float* bias = nullptr;
  float* aux = nullptr;
  int64_t ld_aux = 0;
  int64_t batch = 1;
  int64_t batch_a = 0, batch_b = 0, batch_c = 0;  ///< elements from one product of the batch to the next
};

/// Whether the product's epilogue may be asked for: kernels read a bias 16 bytes at a time whatever is said of its
/// alignment, and aux rows must be multiples of 8 elements.
inline bool takes_epilogue(const Product& product) {
  constexpr int64_t kGroup = 8;
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  if (product.epilogue == Epilogue::none) return true;
  const bool bias_fits = aligned(product.bias) && product.n >= kGroup;
  const bool aux_fits = product.epilogue != Epilogue::gelu_aux_bias ||
                        (aligned(product.aux) && product.ld_aux % kGroup == 0 && product.ld_aux >= product.n);
  return bias_fits && aux_fits && product.batch == 1;
}

/// Equal products on equal operands give equal bits. False, with nothing written, where takes_epilogue() is false or
/// the library has no kernel for the epilogue; a product without epilogue always succeeds, or throws SystemError.
bool multiply(Context& context, const Product& product);

/// The fp64 calls see matrices by columns: the row-major lower triangle is their upper one. `matrix` [n, n].

/// The factor U of matrix = U^T U (U = L^T) in place of its upper triangle. Returns 0, or the order of the first
/// leading minor that is not positive definite. Waits for the result.
int64_t factor_definite(Context& context, double* matrix, int64_t n);
/// Replaces each of `count` columns x [n] by (U^T U)^-1 x.
void solve_definite(Context& context, const double* factor, int64_t n, double* columns, int64_t count);
/// Replaces each of `count` columns x [n] by (U^T)^-1 x.
void solve_lower(Context& context, const double* factor, int64_t n, double* columns, int64_t count);
/// Eigenvalues of a symmetric matrix, ascending, in `values` [n]; eigenvectors as the columns of `matrix`. Returns 0,
/// or the number of values that did not converge. Waits for the result.
int64_t eigen_symmetric(Context& context, double* matrix, int64_t n, double* values);

}  // namespace loci::cuda::vendor
