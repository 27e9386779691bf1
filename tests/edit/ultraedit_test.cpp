// UltraEdit against gradients of whole sequences and dense solves in fp64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "edit/edit_units.h"
#include "edit/methods.h"
#include "edit/ultraedit/ultraedit.h"
#include "kernels/softmax.h"
#include "model/train/parameter_buffer.h"
#include "runtime/io/atomic_file.h"
#include "tests/edit/matrix.h"
#include "tests/edit/support.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

// Texts of 9 to 20 tokens, two of them equally long.
const std::vector<EditRequest> kUltraRequests = {
    {0, "{}, the", "Rome", "xy", ""},         {1, "In {}", "Paris", "y", ""},
    {2, "{} is north of", "Oslo", "zq", ""},  {3, "All of {}", "Bern", "v", ""},
    {4, "{}", "Lima", "a long one", ""},      {5, "Not {}", "Berne", "ab", ""},
    {6, "The hills of {}", "Kigali", "w", ""}};
const std::vector<std::string> kModules = {"transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj",
                                           "transformer.h.2.mlp.c_proj", "transformer.h.2.mlp.c_fc"};
// Of the first and the last block too, and of attention.
const std::vector<std::string> kOthers = {"transformer.h.3.mlp.c_proj", "transformer.h.0.attn.c_attn",
                                          "transformer.h.3.attn.c_attn", "transformer.h.2.attn.c_proj",
                                          "transformer.h.3.mlp.c_fc"};
// The lowest reads the rows at which a text joins.
const std::vector<std::string> kUpper = {"transformer.h.2.attn.c_attn", "transformer.h.3.mlp.c_proj"};
constexpr double kRate = 1e-3;

/// Which requests share a pass: the longest first, as many as a pass holds.
std::vector<std::vector<size_t>> passes_of(std::span<const PreparedRequest> requests, size_t size) {
  std::vector<std::vector<size_t>> passes;
  std::vector<bool> taken(requests.size(), false);
  for (size_t n = 0; n < requests.size(); ++n) {
    size_t longest = requests.size();
    for (size_t i = 0; i < requests.size(); ++i)
      if (!taken[i] && (longest == requests.size() ||
                        requests[i].prompts[0].tokens.size() > requests[longest].prompts[0].tokens.size()))
        longest = i;
    taken[longest] = true;
    if (n % size == 0) passes.emplace_back();
    passes.back().push_back(longest);
  }
  return passes;
}

/// The statistics of one shape as the published code adds them up, by the rows' definition.
struct Statistics {
  std::vector<double> mean, squares;
  double n = 0;

  void add(const Matrix& rows) {
    const double r = static_cast<double>(rows.size()), before = n;
    mean.resize(rows[0].size());
    squares.resize(rows[0].size());
    n += r;
    for (size_t i = 0; i < mean.size(); ++i) {
      double pass_mean = 0, variance = 0;
      for (const auto& row : rows) pass_mean += row[i] / r;
      for (const auto& row : rows) variance += rows.size() > 1 ? std::pow(row[i] - pass_mean, 2) / (r - 1) : 0;
      const double d = pass_mean - mean[i];
      mean[i] += r * d / n;
      squares[i] += r * variance + before * r * d * d / n;
    }
  }
  std::vector<double> normalised(const std::vector<double>& row) const {
    std::vector<double> made;
    for (size_t i = 0; i < row.size(); ++i)
      made.push_back((row[i] - mean[i]) / (std::sqrt(squares[i] / (n - 1 + kFloatEps)) + kFloatEps));
    return made;
  }
  static constexpr double kFloatEps = 1.1920928955078125e-07;
};

class UltraEdit : public testing::Test {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  }

  struct Made {
    std::unique_ptr<Resources> resources;
    std::unique_ptr<Method> method;
    std::vector<PreparedRequest> requests;
  };
  Made make(Executor& executor, const Json& more, const EditOptions& given = {}) {
    Json hparams = {{"edit_modules", kModules}, {"lr", kRate}, {"batch_size", 3}, {"n_edits", 5}, {"token", "ans"}};
    hparams.update(more);
    for (const auto& [key, value] : more.items())
      if (value.is_null()) hparams.erase(key);
    write_file_atomically(dir_.file("hparams.json"), hparams.dump());
    EditOptions options = given;
    options.method = "ultraedit";
    options.hparams = dir_.file("hparams.json");
    Made made{std::make_unique<Resources>(options, executor, tokenizer_, Lineage{}), nullptr, {}};
    made.method = make_method("ultraedit", *made.resources);
    for (const EditRequest& request : kUltraRequests) made.requests.push_back(made.method->prepare(request, "r"));
    return made;
  }

  /// A request's recorded rows of a module.
  static Matrix rows_of(const Edit& edit, const std::string& name) {
    for (const RecordedValues& one : edit.recorded) {
      if (one.name != name) continue;
      Matrix rows;
      for (auto at = one.values.begin(); at != one.values.end(); at += one.shape[1])
        rows.emplace_back(at, at + one.shape[1]);
      EXPECT_EQ(std::ssize(rows), one.shape[0]);
      return rows;
    }
    ADD_FAILURE() << name << " was not recorded";
    return {};
  }
  static Matrix rows_of(const Edit& edit, const char* what, size_t module) {
    return rows_of(edit, fmt::format("{}/{}", what, module));
  }

  /// Adds a batch to the statistics by shape, and gives the change [in, out] of each module as dense solves have it,
  /// (H^T H + I)^-1 H^T V. `batch` has recorded its rows.
  std::vector<Matrix> expected_changes(const EditBatch& batch, const std::vector<std::vector<size_t>>& passes,
                                       size_t modules, std::map<std::pair<size_t, size_t>, Statistics>& statistics) {
    std::vector<Matrix> keys(modules), gradients(modules), changes;
    const auto shape = [&](size_t m) { return std::pair(keys[m][0].size(), gradients[m][0].size()); };
    for (const std::vector<size_t>& pass : passes)
      for (size_t m = 0; m < modules; ++m) {
        Matrix both;
        for (const size_t r : pass) {
          const Matrix h = rows_of(batch.edits[r], "keys", m), g = rows_of(batch.edits[r], "gradients", m);
          for (size_t i = 0; i < h.size(); ++i) {
            keys[m].push_back(h[i]);
            gradients[m].push_back(g[i]);
            both.push_back(h[i]);
            both.back().insert(both.back().end(), g[i].begin(), g[i].end());
          }
        }
        statistics[shape(m)].add(both);
      }
    for (size_t m = 0; m < modules; ++m) {
      const size_t in = keys[m][0].size();
      Matrix values;
      for (size_t i = 0; i < keys[m].size(); ++i) {
        std::vector<double> row = keys[m][i];
        row.insert(row.end(), gradients[m][i].begin(), gradients[m][i].end());
        row = statistics[shape(m)].normalised(row);
        const double square = std::inner_product(row.begin(), row.begin() + in, row.begin(), 0.0);
        std::vector<double>& value = values.emplace_back(row.begin() + static_cast<std::ptrdiff_t>(in), row.end());
        for (double& x : value) x *= -kRate * square;
      }
      const Matrix turned = transpose(keys[m]);
      changes.push_back(solve(add_scaled(multiply(turned, keys[m]), identity(in), 1), multiply(turned, values)));
    }
    return changes;
  }

  /// |D - D_expected| / |D_expected|.
  double deviation(const Change& change, const Matrix& expected) const {
    const Dense dense = dense_of(std::get<LowRank>(change), model_.config());
    double error = 0, size = 0;
    for (size_t i = 0; i < expected.size(); ++i)
      for (size_t j = 0; j < expected[0].size(); ++j) {
        error += std::pow(static_cast<double>(dense.delta[i * expected[0].size() + j]) - expected[i][j], 2);
        size += std::pow(expected[i][j], 2);
      }
    return std::sqrt(error / size);
  }
  void expect_changes(const EditBatch& batch, const std::vector<Matrix>& expected) const {
    ASSERT_EQ(batch.changes.size(), expected.size());
    for (size_t m = 0; m < expected.size(); ++m) EXPECT_LE(deviation(batch.changes[m], expected[m]), 2e-6) << m;
  }

  static const RecordedValues& state(const EditBatch& batch, const std::string& name) {
    static const RecordedValues none{};
    const auto found = std::ranges::find(batch.state, name, &RecordedValues::name);
    EXPECT_TRUE(found != batch.state.end()) << name;
    return found == batch.state.end() ? none : *found;
  }

  Context context_{device_options()};
  Model model_ = random_model(context_, byte_config(), 3);
  Tokenizer tokenizer_ = byte_tokenizer();
  TemporaryDir dir_;
};

// --- Rows ------------------------------------------------------------------------------------------------------------

/// The mean loss of a text's target tokens, times their number: from a whole forward pass, where `shift` is added to
/// one element at a site.
struct Shift {
  BlockSite at;
  int64_t position, column;
  float by;
};
double loss_of(Executor& executor, const PreparedRequest& request, const std::optional<Shift>& shift) {
  Context& context = executor.context();
  const EditPrompt& text = request.prompts[0];
  Plan plan;
  plan.sequences.push_back({.tokens = text.tokens, .base = nullptr});
  for (size_t t = 0; t < request.target.size(); ++t)
    plan.wanted.push_back({0, text.first_target + static_cast<int64_t>(t)});
  Tensor patch;
  if (shift) {
    std::vector<float> row(static_cast<size_t>(site_width(executor.model().config(), shift->at.site)));
    row[static_cast<size_t>(shift->column)] = shift->by;
    patch = Tensor::from_host(context, row, 1, std::ssize(row));
    plan.patches.push_back({0, shift->position, shift->at.site, shift->at.layer, PatchMode::add, patch.row(0)});
  }
  const loci::Run run = executor.run(plan);
  const std::vector<float> logits = run.logits.to_host();
  const auto width = static_cast<size_t>(run.logits.cols());
  double loss = 0;
  for (size_t t = 0; t < request.target.size(); ++t) {
    double sum = 0;
    for (size_t v = 0; v < width; ++v) sum += std::exp(static_cast<double>(logits[t * width + v]));
    loss += std::log(sum) - static_cast<double>(logits[t * width + static_cast<size_t>(request.target[t])]);
  }
  return loss;
}

/// With the rows of the whole text, H^T G summed over requests is the gradient of the weight that training takes, and
/// the sum of G that of the bias.
TEST_F(UltraEdit, RowsOfTheTextAreThoseOfTheWeightsGradient) {
  for (const std::vector<std::string>& modules : {kModules, kOthers, kUpper}) {
    Executor executor(context_, model_);
    const Made made = make(executor, {{"token", "all"}, {"edit_modules", modules}});
    const EditBatch batch = made.method->edit(executor, made.requests, 0)[0];
    ParameterBuffer gradients(context_, model_.config());
    for (const std::vector<size_t>& pass : passes_of(made.requests, 3)) {
      size_t tokens = 0;
      double loss = 0;
      for (const size_t r : pass) tokens += made.requests[r].target.size();
      for (const size_t r : pass) {
        const PreparedRequest& request = made.requests[r];
        loss += loss_of(executor, request, {}) / static_cast<double>(tokens);
        Plan plan;
        plan.sequences.push_back({.tokens = request.prompts[0].tokens, .base = nullptr});
        for (size_t t = 0; t < request.target.size(); ++t)
          plan.wanted.push_back({0, request.prompts[0].first_target + static_cast<int64_t>(t)});
        const loci::Run run = executor.run(plan, Keep::activations);
        Tensor logit_gradients(context_, run.logits.rows(), run.logits.cols()), losses(context_, run.logits.rows(), 1);
        const std::vector<float> weights(request.target.size(), 1 / static_cast<float>(tokens));
        cross_entropy(context_, run.logits.view(), {context_, std::span<const int32_t>(request.target)},
                      {context_, std::span<const float>(weights)}, losses.view(), logit_gradients.view(),
                      Write::assign);
        executor.backward(run, logit_gradients.view(), &gradients.parameters());
      }
      for (const size_t r : pass) {
        ASSERT_EQ(batch.edits[r].loss_curve.size(), 1u);
        EXPECT_NEAR(batch.edits[r].loss_curve[0].total, loss, 1e-5 * loss) << r;
      }
    }
    const std::map<std::string, std::vector<float>> expected = gradients.to_host(context_);
    for (size_t m = 0; m < modules.size(); ++m) {
      SCOPED_TRACE(modules[m]);
      Matrix h, g;
      for (size_t r = 0; r < made.requests.size(); ++r) {
        const Matrix some_h = rows_of(batch.edits[r], "keys", m), some_g = rows_of(batch.edits[r], "gradients", m);
        EXPECT_EQ(some_h.size(), made.requests[r].prompts[0].tokens.size());
        h.insert(h.end(), some_h.begin(), some_h.end());
        g.insert(g.end(), some_g.begin(), some_g.end());
      }
      const std::string name = modules[m].substr(std::string("transformer.").size());
      const auto compare = [](const Matrix& found, const std::vector<float>& wanted) {
        std::vector<float> flat;
        for (const auto& row : found) flat.insert(flat.end(), row.begin(), row.end());
        return relative_error(flat, wanted);
      };
      EXPECT_LE(compare(multiply(transpose(h), g), expected.at(name + ".weight")), 1e-5);
      EXPECT_LE(compare(multiply(Matrix(1, std::vector<double>(g.size(), 1.0)), g), expected.at(name + ".bias")), 1e-5);
    }
  }
}

/// The rows of the answer are the last ones of the text. A row's gradient, by differences of whole forward passes, is
/// that of the loss of its own pass.
TEST_F(UltraEdit, RowsOfTheAnswerAreTheLastOnesOfTheText) {
  for (const std::vector<std::string>& modules : {kModules, kOthers, kUpper}) {
    Executor executor(context_, model_);
    const Made answer = make(executor, {{"edit_modules", modules}}),
               all = make(executor, {{"edit_modules", modules}, {"token", "all"}});
    const EditBatch some = answer.method->edit(executor, answer.requests, 0)[0],
                    whole = all.method->edit(executor, all.requests, 0)[0];
    std::mt19937 random(5);
    for (const std::vector<size_t>& pass : passes_of(answer.requests, 3)) {
      size_t tokens = 0;
      for (const size_t r : pass) tokens += answer.requests[r].target.size();
      for (const size_t r : pass)
        for (size_t m = 0; m < modules.size(); ++m) {
          SCOPED_TRACE(fmt::format("request {}, {}", r, modules[m]));
          for (const char* what : {"keys", "gradients"}) {
            const Matrix found = rows_of(some.edits[r], what, m), text = rows_of(whole.edits[r], what, m);
            ASSERT_EQ(found.size(), answer.requests[r].target.size());
            for (size_t i = 0; i < found.size(); ++i)
              for (size_t c = 0; c < found[i].size(); ++c)
                EXPECT_NEAR(found[i][c], text[text.size() - found.size() + i][c], 1e-5);
          }
          const Matrix g = rows_of(some.edits[r], "gradients", m);
          double largest = 0;
          for (const auto& row : g)
            for (const double x : row) largest = std::max(largest, std::abs(x));
          const WeightId weight = *weight_named(model_.config(), modules[m] + ".weight");
          const size_t row = random() % g.size(), column = random() % g[0].size();
          Shift shift{{projection_of(weight.role).to, weight.layer},
                      answer.requests[r].prompts[0].first_target + static_cast<int64_t>(row),
                      static_cast<int64_t>(column),
                      0.02f};
          const double up = loss_of(executor, answer.requests[r], shift);
          shift.by = -0.02f;
          const double slope = (up - loss_of(executor, answer.requests[r], shift)) / 0.04;
          EXPECT_NEAR(g[row][column], slope / static_cast<double>(tokens), 2e-3 * largest + 2e-6);
        }
    }
  }
}

// --- Changes ---------------------------------------------------------------------------------------------------------

/// A turn of five requests in passes of three and two, then one of two, on the changed model. Two shapes, each of two
/// layers.
TEST_F(UltraEdit, ChangesAreThoseOfDenseSolvesWithStatisticsOfAllTurns) {
  Executor executor(context_, model_);
  Made made = make(executor, Json::object());
  EXPECT_EQ(made.method->default_batch_size(), 5);
  std::map<std::pair<size_t, size_t>, Statistics> statistics;
  Model changed = model_;
  Executor on_changed(context_, changed);
  for (const size_t first : {0u, 5u}) {
    const auto turn = std::span(made.requests).subspan(first, first == 0 ? 5 : 2);
    const EditBatch batch = made.method->edit(on_changed, turn, 0)[0];
    // The rows of a later turn are not recorded, but a method that knows of no other turn has the same.
    const Made alone = make(on_changed, Json::object());
    const EditBatch rows = alone.method->edit(on_changed, turn, 0)[0];
    const std::vector<Matrix> expected = expected_changes(rows, passes_of(turn, 3), kModules.size(), statistics);
    expect_changes(batch, expected);
    ASSERT_EQ(batch.edits.size(), turn.size());
    for (size_t r = 0; r < turn.size(); ++r) {
      EXPECT_EQ(batch.edits[r].request, kUltraRequests[first + r]) << "in request order";
      EXPECT_EQ(batch.edits[r].recorded.size(), first == 0 ? 2 * kModules.size() : 0);
    }
    for (const auto& [shape, seen] : statistics) {
      const std::string name = fmt::format("normaliser/{}x{}/", shape.first, shape.second);
      EXPECT_EQ(state(batch, name + "n").integers, std::vector{static_cast<int64_t>(seen.n)});
      for (const auto& [what, values] : {std::pair("mean", &seen.mean), std::pair("sum_squares", &seen.squares)}) {
        const std::vector<double>& found = state(batch, name + what).doubles;
        ASSERT_EQ(found.size(), values->size());
        for (size_t i = 0; i < found.size(); ++i)
          EXPECT_NEAR(found[i], (*values)[i], 1e-11 * std::abs((*values)[i]) + 1e-15) << name << what << i;
      }
    }
    if (first > 0) {
      EXPECT_GT(deviation(rows.changes[0], expected[0]), 1e-3) << "earlier turns count";
    }
    EditedModel(batch.changes).fold_into(context_, changed);
    made.method->take_up(batch);
  }
}

/// Batches that do not follow each other know nothing of each other.
TEST_F(UltraEdit, IndependentBatchesStartAnew) {
  Executor executor(context_, model_);
  const Made made = make(executor, Json::object());
  const std::vector<EditBatch> batches = made.method->edit(executor, made.requests, 5);
  ASSERT_EQ(batches.size(), 2u);
  const EditBatch alone = made.method->edit(executor, std::span(made.requests).subspan(5), 0)[0];
  for (size_t m = 0; m < kModules.size(); ++m) {
    EXPECT_EQ(std::get<LowRank>(batches[1].changes[m]).keys, std::get<LowRank>(alone.changes[m]).keys);
    EXPECT_EQ(std::get<LowRank>(batches[1].changes[m]).values, std::get<LowRank>(alone.changes[m]).values);
  }
}

TEST_F(UltraEdit, AnotherSequenceStartsAnew) {
  Executor executor(context_, model_);
  const Made made = make(executor, Json::object());
  const auto change = [&] {
    const EditBatch batch = made.method->edit(executor, made.requests, 0)[0];
    made.method->take_up(batch);
    return std::get<LowRank>(batch.changes[0]).values;
  };
  const std::vector<float> first = change();
  EXPECT_NE(change(), first);
  made.method->start_sequence();
  EXPECT_EQ(change(), first);
}

/// Who shares a pass counts, how many texts run at once does not.
TEST_F(UltraEdit, WavesDoNotMatterAndPassesDo) {
  Executor executor(context_, model_);
  const Made made = make(executor, Json::object()), other = make(executor, {{"batch_size", 2}});
  const EditBatch whole = made.method->edit(executor, made.requests, 0)[0];
  ContextOptions small = device_options();
  small.memory_budget = 1;
  Context tight(small);
  const Model model = random_model(tight, byte_config(), 3);
  Executor narrow(tight, model);
  ASSERT_LE(narrow.kept_rows_per_wave(0, 0), 64) << "of more than 80 rows of texts";
  const EditBatch cut = made.method->edit(narrow, made.requests, 0)[0],
                  passes = other.method->edit(executor, other.requests, 0)[0];
  for (size_t m = 0; m < kModules.size(); ++m) {
    const Dense expected = dense_of(std::get<LowRank>(whole.changes[m]), model_.config());
    const auto error = [&](const EditBatch& batch) {
      return relative_error(dense_of(std::get<LowRank>(batch.changes[m]), model_.config()).delta, expected.delta);
    };
    EXPECT_LE(error(cut), 1e-4);
    EXPECT_GT(error(passes), 1e-3);
  }
}

/// A request of one answer token.
PreparedRequest with_one_token(PreparedRequest request) {
  EditPrompt& text = request.prompts[0];
  text.tokens.resize(static_cast<size_t>(text.first_target + 1));
  request.target.resize(1);
  return request;
}

/// With passes of one token their variance is 0; the first token of all has no spread at all.
TEST_F(UltraEdit, OneTokenChangesNothingAndSpoilsNothing) {
  Executor executor(context_, model_);
  const Json hparams = {{"batch_size", 1}, {"edit_modules", Json::array({kModules[1]})}};
  const Made single = make(executor, hparams);
  std::vector<PreparedRequest> requests;
  for (const PreparedRequest& request : single.requests) requests.push_back(with_one_token(request));
  const EditBatch one = single.method->edit(executor, std::span(requests).first(1), 1)[0];
  for (const float value : std::get<LowRank>(one.changes[0]).values) EXPECT_EQ(value, 0);
  EXPECT_EQ(state(one, "normaliser/50x21/n").integers, std::vector<int64_t>{1});
  for (const double square : state(one, "normaliser/50x21/sum_squares").doubles) EXPECT_EQ(square, 0);
  single.method->take_up(one);
  const EditBatch later = single.method->edit(executor, std::span(requests).subspan(1), 0)[0];
  std::map<std::pair<size_t, size_t>, Statistics> statistics;
  expected_changes(one, {{0}}, 1, statistics);
  const Made alone = make(executor, hparams);
  const auto rest = std::span(requests).subspan(1);
  const EditBatch rows = alone.method->edit(executor, rest, 0)[0];
  expect_changes(later, expected_changes(rows, passes_of(rest, 1), 1, statistics));
  EXPECT_GT(norm_of(later.changes), 0);
}

// --- Sequences -------------------------------------------------------------------------------------------------------

/// A job that goes on from the shards of an earlier run makes the same bits as one that never stopped, also where a
/// shard holds several batches.
TEST_F(UltraEdit, ASequenceGoesOnFromItsShards) {
  for (const int64_t batch_size : {5, 1}) {
    SCOPED_TRACE(batch_size);
    const size_t cut = 5;
    const auto make_rest = [&](Model& model, Method& method, std::span<const PreparedRequest> requests) {
      Executor executor(context_, model);
      return make_edits_in_sequence(executor, model, tokenizer_, method, requests, batch_size, Outcomes::leave_out);
    };
    Model model = model_, resumed = model_;
    Executor executor(context_, model_);
    const Made made = make(executor, Json::object()), again = make(executor, Json::object());
    const std::filesystem::path shard = dir_.file("unit.h5");
    EditUnit before = make_rest(model, *made.method, std::span(made.requests).first(cut));
    const std::vector<EditBatch> kept = before.batches;
    write_hdf5_atomically(shard, write_edit_unit(std::move(before), model.config(), 0, batch_size));
    const EditUnit done = read_edit_unit(H5File::open_read(shard), model.config(), 0, static_cast<int64_t>(cut));
    ASSERT_EQ(done.batches.size(), kept.size());
    for (const EditBatch& batch : done.batches) {
      EditedModel(batch.changes).fold_into(context_, resumed);
      again.method->take_up(batch);
    }
    const EditUnit whole = make_rest(model, *made.method, std::span(made.requests).subspan(cut)),
                   rest = make_rest(resumed, *again.method, std::span(again.requests).subspan(cut));
    ASSERT_EQ(whole.batches.size(), rest.batches.size());
    for (size_t b = 0; b < whole.batches.size(); ++b) {
      for (size_t m = 0; m < kModules.size(); ++m) {
        EXPECT_EQ(std::get<LowRank>(whole.batches[b].changes[m]).keys,
                  std::get<LowRank>(rest.batches[b].changes[m]).keys);
        EXPECT_EQ(std::get<LowRank>(whole.batches[b].changes[m]).values,
                  std::get<LowRank>(rest.batches[b].changes[m]).values);
      }
      for (size_t s = 0; s < whole.batches[b].state.size(); ++s) {
        EXPECT_EQ(whole.batches[b].state[s].doubles, rest.batches[b].state[s].doubles);
        EXPECT_EQ(whole.batches[b].state[s].integers, rest.batches[b].state[s].integers);
      }
    }
    const Made without = make(executor, Json::object());
    EXPECT_NE(std::get<LowRank>(
                  make_rest(resumed, *without.method, std::span(again.requests).subspan(cut)).batches[0].changes[0])
                  .values,
              std::get<LowRank>(rest.batches[0].changes[0]).values)
        << "what a sequence has seen counts";
    // What is merged into an output has no state.
    write_hdf5_atomically(dir_.file("merged.h5"),
                          [&](H5File& merged) { append_batches(merged, H5File::open_read(shard)); });
    EXPECT_TRUE(read_state(H5File::open_read(dir_.file("merged.h5"))).empty());
    EXPECT_EQ(read_state(H5File::open_read(shard)).size(), 6u);
  }
}

TEST_F(UltraEdit, WhatDoesNotFitIsRefusedByName) {
  Executor executor(context_, model_);
  const auto refused = [&](const Json& more, const EditOptions& options = {}) {
    return error_of<InputError>([&] { make(executor, more, options); });
  };
  const auto modules = [&](std::vector<std::string> names) { return refused({{"edit_modules", names}}); };
  for (const char* name : {"transformer.h.9.mlp.c_proj", "transformer.h.1.mlp", "transformer.h.1.ln_1", "wte"})
    expect_message(modules({kModules[0], name}),
                   {"hparams.json", "edit_modules", name, "not a projection", "transformer.h.0.mlp.c_proj"});
  expect_message(modules({kModules[0], "h.1.mlp.c_fc"}), {"hparams.json", "edit_modules", "h.1.mlp.c_fc", "twice"});
  expect_message(modules({}), {"hparams.json", "edit_modules", "empty"});
  expect_message(refused({{"edit_modules", nullptr}}), {"hparams.json", "edit_modules", "missing"});
  expect_message(refused({{"edit_modules", "transformer.h.1.mlp.c_fc"}}), {"hparams.json", "edit_modules"});
  expect_message(refused({{"batch_size", 0}}), {"hparams.json", "batch_size"});
  expect_message(refused({{"token", "last"}}), {"hparams.json", "token", "ans"});
  expect_message(refused({{"n_edit", 3}}), {"n_edit", "n_edits"});
  expect_message(refused({{"v_lr", 3}}), {"v_lr", "unknown"});
  EditOptions options;
  options.cov = {dir_.file("cov.h5")};
  expect_message(refused(Json::object(), options), {"cov", "ultraedit"});
  options = {};
  options.context_templates = dir_.file("templates.json");
  expect_message(refused(Json::object(), options), {"context-templates", "ultraedit"});
  options = {};
  options.layer = 1;
  expect_message(refused(Json::object(), options), {"layer", "edit_modules"});
  Resources without({}, executor, tokenizer_, Lineage{});
  expect_message(error_of<InputError>([&] { make_method("ultraedit", without); }), {"hparams", "edit_modules"});
  const Made fine = make(executor, {{"num_seq", 200}, {"half", true}, {"name", "gpt2"}});
  EXPECT_EQ(fine.method->settings()["hparams"]["n_edits"], 5);
  std::map<std::string, std::string> defaults;
  for (const SettingRow& row : ultraedit_hparams("ultraedit")) defaults[row.key] = row.default_value;
  EXPECT_EQ(defaults["edit_modules"], "required");
  EXPECT_EQ(defaults["batch_size"], "`10`");
  EXPECT_EQ(defaults["token"], "`\"ans\"`");
}

}  // namespace
}  // namespace loci::test
