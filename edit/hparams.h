#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/json_fwd.h"

namespace loci {

class Fields;  // runtime/settings.h

/// The token of a prompt at which a fact is looked up and edited.
enum class FactToken {
  subject_first,
  subject_last,
  subject_first_after_last,  ///< the one after the subject; the subject's last where the prompt ends there
  last,                      ///< the prompt's last
};

/// How v* is found (Meng et al. 2022, eq. 4 and its published code).
struct ValueOptions {
  int64_t steps = 20;
  double learning_rate = 0.5;
  double weight_decay = 0.5;
  double clamp_factor = 4;
  double kl_factor = 0.0625;
  double stop_loss = 0.05;  ///< stops where the total loss is below; no key: as in the reference
};
void visit_fields(Fields& field, ValueOptions& value);

/// Texts to sample in front of the prompt: `count` of `length` tokens each, `<|endoftext|>` included.
struct TemplateSample {
  int64_t length;
  int64_t count;
};

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
