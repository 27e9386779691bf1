// What users get wrong, at the level of the command: exit code 2, one clear sentence, nothing written.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "runtime/io/hdf5.h"
#include "tests/app/support.h"

namespace loci::test {
namespace {

class BadInput : public CommandTest {
 protected:
  /// The run must fail with `exit_code` and one error line that holds `part`; neither "out.h5" nor anything beside it
  /// may be left.
  static void expect_refused(const std::vector<std::string>& arguments, const std::string& part, int exit_code = 2) {
    std::string shown;
    for (const std::string& argument : arguments) shown += " " + argument;
    SCOPED_TRACE(shown);
    const Outcome outcome = run_loci(arguments);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    const std::string all = outcome.out + outcome.err;
    EXPECT_NE(all.find(part), std::string::npos) << "\"" << part << "\" is not in: " << all;
    EXPECT_EQ(all.find("unexpected:"), std::string::npos) << all;
    for (const auto& entry : std::filesystem::directory_iterator(dir_->path())) {
      const std::string name = entry.path().filename().string();
      EXPECT_FALSE(name.starts_with("out.h5")) << name << " was left behind";
      EXPECT_FALSE(name.ends_with(".tmp")) << name << " was left behind";
    }
  }
  static std::vector<std::string> eval_of(const std::string& records, const std::vector<std::string>& more = {}) {
    return eval_command("out.h5", records, more);
  }
  /// The eval command with one argument put in another's place.
  static std::vector<std::string> eval_with(const std::string& from, const std::string& to) {
    std::vector<std::string> command = eval_of("records.json");
    std::replace(command.begin(), command.end(), from, to);
    return command;
  }
  /// The records file as a text that is not quite what it should be.
  static void expect_records_refused(const std::string& text, const std::string& part) {
    SCOPED_TRACE(text.substr(0, 200));
    write("bad.json", text);
    expect_refused(eval_of("bad.json"), part);
  }
  static void expect_record_refused(const std::function<void(Json&)>& change, const std::string& part) {
    Json records = counterfact_records(2);
    change(records[1]);
    expect_records_refused(records.dump(), part);
  }
};

TEST_F(BadInput, CommandLines) {
  expect_refused({}, "no command is given");
  expect_refused({"--threads", "1", "info"}, "the command comes first");
  expect_refused({"trase", path("model")}, "there is no command \"trase\"; did you mean loci trace?");
  expect_refused({"help", "trase"}, "did you mean loci trace?");
  expect_refused({"predict"}, "MODEL is missing");
  expect_refused({"trace", path("model"), "--fact", "x", "--output", path("out.h5")}, "did you mean --facts?");
  expect_refused(
      {"trace", path("model"), "--log-file", dir_->path().string(), "--facts", "x", "--output", path("out.h5")},
      "--log-file");
  expect_refused({"predict", path("model"), "--prompt", "a", "-q", "-v"}, "exclude each other");
  expect_refused({"predict", path("model")}, "--prompt");
  expect_refused({"predict", path("model"), "--prompt", "a", "--prompts", path("records.json")}, "--prompt");
  expect_refused({"predict", path("model"), "--prompt", "a", "--top", "0"}, "--top");
  expect_refused({"predict", path("model"), "--prompt", "a", "--top", "x"}, "--top");
  expect_refused({"predict", path("model"), "--prompt", "a", "--device", "tpu"}, "tpu");
  expect_refused({"predict", path("model"), "--prompt", "a", "--precision", "fp8"}, "--precision");
  expect_refused({"predict", path("model"), "--prompt", "a", "--precision", "bf16"}, "bf16");
  expect_refused({"predict", path("model"), "--prompt", "a", "--compat", "memit"}, "--compat");
  expect_refused({"predict", path("model"), "--prompt", "a", "--threads", "-2"}, "--threads");
  expect_refused({"predict", path("model"), "--prompt", "a", "--memory", "-1"}, "--memory");
  expect_refused({"predict", path("model"), "--prompt", "a", "--seed", "-1"}, "--seed");
  expect_refused({"predict", path("model"), "--prompt", "a", "--promt", "b"}, "--promt");
  expect_refused({"predict", path("model"), "--prompt", std::string(97, 'x')}, "97 tokens");
  expect_refused({"predict", path("model"), "--prompt", "a", "--edit", "0"}, "--edits");
  expect_refused({"eval", path("model")}, "--dataset");
  expect_refused(eval_with("counterfact", "zrse"), "--dataset");
  expect_refused(eval_of("records.json", {"--method", "no-such-method"}), "--method");
  expect_refused(eval_of("records.json", {"--limit", "-1"}), "--limit");
  expect_refused(eval_of("records.json", {"--layer", "3"}), "layer 3");
  expect_refused(eval_of("records.json", {"--zsre-target", "alt"}), "--zsre-target");
  expect_refused(eval_of("records.json", {"--ridge", "-1"}), "--ridge");
  expect_refused(eval_of("records.json", {"--hparams", path("hparams.json")}), "--hparams");  // given twice
}

TEST_F(BadInput, MissingFilesAndFolders) {
  expect_refused(eval_with(path("model"), path("nothing")), "nothing");
  std::filesystem::create_directories(path("empty"));
  expect_refused(eval_with(path("model"), path("empty")), "config.json");
  expect_refused(eval_of("absent.json"), "absent.json");
  expect_refused(eval_with(path("cov.h5"), path("absent.h5")), "absent.h5");
  expect_refused(eval_with(path("hparams.json"), path("absent.json")), "absent.json");
  expect_refused(eval_with(path("templates.json"), path("absent.json")), "absent.json");
  expect_refused(eval_with(path("out.h5"), path("no_folder/out.h5")), "no_folder");
  EXPECT_FALSE(exists("no_folder"));
  expect_refused(eval_with(path("out.h5"), path("empty")), "empty");  // a folder
  expect_refused(eval_with(path("records.json"), path("model")), "model");
}

TEST_F(BadInput, DamagedModels) {
  for (const char* file : {"config.json", "model.safetensors", "vocab.json", "merges.txt"}) {
    SCOPED_TRACE(file);
    const std::string folder = path(std::string("damaged_") + file);
    std::filesystem::copy(path("model"), folder);
    const std::filesystem::path victim = std::filesystem::path(folder) / file;
    const std::string text = read_text_file(victim);
    write_file_atomically(victim, std::string_view(text).substr(0, text.size() / 2));
    if (std::string(file) != "merges.txt") expect_refused(eval_with(path("model"), folder), file);
    std::filesystem::remove(victim);
    expect_refused(eval_with(path("model"), folder), file);
  }
  const std::string folder = path("other_vocabulary");
  std::filesystem::copy(path("model"), folder);
  Json vocabulary = parse_json_file(folder + "/vocab.json");
  vocabulary["extra"] = 257;
  write_file_atomically(folder + "/vocab.json", vocabulary.dump());
  expect_refused({"info", folder}, "extra");
}

TEST_F(BadInput, WeightsThatAreNotFinite) {
  const std::string folder = path("not_finite");
  std::filesystem::copy(path("model"), folder);
  std::string weights = read_text_file(folder + "/model.safetensors");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(weights.data() + weights.size() - sizeof(nan), &nan, sizeof(nan));
  write_file_atomically(folder + "/model.safetensors", weights);
  const std::string says = folder + "/model.safetensors: tensor \"transformer.ln_f.bias\": element 11 is not finite";
  expect_refused(eval_with(path("model"), folder), says);
  expect_refused({"info", folder}, says);
  expect_refused({"predict", folder, "--prompt", "a"}, says);
  expect_refused({"generate", folder, "--prompt", "a"}, says);
}

TEST_F(BadInput, ATokenizerLargerThanItsEmbedding) {
  const std::string folder = path("large_vocabulary");
  std::filesystem::copy(path("model"), folder);
  Json vocabulary = parse_json_file(folder + "/vocab.json");
  vocabulary["<extra>"] = 257;
  write_file_atomically(folder + "/vocab.json", vocabulary.dump());
  expect_refused(eval_with(path("model"), folder), "the tokenizer has 258 tokens");
  expect_refused({"predict", folder, "--prompt", "a"}, "the tokenizer has 258 tokens");
}

TEST_F(BadInput, ArgumentsAndFilesThatAreNoText) {
  expect_refused({"predict", path("model"), "--prompt", "\xff"}, "is not UTF-8 text");
  expect_refused({"eval", path("model"), "--dataset", "counterfact", "--records", path("records.json"), "--edits", "",
                  "--output", path("out.h5")},
                 "the name is empty");
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  expect_refused({"cov", path("model"), "--text", path("pipe"), "--output", path("out.h5")}, "is not a regular file");
  expect_refused(eval_with(path("out.h5"), path("records.json")), "is the file of --records");
  expect_refused({"tokenize", path("model"), "--text", path("text.txt"), "--output", path("text.txt"), "--overwrite"},
                 "is the file of --text");
  expect_refused({"edit", path("model"), "--requests", path("absent.json"), "--cov", path("cov.h5"), "--hparams",
                  path("hparams.json"), "--output", path("out.h5"), "--export", path("unmade")},
                 "absent.json");
  EXPECT_FALSE(exists("unmade"));
}

TEST_F(BadInput, BinaryFilesWhereTextIsRead) {
  const std::string parquet("PAR1\x15\x04\x15\0\x15", 9), noise("\x01\0\x02\0\x03", 5), latin("caf\xE9\n");
  for (const auto& [bytes, says] : std::vector<std::pair<std::string, std::string>>{
           {parquet, "binary: is a Parquet file, not "}, {noise, "binary: line 1: byte 1 is NUL"}}) {
    write("binary", bytes);
    expect_refused({"cov", path("model"), "--text", path("binary"), "--output", path("out.h5")}, says);
    expect_refused({"tokenize", path("model"), "--text", path("binary"), "--output", path("out.h5")}, says);
    expect_refused({"trace", path("model"), "--facts", path("binary"), "--output", path("out.h5")}, says);
    expect_refused({"edit", path("model"), "--requests", path("binary"), "--cov", path("cov.h5"), "--hparams",
                    path("hparams.json"), "--output", path("out.h5")},
                   says);
    expect_refused(eval_with(path("records.json"), path("binary")), says);
    expect_refused(eval_with(path("hparams.json"), path("binary")), says);
    expect_refused(eval_with(path("templates.json"), path("binary")), says);
    expect_refused({"predict", path("model"), "--prompts", path("binary")}, says);
    write("train.json",
          fmt::format(R"({{"initial_model": "{}", "text": "{}", "steps": 1}})", path("model"), path("binary")));
    expect_refused({"train", "--config", path("train.json"), "--output", path("out.h5")}, says);
  }
  write("latin", "one\n" + latin);
  const std::string says = "latin: line 2: byte 7 (0xE9) is not UTF-8";
  expect_refused({"cov", path("model"), "--text", path("latin"), "--output", path("out.h5")}, says);
  expect_refused({"tokenize", path("model"), "--text", path("latin"), "--output", path("out.h5")}, says);
}

TEST_F(BadInput, StandardOutputThatIsFull) {
  // Less than a buffer of the C library holds, and more.
  for (const char* top : {"1", "257"}) {
    const pid_t child = fork();
    if (child == 0) {
      const int full = open("/dev/full", O_WRONLY), nowhere = open("/dev/null", O_WRONLY);
      if (full < 0 || nowhere < 0 || dup2(full, 1) < 0 || dup2(nowhere, 2) < 0) _exit(126);
      execl(LOCI_BINARY, LOCI_BINARY, "predict", path("model").c_str(), "--prompt", "a", "--top", top, "--json",
            nullptr);
      _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 5) << "--top " << top << ": " << status;
  }
}

TEST_F(BadInput, AFinishedOutputThatWasDamaged) {
  const std::vector<std::string> command = eval_command("finished.h5");
  ASSERT_EQ(run_loci(command).exit_code, 0);
  const std::string whole = read_text_file(path("finished.h5"));
  std::mt19937 random(3);
  int refused = 0;
  for (int trial = 0; trial < 25; ++trial) {
    std::string bytes = whole;
    for (int flips = 0; flips < 10; ++flips) bytes[random() % 4000] = static_cast<char>(random());
    write("finished.h5", bytes);
    const Outcome outcome = run_loci(command);
    EXPECT_TRUE(outcome.exit_code == 0 || outcome.exit_code == 2)
        << "trial " << trial << ": " << outcome.exit_code << ", " << outcome.err;
    refused += outcome.exit_code == 2;
  }
  EXPECT_GT(refused, 5);
}

TEST_F(BadInput, RecordFiles) {
  expect_records_refused("", "bad.json");
  expect_records_refused("[", "bad.json: line 1");
  expect_records_refused("[]", "no valid record");
  expect_records_refused("{}", "subject");
  expect_records_refused("5", "list");
  expect_records_refused("[1]", "record 0");
  expect_records_refused("[{\"case_id\": 1, \"case_id\": 2}]", "case_id");
  expect_records_refused(std::string("[\"\xff\"]"), "UTF-8");
  expect_records_refused(std::string(100000, '['), "bad.json");
  const std::string whole = counterfact_records(2).dump();
  expect_records_refused(whole.substr(0, whole.size() / 2), "bad.json: line 1");
  expect_records_refused(whole + "x", "bad.json: line 1");
}

TEST_F(BadInput, Records) {
  expect_record_refused([](Json& r) { r["case_id"] = 1.5; }, "case_id");
  expect_record_refused([](Json& r) { r["case_id"] = "1"; }, "case_id");
  expect_record_refused([](Json& r) { r["case_id"] = 0; }, "repeats that of record 0");
  expect_record_refused([](Json& r) { r["case_id"] = Json::parse("18446744073709551615"); }, "case_id");
  expect_record_refused([](Json& r) { r.erase("paraphrase_prompts"); }, "paraphrase_prompts");
  expect_record_refused([](Json& r) { r["neighborhood_prompts"] = "x"; }, "neighborhood_prompts");
  expect_record_refused([](Json& r) { r["neighborhood_prompts"] = {1}; }, "neighborhood_prompts");
  expect_record_refused([](Json& r) { r["neighborhood_prompts"] = {std::string(96, 'x')}; }, "tokens");
  expect_record_refused([](Json& r) { r["requested_rewrite"]["prompt"] = "Somebody lives in"; },
                        "holds neither {} nor the subject");
  expect_record_refused([](Json& r) { r["requested_rewrite"]["prompt"] = "{} and {}"; }, "exactly one {}");
  expect_record_refused([](Json& r) { r["requested_rewrite"]["subject"] = ""; }, "subject");
  expect_record_refused([](Json& r) { r["requested_rewrite"]["subject"] = nullptr; }, "subject");
  expect_record_refused([](Json& r) { r["requested_rewrite"]["subject"] = std::string(200, 'x'); }, "tokens");
  expect_record_refused([](Json& r) { r["requested_rewrite"]["target_new"] = 7; }, "target_new");
  expect_record_refused([](Json& r) { r["requested_rewrite"]["target_new"]["str"] = " "; }, "\"target_new\" is empty");
  expect_record_refused([](Json& r) { r["requested_rewrite"]["subject"] = " "; }, "\"subject\" is empty");
  expect_record_refused([](Json& r) { r["paraphrase_prompts"] = {std::string("a\0b", 3)}; }, "U+0000");
  expect_record_refused([](Json& r) { r["paraphrase_prompts"] = {"a", ""}; }, "holds an empty text");
  expect_record_refused([](Json& r) { r["requested_rewrite"]["target_new"]["str"] = ""; }, "target_new");
  expect_record_refused([](Json& r) { r["requested_rewrite"] = {{}}; }, "requested_rewrite");
  expect_record_refused(
      [](Json& r) {
        r = {{"case_id", 7}, {"subject", "Ann"}, {"prompt", "Bob lives in"}};
      },
      "holds neither {} nor the subject");
}

TEST_F(BadInput, Hyperparameters) {
  const auto refuse = [](const std::string& text, const std::string& part) {
    SCOPED_TRACE(text);
    write("bad.json", text);
    expect_refused(eval_with(path("hparams.json"), path("bad.json")), part);
  };
  refuse("[]", "bad.json");
  refuse(R"({"layers": [9]})", "layer 9");
  refuse(R"({"layers": []})", "layers");
  refuse(R"({"layers": [1, 2]})", "layers");
  refuse(R"({"layers": [1.5]})", "layers");
  refuse(R"({"layers": [1], "v_num_grad_steps": 0})", "v_num_grad_steps");
  refuse(R"({"layers": [1], "v_lr": "fast"})", "v_lr");
  refuse(R"({"layers": [1], "v_lr": 1e999})", "bad.json");
  refuse(R"({"layers": [1], "fact_token": "middle"})", "middle");
  refuse(R"({"layers": [1], "learning_rate": 1})", "learning_rate");
}

TEST_F(BadInput, Templates) {
  const auto refuse = [](const std::string& text, const std::string& part) {
    SCOPED_TRACE(text);
    write("bad.json", text);
    expect_refused(eval_with(path("templates.json"), path("bad.json")), part);
  };
  refuse("{}", "bad.json");
  refuse("[]", "bad.json");
  refuse("[1]", "bad.json");
  refuse(R"(["no place"])", "bad.json");
  refuse(R"(["{} {}"])", "bad.json");
  refuse("[\"" + std::string(200, 'x') + " {}\"]", "tokens");
}

TEST_F(BadInput, SecondMoments) {
  write("cov.txt", "not second moments");
  expect_refused(eval_with(path("cov.h5"), path("cov.txt")), "cov.txt");
  const std::string whole = read_text_file(path("cov.h5"));
  write("half.h5", whole.substr(0, whole.size() / 2));
  expect_refused(eval_with(path("cov.h5"), path("half.h5")), "half.h5");
  write("zero.h5", "");
  expect_refused(eval_with(path("cov.h5"), path("zero.h5")), "zero.h5");
  // Of another model: same shape, other weights; then another shape.
  for (const int64_t mlp_width : {int64_t{20}, int64_t{16}}) {
    const std::string name = "other_" + std::to_string(mlp_width);
    write_random_model(path(name), 77, mlp_width);
    ASSERT_EQ(run_loci({"cov", path(name), "--text", path("text.txt"), "--layers", "1", "--output", path(name + ".h5")})
                  .exit_code,
              0);
    expect_refused(eval_with(path("cov.h5"), path(name + ".h5")), name + ".h5");
  }
  // Of another layer.
  expect_refused(eval_of("records.json", {"--layer", "0"}), "layer");
}

TEST_F(BadInput, EditFilesAndExports) {
  const auto with_edits = [](const std::string& name, const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {"eval",      path("model"),        "--dataset", "counterfact",
                                        "--records", path("records.json"), "--edits",   path(name),
                                        "--output",  path("out.h5")};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  };
  expect_refused(with_edits("cov.h5"), "cov.h5");  // of another kind
  expect_refused(with_edits("text.txt"), "text.txt");
  expect_refused(with_edits("absent.h5"), "absent.h5");
  expect_refused(with_edits("cov.h5", {"--cov", path("cov.h5")}), "cov.h5");  // edits on top of that: of another kind
  for (const char* flag : {"--ridge", "--layer"}) expect_refused(with_edits("cov.h5", {flag, "1"}), flag);
  expect_refused(with_edits("cov.h5", {"--sequential"}), "--sequential");
  expect_refused(with_edits("cov.h5", {"--method", "none", "--cov", path("cov.h5")}), "leave --cov out");
  ASSERT_EQ(
      run_loci({"edit", path("model"), "--requests", path("records.json"), "--cov", path("cov.h5"), "--hparams",
                path("hparams.json"), "--context-templates", path("templates.json"), "--output", path("edits.h5")})
          .exit_code,
      0);
  expect_refused(with_edits("edits.h5", {"--edit", "3"}), "there is no edit 3");
  expect_refused(with_edits("edits.h5", {"--edit", "first"}), "--edit");
  expect_refused(with_edits("edits.h5", {"--edit", "1,2"}), "2 numbers for 1 file of");
  expect_refused(with_edits("edits.h5", {"--edit", "1.5"}), "--edit 1.5");
  expect_refused({"edit", path("model"), "--edits", path("edits.h5"), "--export", path("x"), "--ridge", "3"},
                 "--ridge");
  write_random_model(path("stranger"), 99);
  std::vector<std::string> stranger = with_edits("edits.h5");
  stranger[1] = path("stranger");
  expect_refused(stranger, "edits.h5");

  expect_refused({"export", path("text.txt"), "--output", path("x")}, "text.txt");
  expect_refused({"export", path("absent.h5"), "--output", path("x")}, "absent.h5");
  expect_refused({"export", path("cov.h5"), "--format", "xml", "--output", path("x")}, "--format");
  ASSERT_EQ(run_loci(eval_command("fine.h5")).exit_code, 0);
  expect_refused({"export", path("fine.h5"), "--format", "npz", "--output", path("x")},
                 "cases, csv, markdown or latex");
  expect_refused({"export", path("fine.h5"), "--format", "cases", "--output", path("text.txt")}, "text.txt");
  const std::string whole = read_text_file(path("fine.h5"));
  write("cut.h5", whole.substr(0, whole.size() * 2 / 3));
  expect_refused({"export", path("cut.h5"), "--format", "cases", "--output", path("y")}, "cut.h5");
  EXPECT_FALSE(exists("y/case_0.json"));
}

TEST_F(BadInput, ConfigurationFiles) {
  const auto refuse = [](const std::string& text, const std::string& part) {
    SCOPED_TRACE(text);
    write("config.json", text);
    expect_refused({"predict", path("model"), "--prompt", "a", "--config", path("config.json")}, part);
  };
  refuse("[]", "object");
  refuse("{", "config.json");
  refuse(R"({"config": "other.json"})", "config");
  refuse(R"({"top": null})", "top");
  refuse(R"({"tops": 3})", "did you mean top?");
  refuse(R"({"top": "many"})", "top");
  refuse(R"({"top": {"a": 1}})", "top");
  expect_refused({"predict", path("model"), "--prompt", "a", "--config", path("absent.json")}, "absent.json");
}

TEST_F(BadInput, ThePromptList) {
  const auto refuse = [](const std::string& text, const std::string& part) {
    SCOPED_TRACE(text);
    write("prompts.json", text);
    expect_refused({"predict", path("model"), "--prompts", path("prompts.json")}, part);
  };
  refuse("{}", "\"prompt\"");
  refuse("3", "list");
  refuse("{\"prompt\": \"a\"}\n{\"prompt\": 1}", "prompt 1");
  refuse("[]", "list");
  refuse("[1]", "prompt 0");
  refuse("[\"a\", 1]", "prompt 1");
  refuse("[{\"text\": \"a\"}]", "\"prompt\"");
  refuse("[\"" + std::string(97, 'x') + "\"]", "97 tokens");
}

}  // namespace
}  // namespace loci::test
