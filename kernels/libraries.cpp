#include "kernels/libraries.h"

#include <cblas.h>
#include <fmt/format.h>
#include <oneapi/dnnl/dnnl.h>

namespace loci {

std::vector<std::string> numeric_libraries(const Context& context) {
  const dnnl_version_t* dnnl = dnnl_version();
  // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ...": the version is what stands before the build options.
  const std::string openblas = openblas_get_config();
  std::vector<std::string> names{fmt::format("oneDNN {}.{}.{}", dnnl->major, dnnl->minor, dnnl->patch),
                                 openblas.substr(0, openblas.find(' ', openblas.find(' ') + 1))};
  if (!context.on_cpu())
    for (std::string& name : context.cuda().libraries()) names.push_back(std::move(name));
  return names;
}

}  // namespace loci
