// Exits with 0 where the installed library runs a forward pass of an op and refuses a bad shape.
#include <loci/kernels/gemm.h>
#include <loci/runtime/error.h>
#include <loci/runtime/tensor.h>

#include <vector>

int main() {
  loci::Context context;
  const auto a = loci::Tensor::from_host(context, std::vector<float>{1, 2, 3, 4}, 2, 2);
  loci::Tensor product(context, 2, 2);
  loci::gemm(context, loci::Transpose::no, a.view(), loci::Transpose::yes, a.view(), product.view());
  const bool correct = product.to_host() == std::vector<float>{5, 11, 11, 25};
  try {
    loci::gemm(context, loci::Transpose::no, a.view(), loci::Transpose::no, a.view(), product.rows_slice(0, 1));
  } catch (const loci::ShapeError&) {
    return correct ? 0 : 1;
  }
  return 2;
}
