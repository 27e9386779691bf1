#pragma once

#include <map>
#include <span>

#include "kernels/activation.h"
#include "kernels/weight.h"
#include "runtime/tensor.h"

namespace loci {

enum class Transpose { no, yes };

/// Whether an op sets its output (`=`) or adds to it (`+=`).
enum class Write { assign, accumulate };

/// c = alpha op(a) op(b)   or   c += alpha op(a) op(b).
/// op(a) [m, k], op(b) [k, n], c [m, n]; c aliases neither. k = 0 leaves a sum of nothing. Throws ShapeError before any
/// write. Equal inputs and shapes give equal bits with any number of threads; other rows beside a row may change the
/// order of its sums and so the last bits.
void gemm(Context& context, Transpose transpose_a, ConstView a, Transpose transpose_b, ConstView b, View c,
          Write write = Write::assign, float alpha = 1);

/// y = x W + bias for x [rows, in], bias [1, out] or empty for none, y [rows, out]. Weights in fp16 and bf16 are
/// converted exactly, a part at a time, and count as fp32 weights of these values; with bf16 products a GPU reads bf16
/// weights as they are.
void linear(Context& context, ConstView x, const WeightView& w, ConstView bias, View y);

/// y = f(x W + bias), and up = x W + bias, which the backward pass needs, where `up` is not empty; shapes as in
/// linear(). y, up and x do not alias. In tf32 and bf16 the tanh of gelu_new may be the GPU's own, good to 2^-11.
void linear_activation(Context& context, ConstView x, const WeightView& w, ConstView bias, Activation kind, View up,
                       View y);

/// dx = dy W^T   or   dx += dy W^T: the backward pass of linear() to its inputs. dy [rows, out], dx [rows, in].
void linear_backward(Context& context, ConstView dy, const WeightView& w, View dx, Write write);

/// Has the backend prepare what the first product would wait for: on the CPU, code that its library compiles, which
/// takes some 30 ms.
void prepare_products(Context& context);

/// A promise that matrices do not change while it lives, such as the weights of a loaded model. Products with one of
/// them, or with some of its rows and columns, may keep it in the form in which the device reads it, made when it is
/// first needed: in bf16 a copy of two bytes an element; on the CPU its transpose in fp32, while all of these take less
/// than a quarter of the memory budget. At most the order of sums changes.
class ConstantOperands {
 public:
  struct Matrix {
    StoredView view;
    DeviceArray<uint16_t> bf16;  ///< of a backend: its copy, once it has made one
    Tensor transposed;           ///< likewise
  };

  ConstantOperands(Context& context, std::span<const StoredView> matrices);
  ConstantOperands(Context& context, std::span<const ConstView> matrices);
  ~ConstantOperands();
  ConstantOperands(const ConstantOperands&) = delete;
  ConstantOperands& operator=(const ConstantOperands&) = delete;

  /// The matrix that `view` is a part of among all that are promised; null where there is none.
  static Matrix* find(Context& context, const StoredView& view);
  /// Bytes that the transposes of all promised matrices take.
  static int64_t transposed_bytes(Context& context);

 private:
  Matrix* find_own(const StoredView& view);

  Context& context_;
  std::map<const void*, Matrix> matrices_;
};

/// The arithmetic of one product.
inline double gemm_flop(double m, double n, double k) { return 2 * m * n * k; }

}  // namespace loci
