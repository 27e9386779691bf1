#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "edit/common/lineage.h"
#include "edit/common/prompts.h"
#include "kernels/cholesky.h"
#include "kernels/symmetric_eigen.h"
#include "kernels/symmetric_update.h"
#include "model/executor/executor.h"
#include "model/text/document_source.h"
#include "runtime/io/hdf5.h"
#include "runtime/jobs/interruption.h"
#include "runtime/jobs/provenance.h"
#include "runtime/jobs/unit_store.h"
#include "runtime/ranks/communicator.h"

/// Second moments of keys: sum over the tokens of a text of k k^T, k the input of a block's down projection. Uncentred.
namespace loci {

/// Adds up the second moments of any set of layers in one pass of the model, which ends at the highest layer's keys.
class SecondMomentCollector {
 public:
  /// `layers` are distinct. Throws InputError for a layer that the model does not have.
  SecondMomentCollector(Executor& executor, std::vector<int64_t> layers);

  /// Adds every token of the documents. They run in waves that depend on their lengths, the device and its memory
  /// budget.
  void add(std::span<const std::vector<int32_t>> documents);

  const std::vector<int64_t>& layers() const { return layers_; }
  /// Added since the start or clear().
  int64_t tokens() const { return tokens_; }
  const Architecture& architecture() const { return executor_.model().config(); }
  int64_t width() const { return architecture().mlp_width; }
  /// The sum of one of the layers [ff * ff], on the host. Splits the products into blocks at this place.
  std::vector<double> sum(size_t index);
  /// Hands out what lies of it on the device, and starts that layer again: SecondMoment::take_lower().
  DeviceArray<double> take_lower(size_t index);
  /// Starts again from nothing.
  void clear();

 private:
  void run_wave(std::span<const std::vector<int32_t>> documents);

  Executor& executor_;
  std::vector<int64_t> layers_;
  std::vector<SecondMoment> moments_;
  int64_t tokens_ = 0;
};

inline constexpr int64_t kSecondMomentUnit = 1 << 18;

struct SecondMomentOptions {
  std::vector<int64_t> layers = {};
  int64_t max_tokens_per_document = 0;  ///< documents are cut to this length; 0: the model's context
  int64_t max_documents = std::numeric_limits<int64_t>::max();
  int64_t max_tokens = std::numeric_limits<int64_t>::max();  ///< the last document is cut to give exactly this many
  int64_t unit_tokens = kSecondMomentUnit;                   ///< tokens of a unit of work, about
  /// A checkpoint is kept when so much time has passed, or 20 times what the last one took to write, and when asked to
  /// stop. 0: after every round.
  double checkpoint_seconds = 0;
  /// One sentence for each document that its source has left out so far; null where it leaves none out.
  const std::vector<std::string>* skipped = nullptr;
  /// Stop where C^-1 k of every fact of `probe` at every layer changed by this much at most, relatively, while the
  /// number of units doubled; 0: never.
  double until = 0;
  std::span<const PreparedRequest> probe = {};
  bool eigenvectors = false;  ///< also of C, for methods that edit within its null space
};

/// The ranks that do the job.
struct SecondMomentRanks {
  Communicator& communicator;
  UnitStore* store;                            ///< on rank 0
  const Interruption* interruption = nullptr;  ///< looked at after every round
};

/// Runs the job, or continues it; collective. The text is cut into units of about `unit_tokens` tokens, at places that
/// depend on the text alone. In a round each rank takes one unit; their sums are added in the order of units, and rank
/// 0 keeps a checkpoint now and then. So the bits depend neither on the number of ranks nor on interruptions. Each rank
/// reads the whole text from its `next`. Writes root attributes `kind` = "second_moments", `tokens`, `documents`,
/// `cut_documents` and `cut_tokens` (documents longer than one may be, and what they lost), `mlp_width`, and for each
/// layer /layers/{l}/sum [ff, ff] fp64, /layers/{l}/dead_rows (neurons that were never active), attributes `layer`,
/// `condition_number` (estimate in the 1-norm; infinite where singular); with `eigenvectors` also
/// /layers/{l}/eigenvalues [ff], ascending, and /layers/{l}/eigenvectors [ff, ff] of C, in columns. With `until` also
/// /probe/tokens and /probe/change (see DirectionProbe) and the attribute `converged`. `config` describes the job;
/// `provenance` holds the hash of the weights. Throws InputError for a text without tokens, InterruptedError after a
/// checkpoint where a rank was asked to stop.
void collect_second_moments(Executor& executor, const NextDocument& next, const SecondMomentOptions& options,
                            const SecondMomentRanks& ranks, const Json& config, const Provenance& provenance);

/// Which model second moments were collected on.
enum class MomentOrigin {
  this_model,
  ancestor,     ///< one that this model was made from by edits that leave the keys of the layer as they were
  other_model,  ///< another one: accepted because it was asked for
  unknown,      ///< the reference's .npz does not say
};
/// "this model", "ancestor", ...
std::string_view moment_origin_name(MomentOrigin origin);

/// Whether second moments of other models are refused, or taken where their shape fits.
enum class OtherModels { refuse, accept };

/// C = E[k k^T] of one layer.
struct SecondMomentMatrix {
  int64_t layer = 0;
  int64_t width = 0;
  int64_t tokens = 0;
  std::vector<double> mean;  ///< [width * width]
  MomentOrigin origin = MomentOrigin::this_model;
  ModelState collected_on = {};  ///< empty where the file does not say
};

/// Reads the statistics of one layer of a model: a file of collect_second_moments, or the reference's .npz
/// (`{edited module}_float32_mom2.npz`: its layer stands in its name only, its model nowhere). Those of a
/// model that this one was made from are right up to the lowest layer that was edited since: an edit of the down
/// projection of layer L changes no key of layers up to L. Throws InputError in one sentence for another model's
/// (unless they are accepted: then a warning), layer's or shape's, and for a damaged file.
SecondMomentMatrix read_second_moment(const std::filesystem::path& path, int64_t layer, int64_t mlp_width,
                                      const Lineage& model, OtherModels others = OtherModels::refuse);

/// The eigenvalues and eigenvectors of C that the file holds of a layer; nothing where it holds none. `matrix` is what
/// was read from the same file. Throws InputError for a damaged file, or where they are not those of the matrix.
std::optional<SymmetricEigen> read_second_moment_eigen(const std::filesystem::path& path,
                                                       const SecondMomentMatrix& matrix);

/// The layer in a file name of the reference, the number before `.mlp.`; nothing where there is none.
std::optional<int64_t> layer_in_file_name(const std::filesystem::path& path);

/// The Cholesky factor of C + ridge I. Throws NumericalError naming the file for a C that is singular, or is so within
/// rounding; a warning tells of one that is nearly.
std::shared_ptr<const Cholesky> factor_second_moment(Context& context, SecondMomentMatrix matrix, double ridge,
                                                     const std::string& name);

/// Neurons whose second moment is 0.
std::vector<int64_t> dead_rows(std::span<const double> sum, int64_t width);

/// The condition number of a symmetric matrix (estimate in the 1-norm), infinite where it is not positive definite.
double condition_number(Context& context, std::vector<double> matrix, int64_t width);

}  // namespace loci
