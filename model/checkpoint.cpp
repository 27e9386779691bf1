#include "model/checkpoint.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <list>
#include <set>
#include <system_error>
#include <utility>

#include "model/families/families.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/sha256.h"
#include "runtime/stored.h"

namespace loci {

namespace fs = std::filesystem;

namespace {

/// What wrappers and training loops put before names, one inside the other in any order.
constexpr std::array<std::string_view, 6> kPrefixes = {
    "model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "pretrained_model."};

std::string_view canonical_name(std::string_view stored, const Family& family) {
  const auto is_prefix = [&](std::string_view prefix) { return stored.starts_with(prefix); };
  for (;;) {
    const auto prefix = std::ranges::find_if(kPrefixes, is_prefix);
    if (is_prefix(family.body))
      stored.remove_prefix(family.body.size());
    else if (prefix != kPrefixes.end())
      stored.remove_prefix(prefix->size());
    else
      return stored;
  }
}

/// The canonical name of the unembedding, whether it is tied or not.
std::string unembedding_name(const Architecture& architecture) {
  Architecture untied = architecture;
  untied.tied = false;
  return parameter_name(untied, Role::unembedding);
}

std::string embedding_name(const Architecture& architecture) {
  return parameter_name(architecture, Role::token_embedding);
}

bool is_weight_type(DType type) {
  return type == DType::f32 || type == DType::f16 || type == DType::bf16 || type == DType::f64;
}

/// Reads elements of type From from any address.
template <typename From>
void convert_into(std::vector<float>& out, std::span<const std::byte> data) {
  out.resize(data.size() / sizeof(From));
  for (size_t i = 0; i < out.size(); ++i) {
    From value;
    std::memcpy(&value, data.data() + i * sizeof(From), sizeof(From));
    if constexpr (std::is_same_v<From, double>)
      out[i] = static_cast<float>(value);
    else
      out[i] = to_float(value);
  }
}

/// Numbers in fp32 to f16 or bf16.
std::vector<std::byte> encode(std::span<const std::byte> fp32, DType type) {
  std::vector<float> values;
  convert_into<float>(values, fp32);
  std::vector<std::byte> bytes(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = type == DType::f16 ? to_half(values[i]).bits : to_bfloat(values[i]).bits;
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

/// A file of weights under another name or of another kind; "" where there is none.
std::string other_weights(const fs::path& dir) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string ending = entry.path().extension().string();
    for (const std::string_view known : {".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".msgpack", ".h5"})
      if (ending == known) names.insert(entry.path().filename().string());
  }
  return names.empty() ? "" : *names.begin();
}

/// A shard's name in an index must name a file of this very folder.
void require_plain_name(const std::string& name, const std::string& where) {
  const fs::path path(name);
  require<InputError>(!name.empty() && name.find('\0') == std::string::npos && name.find('\\') == std::string::npos &&
                          path.filename() == path && name != "." && name != "..",
                      "{}: \"{}\" is not a file name in the model's folder", where, name.substr(0, 120));
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& dir) {
  std::error_code ignored;
  require<InputError>(fs::is_directory(dir, ignored),
                      "{}: is not a folder; a model is a folder with config.json and model.safetensors", dir.string());
  Checkpoint checkpoint;
  checkpoint.dir_ = dir;
  checkpoint.config_ = read_architecture(dir / "config.json", &checkpoint.warnings_);
  checkpoint.open_files();
  checkpoint.place_tensors();
  checkpoint.check_tensors();
  return checkpoint;
}

void Checkpoint::open_files() {
  const fs::path single = dir_ / "model.safetensors";
  const fs::path index = dir_ / "model.safetensors.index.json";
  if (fs::exists(single)) {
    files_.emplace_back(single);
    return;
  }
  if (fs::exists(index)) {
    open_shards(index);
    return;
  }
  const std::string other = other_weights(dir_);
  require<InputError>(other.empty(), "{}: holds {} only; convert it to model.safetensors (save_pretrained does)",
                      dir_.string(), other);
  throw_error<InputError>("{}: neither model.safetensors nor model.safetensors.index.json is there", dir_.string());
}

void Checkpoint::open_shards(const fs::path& index) {
  const Json json = parse_json_file(index);
  const Json& map = json_object(json, "weight_map", index.string());
  const auto where = fmt::format("{}: weight_map", index.string());
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& item : map.items()) {
    const std::string shard = json_string(map, item.key(), where);
    require_plain_name(shard, fmt::format("{}: field \"{}\"", where, item.key().substr(0, 120)));
    shards[shard].insert(item.key());
  }
  require<InputError>(!shards.empty(), "{}: names no tensors", where);
  for (const auto& [shard, listed] : shards) {
    require<InputError>(fs::exists(dir_ / shard), "{}: the shard {} named in {} is missing", dir_.string(), shard,
                        index.string());
    files_.emplace_back(dir_ / shard);
    for (const std::string& name : listed) {
      require<InputError>(files_.back().contains(name), "{}: tensor \"{}\" should be here by {}, but is not",
                          files_.back().path().string(), name, index.string());
    }
  }
  for (const SafetensorsFile& file : files_) {
    const auto& listed = shards.at(file.path().filename().string());
    for (const std::string& name : file.names()) {
      require<InputError>(listed.contains(name), "{}: tensor \"{}\" is here, but {} does not say so",
                          file.path().string(), name, index.string());
    }
  }
}

void Checkpoint::place_tensors() {
  for (size_t file = 0; file < files_.size(); ++file) {
    for (const std::string& stored : files_[file].names()) {
      const std::string name(canonical_name(stored, *config_.family));
      if (config_.family->is_buffer(name)) continue;
      const auto [place, is_new] = places_.try_emplace(name, Place{file, stored});
      require<InputError>(is_new, "{}: tensor \"{}\" is also there as \"{}\" in {}", files_[file].path().string(),
                          stored, place->second.stored_name, files_[place->second.file].path().string());
    }
  }
  // Of two tensors that share their memory, writers of safetensors keep one.
  const std::string embedding = embedding_name(config_), unembedding = unembedding_name(config_);
  if (config_.tied && !places_.contains(embedding) && places_.contains(unembedding)) {
    auto head = places_.extract(unembedding);
    head.key() = embedding;
    places_.insert(std::move(head));
  }
}

std::map<std::string, std::string> Checkpoint::stored_names() const {
  std::map<std::string, std::string> names;
  for (const Parameter& parameter : parameters_of(config_))
    for (const TensorInfo& tensor : packed_of(config_, parameter).tensors)
      names.emplace(tensor.name, place(tensor.name).stored_name);
  const std::string unembedding = unembedding_name(config_);
  if (const auto head = places_.find(unembedding); head != places_.end())
    names.emplace(unembedding, head->second.stored_name);
  return names;
}

void Checkpoint::check_tensors() {
  const std::string unembedding = unembedding_name(config_);
  std::set<std::string> expected;
  for (const Parameter& parameter : parameters_of(config_)) {
    parameters_.emplace(parameter.name, parameter);
    for (const TensorInfo& tensor : packed_of(config_, parameter).tensors) {
      expected.insert(tensor.name);
      check_tensor(tensor, parameter.stored);
    }
  }
  for (const auto& [name, place] : places_) {
    if (expected.contains(name)) continue;
    const SafetensorsFile& file = files_[place.file];
    if (name == unembedding && config_.tied) {
      check_tied_head(place);
      continue;
    }
    const std::string about = fmt::format("{}: tensor \"{}\" {} is not a parameter of this model", file.path().string(),
                                          place.stored_name, shape_text(file.at(place.stored_name).shape));
    require<InputError>(config_.family->other_tensors == OtherTensors::ignored,
                        "{} by config.json, which may lack a field; correct it, or take the tensor out", about);
    warnings_.push_back(about + " and is ignored");
  }
}

void Checkpoint::check_tensor(const TensorInfo& tensor, Orientation stored) const {
  const auto found = places_.find(tensor.name);
  require<InputError>(found != places_.end(), "{}: tensor \"{}\" is missing in {}", dir_.string(), tensor.name,
                      files_.size() == 1 ? files_[0].path().filename().string() : "all shards");
  const SafetensorsFile& file = files_[found->second.file];
  const TensorInfo& info = file.at(found->second.stored_name);
  const bool is_transposed = info.shape.size() == 2 && info.shape[0] != info.shape[1] &&
                             tensor.shape == std::vector<int64_t>{info.shape[1], info.shape[0]};
  require<InputError>(info.shape == tensor.shape, "{}: tensor \"{}\" has shape {}, config.json asks for {}{}",
                      file.path().string(), info.name, shape_text(info.shape), shape_text(tensor.shape),
                      is_transposed
                          ? fmt::format("; {} stores matrices as {}, so transpose all of them", config_.family->title,
                                        stored == Orientation::in_out ? "[in, out]" : "[out, in]")
                          : "");
  require<InputError>(is_weight_type(info.dtype), "{}: tensor \"{}\" has type {}, loci reads F32, F16, BF16 and F64",
                      file.path().string(), info.name, dtype_name(info.dtype));
}

void Checkpoint::check_tied_head(const Place& head) const {
  const Place& embedding = place(embedding_name(config_));
  const TensorInfo& info = files_[head.file].at(head.stored_name);
  const TensorInfo& wte = files_[embedding.file].at(embedding.stored_name);
  const auto ours = files_[head.file].bytes(head.stored_name);
  const auto theirs = files_[embedding.file].bytes(embedding.stored_name);
  const bool same_kind = info.dtype == wte.dtype && info.shape == wte.shape;
  const auto differing = same_kind ? std::ranges::mismatch(ours, theirs).in1 - ours.begin() : 0;
  if (same_kind && differing == std::ssize(ours)) return;
  throw_error<InputError>(
      "{}: tensor \"{}\" ({} {}) differs from \"{}\" ({} {}){} although field \"tie_word_embeddings\" of "
      "config.json is true; set it to false if the unembedding is separate",
      files_[head.file].path().string(), head.stored_name, dtype_name(info.dtype), shape_text(info.shape),
      embedding.stored_name, dtype_name(wte.dtype), shape_text(wte.shape),
      same_kind ? fmt::format(" from row {} on", differing / dtype_size(info.dtype) / config_.width) : "");
}

const Checkpoint::Place& Checkpoint::place(std::string_view name) const {
  const auto found = places_.find(name);
  require<InputError>(found != places_.end(), "{}: tensor \"{}\" is missing", dir_.string(), name);
  return found->second;
}

Packed Checkpoint::packed(std::string_view parameter) const {
  const auto found = parameters_.find(parameter);
  require<InputError>(found != parameters_.end(), "{}: the model has no parameter \"{}\"", dir_.string(), parameter);
  return packed_of(config_, found->second);
}

DType Checkpoint::dtype(std::string_view name) const {
  std::set<DType> types;
  for (const TensorInfo& tensor : packed(name).tensors) {
    const Place& at = place(tensor.name);
    types.insert(files_[at.file].at(at.stored_name).dtype);
  }
  return types.size() == 1 ? *types.begin() : DType::f32;
}

std::string Checkpoint::stored_types() const {
  std::set<std::string_view> types;
  for (const Parameter& parameter : parameters_of(config_))
    for (const TensorInfo& tensor : packed_of(config_, parameter).tensors) {
      const Place& at = place(tensor.name);
      types.insert(dtype_name(files_[at.file].at(at.stored_name).dtype));
    }
  return fmt::format("{}", fmt::join(types, ", "));
}

std::span<const std::byte> Checkpoint::bytes(std::string_view name, std::vector<std::byte>& scratch) const {
  const Packed parts = packed(name);
  if (parts.runs.empty()) return stored(name).bytes;
  std::vector<std::span<const std::byte>> tensors;
  for (const TensorInfo& tensor : parts.tensors) tensors.push_back(stored(tensor.name).bytes);
  scratch = unpack(parts, dtype_size(dtype(name)), tensors);
  return scratch;
}

std::span<const float> Checkpoint::f32(std::string_view name, std::vector<float>& scratch) const {
  const Packed parts = packed(name);
  if (parts.runs.empty()) return tensor_f32(name, scratch);
  std::vector<std::vector<float>> converted(parts.tensors.size());
  std::vector<std::span<const std::byte>> tensors;
  for (size_t i = 0; i < converted.size(); ++i)
    tensors.push_back(std::as_bytes(tensor_f32(parts.tensors[i].name, converted[i])));
  convert_into<float>(scratch, unpack(parts, sizeof(float), tensors));
  return scratch;
}

std::span<const float> Checkpoint::tensor_f32(std::string_view name, std::vector<float>& scratch) const {
  const Place& at = place(name);
  const SafetensorsFile& file = files_[at.file];
  const std::span<const std::byte> data = file.bytes(at.stored_name);
  switch (file.at(at.stored_name).dtype) {
    case DType::f32:
      if (reinterpret_cast<uintptr_t>(data.data()) % alignof(float) == 0) {
        return {reinterpret_cast<const float*>(data.data()), data.size() / sizeof(float)};
      }
      convert_into<float>(scratch, data);
      break;
    case DType::f16:
      convert_into<Half>(scratch, data);
      break;
    case DType::bf16:
      convert_into<Bfloat>(scratch, data);
      break;
    case DType::f64:
      convert_into<double>(scratch, data);
      break;
    default:
      throw_error<InputError>("{}: tensor \"{}\" has type {}, which holds no weights", file.path().string(), name,
                              dtype_name(file.at(at.stored_name).dtype));
  }
  return scratch;
}

namespace {

constexpr size_t kHashedPiece = size_t{16} << 20;

std::vector<std::span<const std::byte>> cut_into_pieces(std::span<const std::byte> bytes) {
  std::vector<std::span<const std::byte>> pieces;
  for (size_t first = 0; first < bytes.size(); first += kHashedPiece)
    pieces.push_back(bytes.subspan(first, std::min(kHashedPiece, bytes.size() - first)));
  return pieces;
}

/// Whether all numbers are finite as fp32: of floating-point numbers, of which `exponent` is the mask, whether all
/// exponents have a bit that is 0.
template <typename Bits>
bool all_finite(std::span<const std::byte> bytes, Bits exponent) {
  bool finite = true;
  Bits bits;
  for (size_t i = 0; i + sizeof(bits) <= bytes.size(); i += sizeof(bits)) {
    std::memcpy(&bits, bytes.data() + i, sizeof(bits));
    finite &= (bits & exponent) != exponent;
  }
  return finite;
}

/// The same for fp64, which is rounded.
bool all_finite_doubles(std::span<const std::byte> bytes) {
  bool finite = true;
  double value;
  for (size_t i = 0; i + sizeof(value) <= bytes.size(); i += sizeof(value)) {
    std::memcpy(&value, bytes.data() + i, sizeof(value));
    finite &= std::isfinite(static_cast<float>(value));
  }
  return finite;
}

bool all_finite(std::span<const std::byte> bytes, DType type) {
  if (type == DType::f32) return all_finite<uint32_t>(bytes, 0x7f800000u);
  if (type == DType::f64) return all_finite_doubles(bytes);
  if (type == DType::f16) return all_finite<uint16_t>(bytes, 0x7c00);
  return type != DType::bf16 || all_finite<uint16_t>(bytes, 0x7f80);
}

/// A parameter as it is stored.
struct StoredParameter {
  TensorInfo info;
  std::span<const std::byte> bytes;
  std::string place;  ///< file and tensor, for messages
};

/// Throws InputError for a piece of a parameter that holds NaN or infinity.
void require_finite(const StoredParameter& parameter, std::span<const std::byte> piece) {
  const DType type = parameter.info.dtype;
  if (all_finite(piece, type)) return;
  auto bytes = piece;
  const auto size = static_cast<size_t>(dtype_size(type));
  while (all_finite(bytes.first(size), type)) bytes = bytes.subspan(size);
  throw_error<InputError>(
      "{}: element {} is not finite (NaN, infinity, or beyond fp32); get the checkpoint again, or train it without "
      "that",
      parameter.place, (bytes.data() - parameter.bytes.data()) / static_cast<std::ptrdiff_t>(size));
}

/// Calls `task` for each piece of each parameter, on all threads where there are some.
void for_each_piece(std::span<const StoredParameter> parameters, ThreadPool* threads,
                    const std::function<void(size_t, const StoredParameter&, std::span<const std::byte>)>& task) {
  std::vector<std::span<const std::byte>> pieces;
  std::vector<const StoredParameter*> owners;
  for (const StoredParameter& parameter : parameters) {
    for (const auto& piece : cut_into_pieces(parameter.bytes)) pieces.push_back(piece);
    owners.resize(pieces.size(), &parameter);
  }
  const auto some = [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) task(i, *owners[i], pieces[i]);
  };
  if (threads)
    threads->parallel_for(std::ssize(pieces), 1, some);
  else
    some(0, std::ssize(pieces));
}

/// What Checkpoint::weights_sha256() says of these.
std::string hash_of(std::vector<StoredParameter> parameters, ThreadPool* threads) {
  std::sort(parameters.begin(), parameters.end(),
            [](const auto& a, const auto& b) { return a.info.name < b.info.name; });
  size_t count = 0;
  for (const StoredParameter& parameter : parameters) count += cut_into_pieces(parameter.bytes).size();
  std::vector<std::string> hashes(count);
  for_each_piece(parameters, threads,
                 [&](size_t i, const StoredParameter& parameter, std::span<const std::byte> piece) {
                   require_finite(parameter, piece);
                   hashes[i] = sha256_hex(piece);
                 });
  Sha256 whole;
  size_t next = 0;
  for (const StoredParameter& parameter : parameters) {
    const TensorInfo& info = parameter.info;
    whole.update(fmt::format("{} {} {}\n", info.name, dtype_name(info.dtype), shape_text(info.shape)));
    for (const size_t end = next + cut_into_pieces(parameter.bytes).size(); next < end; ++next)
      whole.update(hashes[next]);
  }
  return whole.hex();
}

std::vector<StoredParameter> stored_parameters(const Checkpoint& checkpoint) {
  std::vector<StoredParameter> parameters;
  for (const Parameter& parameter : parameters_of(checkpoint.config()))
    for (TensorInfo& info : packed_of(checkpoint.config(), parameter).tensors) {
      const Checkpoint::Stored stored = checkpoint.stored(info.name);
      info.dtype = stored.type;
      parameters.push_back(
          {std::move(info), stored.bytes, fmt::format("{}: tensor \"{}\"", stored.file.string(), stored.name)});
    }
  return parameters;
}

}  // namespace

Checkpoint::Stored Checkpoint::stored(std::string_view name) const {
  const Place& at = place(name);
  const SafetensorsFile& file = files_[at.file];
  return {file.path(), at.stored_name, file.at(at.stored_name).dtype, file.bytes(at.stored_name)};
}

std::string Checkpoint::weights_sha256(ThreadPool* threads) const {
  if (!sha256_) sha256_ = hash_of(stored_parameters(*this), threads);
  return *sha256_;
}

void Checkpoint::require_finite(ThreadPool* threads) const {
  for_each_piece(stored_parameters(*this), threads,
                 [](size_t, const StoredParameter& parameter, std::span<const std::byte> piece) {
                   loci::require_finite(parameter, piece);
                 });
}

namespace {

/// The tensors in fp32 that hold a parameter, by canonical name; `parts` keeps those alive that had to be made.
std::vector<TensorData> tensors_to_write(const Architecture& config, const Parameter& parameter,
                                         std::span<const float> values, std::list<std::vector<std::byte>>& parts) {
  Packed packed = packed_of(config, parameter);
  std::vector<TensorData> made;
  for (TensorInfo& info : packed.tensors) {
    info.dtype = DType::f32;
    made.push_back({info, std::as_bytes(values)});
  }
  if (packed.runs.empty()) return made;
  std::vector<std::vector<std::byte>> packed_bytes = pack(packed, sizeof(float), std::as_bytes(values));
  for (size_t i = 0; i < made.size(); ++i) made[i].data = parts.emplace_back(std::move(packed_bytes[i]));
  return made;
}

}  // namespace

std::string weights_sha256_of(const Architecture& config, const std::map<std::string, std::span<const float>>& tensors,
                              const fs::path& dir) {
  std::vector<StoredParameter> parameters;
  std::list<std::vector<std::byte>> parts;
  for (const Parameter& parameter : parameters_of(config))
    for (TensorData& tensor : tensors_to_write(config, parameter, tensors.at(parameter.name), parts))
      parameters.push_back(
          {tensor.info, tensor.data, fmt::format("{}: tensor \"{}\"", dir.string(), tensor.info.name)});
  return hash_of(std::move(parameters), nullptr);
}

namespace {

constexpr std::string_view kTokenizerFiles[] = {"vocab.json",
                                                "merges.txt",
                                                "tokenizer.json",
                                                "tokenizer_config.json",
                                                "special_tokens_map.json",
                                                "added_tokens.json",
                                                "generation_config.json"};

/// Exactly the parameters of `config`, each of its size, in their order.
std::vector<Parameter> require_all(const Architecture& config,
                                   const std::map<std::string, std::span<const float>>& tensors,
                                   const std::string& where) {
  auto parameters = parameters_of(config);
  for (const TensorInfo& parameter : parameters) {
    const auto found = tensors.find(parameter.name);
    require<InputError>(found != tensors.end(), "{}: tensor \"{}\" is missing among those to write", where,
                        parameter.name);
    require<InputError>(std::ssize(found->second) == element_count(parameter.shape, where),
                        "{}: tensor \"{}\" has {} values, its shape is {}", where, parameter.name, found->second.size(),
                        shape_text(parameter.shape));
  }
  for (const auto& item : tensors) {
    require<InputError>(
        std::any_of(parameters.begin(), parameters.end(), [&](const auto& p) { return p.name == item.first; }),
        "{}: tensor \"{}\" is not a parameter of this configuration", where, item.first);
  }
  return parameters;
}

}  // namespace

namespace {

std::string name_to_write(const Architecture& architecture, Role role, const std::string& tensor,
                          const std::map<std::string, std::string>& names) {
  if (const auto found = names.find(tensor); found != names.end()) return found->second;
  return published_name(architecture, role, tensor);
}

}  // namespace

void write_checkpoint(const fs::path& dir, const Architecture& config,
                      const std::map<std::string, std::span<const float>>& tensors, const fs::path& source_dir,
                      DType stored, const std::map<std::string, std::string>& names) {
  require<ShapeError>(stored == DType::f32 || stored == DType::f16 || stored == DType::bf16,
                      "{}: weights are stored as F32, F16 or BF16, not {}", dir.string(), dtype_name(stored));
  config.check(dir.string());
  const std::vector<Parameter> parameters = require_all(config, tensors, dir.string());
  make_folder(dir);
  require<InputError>(!fs::exists(dir / "model.safetensors.index.json"),
                      "{}: holds a sharded model already; choose another folder", dir.string());

  std::error_code absent;
  if (!source_dir.empty() && !fs::equivalent(source_dir, dir, absent)) {
    for (const std::string_view name : kTokenizerFiles) {
      if (fs::exists(source_dir / name)) write_file_atomically(dir / name, read_text_file(source_dir / name));
    }
  }
  Json json = architecture_to_json(config);
  json["torch_dtype"] = stored == DType::f32 ? "float32" : stored == DType::f16 ? "float16" : "bfloat16";
  write_file_atomically(dir / "config.json", json.dump(2) + "\n");

  std::list<std::vector<std::byte>> made;
  std::vector<TensorData> data;
  const std::string unembedding = unembedding_name(config);
  for (const Parameter& parameter : parameters) {
    for (TensorData& tensor : tensors_to_write(config, parameter, tensors.at(parameter.name), made)) {
      tensor.info.name = name_to_write(config, parameter.role, tensor.info.name, names);
      tensor.info.dtype = stored;
      if (stored != DType::f32) tensor.data = made.emplace_back(encode(tensor.data, stored));
      data.push_back(std::move(tensor));
    }
    if (config.tied && parameter.role == Role::token_embedding && names.contains(unembedding)) {
      data.push_back(data.back());
      data.back().info.name = names.at(unembedding);
    }
  }
  write_safetensors(dir / "model.safetensors", data, {{"format", "pt"}});
}

}  // namespace loci
