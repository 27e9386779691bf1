// Whole commands on a small random model: outputs, resuming, exports.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <set>
#include <thread>

#include "eval/eval_file.h"
#include "runtime/jobs/unit_store.h"
#include "tests/app/support.h"
#include "tests/support/canonical_hash.h"

namespace loci::test {
namespace {

class Commands : public CommandTest {
 protected:
  /// `loci edit` over a records file; `more` flags come last.
  static std::vector<std::string> edit_command(const std::string& output, const std::string& records,
                                               const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {
        "edit",      path("model"),        "--requests",          path(records),          "--cov",    path("cov.h5"),
        "--hparams", path("hparams.json"), "--context-templates", path("templates.json"), "--output", path(output)};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
};

TEST_F(Commands, InfoDescribesTheModel) {
  const Json info = json_of(run_loci({"info", path("model"), "--json"}));
  EXPECT_EQ(info["layers"], 3);
  EXPECT_EQ(info["width"], 12);
  EXPECT_EQ(info["vocabulary"], 257);
  // wte, wpe; per block: two norms, qkv, out, up, down with biases; the last norm.
  const int64_t block = 4 * 12 + (12 * 36 + 36) + (12 * 12 + 12) + (12 * 20 + 20) + (20 * 12 + 12);
  EXPECT_EQ(info["parameters"], 257 * 12 + 96 * 12 + 3 * block + 2 * 12);
  EXPECT_TRUE(info["tokenizer"]["ok"].get<bool>());
  EXPECT_EQ(info["weights_sha256"].get<std::string>().size(), 64u);
}

TEST_F(Commands, PredictGivesADistribution) {
  write("prompts.json", R"(["a", {"prompt": "Person 1 lives in"}, "東"])");
  const Json object =
      json_of(run_loci({"predict", path("model"), "--prompts", path("prompts.json"), "--top", "300", "--json"}));
  ASSERT_EQ(object["results"].size(), 3u);
  EXPECT_EQ(object["results"][1]["prompt"], "Person 1 lives in");
  for (const Json& result : object["results"]) {
    ASSERT_EQ(result["tokens"].size(), 257u);
    double sum = 0, last = 1;
    for (const Json& token : result["tokens"]) {
      const double probability = token["probability"];
      EXPECT_LE(probability, last);
      last = probability;
      sum += probability;
    }
    EXPECT_NEAR(sum, 1, 1e-5);  // 257 fp32 roundings
  }
}

TEST_F(Commands, PredictWithAnEditGivesTheNewTarget) {
  write("one.json", counterfact_records(1).dump());
  write("strong.json", R"({"layers": [1], "v_num_grad_steps": 40, "v_lr": 0.5, "v_weight_decay": 0.001,
                           "clamp_norm_factor": 50, "kl_factor": 0.0625})");
  const Outcome edit =
      run_loci({"edit", path("model"), "--requests", path("one.json"), "--cov", path("cov.h5"), "--hparams",
                path("strong.json"), "--context-templates", path("templates.json"), "--output", path("edits.h5")});
  ASSERT_EQ(edit.exit_code, 0) << edit.err;
  const auto probability = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command = {"predict", path("model"), "--prompt", "Person 0 lives in",
                                        "--top",   "300",         "--json"};
    command.insert(command.end(), more.begin(), more.end());
    const Json object = json_of(run_loci(command));
    for (const Json& token : object["results"][0]["tokens"]) {
      if (token["id"] == ' ') return token["probability"].get<double>();
    }
    return -1.0;
  };
  const double before = probability({}), after = probability({"--edits", path("edits.h5")});
  EXPECT_GT(before, 0);
  EXPECT_GT(after, 1.2 * before);  // this random model can be moved no further in its first target token

  // The same edit by eval, by eval --edits and by predict.
  ASSERT_EQ(run_loci(eval_command("own.h5", "one.json", {"--hparams", path("strong.json")})).exit_code, 2);  // twice
  std::vector<std::string> command = eval_command("own.h5", "one.json");
  for (std::string& argument : command)
    if (argument == path("hparams.json")) argument = path("strong.json");
  ASSERT_EQ(run_loci(command).exit_code, 0);
  const Outcome joint = run_loci({"eval", path("model"), "--dataset", "counterfact", "--records", path("one.json"),
                                  "--edits", path("edits.h5"), "--output", path("joint.h5")});
  ASSERT_EQ(joint.exit_code, 0) << joint.err;
  const auto own = read_records(H5File::open_read(path("own.h5")));
  const auto given = read_records(H5File::open_read(path("joint.h5")));
  EXPECT_NEAR(std::exp(double{own[0].prompts[0].after[0].log_probabilities[0]}), after, 1e-4);
  for (size_t p = 0; p < own[0].prompts.size(); ++p) {
    EXPECT_NEAR(mean_nll(own[0].prompts[p].after[0]), mean_nll(given[0].prompts[p].after[0]), 1e-3);
    EXPECT_NEAR(mean_nll(own[0].prompts[p].before[0]), mean_nll(given[0].prompts[p].before[0]), 1e-4);
  }
}

TEST_F(Commands, EvalSaysWhenAllIsDoneAndRefusesAnotherConfiguration) {
  const Outcome first = run_loci(eval_command("done.h5", "records.json", {"--json"}));
  const Json summary = json_of(first);
  EXPECT_EQ(summary["records"], 3);
  EXPECT_EQ(summary["summary"]["ES"]["records"], 3);
  const std::string hash = canonical_hash(path("done.h5"));
  const auto written = std::filesystem::last_write_time(path("done.h5"));

  const Outcome second = run_loci(eval_command("done.h5", "records.json", {"--json"}));
  EXPECT_EQ(result_of(json_of(second)), result_of(summary));
  EXPECT_GT(summary["matrix_flop"], 0);
  EXPECT_GT(summary["seconds"], 0);
  EXPECT_EQ(json_of(second)["matrix_flop"], 0);
  EXPECT_NE(second.err.find("is complete already"), std::string::npos) << second.err;

  const Outcome other = run_loci(eval_command("done.h5", "records.json", {"--limit", "2"}));
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.err.find("holds 3 records already, more than the 2 of this job; give --limit 3"), std::string::npos)
      << other.err;
  EXPECT_EQ(std::filesystem::last_write_time(path("done.h5")), written);
  EXPECT_EQ(canonical_hash(path("done.h5")), hash);

  const Outcome anew = run_loci(eval_command("done.h5", "records.json", {"--limit", "2", "--overwrite", "--json"}));
  EXPECT_EQ(json_of(anew)["records"], 2);
  EXPECT_FALSE(exists("done.h5.parts"));
}

/// Where an evaluation of 60 records is killed: once unit `mark` is done.
struct Kill {
  std::vector<std::string> flags;
  int mark;
  std::string told;
};

void PrintTo(const Kill& kill, std::ostream* out) {
  *out << (kill.flags.empty() ? "own edits" : "sequential") << ", unit " << kill.mark;
}

class KilledEval : public Commands, public ::testing::WithParamInterface<Kill> {};

TEST_P(KilledEval, Continues) {
  write("many.json", counterfact_records(60).dump());
  const auto command = [&](const std::string& output) { return eval_command(output, "many.json", GetParam().flags); };
  // The folder is the suite's.
  const std::string whole = fmt::format("whole_{}.h5", GetParam().mark),
                    killed = fmt::format("killed_{}.h5", GetParam().mark);
  ASSERT_EQ(run_loci(command(whole)).exit_code, 0);
  const TemporaryDir streams;
  const pid_t child = start_loci(command(killed), streams.path());
  const std::string mark = path(killed) + fmt::format(".parts/unit_{:06}.done", GetParam().mark);
  for (int i = 0; i < 60000 && !std::filesystem::exists(mark); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  kill(child, SIGKILL);
  wait_for(child, streams.path());
  const bool interrupted = !exists(killed);
  const Outcome rest = run_loci(command(killed));
  ASSERT_EQ(rest.exit_code, 0) << rest.err;
  EXPECT_EQ(rest.err.find(GetParam().told) != std::string::npos, interrupted) << rest.err;
  EXPECT_EQ(canonical_hash(path(killed)), canonical_hash(path(whole)));
}

// Four units of edits come first, then four of scores.
INSTANTIATE_TEST_SUITE_P(Commands, KilledEval,
                         ::testing::Values(Kill{{}, 0, "of 60 records were done before"},
                                           Kill{{"--sequential"}, 1, "of 120 edits and scores were done before"},
                                           Kill{{"--sequential"}, 4, "of 120 edits and scores were done before"}));

/// A job with --limit 20, and then more on the same output, holds the same as one that had all from the start.
TEST_F(Commands, LimitsGrow) {
  write("forty.json", counterfact_records(40).dump());
  using Command = std::function<std::vector<std::string>(const std::string&, std::vector<std::string>)>;
  const std::map<std::string, Command> commands = {
      {"eval", [](const auto& output, const auto& more) { return eval_command(output, "forty.json", more); }},
      {"edit", [](const auto& output, const auto& more) { return edit_command(output, "forty.json", more); }},
      {"sequential", [](const auto& output, auto more) {
         more.push_back("--sequential");
         return edit_command(output, "forty.json", more);
       }}};
  for (const auto& [name, command] : commands) {
    const std::string grown = "grown_" + name + ".h5", whole = "grown_whole_" + name + ".h5";
    EXPECT_EQ(json_of(run_loci(command(grown, {"--limit", "20", "--json"})))["done_before"], 0) << name;
    // 16 requests to a unit: the second one, of which there were 4, is done again.
    EXPECT_EQ(json_of(run_loci(command(grown, {"--limit", "36", "--json"})))["done_before"], 16) << name;
    const Outcome last = run_loci(command(grown, {}));
    EXPECT_EQ(last.exit_code, 0) << last.err;
    EXPECT_NE(last.out.find("32 of 40 re"), std::string::npos) << last.out;
    EXPECT_EQ(run_loci(command(whole, {})).exit_code, 0);
    EXPECT_EQ(canonical_hash(path(grown)), canonical_hash(path(whole))) << name;
    EXPECT_EQ(read_config(H5File::open_read(path(grown)))["limit"], 0) << name;
    EXPECT_FALSE(exists(grown + ".parts"));
    const Outcome less = run_loci(command(grown, {"--limit", "20"}));
    EXPECT_EQ(less.exit_code, 2);
    EXPECT_NE(less.err.find("holds 40 re"), std::string::npos) << less.err;
    EXPECT_EQ(canonical_hash(path(grown)), canonical_hash(path(whole))) << name;
  }
}

/// Runs a command whose files may not exceed `bytes`.
Outcome run_on_full_disk(const std::vector<std::string>& command, rlim_t bytes) {
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{bytes, before.rlim_max};
  const TemporaryDir streams;
  setrlimit(RLIMIT_FSIZE, &small);
  const pid_t child = start_loci(command, streams.path());
  setrlimit(RLIMIT_FSIZE, &before);
  return wait_for(child, streams.path());
}

TEST_F(Commands, FullDisksEndInASentenceAndTheJobGoesOn) {
  write("twenty.json", counterfact_records(20).dump());
  const auto command = edit_command("full.h5", "twenty.json", {});
  ASSERT_EQ(run_loci(edit_command("fits.h5", "twenty.json", {})).exit_code, 0);
  const auto size = static_cast<double>(std::filesystem::file_size(path("fits.h5")));
  for (const double share : {0.02, 0.4, 0.81, 0.9, 0.99}) {  // the first unit is 0.8 of the output
    const Outcome outcome = run_on_full_disk(command, static_cast<rlim_t>(share * size));
    EXPECT_EQ(outcome.exit_code, 5) << share << outcome.err;
    EXPECT_NE(outcome.err.find("run the same command again"), std::string::npos) << outcome.err;
    EXPECT_FALSE(exists("full.h5"));
  }
  const Outcome rest = run_loci(command);
  ASSERT_EQ(rest.exit_code, 0) << rest.err;
  EXPECT_NE(rest.err.find("were done before"), std::string::npos) << rest.err;
  EXPECT_EQ(canonical_hash(path("full.h5")), canonical_hash(path("fits.h5")));
}

TEST_F(Commands, DamagedEditsAreRefused) {
  ASSERT_EQ(run_loci(edit_command("damaged.h5", "records.json", {})).exit_code, 0);
  std::string bytes = read_text_file(path("damaged.h5"));
  const std::vector<float> v = read_dataset<float>(H5File::open_read(path("damaged.h5")), "/edits/1/v").values;
  const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(v.data()), sizeof(float) * v.size()));
  ASSERT_NE(at, std::string::npos);
  bytes[at] = static_cast<char>(bytes[at] ^ 1);  // the last bit of a number
  write("damaged.h5", bytes);
  const Outcome outcome = run_loci({"predict", path("model"), "--prompt", "x", "--edits", path("damaged.h5")});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("/edits/1/v does not hold what was written"), std::string::npos) << outcome.err;
  // A finished output is looked at too.
  const Outcome again = run_loci(edit_command("damaged.h5", "records.json", {}));
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_NE(again.err.find("--overwrite"), std::string::npos) << again.err;
}

TEST_F(Commands, SequentialEditsAreScoredTogether) {
  const Outcome outcome = run_loci(eval_command("sequential.h5", "records.json", {"--sequential", "--json"}));
  EXPECT_EQ(json_of(outcome)["records"], 3);
  const Outcome edit = run_loci({"edit", path("model"), "--sequential", "--requests", path("records.json"), "--cov",
                                 path("cov.h5"), "--hparams", path("hparams.json"), "--context-templates",
                                 path("templates.json"), "--output", path("sequential_edits.h5")});
  ASSERT_EQ(edit.exit_code, 0) << edit.err;
  const Outcome given = run_loci({"eval", path("model"), "--dataset", "counterfact", "--records", path("records.json"),
                                  "--edits", path("sequential_edits.h5"), "--output", path("given.h5")});
  ASSERT_EQ(given.exit_code, 0) << given.err;
  const auto a = read_records(H5File::open_read(path("sequential.h5")));
  const auto b = read_records(H5File::open_read(path("given.h5")));
  for (size_t r = 0; r < a.size(); ++r) {
    EXPECT_GT(a[r].update_norm, 0);
    for (size_t p = 0; p < a[r].prompts.size(); ++p) {
      EXPECT_NEAR(mean_nll(a[r].prompts[p].after[1]), mean_nll(b[r].prompts[p].after[1]), 1e-3);
    }
  }
}

TEST_F(Commands, EvalTakesGivenEditsAsPredictDoes) {
  const auto edit = [&](const std::string& output, const std::vector<std::string>& more) {
    return run_loci(edit_command(output, "records.json", more));
  };
  const Outcome sequential = edit("chain.h5", {"--sequential"});
  ASSERT_EQ(sequential.exit_code, 0) << sequential.err;
  EXPECT_NE(sequential.err.find("r-rome"), std::string::npos) << sequential.err;
  ASSERT_EQ(edit("single.h5", {}).exit_code, 0);
  const auto eval = [&](const std::string& edits, const std::vector<std::string>& more) {
    std::vector<std::string> command = {"eval",      path("model"),        "--dataset",  "counterfact",
                                        "--records", path("records.json"), "--edits",    path(edits),
                                        "--output",  path("taken.h5"),     "--overwrite"};
    command.insert(command.end(), more.begin(), more.end());
    return run_loci(command);
  };
  const Outcome one = eval("chain.h5", {"--edit", "1"});
  EXPECT_EQ(one.exit_code, 2);
  EXPECT_NE(one.err.find("one of them alone was never made"), std::string::npos) << one.err;
  EXPECT_EQ(eval("single.h5", {"--edit", "3"}).exit_code, 2);
  const Outcome all = eval("single.h5", {});
  ASSERT_EQ(all.exit_code, 0) << all.err;
  EXPECT_NE(all.err.find("are applied together"), std::string::npos) << all.err;
  const Json config = read_config(H5File::open_read(path("taken.h5")));
  for (const char* option : {"method", "hparams", "layer", "ridge", "seed"}) EXPECT_FALSE(config.contains(option));
  ASSERT_EQ(eval("single.h5", {"--edit", "2"}).exit_code, 0);
}

TEST_F(Commands, EditSkipsWhatDoesNotFitBehindATemplate) {
  Json records = counterfact_records(3);
  records[1]["requested_rewrite"]["prompt"] = "{} " + std::string(60, 'x');
  write("long.json", records.dump());
  write("long_templates.json", R"(["{}", "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy. {}"])");
  const std::vector<std::string> command = {"edit",
                                            path("model"),
                                            "--requests",
                                            path("long.json"),
                                            "--cov",
                                            path("cov.h5"),
                                            "--hparams",
                                            path("hparams.json"),
                                            "--context-templates",
                                            path("long_templates.json"),
                                            "--output",
                                            path("long.h5"),
                                            "--json"};
  const Outcome refused = run_loci(command);
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("--skip-invalid"), std::string::npos) << refused.err;
  std::vector<std::string> skipping = command;
  skipping.push_back("--skip-invalid");
  const Json told = json_of(run_loci(skipping));
  EXPECT_EQ(told["edits"].size(), 2u);
  EXPECT_EQ(told["skipped"], 1);
}

TEST_F(Commands, CovGoesOnBehindLinesThatAreNoDocuments) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += fmt::format("{{\"text\": \"document {} of a text\"}}\n", i);
  const std::string good = text;
  for (int i = 0; i < 5000; ++i) text += "{\"text\n";  // more than an attribute would hold
  text += "{\"text\": \"the end\"}\n";
  write("bad.jsonl", text);
  const auto cov = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command = {"cov",
                                        path("model"),
                                        "--text",
                                        path("bad.jsonl"),
                                        "--layers",
                                        "1",
                                        "--output",
                                        path("bad_lines.h5"),
                                        "--unit-tokens",
                                        "100",
                                        "--checkpoint-seconds",
                                        "0",
                                        "--json"};
    command.insert(command.end(), more.begin(), more.end());
    return run_loci(command);
  };
  const Outcome refused = cov({});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("bad.jsonl: line 41"), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("--skip-invalid"), std::string::npos) << refused.err;
  const Outcome skipping = cov({"--skip-invalid"});
  EXPECT_NE(skipping.err.find("tokens were done before"), std::string::npos) << skipping.err.substr(0, 2000);
  const Json told = json_of(skipping);
  EXPECT_EQ(told["skipped"], 5000);
  EXPECT_EQ(told["documents"], 41);
}

TEST_F(Commands, EditRefusesAnExportFolderBeforeItWorks) {
  std::filesystem::create_directories(path("taken_folder"));
  write("taken_folder/model.safetensors", "x");
  const Outcome outcome = run_loci({"edit", path("model"), "--requests", path("records.json"), "--cov", path("cov.h5"),
                                    "--hparams", path("hparams.json"), "--context-templates", path("templates.json"),
                                    "--output", path("unmade.h5"), "--export", path("taken_folder")});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("holds a model already"), std::string::npos) << outcome.err;
  EXPECT_FALSE(exists("unmade.h5") || exists("unmade.h5.parts"));
}

TEST_F(Commands, EditTowardsTheAlternativeOfZsre) {
  write("zsre_edit.json", R"([{"subject": "Ann", "src": "Where is Ann?", "alt": "Rome", "answers": ["Bon"]}])");
  const Json told =
      json_of(run_loci({"edit", path("model"), "--requests", path("zsre_edit.json"), "--zsre-target", "alt", "--cov",
                        path("cov.h5"), "--hparams", path("hparams.json"), "--context-templates",
                        path("templates.json"), "--output", path("zsre_edit.h5"), "--json"}));
  EXPECT_EQ(told["edits"][0]["target_new"], "Rome");
}

TEST_F(Commands, ZsreAndItsExport) {
  write("zsre.json", R"([{"subject": "Ann", "src": "Where is Ann?", "rephrase": "Ann is where?", "alt": "Rome",
    "answers": ["Bon"], "loc": "nq question: who", "loc_ans": "Bo", "pred": "", "cond": ""}])");
  std::vector<std::string> command = eval_command("zsre.h5", "zsre.json", {"--zsre-target", "alt"});
  command[3] = "zsre";
  ASSERT_EQ(run_loci(command).exit_code, 0);
  const Outcome exported = run_loci({"export", path("zsre.h5"), "--output", path("zsre_cases")});
  ASSERT_EQ(exported.exit_code, 0) << exported.err;
  const Json record = parse_json_file(path("zsre_cases/case_0.json"));
  EXPECT_EQ(record["requested_rewrite"]["target_new"]["str"], "Rome");
  for (const char* phase : {"pre", "post"}) {
    EXPECT_EQ(record[phase]["rewrite_prompts_correct"].size(), 5u);  // " Rome" in bytes
    EXPECT_EQ(record[phase]["paraphrase_prompts_correct"].size(), 5u);
    EXPECT_EQ(record[phase]["neighborhood_prompts_correct"].size(), 3u);
  }
}

TEST_F(Commands, CounterFactExports) {
  ASSERT_EQ(run_loci(eval_command("export.h5")).exit_code, 0);
  const Json told =
      json_of(run_loci({"export", path("export.h5"), "--format", "cases", "--output", path("cases"), "--json"}));
  EXPECT_EQ(told["files"], 3);
  const auto records = read_records(H5File::open_read(path("export.h5")));
  for (const RecordResult& record : records) {
    const Json object = parse_json_file(path("cases/case_" + std::to_string(record.case_id) + ".json"));
    EXPECT_EQ(object["case_id"], record.case_id);
    EXPECT_EQ(object["post"]["neighborhood_prompts_probs"].size(), 2u);
    EXPECT_EQ(object["post"]["attribute_prompts_probs"].size(), 0u);
    EXPECT_EQ(object["post"]["rewrite_prompts_probs"][0]["target_new"], mean_nll(record.prompts[0].after[0]));
    EXPECT_EQ(object["pre"]["paraphrase_prompts_probs"][0]["target_true"], mean_nll(record.prompts[1].before[1]));
  }
  ASSERT_EQ(run_loci({"export", path("export.h5"), "--format", "csv", "--output", path("csv")}).exit_code, 0);
  const std::string lines = read_text_file(path("csv/prompts.csv"));
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1 + 3 * 4 * 2);
  EXPECT_NE(read_text_file(path("csv/summary.csv")).find("\nscore,"), std::string::npos);

  for (const char* format : {"markdown", "latex"})
    ASSERT_EQ(run_loci({"export", path("export.h5"), "--format", format, "--output", path("paper")}).exit_code, 0);
  const std::string es = percent_text(summarize(Dataset::counterfact, records)[0].after.mean);
  const std::string markdown = read_text_file(path("paper/summary.md")),
                    latex = read_text_file(path("paper/summary.tex"));
  EXPECT_NE(markdown.find("model, counterfact, method rome. Per cent: mean over n records with its 95 % confidence"),
            std::string::npos)
      << markdown;
  EXPECT_NE(markdown.find("| metric | before | after | n | meaning |\n"), std::string::npos) << markdown;
  EXPECT_NE(markdown.find(" | " + es + " ± "), std::string::npos) << markdown;
  EXPECT_NE(markdown.find("p(new) \\> p(true)"), std::string::npos) << markdown;
  EXPECT_NE(latex.find("ES & "), std::string::npos) << latex;
  EXPECT_NE(latex.find(" & $" + es + " \\pm "), std::string::npos) << latex;
  EXPECT_NE(latex.find("p(new) $>$ p(true) \\\\\n"), std::string::npos) << latex;
  EXPECT_NE(latex.find("\\end{table}"), std::string::npos) << latex;
}

TEST_F(Commands, EvalWithoutAMethodScoresTheModelAsItIs) {
  const auto eval = [&](const std::string& output, const std::vector<std::string>& more) {
    std::vector<std::string> command = {"eval",      path("model"),        "--dataset", "counterfact",
                                        "--records", path("records.json"), "--output",  path(output)};
    command.insert(command.end(), more.begin(), more.end());
    return run_loci(command);
  };
  const Outcome plain = eval("plain.h5", {"--json"});
  EXPECT_NE(plain.err.find("the model is scored as it is"), std::string::npos) << plain.err;
  const Json told = json_of(plain);
  EXPECT_FALSE(told["summary"]["ES"].contains("after"));
  EXPECT_FALSE(told.contains("did_not_take"));
  EXPECT_FALSE(told["summary"].contains("locality"));
  ASSERT_EQ(eval("none.h5", {"--method", "none"}).exit_code, 0);
  ASSERT_EQ(run_loci(eval_command("edited.h5")).exit_code, 0);
  const auto a = read_records(H5File::open_read(path("plain.h5"))),
             b = read_records(H5File::open_read(path("none.h5")));
  const auto edited = read_records(H5File::open_read(path("edited.h5")));
  ASSERT_EQ(a.size(), edited.size());
  for (size_t r = 0; r < a.size(); ++r) {
    for (size_t p = 0; p < a[r].prompts.size(); ++p) {
      EXPECT_TRUE(a[r].prompts[p].after.empty());
      EXPECT_EQ(mean_nll(a[r].prompts[p].before[0]), mean_nll(b[r].prompts[p].before[0]));
      EXPECT_NEAR(mean_nll(a[r].prompts[p].before[0]), mean_nll(edited[r].prompts[p].before[0]), 1e-5);
    }
  }
  for (const char* format : {"cases", "csv", "markdown", "latex"})
    ASSERT_EQ(run_loci({"export", path("plain.h5"), "--format", format, "--output", path("plain")}).exit_code, 0);
  const Json record = parse_json_file(path("plain/case_0.json"));
  EXPECT_EQ(record["pre"]["rewrite_prompts_probs"].size(), 1u);
  EXPECT_FALSE(record.contains("post"));
  EXPECT_NE(read_text_file(path("plain/summary.md")).find("| metric | value | n | meaning |"), std::string::npos);
  EXPECT_EQ(read_text_file(path("plain/summary.tex")).find("after"), std::string::npos);
  EXPECT_EQ(eval("bad.h5", {"--layer", "1"}).exit_code, 2);
}

TEST_F(Commands, SkippedRecordsAreCounted) {
  Json records = counterfact_records(3);
  records[1]["requested_rewrite"]["prompt"] = "no place for it";
  write("some.json", records.dump());
  const Outcome outcome = run_loci(eval_command("some.h5", "some.json", {"--skip-invalid", "--json"}));
  const Json told = json_of(outcome);
  EXPECT_EQ(told["records"], 2);
  EXPECT_EQ(told["skipped"], 1);
  EXPECT_NE(outcome.err.find("record 1 (case_id 1)"), std::string::npos) << outcome.err;
}

TEST_F(Commands, AConfigurationFileStandsForFlags) {
  ASSERT_EQ(run_loci(eval_command("flags.h5")).exit_code, 0);
  const Json config = {{"model", path("absent")},
                       {"dataset", "counterfact"},
                       {"records", path("records.json")},
                       {"cov", path("cov.h5")},
                       {"hparams", path("hparams.json")},
                       {"output", path("config.h5")},
                       {"context-templates", path("templates.json")}};
  write("config.json", config.dump());
  const Outcome outcome = run_loci({"eval", path("model"), "--config", path("config.json")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(canonical_hash(path("config.h5")), canonical_hash(path("flags.h5")));
  const Json inputs = parse_json(read_string_attribute(H5File::open_read(path("config.h5")), "/", "inputs"), "inputs");
  EXPECT_EQ(inputs, Json({{"model", path("model")},
                          {"records", path("records.json")},
                          {"cov", path("cov.h5")},
                          {"hparams", path("hparams.json")},
                          {"context-templates", path("templates.json")}}));
}

TEST_F(Commands, JsonOutputIsAloneOnStandardOutput) {
  const Outcome outcome = run_loci(eval_command("alone.h5", "records.json", {"--json"}));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1);
  EXPECT_EQ(outcome.err.find("configuration"), std::string::npos) << outcome.err;
  const Outcome verbose = run_loci(eval_command("alone.h5", "records.json", {"--json", "-v"}));
  EXPECT_NE(verbose.err.find("debug: configuration: {"), std::string::npos) << verbose.err;
  EXPECT_EQ(std::count(verbose.out.begin(), verbose.out.end(), '\n'), 1);
}

TEST_F(Commands, QuietOnlyWarnsAndALogFileHoldsAll) {
  const Outcome outcome =
      run_loci(eval_command("quiet.h5", "records.json", {"--json", "-q", "--log-file", path("log.txt")}));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(outcome.err.starts_with("warning: eval: ") && outcome.err.ends_with("(docs/troubleshooting.md)\n"))
      << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  const std::string log = read_text_file(path("log.txt"));
  for (const char* part : {" debug rank 0: configuration: {", " info rank 0: eval: 3 records done"})
    EXPECT_NE(log.find(part), std::string::npos) << log;
}

TEST_F(Commands, MoreThreadsThanProcessorsAreNotTaken) {
  const Outcome one = run_loci({"predict", path("model"), "--prompt", "a", "--threads", "4000"});
  EXPECT_EQ(one.exit_code, 0) << one.err;
  EXPECT_NE(one.err.find("warning: --threads 4000: this process may use "), std::string::npos) << one.err;
  std::vector<std::string> shared = eval_command("threads.h5", "records.json", {"--ranks", "2"});
  *(std::find(shared.begin(), shared.end(), "--threads") + 1) = "4000";
  const Outcome two = run_loci(shared);
  EXPECT_EQ(two.exit_code, 0) << two.err;
  const size_t said = two.err.find("warning: --threads 4000: a rank may use ");
  EXPECT_NE(said, std::string::npos) << two.err;
  EXPECT_EQ(two.err.find("--threads 4000", said + 20), std::string::npos) << "said more than once: " << two.err;
}

/// The names in a result's stored configuration.
std::set<std::string> stored_names(const Json& config) {
  std::set<std::string> names;
  for (const auto& [name, value] : config.items()) names.insert(name);
  return names;
}

TEST_F(Commands, ConfigurationsHoldWhatIdentifiesAResult) {
  const auto stored = [](const std::string& name) {
    return parse_json(read_string_attribute(H5File::open_read(path(name)), "/", "config"), name);
  };
  const Json cov = stored("cov.h5");
  EXPECT_EQ(stored_names(cov), (std::set<std::string>{"command", "device", "layers", "limit", "max-tokens",
                                                      "max-tokens-per-document", "precision", "text_sha256",
                                                      "tokenizer_sha256", "unit-tokens", "until", "weights_sha256"}));
  EXPECT_TRUE(cov["max-tokens"].is_number_integer()) << cov;
  EXPECT_TRUE(cov["until"].is_number()) << cov;
  ASSERT_EQ(run_loci(eval_command("stored.h5", "records.json", {"--limit", "2", "--seed", "7"})).exit_code, 0);
  const Json eval = stored("stored.h5");
  EXPECT_EQ(stored_names(eval), (std::set<std::string>{"command", "compat", "dataset", "device", "edit", "limit",
                                                       "passes", "precision", "records_per_unit", "records_sha256",
                                                       "sequential", "skip-invalid", "weights_sha256", "zsre-target"}));
  EXPECT_EQ(eval["limit"], 2);
  EXPECT_EQ(eval["sequential"], false);
  // Other ways to run the same, and a seed that draws nothing here.
  const Outcome again = run_loci(eval_command(
      "stored.h5", "records.json", {"--limit", "02", "--seed", "8", "--rank-timeout", "5", "--memory", "1"}));
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("complete already"), std::string::npos) << again.err;
}

TEST_F(Commands, HelpAndVersion) {
  for (const char* asked : {"--help", "-h", "help"}) {
    const Outcome outcome = run_loci({asked});
    EXPECT_EQ(outcome.exit_code, 0) << asked;
    for (const char* part : {"Commands:", "  trace ", "Exit codes:", "docs/command_line.md"})
      EXPECT_NE(outcome.out.find(part), std::string::npos) << outcome.out;
  }
  for (const char* asked : {"--version", "-V", "version"}) {
    const Outcome outcome = run_loci({asked});
    EXPECT_EQ(outcome.exit_code, 0) << asked;
    EXPECT_EQ(outcome.out.rfind("loci ", 0), 0u) << outcome.out;
  }
  for (const char* command :
       {"info", "predict", "generate", "tokenize", "cov", "trace", "edit", "eval", "train", "export"}) {
    const Outcome outcome = run_loci({command, "--help"});
    EXPECT_EQ(outcome.exit_code, 0) << command;
    for (const char* part : {"\nUsage: loci ", "(required)", "\nExample:\n  loci ", "\nGeneral:\n"})
      EXPECT_NE(outcome.out.find(part), std::string::npos) << outcome.out;
    EXPECT_EQ(run_loci({"help", command}).out, outcome.out);
    const Outcome page = run_loci({"manual", command});
    EXPECT_EQ(page.exit_code, 0) << page.err;
    EXPECT_NE(page.out.find(".SH OPTIONS"), std::string::npos) << page.out;
  }
}

TEST_F(Commands, HelpShowsNoOptionThatDoesNothing) {
  const auto expect_absent = [](const char* command, const std::vector<std::string>& options) {
    const Outcome help = run_loci({command, "--help"});
    for (const std::string& option : options)
      EXPECT_EQ(help.out.find(option), std::string::npos) << option << " is in: " << help.out;
  };
  expect_absent("info", {"--device", "--precision", "--threads", "--memory", "--compat", "--seed"});
  expect_absent("tokenize", {"--device", "--precision", "--memory", "--compat", "--seed"});
  expect_absent("predict", {"--compat", "--seed"});
  expect_absent("cov", {"--compat", "--seed"});
  expect_absent("export", {"--device"});
  // Scripts may give them nevertheless.
  const Outcome outcome = run_loci({"info", path("model"), "--device", "cpu", "--precision", "fp32", "--compat", "rome",
                                    "--seed", "3", "--threads", "1", "--memory", "1"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

}  // namespace
}  // namespace loci::test
