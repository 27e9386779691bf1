// How command lines are read, and what is made from the description of options: help, completion, manual pages.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <array>
#include <cstdio>

#include "app/command.h"
#include "app/help.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"
#include "tests/support/paths.h"

namespace loci::app {
namespace {

struct Values {
  std::string model, facts, output, config, method = "rome";
  std::string prompt;
  std::vector<std::string> kinds = {"state"};
  std::vector<std::string> prompts;
  int64_t limit = 0, layer = -1;
  int threads = 0;
  uint32_t seed = 1;
  double ridge = 0, timeout = 30;
  bool replace = false;
};

/// A command with an option of every sort.
class CommandLine : public ::testing::Test {
 protected:
  CommandLine() : command_(commands_.add("trace", "causal traces")) {
    command_.example = "loci trace gpt2 --facts it's.json --output t.h5";
    command_.add({.name = "facts",
                  .value = &values_.facts,
                  .type = "FILE.json",
                  .help = "list of facts",
                  .role = Role::input,
                  .names = Names::file,
                  .required = true});
    command_.add({.name = "limit",
                  .value = &values_.limit,
                  .type = "N",
                  .group = Group::input,
                  .alias = "first",
                  .min = 0,
                  .max = 1000});
    command_.add(
        {.name = "output", .value = &values_.output, .type = "FILE.h5", .role = Role::output, .names = Names::file});
    command_.add({.name = "method",
                  .value = &values_.method,
                  .help = "a [method]: 'one'",
                  .choices = {"rome", "r-rome", "p-rome"}});
    command_.add({.name = "kinds", .value = &values_.kinds, .commas = true, .choices = {"state", "mlp", "attn"}});
    command_.add({.name = "prompt", .value = &values_.prompt, .type = "TEXT"});
    command_.add({.name = "also", .value = &values_.prompts, .type = "TEXT", .excludes = {"prompt"}});
    command_.add({.name = "layer", .value = &values_.layer, .type = "N", .min = 0, .default_text = "that of --facts"});
    command_.add({.name = "seed", .value = &values_.seed, .type = "N", .needs = "prompt"});
    command_.add({.name = "ridge", .value = &values_.ridge, .type = "X", .min = 0});
    command_.add({.name = "timeout",
                  .value = &values_.timeout,
                  .type = "SECONDS",
                  .role = Role::no_effect,
                  .min = 0,
                  .above_min = true});
    command_.add({.name = "replace", .value = &values_.replace, .letter = 'r'});
    command_.add({.name = "threads",
                  .value = &values_.threads,
                  .type = "N",
                  .role = Role::no_effect,
                  .hidden = true,
                  .min = 0,
                  .environment = "LOCI_TEST_THREADS"});
    command_.add({.name = "model",
                  .value = &values_.model,
                  .type = "DIR",
                  .role = Role::input,
                  .names = Names::folder,
                  .required = true,
                  .positional = true});
    command_.add({.name = "config",
                  .value = &values_.config,
                  .type = "FILE.json",
                  .role = Role::no_effect,
                  .names = Names::file,
                  .is_configuration = true});
  }

  void read(std::vector<std::string> more) {
    more.insert(more.begin(), {"gpt2", "--facts", "f.json"});
    command_.read(more);
  }
  /// The sentence of the refusal.
  std::string refusal(const std::vector<std::string>& arguments) {
    try {
      command_.read(arguments);
    } catch (const InputError& error) {
      return error.what();
    }
    return "not refused";
  }
  std::string refusal_with(std::vector<std::string> more) {
    more.insert(more.begin(), {"gpt2", "--facts", "f.json"});
    return refusal(more);
  }
  std::string configured(const std::string& text) {
    write_file_atomically(folder_.file("c.json"), text);
    return folder_.file("c.json");
  }

  Commands commands_;
  Values values_;
  Command& command_;
  test::TemporaryDir folder_;
};

void expect_part(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not in: " << text;
}

TEST_F(CommandLine, ValuesComeInEveryWriting) {
  read({"--limit=7", "--kinds", "mlp,attn", "-r", "--also", "a", "--also=", "--ridge", "1e-3", "--layer", "3"});
  EXPECT_EQ(values_.model, "gpt2");
  EXPECT_EQ(values_.facts, "f.json");
  EXPECT_EQ(values_.limit, 7);
  EXPECT_EQ(values_.kinds, (std::vector<std::string>{"mlp", "attn"}));
  EXPECT_EQ(values_.prompts, (std::vector<std::string>{"a", ""}));
  EXPECT_EQ(values_.ridge, 1e-3);
  EXPECT_TRUE(values_.replace);
  EXPECT_TRUE(command_.given("layer"));
  EXPECT_FALSE(command_.given("method"));
  EXPECT_FALSE(command_.given("no such option"));
}

TEST_F(CommandLine, AValueMayBeginWithADash) {
  command_.read({"--facts", "-f.json", "--prompt=--limit", "--", "-model"});
  EXPECT_EQ(values_.facts, "-f.json");
  EXPECT_EQ(values_.prompt, "--limit");
  EXPECT_EQ(values_.model, "-model");
}

TEST_F(CommandLine, AnOptionMayHaveASecondName) {
  read({"--first", "3"});
  EXPECT_EQ(values_.limit, 3);
  EXPECT_TRUE(command_.given("limit"));
  read({"--config", configured(R"({"first": 4})")});
  EXPECT_EQ(values_.limit, 4);
  expect_part(refusal_with({"--first", "1", "--limit", "2"}), "--limit is given twice");
  EXPECT_EQ(command_help(command_).find("first"), std::string::npos);
}

TEST_F(CommandLine, LeadingZerosAreDecimal) {
  read({"--limit", "010"});
  EXPECT_EQ(values_.limit, 10);
}

TEST_F(CommandLine, NumbersThatAreNoneAreRefusedByName) {
  for (const char* wrong : {"", "many", "0x10", "1.5", "7 ", "+7", "1e3", "-1", "1001"})
    expect_part(refusal_with({"--limit", wrong}),
                std::string("--limit ") + wrong + ": must be a whole number from 0 to 1000");
  expect_part(refusal_with({"--limit", "99999999999999999999"}),
              "--limit 99999999999999999999: the number is too large");
  expect_part(refusal_with({"--prompt", "a", "--seed", "4294967296"}), "at most 4294967295");
  expect_part(refusal_with({"--prompt", "a", "--seed", "-1"}), "--seed -1: must be a whole number");
  for (const char* wrong : {"", "x", "nan", "inf", "-1", "1,5"})
    expect_part(refusal_with({"--ridge", wrong}), std::string("--ridge ") + wrong + ": must be a number of at least 0");
  expect_part(refusal_with({"--timeout=0"}), "--timeout=0: must be a number above 0");
}

TEST_F(CommandLine, UnknownOptionsComeFirst) {
  expect_part(refusal({"gpt2", "--fact", "x"}), "there is no option --fact; did you mean --facts?");
  expect_part(refusal({"--limit", "many", "--fact=x", "a", "b"}), "there is no option --fact; did you mean --facts?");
  expect_part(refusal_with({"--ouptut", "x"}), "did you mean --output?");
  expect_part(refusal_with({"-output", "x"}), "there is no option -output; did you mean --output?");
  expect_part(refusal_with({"--out", "x"}), "did you mean --output?");
  const std::string far = refusal_with({"--entirely-other", "x"});
  expect_part(far, "there is no option --entirely-other; loci trace --help");
  const std::string hidden = refusal_with({"--thread", "1"});
  EXPECT_EQ(hidden.find("did you mean"), std::string::npos) << hidden;
}

TEST_F(CommandLine, WhatIsMissingOrTooMuchIsNamed) {
  expect_part(refusal({"gpt2"}), "--facts FILE.json is missing: list of facts");
  expect_part(refusal({"--facts", "f.json"}), "MODEL");
  expect_part(refusal({"gpt2", "--facts"}), "--facts FILE.json: the value is missing");
  expect_part(refusal({"gpt2", "--facts", "--output", "x"}), "--facts FILE.json: the value is missing");
  expect_part(refusal_with({"--output="}), "--output=: the name is empty");
  expect_part(refusal_with({"other"}), "\"other\": there is one argument too many");
  expect_part(refusal_with({"--limit", "1", "--limit", "2"}), "--limit is given twice");
  expect_part(refusal_with({"--replace=maybe"}), "is a flag, which takes no value");
}

TEST_F(CommandLine, WrongChoicesGetASuggestion) {
  expect_part(refusal_with({"--method", "rmoe"}), "--method rmoe: must be rome, r-rome, p-rome; did you mean rome?");
  expect_part(refusal_with({"--kinds", "mlp,atn"}), "did you mean attn?");
  const std::string far = refusal_with({"--method", "something"});
  EXPECT_EQ(far.find("did you mean"), std::string::npos) << far;
}

TEST_F(CommandLine, OptionsThatNeedOrExcludeEachOther) {
  expect_part(refusal_with({"--seed", "1"}), "--seed needs --prompt");
  expect_part(refusal_with({"--also", "a", "--prompt", "b"}), "--also and --prompt exclude each other");
}

TEST_F(CommandLine, AConfigurationStandsForOptions) {
  read({"--limit", "2", "--config",
        configured(R"({"limit": 5, "kinds": ["mlp", "attn"], "replace": true, "ridge": 0.25, "model": "other"})")});
  EXPECT_EQ(values_.limit, 2);
  EXPECT_EQ(values_.model, "gpt2");
  EXPECT_EQ(values_.kinds, (std::vector<std::string>{"mlp", "attn"}));
  EXPECT_TRUE(values_.replace);
  EXPECT_EQ(values_.ridge, 0.25);
}

TEST_F(CommandLine, AnEmptyTextInAConfigurationIsOne) {
  read({"--config", configured(R"({"prompt": "", "seed": 3})")});
  EXPECT_TRUE(command_.given("prompt"));
  EXPECT_EQ(values_.seed, 3u);
}

TEST_F(CommandLine, AConfigurationMayNameTheModel) {
  command_.read({"--config", configured(R"({"model": "gpt2", "facts": "f.json", "replace": false})")});
  EXPECT_EQ(values_.model, "gpt2");
  EXPECT_FALSE(values_.replace);
}

TEST_F(CommandLine, WrongConfigurationsAreRefusedByFileAndField) {
  const auto refuse = [&](const std::string& text, const std::string& part) {
    SCOPED_TRACE(text);
    const std::string sentence = refusal_with({"--config", configured(text)});
    expect_part(sentence, "c.json");
    expect_part(sentence, part);
  };
  refuse("[1]", "one JSON object");
  refuse(R"({"fact": "x"})", "field \"fact\": loci trace has no such option; did you mean facts?");
  refuse(R"({"config": "x"})", "cannot name another one");
  refuse(R"({"limit": null})", "field \"limit\"");
  refuse(R"({"limit": {"a": 1}})", "field \"limit\"");
  refuse(R"({"limit": [1, 2]})", "must be one value");
  refuse(R"({"limit": true})", "field \"limit\"");
  refuse(R"({"limit": 1.5})", "field \"limit\", 1.5: must be a whole number");
  refuse(R"({"replace": 1})", "must be true or false");
}

TEST_F(CommandLine, TheEnvironmentGivesWhatNothingElseDoes) {
  ::setenv("LOCI_TEST_THREADS", "3", 1);
  read({});
  EXPECT_EQ(values_.threads, 3);
  ::setenv("LOCI_TEST_THREADS", "three", 1);
  const std::string sentence = refusal_with({});
  ::unsetenv("LOCI_TEST_THREADS");
  expect_part(sentence, "LOCI_TEST_THREADS=three in the environment: must be a whole number");
}

TEST_F(CommandLine, StoredValuesKeepTheirTypes) {
  read({"--limit", "20", "--kinds", "mlp", "-r"});
  const auto json = [&](const char* name) { return *command_.find(name)->json(); };
  EXPECT_EQ(json("limit").dump(), "20");
  EXPECT_EQ(json("ridge").dump(), "0.0");
  EXPECT_EQ(json("replace").dump(), "true");
  EXPECT_EQ(json("kinds").dump(), R"(["mlp"])");
  EXPECT_EQ(json("method").dump(), R"("rome")");
  EXPECT_FALSE(command_.find("layer")->json().has_value());  // neither given nor with a default of its own
  EXPECT_FALSE(command_.find("prompt")->json().has_value());
}

TEST_F(CommandLine, HelpShowsGroupsDefaultsAndAnExample) {
  EXPECT_EQ(command_.read({"--fact", "--help"}), Command::Asked::for_help);
  const std::string help = command_help(command_);
  expect_part(help, "Usage: loci trace MODEL --facts FILE.json [options]\n\nInput:\n  MODEL ");
  expect_part(help, "--method rome|r-rome|p-rome");
  expect_part(help, "[default: rome]");
  expect_part(help, "[default: that of --facts]");
  expect_part(help, "[default: 30]");  // of a number with decimals
  expect_part(help, "  -r, --replace");
  expect_part(help, "\nExample:\n  loci trace gpt2");
  EXPECT_EQ(help.find("threads"), std::string::npos) << help;
  EXPECT_EQ(help.find("--model"), std::string::npos) << help;
  EXPECT_LT(help.find("\nInput:"), help.find("\nOutput:"));
  EXPECT_LT(help.find("\nOutput:"), help.find("\nMethod:"));
  for (size_t begin = 0; begin < help.size();) {
    const size_t end = help.find('\n', begin);
    EXPECT_LE(end - begin, 100u) << help.substr(begin, end - begin);
    begin = end + 1;
  }
}

TEST_F(CommandLine, UnknownCommandsGetASuggestion) {
  try {
    commands_.find("trce");
    FAIL();
  } catch (const UsageError& error) {
    expect_part(error.what(), "there is no command \"trce\"; did you mean loci trace?");
  }
}

/// What a shell command prints.
std::string output_of(const std::string& command) {
  std::array<char, 4096> buffer{};
  std::string text;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return "cannot be started";
  for (size_t read = 0; (read = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    text.append(buffer.data(), read);
  return ::pclose(pipe) == 0 ? text : text + "(failed)";
}
bool has_program(const std::string& name) { return output_of("command -v " + name + " || true") != ""; }

class Completion : public CommandLine {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(folder_.path() / "models");
    write_file_atomically(folder_.file("facts.json"), "[]");
    write_file_atomically(folder_.file("loci.bash"), completion_script(commands_, "bash"));
  }
  /// What bash offers for the last word.
  std::string completed(const std::string& words) const {
    const std::string script = "cd " + folder_.path().string() + "; source ./loci.bash; COMP_WORDS=(loci " + words +
                               "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _loci; printf \"%s \" \"${COMPREPLY[@]}\"";
    write_file_atomically(folder_.file("run.bash"), script);
    return output_of("bash --norc --noprofile " + folder_.file("run.bash"));
  }
};

TEST_F(Completion, OfBashOffersCommandsOptionsFilesAndChoices) {
  EXPECT_EQ(completed("tr"), "trace ");
  EXPECT_EQ(completed("help t"), "trace ");
  EXPECT_EQ(completed("trace --f"), "--facts ");
  EXPECT_EQ(completed("trace --threa"), " ");
  EXPECT_EQ(completed("trace --facts fa"), "facts.json ");
  EXPECT_EQ(completed("trace m"), "models ");
  EXPECT_EQ(completed("trace fa"), " ");  // MODEL is a folder
  EXPECT_EQ(completed("trace --method r"), "rome r-rome ");
  EXPECT_EQ(completed("trace --method = p"), "p-rome ");
  EXPECT_EQ(completed("trace --limit ''"), " ");
}

TEST_F(Completion, OfOtherShellsIsAcceptedByThem) {
  for (const std::string shell : {"zsh", "fish"}) {
    const std::string script = completion_script(commands_, shell);
    expect_part(script, "facts");
    EXPECT_EQ(script.find("threads"), std::string::npos) << script;
    if (!has_program(shell)) continue;
    write_file_atomically(folder_.file("script"), script);
    EXPECT_EQ(output_of(shell + " -n " + folder_.file("script") + " 2>&1"), "") << shell;
  }
}

TEST_F(CommandLine, ManualPagesAreRoff) {
  command_.usage = "MODEL --facts FILE\n       loci trace MODEL --prompt TEXT";
  const std::string page = command_manual(command_);
  for (const char* part : {".TH \"loci\\-trace\" 1", "\nloci trace MODEL \\-\\-facts FILE\n.br\nloci trace MODEL",
                           ".SS Input", "\\fB\\-\\-facts\\fR \\fIFILE.json\\fR"})
    expect_part(page, part);
  expect_part(program_manual(commands_), ".SH EXIT STATUS");
  if (!has_program("groff")) GTEST_SKIP() << "groff is not there to read the page";
  for (const std::string& text : {page, program_manual(commands_)}) {
    write_file_atomically(folder_.file("page.1"), text);
    EXPECT_EQ(output_of("groff -man -ww -Tascii " + folder_.file("page.1") + " 2>&1 >/dev/null"), "");
  }
  expect_part(output_of("groff -man -Tascii -P-c -P-b -P-u " + folder_.file("page.1")), "EXIT STATUS");
}

}  // namespace
}  // namespace loci::app
