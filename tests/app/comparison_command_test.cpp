// `loci eval --methods`, hyper-parameters by name, and the help of a method.
#include <cmath>

#include "edit/methods.h"
#include "eval/comparison_file.h"
#include "tests/app/support.h"
#include "tests/support/canonical_hash.h"
#include "tests/support/errors.h"

namespace loci::test {
namespace {

class ComparisonCommandTest : public CommandTest {
 protected:
  static void SetUpTestSuite() {
    CommandTest::SetUpTestSuite();
    std::filesystem::create_directories(dir_->path() / "hp");
    std::filesystem::copy_file(path("hparams.json"), dir_->path() / "hp" / "rome.json");
    write("hp/ft.json", R"({"layers": [1], "num_steps": 2, "lr": 0.01})");
  }

  static std::vector<std::string> compare_command(const std::string& output, const std::vector<std::string>& more) {
    std::vector<std::string> command = {"eval",
                                        path("model"),
                                        "--dataset",
                                        "counterfact",
                                        "--records",
                                        path("records.json"),
                                        "--cov",
                                        path("cov.h5"),
                                        "--hparams",
                                        path("hp"),
                                        "--context-templates",
                                        path("templates.json"),
                                        "--output",
                                        path(output),
                                        "--threads",
                                        "1"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  static void expect_refused(const std::vector<std::string>& command, const std::string& part) {
    const Outcome outcome = run_loci(command);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << "'" << part << "' is not said: " << outcome.err;
    EXPECT_FALSE(exists("refused.h5"));
    EXPECT_FALSE(exists("refused.h5.parts"));
  }
};

TEST_F(ComparisonCommandTest, IsToldInTextAndJsonAndExported) {
  const std::vector<std::string> more = {"--methods", "rome,ft", "--edits-at", "1,3", "--text", path("text.txt")};
  std::vector<std::string> as_json = more;
  as_json.emplace_back("--json");
  const Outcome outcome = run_loci(compare_command("c.h5", as_json));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const Json told = parse_json(outcome.out, "standard output");
  ASSERT_EQ(told["rows"].size(), 5u);
  EXPECT_EQ(told["rows"][0]["method"], "unedited");
  EXPECT_EQ(told["done_before"], 0);
  const Outcome single = run_loci(eval_command("single.h5", "records.json", {"--json"}));
  ASSERT_EQ(single.exit_code, 0) << single.err;
  const Json summary = parse_json(single.out, "standard output")["summary"];
  for (const char* metric : {"ES", "PS", "NS", "EM", "score"}) {
    EXPECT_EQ(told["rows"][1][metric], summary[metric]["after"]) << metric;
    EXPECT_EQ(told["rows"][0][metric], summary[metric]["before"]) << metric;
  }
  EXPECT_GT(told["rows"][1]["perplexity"], 1.0);
  EXPECT_GT(told["rows"][1]["changes"]["1"], 0.0);

  const Outcome again = run_loci(compare_command("c.h5", more));
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("is complete already"), std::string::npos) << again.err;
  for (const char* part : {"method", "ES [%]", "unedited", "rome", "ft", "perplexity"})
    EXPECT_NE(again.out.find(part), std::string::npos) << again.out;
  const Json config = parse_json(read_string_attribute(H5File::open_read(path("c.h5")), "/", "config"), "config");
  EXPECT_EQ(config["methods"][1]["hparams"]["num_steps"], 2);
  EXPECT_FALSE(config.contains("hparams"));

  const std::vector<std::pair<const char*, const char*>> exports = {
      {"markdown", "comparison.md"}, {"latex", "comparison.tex"}, {"csv", "comparison.csv"}};
  for (const auto& [format, file] : exports) {
    ASSERT_EQ(run_loci({"export", path("c.h5"), "--format", format, "--output", path("tables")}).exit_code, 0);
    const std::string text = read_text_file(dir_->path() / "tables" / file);
    EXPECT_NE(text.find("unedited"), std::string::npos) << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '%') > 0, std::string(format) != "csv");
  }
  expect_refused({"export", path("c.h5"), "--format", "npz", "--output", path("tables")},
                 "markdown or latex, not as npz");
}

TEST_F(ComparisonCommandTest, SequencesTellWhatIsLeft) {
  const Outcome outcome =
      run_loci(compare_command("s.h5", {"--methods", "ft,rome", "--edits-at", "1,3", "--sequential", "--ranks", "2"}));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* part : {"rome: ES [%] of each group of edits", "2-3"})
    EXPECT_NE(outcome.out.find(part), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.err.find("known to disable a model"), std::string::npos) << outcome.err;
  ASSERT_EQ(run_loci({"export", path("s.h5"), "--output", path("kept")}).exit_code, 0);
  EXPECT_TRUE(exists("kept/retention_rome.md"));
  ASSERT_EQ(run_loci({"export", path("s.h5"), "--format", "csv", "--output", path("kept")}).exit_code, 0);
  const std::string kept = read_text_file(dir_->path() / "kept" / "retention.csv");
  EXPECT_EQ(std::count(kept.begin(), kept.end(), '\n'), 1 + 2 * 3) << kept;
}

TEST_F(ComparisonCommandTest, AFailureIsWarnedOf) {
  write("hp/memit.json", R"({"layers": [1], "v_num_grad_steps": 2})");
  write("zero.txt", "x\n");
  // One token alone makes second moments of rank one.
  const Outcome cov =
      run_loci({"cov", path("model"), "--text", path("zero.txt"), "--layers", "1", "--output", path("zero.h5")});
  ASSERT_EQ(cov.exit_code, 0) << cov.err;
  std::vector<std::string> command = compare_command("f.h5", {"--methods", "memit,ft", "--edits-at", "3"});
  for (std::string& argument : command)
    if (argument == path("cov.h5")) argument = path("zero.h5");
  const Outcome outcome = run_loci(command);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("warning: eval: memit at 3 edits failed, and has no numbers: "), std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.out.find("memit at 3 edits failed: "), std::string::npos) << outcome.out;
}

TEST_F(ComparisonCommandTest, WrongCallsAreRefused) {
  const auto with = [](const std::vector<std::string>& more) { return compare_command("refused.h5", more); };
  expect_refused(with({"--methods", "rome,ft"}), "--methods needs --edits-at");
  expect_refused(with({"--edits-at", "1"}), "--edits-at needs --methods");
  expect_refused(with({"--text", path("text.txt")}), "--text needs --methods");
  expect_refused(with({"--methods", "rhome", "--edits-at", "1"}), "did you mean rome?");
  expect_refused(with({"--methods", "rome", "--method", "ft", "--edits-at", "1"}), "exclude each other");
  expect_refused(with({"--methods", "rome,ft", "--edits-at", "1,many"}), "--edits-at many: must be whole numbers");
  expect_refused(with({"--methods", "rome,ft", "--edits-at", "1,4"}), "--edits-at 4: ");
  expect_refused(with({"--methods", "rome,rome", "--edits-at", "1"}), "--methods: rome is given twice");
  expect_refused(with({"--methods", "rome,kn", "--edits-at", "1"}),
                 "the folder lacks the file kn.json; add it, or leave kn out of --methods");
  std::vector<std::string> command = with({"--methods", "rome,ft", "--edits-at", "1"});
  for (std::string& argument : command)
    if (argument == path("hp")) argument = path("hparams.json");
  expect_refused(command, "is not a folder");
}

TEST_F(ComparisonCommandTest, PublishedHyperparametersHaveNames) {
  const auto edit = [](const std::string& method, const std::string& name) {
    return std::vector<std::string>{"edit",     path("model"),  "--requests", path("records.json"),
                                    "--method", method,         "--hparams",  name,
                                    "--cov",    path("cov.h5"), "--output",   path("refused.h5")};
  };
  // That the layers of GPT-2 XL do not fit shows that its file was read.
  expect_refused(edit("rome", "gpt2-xl"), "layer 17 cannot be edited");
  expect_refused(edit("r-rome", "gpt2-medium"), "layer 8 cannot be edited");
  expect_refused(edit("memit-seq", "gpt2-xl"), "layer 13 cannot be edited");
  expect_refused(edit("p-rome", "gpt3"), "gpt2-large, gpt2-medium, gpt2-xl");
  expect_refused(edit("pmet", "gpt2-xl"), "not the name of published hyper-parameters for pmet; there are gpt-j-6b");
  expect_refused(edit("ft-m", "gpt2-xl"), "there are no published hyper-parameters for ft-m");
  std::filesystem::create_directories(dir_->path() / "mine" / "hparams" / "pmet");
  write("mine/hparams/pmet/gpt2-xl.json", R"({"layers": [7]})");
  ::setenv("LOCI_DATA", path("mine").c_str(), 1);
  expect_refused(edit("pmet", "gpt2-xl"), "layer 7 cannot be edited");
  expect_refused(edit("rome", "gpt2-xl"), "layer 17 cannot be edited");
  ::unsetenv("LOCI_DATA");
}

TEST_F(ComparisonCommandTest, HelpListsTheHyperparametersOfAMethod) {
  for (const MethodEntry& entry : methods()) {
    const std::string name(entry.name);
    const std::vector<SettingRow> rows = entry.hparams(entry.name);
    ASSERT_FALSE(rows.empty()) << name;
    for (const char* command : {"edit", "eval"}) {
      const Outcome help = run_loci({command, "--method", name, "--help"});
      EXPECT_EQ(help.exit_code, 0) << help.err;
      const size_t begin = help.out.find("Hyper-parameters of " + name);
      ASSERT_NE(begin, std::string::npos) << help.out;
      for (const SettingRow& row : rows)
        EXPECT_NE(help.out.find("\n  " + row.key, begin), std::string::npos) << row.key << ": " << help.out;
    }
  }
  for (const auto& [method, key, shown] :
       {std::tuple{"memit", "mom2_update_weight", "[default: 15000.0]"}, std::tuple{"pmet", "v_lr", "[default: 0.2]"},
        std::tuple{"ft-l", "norm_constraint", "[default: required]"},
        std::tuple{"ft", "norm_constraint", "[default: none]"},
        std::tuple{"rome", "layers", "[default: required, or --layer]"}}) {
    const std::string help = run_loci({"edit", "--method", method, "--help"}).out;
    const size_t begin = help.find(std::string("\n  ") + key), end = help.find(']', help.find("[default", begin));
    EXPECT_NE(help.substr(begin, end + 1 - begin).find(shown), std::string::npos) << method << " " << key << help;
  }
  EXPECT_EQ(run_loci({"edit", "--method=memit", "--help"}).out, run_loci({"edit", "--help", "--method", "memit"}).out);
  EXPECT_EQ(run_loci({"edit", "--help"}).out.find("Hyper-parameters of"), std::string::npos);
}

}  // namespace
}  // namespace loci::test
