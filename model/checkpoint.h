#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/architecture.h"
#include "model/packing.h"
#include "runtime/io/safetensors.h"
#include "runtime/thread_pool.h"

namespace loci {

/// A Hugging Face directory of a model, opened and checked whole: config.json and model.safetensors, or shards named by
/// model.safetensors.index.json. Weights are mapped, not read. Names may have any of the prefixes Family::body,
/// `model.`, `module.`, `_orig_mod.` and the like, one after the other. Buffers (Family::is_buffer) are ignored. A tied
/// model may store its embedding, its unembedding or both, then equal.
class Checkpoint {
 public:
  /// Throws InputError naming the file and the field: a missing, unexpected or doubled tensor, a wrong shape or type,
  /// an index that contradicts its shards or leaves the folder.
  static Checkpoint open(const std::filesystem::path& dir);

  const std::filesystem::path& dir() const { return dir_; }
  const Architecture& config() const { return config_; }
  /// Where a tensor lies, by canonical name; most parameters are one tensor (model/packing.h).
  struct Stored {
    std::filesystem::path file;
    std::string name;
    DType type;
    std::span<const std::byte> bytes;
  };
  Stored stored(std::string_view name) const;
  /// The name in the files of each tensor, for write_checkpoint; of a tied model's unembedding where both it and the
  /// embedding are stored.
  std::map<std::string, std::string> stored_names() const;
  /// The type of a parameter as stored; F32 where its parts have several. All weights of a model usually share one;
  /// `stored_types` lists those that occur, "F32, F16".
  DType dtype(std::string_view name) const;
  std::string stored_types() const;
  /// What is ignored, one sentence each: tensors that no parameter corresponds to, fields of config.json.
  const std::vector<std::string>& warnings() const { return warnings_; }

  /// The parameter in fp32, row-major. A view into the mapped file where it is stored as aligned F32 (valid as long as
  /// this object lives); otherwise converted (F16, BF16 and F64; exact but for F64, which is rounded) or copied into
  /// `scratch`.
  std::span<const float> f32(std::string_view name, std::vector<float>& scratch) const;
  /// The parameter in the type dtype(name) in which it is stored, row-major; copied into `scratch` where its file has
  /// it in other pieces.
  std::span<const std::byte> bytes(std::string_view name, std::vector<std::byte>& scratch) const;

  /// SHA-256 over the tensors of the parameters: for each, sorted by canonical name, the line "name dtype [shape]\n"
  /// and the SHA-256 (64 hexadecimal digits) of every 16 MiB of its stored bytes. The same for any sharding, prefix,
  /// order and number of threads. Reads every weight once, on this thread where there are no `threads`; the result is
  /// kept. Throws InputError naming file and tensor where a value is not finite.
  std::string weights_sha256(ThreadPool* threads = nullptr) const;
  /// The same InputError without the hash. Reads every weight.
  void require_finite(ThreadPool* threads = nullptr) const;
  /// Takes the hash from a rank that has computed it, so that the weights need not be read here.
  void adopt_weights_sha256(std::string hash) { sha256_ = std::move(hash); }

 private:
  struct Place {
    size_t file = 0;
    std::string stored_name;
  };

  Checkpoint() = default;
  void open_files();
  void open_shards(const std::filesystem::path& index);
  void place_tensors();
  void check_tensors();
  void check_tensor(const TensorInfo& tensor, Orientation stored) const;
  void check_tied_head(const Place& head) const;
  const Place& place(std::string_view name) const;
  Packed packed(std::string_view parameter) const;
  std::span<const float> tensor_f32(std::string_view name, std::vector<float>& scratch) const;

  std::filesystem::path dir_;
  Architecture config_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Place, std::less<>> places_;          // of tensors, by canonical name
  std::map<std::string, Parameter, std::less<>> parameters_;  // by name
  std::vector<std::string> warnings_;
  mutable std::optional<std::string> sha256_;
};

/// Writes a directory that transformers loads: config.json, model.safetensors (values rounded to nearest if `stored` is
/// f16 or bf16) and the tokenizer files found in `source_dir` (empty: none). `names` are those of the tensors in the
/// file, by canonical name (Checkpoint::stored_names()); without one the name is published_name().
/// `tensors` maps canonical names to exactly the parameters of `config`; InputError otherwise. Each file is replaced
/// whole or not at all, model.safetensors last.
void write_checkpoint(const std::filesystem::path& dir, const Architecture& config,
                      const std::map<std::string, std::span<const float>>& tensors,
                      const std::filesystem::path& source_dir = {}, DType stored = DType::f32,
                      const std::map<std::string, std::string>& names = {});

/// weights_sha256() of the checkpoint that write_checkpoint() would make of these in fp32; all parameters of `config`.
/// `dir`, where they come from, leads messages.
std::string weights_sha256_of(const Architecture& config, const std::map<std::string, std::span<const float>>& tensors,
                              const std::filesystem::path& dir);

}  // namespace loci
