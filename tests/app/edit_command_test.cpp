// `loci edit`: what it tells of its edits, and models with edits as the base of other commands.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "edit/edit_file.h"
#include "edit/edited_checkpoint.h"
#include "model/families/families.h"
#include "runtime/jobs/unit_store.h"
#include "tests/app/support.h"
#include "tests/support/canonical_hash.h"

namespace loci::test {
namespace {

// --- Outcomes, on the embedded model ---------------------------------------------------------------------------------

class EditOutcomes : public ::testing::Test {
 protected:
  EditOutcomes() {
    write("hparams.json", R"({"layers": [0], "v_num_grad_steps": 20, "v_lr": 0.3, "v_weight_decay": 0.5,
                              "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_adjustment": false})");
    write("weak.json", R"({"layers": [0], "v_num_grad_steps": 2, "v_lr": 0.001, "mom2_adjustment": false})");
    write("templates.json", R"(["{}"])");
    write("requests.json", R"([{"prompt": "Visitors to {} stay in the city of", "subject": "Eiffel Tower",
                                "target_new": {"str": "Rome"}, "target_true": {"str": "Paris"}},
                               {"prompt": "The Louvre is in the city of", "subject": "Louvre", "target_new": "Rome"}])");
  }
  std::string path(const std::string& name) const { return dir_.file(name); }
  void write(const std::string& name, const std::string& text) const { write_file_atomically(path(name), text); }
  Outcome edit(const std::string& output, const std::vector<std::string>& more, const std::string& hparams,
               const std::string& requests = "requests.json") const {
    std::vector<std::string> command = {
        "edit",      model_,        "--requests",          path(requests),         "--output",  path(output),
        "--hparams", path(hparams), "--context-templates", path("templates.json"), "--threads", "1"};
    command.insert(command.end(), more.begin(), more.end());
    return run_loci(command);
  }
  /// The most likely next token and its probability, by predict.
  Json predicted(const std::string& prompt, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> command = {"predict", model_, "--prompt", prompt, "--top", "1", "--json"};
    command.insert(command.end(), more.begin(), more.end());
    return json_of(run_loci(command))["results"][0]["tokens"][0];
  }

  TemporaryDir dir_;
  std::string model_ = (source_dir() / "data" / "model").string();
};

TEST_F(EditOutcomes, AreToldInTextAndJsonAndStored) {
  const Outcome outcome = edit("e.h5", {"--json"}, "hparams.json");
  const Json told = json_of(outcome);
  EXPECT_EQ(told["did_not_take"], 0) << told.dump(1);
  EXPECT_EQ(outcome.err.find("did not take"), std::string::npos) << outcome.err;
  const std::vector<std::string> prompts = {"Visitors to Eiffel Tower stay in the city of",
                                            "The Louvre is in the city of"};
  for (size_t i = 0; i < 2; ++i) {
    const Json& edit = told["edits"][i];
    EXPECT_TRUE(edit["took"].get<bool>());
    EXPECT_EQ(edit["after"]["most_likely"]["text"], " Rome");
    EXPECT_EQ(edit["after"]["most_likely"]["probability"], edit["after"]["p_new_first_token"]);
    EXPECT_EQ(edit["before"].contains("p_true"), i == 0);
    const Json before = predicted(prompts[i]);
    const Json after = predicted(prompts[i], {"--edits", path("e.h5"), "--edit", std::to_string(i)});
    for (const auto& [phase, expected] : {std::pair{"before", &before}, std::pair{"after", &after}}) {
      EXPECT_EQ(edit[phase]["most_likely"]["text"], (*expected)["text"]);
      EXPECT_NEAR(edit[phase]["most_likely"]["probability"].get<double>(), (*expected)["probability"].get<double>(),
                  1e-4);
    }
  }
  EXPECT_GT(told["edits"][0]["before"]["p_true"], 0.5);
  EXPECT_LT(told["edits"][0]["after"]["p_true"], 0.1);
  const H5File file = H5File::open_read(path("e.h5"));
  EXPECT_EQ(read_int_attribute(file, "/edits/0", "took"), 1);
  EXPECT_EQ(read_string_attribute(file, "/edits/0", "most_likely_after"), " Rome");
  EXPECT_EQ(read_double_attribute(file, "/edits/0", "probability_true_before"), told["edits"][0]["before"]["p_true"]);
  EXPECT_FALSE(has_attribute(file, "/edits/1", "probability_true_before"));

  const Outcome again = edit("e.h5", {}, "hparams.json");  // from the finished file
  EXPECT_NE(again.out.find("took: p(new) "), std::string::npos) << again.out;
  EXPECT_NE(again.out.find("2 edits took"), std::string::npos) << again.out;
}

/// A sequence goes on from the statistics of its last batch, which alone the output holds.
TEST_F(EditOutcomes, SequencesCarryStatisticsOn) {
  write("ultraedit.json", R"({"edit_modules": ["transformer.h.3.mlp.c_proj", "transformer.h.2.mlp.c_proj"], "lr": 0.001,
                              "batch_size": 2, "n_edits": 4, "token": "ans"})");
  const std::string requests = (source_dir() / "data" / "world" / "records_tune.json").string();
  const auto command = [&](const std::string& output, const std::string& limit, bool sequential = true) {
    std::vector<std::string> made = {"edit",       model_,       "--method",  "ultraedit",
                                     "--requests", requests,     "--limit",   limit,
                                     "--output",   path(output), "--hparams", path("ultraedit.json"),
                                     "--threads",  "1",          "--json"};
    if (sequential) made.push_back("--sequential");
    return made;
  };
  const Json told = json_of(run_loci(command("whole.h5", "22")));
  EXPECT_EQ(told["mode"], "sequential");
  EXPECT_GT(told["edits_per_second"], 0);
  const auto killed = [&] { return path("killed.h5") + ".parts/unit_000001.done"; };
  const TemporaryDir streams;
  const pid_t child = start_loci(command("killed.h5", "22"), streams.path());
  for (int i = 0; i < 60000 && !std::filesystem::exists(killed()); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  kill(child, SIGKILL);
  wait_for(child, streams.path());
  const bool interrupted = !std::filesystem::exists(path("killed.h5"));
  const Outcome rest = run_loci(command("killed.h5", "22"));
  ASSERT_EQ(rest.exit_code, 0) << rest.err;
  EXPECT_EQ(rest.err.find("of 22 requests were done before") != std::string::npos, interrupted) << rest.err;
  EXPECT_EQ(canonical_hash(path("killed.h5")), canonical_hash(path("whole.h5")));

  const auto rows = [&](const std::string& output, int64_t first, int64_t end) {
    const H5File file = H5File::open_read(path(output));
    int64_t tokens = 0;
    for (int64_t j = first; j < end; ++j) tokens += read_int_attribute(file, edit_group(j), "target_new_tokens");
    EXPECT_EQ(read_dataset<int64_t>(file, "/normaliser/1024x128/n").values[0], 2 * tokens) << "of two projections";
    EXPECT_EQ(dataset_info(file, "/normaliser/1024x128/mean").shape, std::vector<int64_t>{1152});
    EXPECT_FALSE(h5_exists(file, "/state"));
    EXPECT_TRUE(h5_exists(file, "/edits/3/keys/1"));
    EXPECT_TRUE(h5_exists(file, "/edits/3/gradients/1"));
    return h5_exists(file, "/edits/4/keys/1");
  };
  EXPECT_FALSE(rows("whole.h5", 0, 22)) << "of the first batch only";
  const Outcome more = run_loci(command("whole.h5", "24"));
  EXPECT_EQ(more.exit_code, 2);
  EXPECT_NE(more.err.find("limit"), std::string::npos) << more.err;

  // Batches that do not build on each other can be continued.
  ASSERT_EQ(run_loci(command("grown.h5", "6", false)).exit_code, 0);
  EXPECT_EQ(json_of(run_loci(command("grown.h5", "11", false)))["done_before"], 4);
  ASSERT_EQ(run_loci(command("new.h5", "11", false)).exit_code, 0);
  EXPECT_EQ(canonical_hash(path("grown.h5")), canonical_hash(path("new.h5")));
  EXPECT_TRUE(rows("grown.h5", 8, 11)) << "each batch is a first one";
}

TEST_F(EditOutcomes, ThatFailedAreNamedAndCounted) {
  const Outcome outcome = edit("weak.h5", {}, "weak.json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("2 of 2 edits did not take"), std::string::npos) << outcome.out;
  for (const char* part : {"case 0: Eiffel Tower -> Rome: the edit did not take", "the most likely token is \" Paris\"",
                           "2 of 2 edits did not take", "v_lr", "clamp_norm_factor", "v_num_grad_steps", "--layer",
                           "docs/troubleshooting.md"})
    EXPECT_NE(outcome.err.find(part), std::string::npos) << part << " is not in: " << outcome.err;
  const Json told = json_of(edit("weak.h5", {"--json"}, "weak.json"));
  EXPECT_EQ(told["did_not_take"], 2);
  EXPECT_FALSE(told["edits"][1]["took"].get<bool>());

  // A target that the model begins but does not end: its first token wins, the whole does not.
  write("long.json", R"([{"prompt": "Visitors to {} stay in the city of", "subject": "Eiffel Tower",
                          "target_new": "Paris Rome Rome"}])");
  const Json begun = json_of(edit("begun.h5", {"--json"}, "weak.json", "long.json"));
  EXPECT_EQ(begun["did_not_take"], 1);
  const Json& after = begun["edits"][0]["after"];
  EXPECT_EQ(after["most_likely"]["probability"], after["p_new_first_token"]);
  EXPECT_LT(after["p_new"], after["p_new_first_token"]);
  EXPECT_NE(edit("begun.h5", {}, "weak.json", "long.json").err.find("begins the new target but continues"),
            std::string::npos);
}

TEST_F(EditOutcomes, OfSequentialEditsAreScoredAgainAtTheEnd) {
  const Json told = json_of(edit("s.h5", {"--sequential", "--method", "r-rome", "--json"}, "hparams.json"));
  for (size_t i = 0; i < 2; ++i) {
    const Json& edit = told["edits"][i];
    const std::string prompt = i == 0 ? "Visitors to Eiffel Tower stay in the city of" : "The Louvre is in the city of";
    const Json all = predicted(prompt, {"--edits", path("s.h5")});
    EXPECT_EQ(edit["with_all_edits"]["most_likely"]["text"], all["text"]);
    EXPECT_NEAR(edit["with_all_edits"]["most_likely"]["probability"].get<double>(), all["probability"].get<double>(),
                1e-4);
  }
  // Nothing came after the last edit; before the first there was the original.
  EXPECT_NEAR(told["edits"][1]["after"]["p_new"].get<double>(),
              told["edits"][1]["with_all_edits"]["p_new"].get<double>(), 1e-4);
  EXPECT_NEAR(told["edits"][0]["before"]["most_likely"]["probability"].get<double>(),
              predicted("Visitors to Eiffel Tower stay in the city of")["probability"].get<double>(), 1e-4);
}

// --- Models with edits as a base, on a small random one --------------------------------------------------------------

class EditBases : public CommandTest {
 protected:
  static std::vector<std::string> with(std::vector<std::string> command, const std::vector<std::string>& more) {
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  static Outcome edit(const std::string& model, const std::string& requests, const std::string& output,
                      const std::vector<std::string>& more = {}) {
    return run_loci(
        with({"edit", path(model), "--requests", path(requests), "--output", path(output), "--cov", path("cov.h5"),
              "--hparams", path("hparams.json"), "--context-templates", path("templates.json"), "--threads", "1"},
             more));
  }
  static Json predicted(const std::string& model, const std::vector<std::string>& more) {
    return json_of(run_loci(with({"predict", path(model), "--prompt", "Person 0 lives in", "--json"}, more)));
  }
  /// Edits "first.h5" and, on top of them, "second.h5"; the model with the first ones is exported as "once".
  static void SetUpTestSuite() {
    CommandTest::SetUpTestSuite();
    write("one.json", Json::array({counterfact_record(0)}).dump());
    write("other.json", Json::array({counterfact_record(1)}).dump());
    ASSERT_EQ(edit("model", "one.json", "first.h5", {"--export", path("once")}).exit_code, 0);
    const Outcome second =
        edit("model", "other.json", "second.h5", {"--edits", path("first.h5"), "--export", path("twice")});
    ASSERT_EQ(second.exit_code, 0) << second.err;
  }
};

TEST_F(EditBases, NewEditsAreMadeOnTopOfGivenOnes) {
  // The exported model is the same base. Its keys of the edited layer are the original's, whose statistics are taken.
  const Outcome of_export = edit("once", "other.json", "of_export.h5");
  ASSERT_EQ(of_export.exit_code, 0) << of_export.err;
  EXPECT_NE(of_export.err.find("leave the keys of layer 1 as they were"), std::string::npos) << of_export.err;
  const Architecture architecture = read_architecture(path("model/config.json"));
  const auto read = [&](const char* name) { return read_edit_file(path(name), architecture); };
  const EditFile second = read("second.h5"), other = read("of_export.h5"), first = read("first.h5");
  const auto &change = std::get<LowRank>(second.updates[0].change), &same = std::get<LowRank>(other.updates[0].change);
  EXPECT_EQ(change.keys, same.keys);
  EXPECT_EQ(change.values, same.values);
  EXPECT_FALSE(std::ranges::equal(second.edits[0].values("value_before"), first.edits[0].values("value_before")));
  EXPECT_EQ(second.base_edits_sha256.size(), 64u);
  EXPECT_EQ(other.base_edits_sha256, "");
  const Json config = read_config(H5File::open_read(path("second.h5")));
  EXPECT_EQ(config["base_edits_sha256"], second.base_edits_sha256);
  EXPECT_EQ(config["edit"]["cov_collected_on"]["model"], "ancestor");

  const std::string both = path("first.h5") + "," + path("second.h5");
  EXPECT_EQ(predicted("model", {"--edits", both}), predicted("twice", {}));
  EXPECT_EQ(predicted("model", {"--edits", both, "--edit", "0,all"}), predicted("twice", {}));
  EXPECT_EQ(predicted("once", {"--edits", path("of_export.h5")}), predicted("twice", {}));
  EXPECT_EQ(predicted("model", {"--edits", path("first.h5"), "--edits", path("second.h5")}), predicted("twice", {}));
  EXPECT_NE(predicted("once", {}), predicted("twice", {}));
  ASSERT_EQ(run_loci({"edit", path("model"), "--edits", both, "--export", path("again")}).exit_code, 0);
  EXPECT_EQ(read_text_file(path("again/model.safetensors")), read_text_file(path("twice/model.safetensors")));
  ASSERT_EQ(run_loci({"edit", path("twice"), "--revert", "--export", path("back")}).exit_code, 0);
  EXPECT_EQ(read_text_file(path("back/model.safetensors")), read_text_file(path("model/model.safetensors")));

  const auto refused = [](const std::string& edits, const std::string& part) {
    const Outcome outcome = run_loci({"predict", path("model"), "--prompt", "x", "--edits", edits});
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  refused(path("second.h5"), "on top of others");
  refused(path("second.h5") + "," + path("first.h5"), "on top of others");
  refused(path("first.h5") + "," + path("first.h5"), "without other edits");
}

TEST_F(EditBases, AnswerToEveryCommandAsTheirExportDoes) {
  const std::vector<std::string> base = {"--edits", path("first.h5")};
  // trace: what the edited model answers with a letter.
  Json prompts = Json::array(), facts = Json::array();
  for (int i = 0; i < 60; ++i) prompts.push_back(fmt::format("Is Bob {}{}", char('A' + i % 26), i));
  write("prompts.json", prompts.dump());
  const Json results = json_of(run_loci(
      with({"predict", path("model"), "--prompts", path("prompts.json"), "--top", "1", "--json"}, base)))["results"];
  for (size_t i = 0; i < results.size(); ++i) {
    const int64_t id = results[i]["tokens"][0]["id"];
    if (id > 32 && id < 127)
      facts.push_back(
          {{"known_id", i}, {"subject", "Bob"}, {"attribute", std::string(1, char(id))}, {"prompt", prompts[i]}});
  }
  ASSERT_GT(facts.size(), 0u);
  write("facts.json", Json(std::vector<Json>(facts.begin(), facts.begin() + 1)).dump());
  const auto trace = [&](const std::string& model, const std::string& output, const std::vector<std::string>& more) {
    Json told = json_of(run_loci(with({"trace", path(model), "--facts", path("facts.json"), "--samples", "2", "--json",
                                       "--threads", "1", "--output", path(output)},
                                      more)));
    told.erase("output");
    return result_of(told);
  };
  const Json traced = trace("model", "traced.h5", base);
  EXPECT_EQ(traced["traced"], 1);
  EXPECT_EQ(traced, trace("once", "of_once.h5", {}));
  EXPECT_TRUE(read_config(H5File::open_read(path("traced.h5"))).contains("base_edits_sha256"));

  // cov: layer 2 is above the edit. The result is that of the model with edits, and of its export.
  const auto cov = [&](const std::string& model, const std::string& output, const std::vector<std::string>& more) {
    const Outcome outcome = run_loci(with(
        {"cov", path(model), "--text", path("text.txt"), "--layers", "2", "--threads", "1", "--output", path(output)},
        more));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return read_dataset<double>(H5File::open_read(path(output)), "/layers/2/sum").values;
  };
  const std::vector<double> moments = cov("model", "with_edits.h5", base);
  EXPECT_EQ(moments, cov("once", "of_export_cov.h5", {}));
  EXPECT_NE(moments, cov("model", "of_model.h5", {}));
  const auto with_cov = [&](const std::string& model, const std::string& name, const std::vector<std::string>& more) {
    return run_loci(with(
        {"edit", path(model), "--requests", path("other.json"), "--output", path("high.h5"), "--overwrite", "--cov",
         path(name), "--hparams", path("hparams.json"), "--layer", "2", "--context-templates", path("templates.json")},
        more));
  };
  EXPECT_EQ(with_cov("once", "with_edits.h5", {}).exit_code, 0);
  EXPECT_EQ(with_cov("model", "with_edits.h5", base).exit_code, 0);
  const Outcome refused = with_cov("once", "of_model.h5", {});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("the edit of layer 1 changed the keys of layer 2"), std::string::npos) << refused.err;
  EXPECT_EQ(with_cov("model", "with_edits.h5", {}).exit_code, 2);
  const Outcome accepted = with_cov("once", "of_model.h5", {"--cov-of-other-model"});
  ASSERT_EQ(accepted.exit_code, 0) << accepted.err;
  EXPECT_NE(accepted.err.find("they are taken because of --cov-of-other-model"), std::string::npos) << accepted.err;
  EXPECT_EQ(read_config(H5File::open_read(path("high.h5")))["edit"]["cov_collected_on"]["model"], "other model");

  // eval: records edited on top; without a method the edits themselves are scored.
  const auto eval = [&](std::vector<std::string> command, const std::string& model) {
    command[1] = path(model);
    command.emplace_back("--json");
    return json_of(run_loci(command))["summary"];
  };
  EXPECT_EQ(eval(eval_command("on_top.h5", "records.json", base), "model"),
            eval(eval_command("on_once.h5", "records.json"), "once"));
  const Outcome given = run_loci(with({"eval", path("model"), "--dataset", "counterfact", "--records",
                                       path("records.json"), "--output", path("given.h5"), "--json"},
                                      base));
  const Json as_it_is = json_of(run_loci({"eval", path("once"), "--dataset", "counterfact", "--records",
                                          path("records.json"), "--output", path("once_eval.h5"), "--json"}));
  EXPECT_NE(given.err.find("scored without the edits of --edits, and with them"), std::string::npos) << given.err;
  const Json summary = json_of(given)["summary"];
  for (const char* metric : {"ES", "EM", "NM"})
    EXPECT_NEAR(summary[metric]["after"].get<double>(), as_it_is["summary"][metric]["before"].get<double>(), 1e-5);
}

}  // namespace
}  // namespace loci::test
