#pragma once

/// Put before a function that loops over plain arrays: the compiler makes one version for AVX-512, one for AVX2 and one
/// for any x86-64, and the loader picks. Helpers it calls must be inlined into it (always_inline), or they stay
/// baseline code. Off under the sanitizers, whose run-time is not up when the loader picks.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(LOCI_SANITIZED)
#define LOCI_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LOCI_SIMD
#endif

#define LOCI_INLINE inline __attribute__((always_inline))
