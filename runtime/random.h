#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <random>

namespace loci {

/// NumPy's legacy generator `numpy.random.RandomState(seed)`, bit for bit: MT19937 (Matsumoto & Nishimura 1998) seeded
/// by init_genrand, 53-bit doubles, polar Gaussians whose second value is handed out first, Marsaglia-Tsang gammas.
/// Published causal traces draw their noise from it.
class LegacyRandom {
 public:
  explicit LegacyRandom(uint32_t seed) : words_(seed) {}

  uint32_t next() { return static_cast<uint32_t>(words_()); }
  /// random_sample(): (a 2^26 + b) / 2^53 in [0, 1) with a = next() >> 5, b = next() >> 6.
  double uniform();
  /// uniform(low, high).
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// standard_normal(), randn().
  double normal();
  double standard_exponential();
  /// standard_gamma(shape), shape >= 0 (Marsaglia & Tsang 2000).
  double standard_gamma(double shape);
  /// chisquare(degrees), degrees > 0.
  double chi_square(double degrees) { return 2 * standard_gamma(degrees / 2); }

 private:
  std::mt19937 words_;
  std::optional<double> kept_normal_;
};

/// The generator for everything else: Philox4x32-10 (Salmon et al. 2011), a function of (seed, stream, counter).
/// Streams of one seed are independent, and a stream's values do not depend on what other streams drew, so results do
/// not depend on the order of work. Costs nothing to construct.
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  /// 64 random bits.
  uint64_t next();
  /// In [0, 1), a multiple of 2^-53.
  double uniform();
  /// Standard normal (Box & Muller 1958; both values of a pair are handed out).
  double normal();
  /// In [0, bound), without bias (Lemire 2019); bound > 0.
  uint64_t below(uint64_t bound);

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t counter_ = 0;
  std::optional<uint64_t> kept_word_;
  std::optional<double> kept_normal_;
};

/// One block of Philox4x32-10: four words from a counter and a key.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace loci
