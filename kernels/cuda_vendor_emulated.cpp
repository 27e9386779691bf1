#include "kernels/cuda_vendor.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu.h"
#include "runtime/emulation/device_memory.h"
#include "runtime/error.h"

// What the emulated device has in place of NVIDIA's libraries: the same calls over the host's. Operands lose the bits
// that the tensor cores do not read, so that a test of a precision means something.
namespace loci::cuda::vendor {
namespace {

using emulation::DeviceMemoryAccess;

lapack_int to_lapack(int64_t n) { return static_cast<lapack_int>(n); }

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// The hardware reads sign, exponent and 10 bits of an fp32 number and ignores the other 13.
float truncate_to_tf32(float value) {
  if (std::isnan(value)) return value;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return from_bits(bits & ~uint32_t{0x1fff});
}

/// An operand [rows, cols] as the tensor cores see it, close together, in fp32.
std::vector<float> operand(Precision precision, const void* data, int64_t stride, int64_t rows, int64_t cols) {
  require<Error>(stride >= cols, "emulated cuBLASLt: rows of {} at a stride of {}", cols, stride);
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      float& value = values[r * cols + c];
      if (precision == Precision::bf16)
        value = from_bits(uint32_t{static_cast<const uint16_t*>(data)[r * stride + c]} << 16);
      else
        value = static_cast<const float*>(data)[r * stride + c];
      if (precision == Precision::tf32) value = truncate_to_tf32(value);
    }
  return values;
}

float gelu_new(float x) {
  const double value = static_cast<double>(x);
  return static_cast<float>(0.5 * value *
                            (1 + std::tanh(0.79788456080286535588 * (value + 0.044715 * value * value * value))));
}

/// c[r, :] = f(c[r, :] + bias), the sums before f to aux.
void finish_rows(const Product& p) {
  if (p.epilogue == Epilogue::none) return;
  for (int64_t r = 0; r < p.m; ++r)
    for (int64_t c = 0; c < p.n; ++c) {
      float& out = p.c[r * p.ldc + c];
      out += p.bias[c];
      if (p.epilogue == Epilogue::gelu_aux_bias) p.aux[r * p.ld_aux + c] = out;
      if (p.epilogue == Epilogue::gelu_bias || p.epilogue == Epilogue::gelu_aux_bias) out = gelu_new(out);
    }
}

void multiply_one(Precision precision, const Product& p) {
  const bool turns_a = p.transpose_a == Transpose::yes, turns_b = p.transpose_b == Transpose::yes;
  const int64_t a_cols = turns_a ? p.m : p.k, b_cols = turns_b ? p.k : p.n;
  std::vector<float> a = operand(precision, p.a, p.lda, turns_a ? p.k : p.m, a_cols);
  const std::vector<float> b = operand(precision, p.b, p.ldb, turns_b ? p.n : p.k, b_cols);
  for (float& value : a) value *= p.alpha;
  cpu::multiply({p.transpose_a, p.transpose_b, p.m, p.n, p.k, a.data(), a_cols, b.data(), b_cols, p.beta, p.c, p.ldc});
  finish_rows(p);
}

}  // namespace

bool multiply(Context& context, const Product& product) {
  if (!takes_epilogue(product)) return false;
  require<Error>(product.m > 0 && product.n > 0 && product.k > 0 && product.ldc >= product.n,
                 "emulated cuBLASLt: a product [{}, {}] x [{}, {}] to rows at a stride of {}", product.m, product.k,
                 product.k, product.n, product.ldc);
  const DeviceMemoryAccess access;
  const int64_t element = context.precision() == Precision::bf16 ? 2 : 4;
  Product one = product;
  for (int64_t i = 0; i < product.batch; ++i) {
    one.a = static_cast<const unsigned char*>(product.a) + i * product.batch_a * element;
    one.b = static_cast<const unsigned char*>(product.b) + i * product.batch_b * element;
    one.c = product.c + i * product.batch_c;
    multiply_one(context.precision(), one);
  }
  return true;
}

int64_t factor_definite(Context& context, double* matrix, int64_t n) {
  const DeviceMemoryAccess access;
  openblas_set_num_threads(context.threads().size());
  return LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', to_lapack(n), matrix, to_lapack(n));
}

void solve_definite(Context&, const double* factor, int64_t n, double* columns, int64_t count) {
  const DeviceMemoryAccess access;
  LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'U', to_lapack(n), to_lapack(count), factor, to_lapack(n), columns,
                      to_lapack(n));
}

void solve_lower(Context&, const double* factor, int64_t n, double* columns, int64_t count) {
  const DeviceMemoryAccess access;
  cblas_dtrsm(CblasColMajor, CblasLeft, CblasUpper, CblasTrans, CblasNonUnit, to_lapack(n), to_lapack(count), 1, factor,
              to_lapack(n), columns, to_lapack(n));
}

int64_t eigen_symmetric(Context& context, double* matrix, int64_t n, double* values) {
  const DeviceMemoryAccess access;
  openblas_set_num_threads(context.threads().size());
  return LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', to_lapack(n), matrix, to_lapack(n), values);
}

}  // namespace loci::cuda::vendor
