#pragma once

#include <cstdint>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "edit/common/context_templates.h"
#include "edit/common/lineage.h"
#include "edit/common/prompts.h"
#include "edit/moments/second_moments.h"
#include "kernels/cholesky.h"
#include "model/executor/executor.h"
#include "model/text/tokenizer.h"
#include "runtime/io/json.h"

namespace loci {

/// What a user gives to a method: files by name, and settings that all methods share.
struct EditOptions {
  std::string method = "rome";
  std::vector<std::string> cov;  ///< files of second moments; each layer is taken from the one that has it
  std::string hparams;
  std::string context_templates;
  std::string memory_texts;  ///< texts that edits are to leave alone
  int64_t layer = -1;        ///< overrides that of the hyper-parameters
  double ridge = 0;          ///< added to the diagonal of C = E[k k^T]
  bool cov_of_other_model = false;
  uint64_t seed = 0;  ///< of sampled context templates
  TeacherForcing forcing = TeacherForcing::tokens;
  bool published_quirks = false;  ///< do as the published code does where it differs from the paper
  /// What is given is for several methods, and one that takes no second moments, or templates, passes them over.
  bool for_several_methods = false;
};

/// Throws the InputError for a method that needs second moments where none are given.
[[noreturn]] void refuse_missing_second_moment();

/// What methods read beside their requests: each thing is read when it is first asked for, and recorded by its content.
class Resources {
 public:
  /// `lineage` is that of the executor's model. All must outlive it.
  Resources(const EditOptions& options, Executor& executor, const Tokenizer& tokenizer, Lineage lineage);

  const EditOptions& options() const { return options_; }
  Executor& executor() const { return executor_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const Architecture& architecture() const { return executor_.model().config(); }

  /// Those of the file that is given; else `{}` and texts that the model is sampled for, by the seed: continuations of
  /// <|endoftext|>, or of each of `beginnings`.
  std::vector<std::string> context_templates(std::span<const TemplateSample> samples);
  std::vector<std::string> context_templates(std::span<const std::string_view> beginnings, int64_t length);
  /// The factor of C + (the option `ridge` + `ridge`) I of a layer. Throws InputError where no second moments are
  /// given, or they do not belong to the model, NumericalError for a singular C.
  std::shared_ptr<const Cholesky> second_moment(int64_t layer, double ridge = 0);
  /// C + ridge I itself, [ff * ff].
  std::vector<double> second_moment_matrix(int64_t layer);
  /// The eigenvalues and eigenvectors of C + ridge I: those of the file, where it holds some.
  SymmetricEigen second_moment_eigen(int64_t layer);
  /// The texts of the option `memory-texts`, tokenised: `count` at most, the first `tokens` tokens of each. Throws
  /// InputError where none is given, or it holds no text.
  std::vector<std::vector<int32_t>> memory_texts(int64_t count, int64_t tokens);
  /// Throws InputError where texts are given to a method that has not asked for them.
  void refuse_unused_memory(std::string_view method) const;
  /// Throws InputError where second moments, or context templates, are given to a method that takes none.
  void refuse_second_moments(std::string_view why) const;
  void refuse_context_templates(std::string_view why) const;

  /// What was asked for, by content: for the configuration of a job, instead of the names of files.
  Json configuration();

 private:
  const std::string& file_of(int64_t layer) const;
  SecondMomentMatrix read(int64_t layer);

  EditOptions options_;
  Executor& executor_;
  const Tokenizer& tokenizer_;
  Lineage lineage_;
  Json used_ = Json::object();
  std::vector<std::future<std::string>> cov_sha256_;  // hashed while the rest is read
};

}  // namespace loci
