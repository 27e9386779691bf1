#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "edit/common/context_templates.h"
#include "edit/common/hparams.h"
#include "edit/common/prompts.h"
#include "edit/common/value_optimizer.h"
#include "runtime/json_fwd.h"

namespace loci {

class Fields;  // runtime/io/settings.h

/// Hyper-parameters of ROME, with the keys of the reference's hparams files: visit_fields() says what they mean.
struct RomeHparams {
  int64_t layer = -1;  ///< -1: not given
  FactToken fact_token = FactToken::subject_last;
  ValueOptions value;
  bool uses_second_moment = true;  ///< u = C^-1 k / |..|, else k / |k|
  std::vector<TemplateSample> samples = {{5, 10}, {10, 10}};
  std::vector<std::string> without_effect;  ///< keys of the file that are accepted and change nothing
  /// "rome", "r-rome" or "p-rome", where keys of the published code or of EasyEdit say which one the file was made for.
  std::optional<std::string> method;
  std::string module = {};  ///< that the file wants edited, with {} for the layer; empty where it does not say
};
void visit_fields(Fields& field, RomeHparams& hparams);

/// Reads the reference's keys; those left out keep their defaults. Throws InputError "{where}: ..." for an unknown key,
/// a wrong type, a value out of range, several layers. `v_loss_layer`, `mom2_dataset`, the module names and EasyEdit's
/// `device` and the like have no effect (in the reference neither, or they name what other options give), nor does an
/// unknown key that is switched off: false, null, 0, "none", or empty.
RomeHparams hparams_from_json(const Json& json, std::string_view where);
RomeHparams read_hparams(const std::filesystem::path& path);

/// With the reference's keys.
Json hparams_to_json(const RomeHparams& hparams);

}  // namespace loci
