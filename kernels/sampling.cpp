#include "kernels/sampling.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {

void sample_top_k(Context& context, ConstView logits, int64_t k, double temperature,
                  const DeviceArray<double>& uniforms, DeviceArray<int32_t>& chosen) {
  require_valid("sample_top_k", "logits", logits);
  require_size("sample_top_k", "uniforms", uniforms.size(), logits.rows);
  require_size("sample_top_k", "chosen", chosen.size(), logits.rows);
  require<ShapeError>(k >= 1 && k <= logits.cols, "sample_top_k: k is {} of {} logits", k, logits.cols);
  require<ShapeError>(temperature > 0, "sample_top_k: temperature is {}, must be above 0", temperature);
  (context.on_cpu() ? cpu::sample_top_k : cuda::sample_top_k)(context, logits, k, temperature, uniforms, chosen);
}

}  // namespace loci
