#include "model/checkpoint.h"
#include "model/families/families.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"
#include "runtime/io/sha256.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;
using test::TemporaryDir;
namespace fs = std::filesystem;

/// A tensor before it is written: any type, any name.
struct Stored {
  TensorInfo info;
  std::vector<std::byte> data;
};

template <typename T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

Architecture small_config() {
  Architecture config;
  config.family = &gpt2();
  config.layers = 2;
  config.width = 6;
  config.set_equal_heads(2);
  config.positions = 5;
  config.vocabulary = 9;
  config.mlp_width = 10;
  return config;
}

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() { reset(); }

  /// Random parameters with the prefix that transformers writes.
  void reset() {
    std::mt19937 random(7);
    tensors_.clear();
    for (Parameter info : parameters_of(config_)) {
      std::vector<float> values(static_cast<size_t>(element_count(info.shape, "test")));
      for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 256.0f;
      values_[info.name] = values;
      const std::string name = info.name;
      info.name = (name == "lm_head.weight" ? "" : "transformer.") + name;
      tensors_[name] = {info, bytes_of(values)};
    }
  }

  void write_config() { write_file_atomically(dir_.file("config.json"), architecture_to_json(config_).dump()); }

  void write_shard(const std::string& file, const std::vector<std::string>& names) {
    std::vector<TensorData> list;
    for (const std::string& name : names) list.push_back({tensors_.at(name).info, tensors_.at(name).data});
    write_safetensors(dir_.path() / file, list);
  }

  void write_single() {
    write_config();
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    write_shard("model.safetensors", names);
  }

  /// Two shards; returns the index, which is written too.
  Json write_sharded() {
    write_config();
    std::vector<std::string> first, second;
    Json map = Json::object();
    for (const auto& [name, tensor] : tensors_) {
      const bool to_first = name.starts_with("h.0");
      (to_first ? first : second).push_back(name);
      map[tensor.info.name] = to_first ? "model-00001-of-00002.safetensors" : "model-00002-of-00002.safetensors";
    }
    write_shard("model-00001-of-00002.safetensors", first);
    write_shard("model-00002-of-00002.safetensors", second);
    const Json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
    write_index(index.dump());
    return index;
  }

  void write_index(const std::string& text) {
    write_file_atomically(dir_.file("model.safetensors.index.json"), std::string_view(text));
  }

  Checkpoint open() { return Checkpoint::open(dir_.path()); }

  void expect_refused(const std::vector<std::string>& parts) {
    const std::string message = error_of<InputError>([&] { open(); });
    expect_message(message, {dir_.path().string()});
    expect_message(message, parts);
  }

  void expect_all_values(const Checkpoint& checkpoint, float tolerance = 0) {
    for (const auto& [name, expected] : values_) {
      std::vector<float> scratch;
      const auto found = checkpoint.f32(name, scratch);
      ASSERT_EQ(found.size(), expected.size()) << name;
      for (size_t i = 0; i < expected.size(); ++i) {
        const float error = std::fabs(found[i] - expected[i]);
        if (!(error <= tolerance * std::fabs(expected[i]))) FAIL() << name << "[" << i << "]";
      }
    }
  }

  Architecture config_ = small_config();
  TemporaryDir dir_;
  std::map<std::string, Stored> tensors_;
  std::map<std::string, std::vector<float>> values_;
};

TEST_F(CheckpointTest, OpensASingleFileWithoutCopying) {
  write_single();
  const Checkpoint checkpoint = open();
  expect_all_values(checkpoint);
  EXPECT_TRUE(checkpoint.warnings().empty());
  EXPECT_EQ(checkpoint.stored_types(), "F32");
  EXPECT_EQ(checkpoint.config(), config_);
  std::vector<float> scratch;
  checkpoint.f32("wte.weight", scratch);
  EXPECT_TRUE(scratch.empty()) << "aligned fp32 is a view into the file";
  expect_message(error_of<InputError>([&] { checkpoint.f32("h.9.ln_1.weight", scratch); }), {"h.9.ln_1.weight"});
}

TEST_F(CheckpointTest, OpensShardsAndBareNames) {
  write_sharded();
  expect_all_values(open());
  TearDown();
  for (auto& [name, tensor] : tensors_) tensor.info.name = name;
  fs::remove(dir_.path() / "model.safetensors.index.json");
  write_single();
  expect_all_values(open());
}

TEST_F(CheckpointTest, HashDependsOnContentsOnly) {
  write_single();
  const std::string hash = open().weights_sha256();
  EXPECT_EQ(hash.size(), 64u);
  fs::remove(dir_.path() / "model.safetensors");
  write_sharded();
  EXPECT_EQ(open().weights_sha256(), hash);
  fs::remove(dir_.path() / "model.safetensors.index.json");
  for (auto& [name, tensor] : tensors_) tensor.info.name = name;
  tensors_["h.0.attn.bias"] = {{"h.0.attn.bias", DType::u8, {1}}, {std::byte{1}}};
  write_single();
  EXPECT_EQ(open().weights_sha256(), hash);
  tensors_.at("ln_f.bias").data[0] ^= std::byte{1};
  write_single();
  EXPECT_NE(open().weights_sha256(), hash);
}

TEST_F(CheckpointTest, HashIsThatOfTheListOfHashes) {
  write_single();
  Sha256 expected;
  for (const auto& [name, tensor] : tensors_) {  // by name
    expected.update(fmt::format("{} {} {}\n", name, dtype_name(tensor.info.dtype), shape_text(tensor.info.shape)));
    expected.update(sha256_hex(std::span(tensor.data)));
  }
  const std::string hash = expected.hex();
  EXPECT_EQ(open().weights_sha256(), hash);
  ThreadPool threads(3);
  EXPECT_EQ(open().weights_sha256(&threads), hash);
}

TEST_F(CheckpointTest, UnalignedDataIsCopied) {
  // A header whose length is no multiple of 4 puts every tensor at an odd address.
  write_single();
  std::string bytes = read_text_file(dir_.path() / "model.safetensors");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  bytes.insert(8 + length, " ");
  ++length;
  std::memcpy(bytes.data(), &length, 8);
  write_file_atomically(dir_.path() / "model.safetensors", std::string_view(bytes));
  const Checkpoint checkpoint = open();
  expect_all_values(checkpoint);
  std::vector<float> scratch;
  const auto view = checkpoint.f32("wte.weight", scratch);
  EXPECT_EQ(view.data(), scratch.data());
}

TEST_F(CheckpointTest, ReadsHalfPrecision) {
  // Powers of two, the largest, the smallest, subnormal, infinite and negative values of each type.
  struct Case {
    DType type;
    uint16_t bits;
    float value;
  };
  const std::vector<Case> cases{{DType::f16, 0x3C00, 1.0f},
                                {DType::f16, 0xC000, -2.0f},
                                {DType::f16, 0x7BFF, 65504.0f},
                                {DType::f16, 0x0001, 0x1p-24f},
                                {DType::f16, 0x83FF, -0x3FFp-24f},
                                {DType::f16, 0x0400, 0x1p-14f},
                                {DType::f16, 0x3555, 0.333251953125f},
                                {DType::f16, 0x7C00, HUGE_VALF},
                                {DType::f16, 0x8000, -0.0f},
                                {DType::bf16, 0x3F80, 1.0f},
                                {DType::bf16, 0xC049, -3.140625f},
                                {DType::bf16, 0x0001, 0x1p-133f},
                                {DType::bf16, 0x7F80, HUGE_VALF}};
  for (const Case& item : cases) {
    reset();
    Stored& bias = tensors_.at("ln_f.bias");
    bias.info.dtype = item.type;
    bias.data = bytes_of(std::vector<uint16_t>(6, item.bits));
    write_single();
    const Checkpoint checkpoint = open();
    EXPECT_EQ(checkpoint.dtype("ln_f.bias"), item.type);
    std::vector<float> scratch;
    const float found = checkpoint.f32("ln_f.bias", scratch)[5];
    EXPECT_EQ(found, item.value);
    EXPECT_EQ(std::signbit(found), std::signbit(item.value));
  }
}

TEST_F(CheckpointTest, ReadsDoubles) {
  Stored& bias = tensors_.at("ln_f.bias");
  bias.info.dtype = DType::f64;
  bias.data = bytes_of(std::vector<double>(6, 0.1));
  write_single();
  std::vector<float> scratch;
  EXPECT_EQ(open().f32("ln_f.bias", scratch)[0], 0.1f);
}

TEST_F(CheckpointTest, MasksAreIgnoredAndOthersReported) {
  for (const char* name : {"transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias", "h.0.attn.masked_bias"}) {
    tensors_[name] = {{name, DType::u8, {1}}, {std::byte{1}}};
  }
  write_single();
  EXPECT_TRUE(open().warnings().empty());
  tensors_["score.weight"] = {{"score.weight", DType::u8, {1}}, {std::byte{1}}};
  write_single();
  const Checkpoint checkpoint = open();
  ASSERT_EQ(checkpoint.warnings().size(), 1u);
  expect_message(checkpoint.warnings()[0], {"model.safetensors", "\"score.weight\"", "ignored"});
}

TEST_F(CheckpointTest, TiedUnembeddingMayBeStoredIfEqual) {
  tensors_["lm_head.weight"] = tensors_.at("wte.weight");
  tensors_["lm_head.weight"].info.name = "lm_head.weight";
  write_single();
  EXPECT_TRUE(open().warnings().empty());
  tensors_["lm_head.weight"].data[3] ^= std::byte{0x10};
  write_single();
  expect_refused({"model.safetensors", "\"lm_head.weight\"", "\"tie_word_embeddings\""});
}

TEST_F(CheckpointTest, SeparateUnembedding) {
  config_.tied = false;
  reset();
  write_single();
  expect_all_values(open());
  tensors_.erase("lm_head.weight");
  write_single();
  expect_refused({"\"lm_head.weight\" is missing"});
}

TEST_F(CheckpointTest, NamesMayHaveThePrefixesOfWrappers) {
  write_single();
  const std::string hash = open().weights_sha256();
  for (const char* prefix :
       {"module.transformer.", "_orig_mod.transformer.", "model.", "model.transformer.",
        "_orig_mod.module.transformer.", "module._orig_mod.", "model.module._orig_mod.transformer.",
        "_fsdp_wrapped_module.transformer.", "_forward_module.model.transformer."}) {
    for (auto& [name, tensor] : tensors_) tensor.info.name = prefix + name;
    write_single();
    const Checkpoint checkpoint = open();
    expect_all_values(checkpoint);
    EXPECT_TRUE(checkpoint.warnings().empty()) << prefix;
    EXPECT_EQ(checkpoint.weights_sha256(), hash) << prefix;
    EXPECT_EQ(checkpoint.stored_names().at("h.1.mlp.c_proj.weight"), prefix + std::string("h.1.mlp.c_proj.weight"));
  }
  tensors_["twice"] = tensors_.at("ln_f.bias");
  tensors_["twice"].info.name = "module.ln_f.bias";
  write_single();
  expect_refused({"module.ln_f.bias", "ln_f.bias", "also there as"});
}

TEST_F(CheckpointTest, ATiedModelMayStoreItsEmbeddingAsTheHead) {
  write_single();
  const std::string hash = open().weights_sha256();
  for (const char* name : {"lm_head.weight", "module.lm_head.weight"}) {
    tensors_.at("wte.weight").info.name = name;
    write_single();
    const Checkpoint checkpoint = open();
    expect_all_values(checkpoint);
    EXPECT_EQ(checkpoint.weights_sha256(), hash);
    write_checkpoint(dir_.path() / "out", config_, {values_.begin(), values_.end()}, {}, DType::f32,
                     checkpoint.stored_names());
    EXPECT_EQ(SafetensorsFile(dir_.path() / "out/model.safetensors").names(),
              SafetensorsFile(dir_.path() / "model.safetensors").names());
  }
  config_.tied = false;
  write_config();
  expect_refused({"wte.weight", "missing"});
}

TEST_F(CheckpointTest, AnIndexWithoutMetadataIsRead) {
  Json index = write_sharded();
  index["metadata"] = nullptr;
  write_index(index.dump());
  expect_all_values(open());
}

TEST_F(CheckpointTest, ValuesThatAreNotFiniteAreNamedByFileAndTensor) {
  struct Case {
    DType type;
    std::vector<std::byte> data;
  };
  constexpr double kInfinity = HUGE_VAL;
  const std::vector<Case> cases = {{DType::f32, bytes_of(std::vector<float>{0, 1, 2, std::nanf(""), 4, HUGE_VALF})},
                                   {DType::f64, bytes_of(std::vector<double>{0, 1, 2, kInfinity, 4, 5})},
                                   {DType::f64, bytes_of(std::vector<double>{0, 1, 2, 1e39, 4, 5})},
                                   {DType::f16, bytes_of(std::vector<uint16_t>{0, 1, 0x7BFF, 0xFC00, 0, 0})},
                                   {DType::bf16, bytes_of(std::vector<uint16_t>{0, 1, 0x7F7F, 0x7FC0, 0, 0})}};
  ThreadPool threads(2);
  for (const Case& item : cases) {
    tensors_.at("h.1.ln_1.bias").info.dtype = item.type;
    tensors_.at("h.1.ln_1.bias").data = item.data;
    write_single();
    const Checkpoint checkpoint = open();
    const std::vector<std::string> says = {(dir_.path() / "model.safetensors").string(),
                                           "tensor \"transformer.h.1.ln_1.bias\": element 3 is not finite"};
    expect_message(error_of<InputError>([&] { checkpoint.weights_sha256(); }), says);
    expect_message(error_of<InputError>([&] { checkpoint.require_finite(&threads); }), says);
  }
  tensors_.at("h.1.ln_1.bias").data = bytes_of(std::vector<uint16_t>{0, 1, 0x7F7F, 0xFF7F, 0x8000, 0});
  write_single();
  open().require_finite();
}

TEST_F(CheckpointTest, AContextOfAnotherLengthIsNoted) {
  write_single();
  Json config = architecture_to_json(config_);
  config["n_ctx"] = 1024;
  write_file_atomically(dir_.file("config.json"), config.dump());
  const Checkpoint checkpoint = open();
  ASSERT_EQ(checkpoint.warnings().size(), 1u);
  expect_message(checkpoint.warnings()[0], {"config.json", "n_ctx", "1024", "n_positions"});
}

// ---- refused ----

TEST_F(CheckpointTest, EveryParameterIsRequired) {
  for (const Parameter& parameter : parameters_of(config_)) {
    reset();
    tensors_.erase(parameter.name);
    write_single();
    expect_refused({"\"" + parameter.name + "\" is missing", "model.safetensors"});
  }
}

TEST_F(CheckpointTest, EveryShapeIsChecked) {
  for (const Parameter& parameter : parameters_of(config_)) {
    reset();
    // The same number of values in another shape: as a matrix transposed, as a vector with one more axis.
    auto& shape = tensors_.at(parameter.name).info.shape;
    if (shape.size() == 2 && shape[0] != shape[1]) {
      std::swap(shape[0], shape[1]);
    } else {
      shape.push_back(1);
    }
    write_single();
    expect_refused({"model.safetensors", parameter.name, shape_text(shape), "config.json asks for"});
  }
}

TEST_F(CheckpointTest, WrongTypesAndDoubles) {
  Stored& bias = tensors_.at("ln_f.bias");
  bias.info.dtype = DType::i32;
  write_single();
  expect_refused({"ln_f.bias", "I32"});
  reset();
  tensors_["twice"] = tensors_.at("ln_f.bias");
  tensors_["twice"].info.name = "ln_f.bias";
  write_single();
  expect_refused({"ln_f.bias", "also there as"});
}

TEST_F(CheckpointTest, TransposedMatricesAreCalledSo) {
  auto& shape = tensors_.at("h.0.attn.c_attn.weight").info.shape;
  std::swap(shape[0], shape[1]);
  write_single();
  expect_refused({"h.0.attn.c_attn.weight", "transpose"});
}

TEST_F(CheckpointTest, FoldersThatAreNoModels) {
  expect_refused({"config.json"});
  write_config();
  expect_refused({"neither model.safetensors"});
  write_file_atomically(dir_.file("pytorch_model.bin"), std::string_view("x"));
  expect_refused({"pytorch_model.bin", "convert"});
  write_file_atomically(dir_.file("model.safetensors"),
                        std::string_view("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"));
  expect_refused({"model.safetensors", "git-lfs pointer", "git lfs pull"});
  write_file_atomically(dir_.file("model.safetensors"), std::string_view("x"));
  expect_refused({"model.safetensors", "1 bytes"});
  expect_message(error_of<InputError>([&] { Checkpoint::open(dir_.file("none")); }),
                 {dir_.file("none"), "not a folder"});
  expect_message(error_of<InputError>([&] { Checkpoint::open(dir_.file("config.json")); }), {"not a folder"});
}

TEST_F(CheckpointTest, ConfigThatContradictsTheWeights) {
  for (const auto& change : std::vector<std::function<void(Architecture&)>>{
           [](Architecture& c) { c.layers = 3; },
           [](Architecture& c) {
             c.width = 8;
             c.set_equal_heads(2);
           },
           [](Architecture& c) { c.positions = 6; }, [](Architecture& c) { c.vocabulary = 10; },
           [](Architecture& c) { c.mlp_width = 24; }, [](Architecture& c) { c.tied = false; }}) {
    write_single();
    Architecture other = config_;
    change(other);
    write_file_atomically(dir_.file("config.json"), architecture_to_json(other).dump());
    expect_refused({"tensor"});
  }
}

TEST_F(CheckpointTest, FewerLayersThanStoredAreReported) {
  write_single();
  Architecture other = config_;
  other.layers = 1;
  write_file_atomically(dir_.file("config.json"), architecture_to_json(other).dump());
  EXPECT_EQ(open().warnings().size(), 12u);
}

TEST_F(CheckpointTest, BadIndexes) {
  const Json good = write_sharded();
  const std::string index = "model.safetensors.index.json";
  const auto refused = [&](const Json& json, const std::vector<std::string>& parts) {
    write_index(json.dump());
    expect_refused(parts);
  };
  for (const char* text : {"", "{", "[1]", "{\"weight_map\": 1}", "{}", "{\"weight_map\": {}}",
                           "{\"weight_map\": {\"a\": \"b\", \"a\": \"c\"}}"}) {
    write_index(text);
    expect_refused({index});
  }
  for (const char* name : {"../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\b", "sub/"}) {
    Json bad = good;
    bad["weight_map"]["transformer.wte.weight"] = name;
    refused(bad, {index, "transformer.wte.weight", "not a file name in the model's folder"});
  }
  Json bad = good;
  bad["weight_map"]["transformer.wte.weight"] = 3;
  refused(bad, {index, "weight_map", "transformer.wte.weight", "string"});
  bad = good;
  bad["weight_map"]["transformer.h.0.ln_1.weight"] = "model-00003-of-00003.safetensors";
  refused(bad, {"model-00003-of-00003.safetensors", "missing"});
  bad = good;
  bad["weight_map"]["transformer.wte.weight"] = "model-00001-of-00002.safetensors";
  refused(bad, {"model-00001-of-00002.safetensors", "transformer.wte.weight", "should be here"});
  bad = good;
  bad["weight_map"].erase("transformer.wte.weight");
  refused(bad, {"model-00002-of-00002.safetensors", "transformer.wte.weight", "does not say so"});
  bad = good;
  bad["weight_map"]["transformer.h.7.ln_1.weight"] = "model-00001-of-00002.safetensors";
  refused(bad, {"transformer.h.7.ln_1.weight", "should be here"});
  fs::resize_file(dir_.path() / "model-00002-of-00002.safetensors", 200);
  refused(good, {"model-00002-of-00002.safetensors"});
  fs::remove(dir_.path() / "model-00002-of-00002.safetensors");
  refused(good, {"model-00002-of-00002.safetensors", "missing"});
}

TEST_F(CheckpointTest, TensorInTwoShards) {
  const Json good = write_sharded();
  std::vector<std::string> names{"ln_f.bias"};
  for (const auto& [name, tensor] : tensors_) {
    if (name.starts_with("h.0")) names.push_back(name);
  }
  write_shard("model-00001-of-00002.safetensors", names);
  expect_refused({"model-00001-of-00002.safetensors", "ln_f.bias", "does not say so"});
}

// ---- writing ----

std::map<std::string, std::span<const float>> views(const std::map<std::string, std::vector<float>>& values) {
  return {values.begin(), values.end()};
}

TEST_F(CheckpointTest, WritesWhatItReads) {
  const TemporaryDir source;
  write_file_atomically(source.file("vocab.json"), std::string_view("{}"));
  write_file_atomically(source.file("merges.txt"), std::string_view("#"));
  write_file_atomically(source.file("secret.txt"), std::string_view("x"));
  for (const auto& [type, tolerance] :
       std::vector<std::pair<DType, float>>{// half the distance of neighbours, relative: 2^-11 and 2^-8 (here multiples
                                            // of 2^-8 up to 4, exact in f16 up to 2)
                                            {DType::f32, 0.0f},
                                            {DType::f16, 0x1p-11f},
                                            {DType::bf16, 0x1p-8f}}) {
    write_checkpoint(dir_.path() / "out", config_, views(values_), source.path(), type);
    const Checkpoint checkpoint = Checkpoint::open(dir_.path() / "out");
    EXPECT_EQ(checkpoint.config(), config_);
    EXPECT_EQ(checkpoint.stored_types(), dtype_name(type));
    expect_all_values(checkpoint, tolerance);
  }
  EXPECT_EQ(read_text_file(dir_.path() / "out/vocab.json"), "{}");
  EXPECT_TRUE(fs::exists(dir_.path() / "out/merges.txt"));
  EXPECT_FALSE(fs::exists(dir_.path() / "out/secret.txt"));
}

TEST_F(CheckpointTest, RoundsHalvesToNearestEven) {
  // (value, f16 bits, bf16 bits)
  const std::vector<std::tuple<float, uint16_t, uint16_t>> cases{{1.0f, 0x3C00, 0x3F80},
                                                                 {1.0f + 0x1p-11f, 0x3C00, 0x3F80},
                                                                 {1.0f + 0x3p-11f, 0x3C02, 0x3F80},
                                                                 {-1.0f - 0x1p-8f, 0xBC04, 0xBF80},
                                                                 {65504.0f, 0x7BFF, 0x4780},
                                                                 {65519.0f, 0x7BFF, 0x4780},
                                                                 {65520.0f, 0x7C00, 0x4780},
                                                                 {0x1p-24f, 0x0001, 0x3380},
                                                                 {0x1p-25f, 0x0000, 0x3300},
                                                                 {0x3p-25f, 0x0002, 0x33C0},
                                                                 {0x7FFp-25f, 0x0400, 0x3880},
                                                                 {-0.0f, 0x8000, 0x8000}};
  for (const auto& [value, half, bfloat] : cases) {
    values_["ln_f.bias"].assign(6, value);
    for (const DType type : {DType::f16, DType::bf16}) {
      write_checkpoint(dir_.path() / "out", config_, views(values_), {}, type);
      const SafetensorsFile file(dir_.path() / "out/model.safetensors");
      uint16_t bits = 0;
      std::memcpy(&bits, file.bytes("transformer.ln_f.bias").data(), 2);
      EXPECT_EQ(bits, type == DType::f16 ? half : bfloat) << value;
    }
  }
}

TEST_F(CheckpointTest, WriterRefusesWhatIsNoModel) {
  const auto refused = [&](const std::map<std::string, std::vector<float>>& values, const std::string& part) {
    const std::string message =
        error_of<InputError>([&] { write_checkpoint(dir_.path() / "out", config_, views(values)); });
    expect_message(message, {(dir_.path() / "out").string(), part});
    EXPECT_FALSE(fs::exists(dir_.path() / "out/model.safetensors"));
  };
  auto values = values_;
  values.erase("ln_f.bias");
  refused(values, "\"ln_f.bias\" is missing");
  values = values_;
  values["ln_f.bias"].pop_back();
  refused(values, "\"ln_f.bias\" has 5 values");
  values = values_;
  values["h.2.ln_1.bias"] = {1};
  refused(values, "\"h.2.ln_1.bias\" is not a parameter");
  write_sharded();
  expect_message(error_of<InputError>([&] { write_checkpoint(dir_.path(), config_, views(values_)); }), {"sharded"});
}

TEST(GoldenCheckpoint, Opens) {
  const auto shared = test::shared_dir();
  if (!shared) GTEST_SKIP() << "no golden files";
  const Checkpoint checkpoint = Checkpoint::open(*shared / "golden/tiny-a/model");
  EXPECT_TRUE(checkpoint.warnings().empty());
  std::vector<float> scratch;
  EXPECT_EQ(checkpoint.f32("wte.weight", scratch).size(), 50257u * 96u);
  EXPECT_EQ(checkpoint.weights_sha256(), checkpoint.weights_sha256());
}

}  // namespace
}  // namespace loci
