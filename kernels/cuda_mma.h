#pragma once

#include "kernels/cuda_reduce.h"

/// Products of small matrices on the tensor cores, by one warp, and copies to shared memory that run on while the warp
/// computes. For *_cuda.cu only. What is inline PTX under nvcc has a twin for the emulator beside it.
///
/// A product works on 32-bit words that hold one tf32 or two bf16 values each. C [16, 8] += A [16, 8 words] B [8 words,
/// 8], where word k of a row of A meets word k of a column of B. With g = lane / 4 and t = lane % 4 a lane holds
///   a0 = A[g, t], a1 = A[g + 8, t], a2 = A[g, t + 4], a3 = A[g + 8, t + 4];  b0 = B[t, g], b1 = B[t + 4, g];
///   c0 = C[g, 2 t], c1 = C[g, 2 t + 1], c2 = C[g + 8, 2 t], c3 = C[g + 8, 2 t + 1].
namespace loci::cuda {

struct MmaOperand {
  unsigned word[4];
};

#ifndef __CUDACC__
namespace emulated {

/// c += a b, where product(x, y) multiplies two words.
template <typename Product>
void multiply(float (&c)[4], const MmaOperand& a, unsigned b0, unsigned b1, const Product& product) {
  const auto joined = [](unsigned low, unsigned high) { return uint64_t{high} << 32 | low; };
  uint64_t upper[kWarp], lower[kWarp], columns[kWarp];  // words t and t + 4 of rows g, of rows g + 8, of columns g
  emulation::gather(joined(a.word[0], a.word[2]), upper);
  emulation::gather(joined(a.word[1], a.word[3]), lower);
  emulation::gather(joined(b0, b1), columns);
  const int g = emulation::lane() / 4, t = emulation::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const uint64_t* row = (i < 2 ? upper : lower) + 4 * g;
    const uint64_t* column = columns + 4 * (2 * t + i % 2);
    double sum = static_cast<double>(c[i]);
    for (int k = 0; k < 4; ++k)
      sum += product(static_cast<unsigned>(row[k]), static_cast<unsigned>(column[k])) +
             product(static_cast<unsigned>(row[k] >> 32), static_cast<unsigned>(column[k] >> 32));
    c[i] = static_cast<float>(sum);
  }
}

/// To the nearest value whose `dropped` last bits are zero.
inline unsigned rounded(float x, int dropped, bool ties_away) {
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return x == x ? bits : 0x7fff0000u;
  const unsigned half = 1u << (dropped - 1), last = bits >> dropped & 1u;
  return (bits + (ties_away ? half : half - 1 + last)) & ~((1u << dropped) - 1);
}

}  // namespace emulated
#endif

/// Values of 10 bits of mantissa, one in a word.
struct Tf32 {
  static constexpr int kPerWord = 1;

  __device__ static unsigned rounded(float x) {
#ifdef __CUDACC__
    unsigned word;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(x));
    return word;
#else
    return emulated::rounded(x, 13, true);
#endif
  }

  __device__ static void multiply(float (&c)[4], const MmaOperand& a, unsigned b0, unsigned b1) {
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b0), "r"(b1));
#else
    emulated::multiply(c, a, b0, b1, [](unsigned x, unsigned y) {
      return static_cast<double>(__uint_as_float(x)) * static_cast<double>(__uint_as_float(y));
    });
#endif
  }
};

/// Values of 7 bits of mantissa, two in a word, the first in the lower half.
struct Bf16 {
  static constexpr int kPerWord = 2;

  __device__ static unsigned rounded(float first, float second) {
#ifdef __CUDACC__
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
#else
    return emulated::rounded(first, 16, false) >> 16 | emulated::rounded(second, 16, false);
#endif
  }

  __device__ static void multiply(float (&c)[4], const MmaOperand& a, unsigned b0, unsigned b1) {
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b0), "r"(b1));
#else
    emulated::multiply(c, a, b0, b1, [](unsigned x, unsigned y) {
      const auto half = [](unsigned bits) { return static_cast<double>(__uint_as_float(bits)); };
      return half(x << 16) * half(y << 16) + half(x & 0xffff0000u) * half(y & 0xffff0000u);
    });
#endif
  }
};

/// Copies kBytes (4, 8 or 16, to which both addresses are aligned) to shared memory, or writes zeros where `there` is
/// false. The thread sees them after await_copies(), other threads after a barrier behind that.
template <int kBytes>
__device__ void copy_later(float* shared, const float* from, bool there) {
#ifdef __CUDACC__
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = there ? kBytes : 0;
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(kBytes), "r"(bytes)
                 : "memory");
#else
  for (int i = 0; i < kBytes / 4; ++i) shared[i] = there ? from[i] : 0.0f;
#endif
}

__device__ inline void await_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

/// 2^x, to 2 units in the last place; what is below the normal numbers becomes zero.
__device__ inline float fast_exp2(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

}  // namespace loci::cuda
