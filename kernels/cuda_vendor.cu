#include "kernels/cuda_vendor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>

#include "runtime/cuda_launch.h"
#include "runtime/tensor.h"

// cuBLASLt, cuBLAS and cuSOLVER see matrices by columns. A row-major matrix is their transpose of it, so c = a b is
// asked for as c^T = b^T a^T: b comes first, and nothing is moved.
namespace loci {

/// What decides how a product is computed. Rows of a, which change from batch to batch, are rounded up to a bucket; a
/// kernel that suits the bucket suits each of its shapes.
struct GemmKey {
  int64_t m, n, k, batch;
  int64_t lda, ldb, ldc, ld_aux;
  int alignment_a, alignment_b, alignment_c;  ///< bytes
  Transpose transpose_a, transpose_b;
  bool reads_c;
  cuda::vendor::Epilogue epilogue;

  auto operator<=>(const GemmKey&) const = default;
};

struct GemmPlan {
  bool found = false;
  cublasLtMatmulAlgo_t algorithm{};
};

struct GemmPlans {
  std::map<GemmKey, GemmPlan> by_key;
};

namespace cuda::vendor {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw_error<SystemError>("{}: cuBLAS says {}", what, cublasGetStatusString(status));
}
void check(cusolverStatus_t status, const char* what) {
  if (status != CUSOLVER_STATUS_SUCCESS)
    throw_error<SystemError>("{}: cuSOLVER fails with status {}", what, static_cast<int>(status));
}

cudaDataType_t element_type(Precision precision) { return precision == Precision::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

cublasComputeType_t compute_type(Precision precision) {
  return precision == Precision::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

cublasLtEpilogue_t to_cublas(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::bias:
      return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::gelu_bias:
      return CUBLASLT_EPILOGUE_GELU_BIAS;
    case Epilogue::gelu_aux_bias:
      return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case Epilogue::none:
      break;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

/// The library's view of a product. Its parts live here, not on the heap: one is made per call.
class Description {
 public:
  Description(Precision precision, const Product& p) {
    check(cublasLtMatmulDescInit(&operation_, compute_type(precision), CUDA_R_32F), kWhat);
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.epilogue != Epilogue::none) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, to_cublas(p.epilogue));
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    }
    if (p.epilogue == Epilogue::gelu_aux_bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux);
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.ld_aux);
    }
    const cudaDataType_t type = element_type(precision);
    lay_out(first_, type, p.transpose_b == Transpose::no ? p.n : p.k, p.transpose_b == Transpose::no ? p.k : p.n, p.ldb,
            p.batch, p.batch_b);
    lay_out(second_, type, p.transpose_a == Transpose::no ? p.k : p.m, p.transpose_a == Transpose::no ? p.m : p.k,
            p.lda, p.batch, p.batch_a);
    lay_out(out_, CUDA_R_32F, p.n, p.m, p.ldc, p.batch, p.batch_c);
  }

  cublasStatus_t find(cublasLtHandle_t handle, cublasLtMatmulPreference_t preference,
                      cublasLtMatmulHeuristicResult_t* found, int* count) {
    return cublasLtMatmulAlgoGetHeuristic(handle, &operation_, &first_, &second_, &out_, &out_, preference, 1, found,
                                          count);
  }

  cublasStatus_t run(CudaHandles& handles, const Product& p, const cublasLtMatmulAlgo_t& algorithm) {
    return cublasLtMatmul(handles.cublas_lt(), &operation_, &p.alpha, p.b, &first_, p.a, &second_, &p.beta, p.c, &out_,
                          p.c, &out_, &algorithm, handles.workspace(), CudaHandles::kWorkspaceBytes, handles.stream);
  }

 private:
  static constexpr const char* kWhat = "description of a product";

  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check(cublasLtMatmulDescSetAttribute(&operation_, attribute, &value, sizeof(value)), kWhat);
  }
  static void lay_out(cublasLtMatrixLayoutOpaque_t& layout, cudaDataType_t type, int64_t rows, int64_t cols, int64_t ld,
                      int64_t batch, int64_t batch_stride) {
    check(cublasLtMatrixLayoutInit(&layout, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), ld), kWhat);
    if (batch == 1) return;
    const auto count = static_cast<int32_t>(batch);
    check(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)), kWhat);
    check(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &batch_stride,
                                           sizeof(batch_stride)),
          kWhat);
  }

  cublasLtMatmulDescOpaque_t operation_{};
  cublasLtMatrixLayoutOpaque_t first_{}, second_{}, out_{};
};

/// The largest power of two up to 16 that divides all addresses of a matrix. More does no kernel good, and rows of a
/// batch start anywhere.
int alignment(const void* data, int64_t stride, size_t element, int64_t batch_stride) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(data) | static_cast<uint64_t>(stride) * element |
                        static_cast<uint64_t>(batch_stride) * element | 16;
  return 1 << std::countr_zero(bits);
}

/// Up to 16 as it is, then rounded up in steps of an eighth of a power of two.
int64_t bucket(int64_t rows) {
  if (rows <= 16) return rows;
  const auto step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(rows - 1)) / 8);
  return (rows + step - 1) / step * step;
}

GemmKey key_of(Precision precision, const Product& p) {
  const size_t element = precision == Precision::bf16 ? 2 : 4;
  return {.m = p.m,
          .n = p.n,
          .k = p.k,
          .batch = p.batch,
          .lda = p.lda,
          .ldb = p.ldb,
          .ldc = p.ldc,
          .ld_aux = p.epilogue == Epilogue::gelu_aux_bias ? p.ld_aux : 0,
          .alignment_a = alignment(p.a, p.lda, element, p.batch_a),
          .alignment_b = alignment(p.b, p.ldb, element, p.batch_b),
          .alignment_c = alignment(p.c, p.ldc, sizeof(float), p.batch_c),
          .transpose_a = p.transpose_a,
          .transpose_b = p.transpose_b,
          .reads_c = p.beta != 0,
          .epilogue = p.epilogue};
}

/// The product with the rows of a rounded up, unless they would be more columns than b has.
Product bucketed(Product p) {
  if (p.transpose_a == Transpose::no)
    p.m = bucket(p.m);
  else if (p.transpose_b == Transpose::no)
    p.k = bucket(p.k);
  return p;
}

class Preference {
 public:
  explicit Preference(const GemmKey& key) {
    check(cublasLtMatmulPreferenceInit(&preference_), kWhat);
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{CudaHandles::kWorkspaceBytes});
    // Partial sums are added in a fixed order: bits do not change from run to run.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(key.alignment_b));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(key.alignment_a));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(key.alignment_c));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(key.alignment_c));
  }
  cublasLtMatmulPreference_t get() { return &preference_; }

 private:
  static constexpr const char* kWhat = "search for a product's algorithm";

  template <typename T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
    check(cublasLtMatmulPreferenceSetAttribute(&preference_, attribute, &value, sizeof(value)), kWhat);
  }

  cublasLtMatmulPreferenceOpaque_t preference_{};
};

/// The library's first choice; looked up once per key. Nothing is timed, so equal shapes give equal bits in every run.
const GemmPlan& plan_for(CudaHandles& handles, Precision precision, const Product& p) {
  if (!handles.gemm_plans) handles.gemm_plans = std::make_shared<GemmPlans>();
  const GemmKey key = key_of(precision, p);
  const auto [at, is_new] = handles.gemm_plans->by_key.try_emplace(key);
  if (!is_new) return at->second;
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status =
      Description(precision, p).find(handles.cublas_lt(), Preference(key).get(), &result, &count);
  at->second.found = status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  at->second.algorithm = result.algo;
  return at->second;
}

/// Issues the product with the algorithm that suits `like`; the library may refuse.
cublasStatus_t run_like(CudaHandles& handles, Precision precision, const Product& like, const Product& p) {
  const GemmPlan& plan = plan_for(handles, precision, like);
  return plan.found ? Description(precision, p).run(handles, p, plan.algorithm) : CUBLAS_STATUS_NOT_SUPPORTED;
}

}  // namespace

bool multiply(Context& context, const Product& p) {
  if (!takes_epilogue(p)) return false;
  CudaHandles& handles = context.cuda().handles();
  const Precision precision = context.precision();
  if (run_like(handles, precision, bucketed(p), p) == CUBLAS_STATUS_SUCCESS) return true;
  const cublasStatus_t status = run_like(handles, precision, p, p);
  if (status == CUBLAS_STATUS_SUCCESS) return true;
  if (status == CUBLAS_STATUS_EXECUTION_FAILED || status == CUBLAS_STATUS_INTERNAL_ERROR) check(status, "product");
  require<SystemError>(p.epilogue != Epilogue::none, "cuBLASLt has no way to compute [{}, {}] x [{}, {}] in {}", p.m,
                       p.k, p.k, p.n, precision_name(precision));
  return false;
}

namespace {

/// Device and host scratch of a cuSOLVER call, and its result code.
struct Scratch {
  Scratch(Context& context, size_t device_bytes, size_t host_bytes)
      : on_device(context, static_cast<int64_t>(device_bytes)), on_host(host_bytes), info(context, 1) {}

  DeviceArray<unsigned char> on_device;
  std::vector<unsigned char> on_host;
  DeviceArray<int> info;
};

/// cuSOLVER's options; the defaults.
class Options {
 public:
  Options() { check(cusolverDnCreateParams(&params_), "cuSOLVER's parameters"); }
  ~Options() { cusolverDnDestroyParams(params_); }
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;
  operator cusolverDnParams_t() const { return params_; }

 private:
  cusolverDnParams_t params_ = nullptr;
};

/// The result code of a call, once it is done. A negative one is an argument that the call refused.
int64_t result_of(const Scratch& scratch, const char* what) {
  const int info = scratch.info.to_host()[0];
  require<SystemError>(info >= 0, "{}: cuSOLVER refuses argument {}", what, -info);
  return info;
}

}  // namespace

int64_t factor_definite(Context& context, double* matrix, int64_t n) {
  constexpr const char* kWhat = "Cholesky factorisation";
  const cusolverDnHandle_t handle = context.cuda().handles().cusolver();
  const Options options;
  size_t device_bytes = 0, host_bytes = 0;
  check(cusolverDnXpotrf_bufferSize(handle, options, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, matrix, n, CUDA_R_64F,
                                    &device_bytes, &host_bytes),
        kWhat);
  Scratch scratch(context, device_bytes, host_bytes);
  check(
      cusolverDnXpotrf(handle, options, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, matrix, n, CUDA_R_64F,
                       scratch.on_device.data(), device_bytes, scratch.on_host.data(), host_bytes, scratch.info.data()),
      kWhat);
  return result_of(scratch, kWhat);
}

void solve_definite(Context& context, const double* factor, int64_t n, double* columns, int64_t count) {
  constexpr const char* kWhat = "solution with a Cholesky factor";
  const cusolverDnHandle_t handle = context.cuda().handles().cusolver();
  const Options options;
  DeviceArray<int> info(context, 1);
  check(cusolverDnXpotrs(handle, options, CUBLAS_FILL_MODE_UPPER, n, count, CUDA_R_64F, factor, n, CUDA_R_64F, columns,
                         n, info.data()),
        kWhat);
}

void solve_lower(Context& context, const double* factor, int64_t n, double* columns, int64_t count) {
  const double one = 1;
  check(cublasDtrsm_64(context.cuda().handles().cublas(), CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_T,
                       CUBLAS_DIAG_NON_UNIT, n, count, &one, factor, n, columns, n),
        "forward solution with a Cholesky factor");
}

int64_t eigen_symmetric(Context& context, double* matrix, int64_t n, double* values) {
  constexpr const char* kWhat = "eigenvalues";
  const cusolverDnHandle_t handle = context.cuda().handles().cusolver();
  const Options options;
  size_t device_bytes = 0, host_bytes = 0;
  check(cusolverDnXsyevd_bufferSize(handle, options, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F,
                                    matrix, n, CUDA_R_64F, values, CUDA_R_64F, &device_bytes, &host_bytes),
        kWhat);
  Scratch scratch(context, device_bytes, host_bytes);
  check(cusolverDnXsyevd(handle, options, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, matrix, n,
                         CUDA_R_64F, values, CUDA_R_64F, scratch.on_device.data(), device_bytes, scratch.on_host.data(),
                         host_bytes, scratch.info.data()),
        kWhat);
  return result_of(scratch, kWhat);
}

}  // namespace cuda::vendor
}  // namespace loci
