#include "model/generation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>

#include "kernels/rows.h"
#include "kernels/sampling.h"
#include "kernels/softmax.h"
#include "runtime/error.h"
#include "runtime/random.h"

namespace loci {
namespace {

/// Keys and values of the tokens that were generated after a prompt. They lie in one block, so that a sequence has two
/// segments (prompt and continuation) however long it gets.
class GrowingCache {
 public:
  GrowingCache(Context& context, const Architecture& config, const RecordingPtr& prompt, int64_t capacity)
      : context_(context),
        capacity_(capacity),
        storage_(context, 2 * config.layers * capacity, config.key_width()),
        recording_(std::make_shared<Recording>(prompt, prompt->length(), 0, 0, config.layers)) {}

  int64_t length() const { return recording_->length(); }
  /// What the next token's sequence starts from.
  RecordingPtr recording() const { return recording_->rows ? recording_ : recording_->base; }

  /// Takes over the rows of a sequence that continued this one.
  void append(const Recording& next) {
    const int64_t row = recording_->rows;
    recording_->rows += next.rows;
    for (int64_t l = 0; l < std::ssize(recording_->keys); ++l) {
      recording_->keys[l] = copy(next.keys[l], 2 * l * capacity_, row);
      recording_->values[l] = copy(next.values[l], (2 * l + 1) * capacity_, row);
    }
  }

 private:
  ConstView copy(ConstView rows, int64_t first_row, int64_t row) {
    for (int64_t r = 0; r < rows.rows; ++r)
      context_.copy_on_device(storage_.row(first_row + row + r), rows.row(r),
                              sizeof(float) * static_cast<size_t>(rows.cols));
    return std::as_const(storage_).rows_slice(first_row, row + rows.rows);
  }

  Context& context_;
  int64_t capacity_;
  Tensor storage_;
  std::shared_ptr<Recording> recording_;
};

struct Text {
  size_t prompt;  // index in the caller's list: the random stream
  GrowingCache cache;
  int64_t limit;  // new tokens it may take
  std::vector<int32_t> tokens;
};

void check(const Architecture& config, std::span<const std::vector<int32_t>> prompts,
           const GenerationOptions& options) {
  require<InputError>(options.max_tokens >= 0, "max tokens is {}, must not be negative", options.max_tokens);
  require<InputError>(options.top_k >= 0, "top-k is {}, must not be negative (0 stands for all tokens)", options.top_k);
  require<InputError>(std::isfinite(options.temperature) && options.temperature >= 0,
                      "temperature is {}, must be a number from 0 upwards", options.temperature);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto length = std::ssize(prompts[i]);
    require<InputError>(length > 0, "prompt {} is empty: give at least one token", i);
    require<InputError>(length < config.positions, "prompt {} has {} tokens and leaves no room in a context of {}", i,
                        length, config.positions);
    for (const int32_t id : prompts[i])
      require<InputError>(id >= 0 && id < config.vocabulary, "prompt {} holds the token id {}; the vocabulary has {}",
                          i, id, config.vocabulary);
  }
}

/// Keeps ids without a token from being drawn.
class Drawable {
 public:
  Drawable(Context& context, const Architecture& config, const Tokenizer* tokenizer) : count_(config.vocabulary) {
    if (tokenizer == nullptr) return;
    count_ = std::min<int64_t>(count_, tokenizer->vocabulary_size());
    std::vector<float> gaps(static_cast<size_t>(count_));
    for (int64_t id = 0; id < count_; ++id)
      if (!tokenizer->has_token(id)) gaps[id] = -std::numeric_limits<float>::infinity();
    if (std::ranges::any_of(gaps, [](float gap) { return gap != 0; }))
      gaps_.emplace(Tensor::from_host(context, gaps, 1, count_));
  }

  /// The columns of tokens that may be drawn; gaps among them are made impossible in place.
  ConstView of(Context& context, View logits) const {
    const View columns = logits.cols_slice(0, count_);
    for (int64_t r = 0; gaps_ && r < columns.rows; ++r) add(context, gaps_->view(), columns.rows_slice(r, 1));
    return columns;
  }

 private:
  int64_t count_;
  std::optional<Tensor> gaps_;  // [1, count], 0 or -infinity
};

/// The next token of each row of logits; row r draws from the stream of `texts[r]`.
std::vector<int32_t> choose(Context& context, ConstView logits, std::span<Text* const> texts,
                            const GenerationOptions& options) {
  DeviceArray<int32_t> chosen(context, logits.rows);
  if (options.temperature == 0) {
    argmax_rows(context, logits, chosen);
    return chosen.to_host();
  }
  std::vector<double> uniforms;
  for (const Text* text : texts)
    uniforms.push_back(Random(options.seed, (uint64_t{text->prompt} << 32) | text->tokens.size()).uniform());
  const int64_t k = options.top_k == 0 ? logits.cols : std::min(options.top_k, logits.cols);
  sample_top_k(context, logits, k, options.temperature, DeviceArray<double>(context, std::span<const double>(uniforms)),
               chosen);
  return chosen.to_host();
}

/// One wave: texts whose prompts and caches fit into memory together.
class Wave {
 public:
  Wave(Executor& executor, const Drawable& drawable, const GenerationOptions& options)
      : executor_(executor), drawable_(drawable), options_(options) {}

  /// Runs the prompts, each distinct one once, and draws the first tokens.
  void start(std::span<const std::vector<int32_t>> prompts, size_t first, size_t count) {
    Plan plan;
    std::map<std::vector<int32_t>, int64_t> distinct;
    std::vector<int64_t> sequence_of(count);
    for (size_t i = 0; i < count; ++i) {
      const auto [found, is_new] = distinct.emplace(prompts[first + i], std::ssize(plan.sequences));
      sequence_of[i] = found->second;
      if (is_new) {
        plan.sequences.emplace_back();
        plan.sequences.back().tokens = prompts[first + i];
        plan.sequences.back().record = true;
      }
    }
    for (size_t i = 0; i < count; ++i)
      plan.wanted.push_back({sequence_of[i], static_cast<int64_t>(prompts[first + i].size()) - 1});
    Run run = executor_.run(plan);
    for (size_t i = 0; i < count; ++i) {
      const auto length = static_cast<int64_t>(prompts[first + i].size());
      const int64_t limit = std::min(options_.max_tokens, executor_.model().config().positions - length);
      texts_.push_back({.prompt = first + i,
                        .cache = GrowingCache(executor_.context(), executor_.model().config(),
                                              run.recordings[sequence_of[i]], limit),
                        .limit = limit,
                        .tokens = {}});
    }
    for (Text& text : texts_)
      if (text.limit > 0) active_.push_back(&text);
    if (!active_.empty()) take(run);
  }

  /// Adds one token to every text that is not finished. False when all are.
  bool step() {
    if (active_.empty()) return false;
    Plan plan;
    for (size_t i = 0; i < active_.size(); ++i) {
      const Text& text = *active_[i];
      Sequence& sequence = plan.sequences.emplace_back();
      sequence.tokens = {text.tokens.back()};
      sequence.first_position = text.cache.length();
      sequence.base = text.cache.recording();
      sequence.record = true;
      plan.wanted.push_back({static_cast<int64_t>(i), text.cache.length()});
    }
    Run run = executor_.run(plan);
    for (size_t i = 0; i < active_.size(); ++i) active_[i]->cache.append(*run.recordings[i]);
    take(run);
    return true;
  }

  void move_results(std::vector<std::vector<int32_t>>& results) {
    for (Text& text : texts_) results[text.prompt] = std::move(text.tokens);
  }

 private:
  void take(Run& run) {
    Context& context = executor_.context();
    const ConstView logits = drawable_.of(context, run.logits.view());
    const std::vector<int32_t> chosen = choose(context, logits, active_, options_);
    std::vector<Text*> still;
    for (size_t i = 0; i < active_.size(); ++i) {
      Text& text = *active_[i];
      if (std::ranges::count(options_.stop_tokens, chosen[i]) > 0) continue;
      text.tokens.push_back(chosen[i]);
      if (std::ssize(text.tokens) < text.limit) still.push_back(&text);
    }
    active_ = std::move(still);
  }

  Executor& executor_;
  const Drawable& drawable_;
  const GenerationOptions& options_;
  std::vector<Text> texts_;
  std::vector<Text*> active_;
};

}  // namespace

std::vector<std::vector<int32_t>> generate(Executor& executor, std::span<const std::vector<int32_t>> prompts,
                                           const GenerationOptions& options) {
  check(executor.model().config(), prompts, options);
  std::vector<std::vector<int32_t>> results(prompts.size());
  if (options.max_tokens == 0) return results;
  // Half of the memory is for what is kept of a text: its prompt's recording, then a cache that takes less a row.
  const int64_t kept = executor.context().memory_budget() / 2 / recorded_row_bytes(executor.model().config());
  const int64_t rows_at_once = std::min(executor.rows_per_wave(1) / 2, kept);
  const auto rows_of = [&](const auto& prompt) {
    return std::min(std::ssize(prompt) + options.max_tokens, executor.model().config().positions);
  };
  const Drawable drawable(executor.context(), executor.model().config(), options.tokenizer);
  for (size_t first = 0; first < prompts.size();) {
    const size_t count = wave_length(prompts.subspan(first), rows_at_once, rows_of);
    Wave wave(executor, drawable, options);
    wave.start(prompts, first, count);
    while (wave.step()) continue;
    wave.move_results(results);
    first += count;
  }
  return results;
}

}  // namespace loci
