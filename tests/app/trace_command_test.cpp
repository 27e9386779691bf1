// `loci trace` and the export of traces on a small random model: outputs, resuming, refusals.
#include <chrono>
#include <cmath>
#include <thread>

#include "runtime/jobs/unit_store.h"
#include "tests/app/support.h"
#include "tests/support/canonical_hash.h"
#include "tests/support/errors.h"
#include "tests/support/npz.h"

namespace loci::test {
namespace {

class TraceCommandTest : public CommandTest {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TemporaryDir;
    write_random_model(dir_->path() / "model", 5);
    write("text.txt", "The quick brown fox jumps over 13 lazy dogs?\nZwölf Boxkämpfer jagen Viktor.\n");
  }

  static std::vector<std::string> trace_command(const std::string& facts, const std::string& output,
                                                const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {"trace",    path("model"), "--facts",   path(facts),
                                        "--output", path(output),  "--threads", "1"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }

  /// Facts whose attribute is what the model answers, and one for which it predicts something else.
  static Json answered_facts(int64_t count) {
    Json prompts = Json::array();
    for (int64_t i = 0; i < 20 * count + 60; ++i)  // endings of all kinds: the model answers some with a letter
      prompts.push_back("Is Ödön " + std::to_string(i) + " " + static_cast<char>('A' + i % 26) +
                        static_cast<char>('a' + i / 26 % 26));
    write("prompts.json", prompts.dump());
    const Outcome outcome =
        run_loci({"predict", path("model"), "--prompts", path("prompts.json"), "--top", "1", "--json"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    const Json results = parse_json(outcome.out, "predict");
    Json facts = Json::array();
    for (size_t i = 0; i < prompts.size() && std::ssize(facts) < count; ++i) {
      const int64_t id = results["results"][i]["tokens"][0]["id"];
      if (id <= 32 || id >= 127) continue;
      facts.push_back({{"known_id", 10 * i},
                       {"subject", "Ödön " + std::to_string(i)},
                       {"attribute", std::string(1, static_cast<char>(id))},
                       {"prompt", prompts[i]}});
    }
    EXPECT_EQ(std::ssize(facts), count) << "the model answers too few prompts with a letter";
    if (facts.size() > 1) facts[1]["attribute"] = "something else";
    return facts;
  }
};

TEST_F(TraceCommandTest, TracesSaysWhenAllIsDoneAndRefusesOtherOptions) {
  const Json facts = answered_facts(6);
  write("facts.json", facts.dump());
  const auto command = trace_command("facts.json", "trace.h5", {"--json", "--sever", "mlp,attn", "--samples", "3"});
  const Outcome first = run_loci(command);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const Json summary = parse_json(first.out, "standard output");
  EXPECT_EQ(summary["facts"], 6);
  EXPECT_EQ(summary["traced"], 5);
  EXPECT_EQ(summary["answered_otherwise"], 1);
  EXPECT_EQ(summary["averages"]["mlp"]["cases"], 5);
  EXPECT_EQ(summary["averages"]["severed"]["no_attn"].size(), 3u);
  {
    const H5File file = H5File::open_read(path("trace.h5"));
    EXPECT_EQ(read_string_attribute(file, "/", "kind"), "trace");
    EXPECT_EQ(read_double_attribute(file, "/", "noise_level"), summary["noise_level"].get<double>());
    EXPECT_EQ(group_members(file, "/facts").size(), 6u);
    // "Is Ödön 12 Mb" in bytes: the subject begins behind "Is ".
    const std::string group = "/facts/" + std::to_string(facts[0]["known_id"].get<int64_t>());
    const auto size = static_cast<int64_t>(facts[0]["subject"].get<std::string>().size());
    EXPECT_EQ(read_ints_attribute(file, group, "subject_range"), (std::vector<int64_t>{3, 3 + size}));
    EXPECT_EQ(read_dataset<float>(file, group + "/scores_mlp").shape, (std::vector<int64_t>{6 + size, 3}));
  }
  auto another_seed = command;  // which a trace does not draw by
  another_seed.insert(another_seed.end(), {"--seed", "3"});
  const Outcome again = run_loci(another_seed);
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(result_of(parse_json(again.out, "standard output")), result_of(summary));
  EXPECT_NE(again.err.find("complete already"), std::string::npos) << again.err;
  const Outcome other = run_loci(trace_command("facts.json", "trace.h5", {"--samples", "4"}));
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_EQ(run_loci(trace_command("facts.json", "trace.h5", {"--samples", "4", "--overwrite"})).exit_code, 0);
}

/// Fails unless `text`, of any number of lines, holds every part.
void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is missing in: " << text;
}

TEST_F(TraceCommandTest, FactsThatAreNotTracedAreNamed) {
  Json facts = answered_facts(24);
  for (size_t i = 2; i < facts.size(); ++i) facts[i]["attribute"] = "not \t this";
  facts[3]["attribute"] = answered_facts(4)[3]["attribute"].get<std::string>() + "xyz";  // begins with what is answered
  write("wrong.json", facts.dump());
  const Outcome text = run_loci(trace_command("wrong.json", "wrong.h5", {"--samples", "2", "--kinds", "state"}));
  ASSERT_EQ(text.exit_code, 0) << text.err;
  expect_parts(text.out, {"1 fact traced, 23 not traced, 0 records skipped", "\"not \\t this\", predicted \"",
                          "and 3 more, listed in " + path("wrong.h5"), ", which is only its beginning\n"});
  EXPECT_EQ(text.out.find("±"), std::string::npos) << "the interval of one fact is not known:\n" << text.out;
  EXPECT_EQ(text.out.find("-0.0000"), std::string::npos) << text.out;
  const Outcome json =
      run_loci(trace_command("wrong.json", "wrong.h5", {"--samples", "2", "--kinds", "state", "--json"}));
  const Json named = parse_json(json.out, "standard output")["not_traced"];
  ASSERT_EQ(named.size(), 23u);
  const H5File file = H5File::open_read(path("wrong.h5"));
  for (const Json& fact : named) {
    const std::string group = "/facts/" + std::to_string(fact["known_id"].get<int64_t>());
    EXPECT_EQ(fact["predicted"], read_string_attribute(file, group, "answer"));
    EXPECT_EQ(fact["probability"].get<double>(), read_double_attribute(file, group, "high_score"));
    EXPECT_EQ(fact["expected"], facts[fact["record"].get<size_t>()]["attribute"]);
    EXPECT_EQ(fact["prompt"], facts[fact["record"].get<size_t>()]["prompt"]);
  }
}

TEST_F(TraceCommandTest, ARunThatTracesNothingHasAnExitCodeOfItsOwn) {
  Json facts = answered_facts(2);
  facts[0]["attribute"] = "something else";
  write("none.json", facts.dump());
  for (const char* ranks : {"1", "2"}) {
    const auto command = trace_command("none.json", std::string("none") + ranks + ".h5",
                                       {"--ranks", ranks, "--figure", path("none.png")});
    for (int run = 0; run < 2; ++run) {  // the second one finds all done
      const Outcome outcome = run_loci(command);
      EXPECT_EQ(outcome.exit_code, 7) << outcome.err;
      expect_parts(outcome.err, {"nothing was traced", "all of the 2 facts", "none" + std::string(ranks) + ".h5"});
      EXPECT_EQ(outcome.err.find("nothing was traced"), outcome.err.rfind("nothing was traced")) << "said twice";
      EXPECT_NE(outcome.out.find("expected \"something else\", predicted"), std::string::npos) << outcome.out;
    }
  }
  EXPECT_EQ(group_members(H5File::open_read(path("none1.h5")), "/facts").size(), 2u);
  EXPECT_EQ(canonical_hash(path("none1.h5")), canonical_hash(path("none2.h5")));
  EXPECT_FALSE(exists("none1.h5.parts") || exists("none.png"));
}

TEST_F(TraceCommandTest, OnePromptIsTracedWithoutAFile) {
  const std::string prompt = "Is Ödön 12\tMb";
  const auto command = [&](const std::string& output, const std::vector<std::string>& more) {
    std::vector<std::string> all = {"trace",    path("model"), "--output",  path(output), "--threads",
                                    "1",        "--samples",   "2",         "--window",   "1",
                                    "--prompt", prompt,        "--subject", "Ödön"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const Outcome text = run_loci(command("prompt.h5", {}));
  ASSERT_EQ(text.exit_code, 0) << text.err;
  expect_parts(text.out, {"noise level", "this subject alone", "--noise NUMBER", "\"Is Ödön 12\\tMb\" -> ",
                          "indirect effect", "state", "mlp", "attn", "\"*"});
  EXPECT_EQ(text.out.find("-0.0000"), std::string::npos) << text.out;
  // Its trace is that of a facts file with this fact alone.
  write("alone.json", Json::array({{{"known_id", 0}, {"subject", "Ödön"}, {"prompt", prompt}}}).dump());
  ASSERT_EQ(run_loci(trace_command("alone.json", "alone.h5", {"--samples", "2", "--window", "1"})).exit_code, 0);
  for (const char* kind : {"state", "mlp", "attn"}) {
    const std::string scores = std::string("/facts/0/scores_") + kind;
    EXPECT_EQ(read_dataset<float>(H5File::open_read(path("prompt.h5")), scores).values,
              read_dataset<float>(H5File::open_read(path("alone.h5")), scores).values);
  }
  const Outcome json = run_loci(command("prompt.h5", {"--json"}));
  const Json summary = parse_json(json.out, "standard output");
  ASSERT_EQ(summary["strongest"]["mlp"].size(), 5u);
  const Json& cells = summary["strongest"]["state"];
  const auto scores = read_dataset<float>(H5File::open_read(path("prompt.h5")), "/facts/0/scores_state").values;
  const double low = read_double_attribute(H5File::open_read(path("prompt.h5")), "/facts/0", "low_score");
  const auto best = std::ranges::max_element(scores);
  EXPECT_EQ(cells[0]["token"].get<int64_t>() * 3 + cells[0]["layer"].get<int64_t>(), best - scores.begin());
  EXPECT_EQ(cells[0]["indirect_effect"].get<double>(), static_cast<double>(*best) - low);
  EXPECT_EQ(run_loci(command("other.h5", {"--attribute", "not this"})).exit_code, 7);
  EXPECT_EQ(read_string_attribute(H5File::open_read(path("other.h5")), "/facts/0", "attribute"), "not this");
}

TEST_F(TraceCommandTest, WhatIsTracedIsToldOnceAndWhole) {
  write("fact.json", answered_facts(1).dump());
  const std::vector<std::string> start = {"trace", path("model"), "--output", path("refused.h5")};
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "--prompt TEXT"},
      {{"--prompt", "Is it so"}, "--subject TEXT"},
      {{"--subject", "it"}, "--prompt TEXT"},
      {{"--prompt", "Is it so", "--subject", "she"}, "\"she\" does not occur"},
      {{"--prompt", "Is it so", "--subject", "it", "--facts", path("fact.json")}, "give one"},
      {{"--facts", path("fact.json"), "--attribute", "it"}, "give one"},
      {{"--prompt", "Is it so", "--subject", "it", "--limit", "3"}, "--limit"},
      {{"--prompt", "Is it so", "--subject", "it", "--skip-invalid"}, "--skip-invalid"},
      {{"--prompt", std::string(300, 'x'), "--subject", "x"}, "300 tokens"},
      {{"--facts", path("fact.json"), "--figure", "a.jpg"}, ".png, .svg or .pdf"},
      {{"--facts", path("fact.json"), "--figure", path("no/a.png")}, "does not exist; make it first"},
  };
  for (const auto& [flags, message] : cases) {
    std::vector<std::string> command = start;
    command.insert(command.end(), flags.begin(), flags.end());
    const Outcome outcome = run_loci(command);
    EXPECT_EQ(outcome.exit_code, 2) << message;
    expect_parts(outcome.err, {message});
    EXPECT_FALSE(exists("refused.h5") || exists("refused.h5.parts")) << message;
  }
}

TEST_F(TraceCommandTest, WithoutAPlottingPythonTheTracesAreKept) {
  write("drawn.json", answered_facts(3).dump());
  setenv("LOCI_PYTHON", "/bin/false", 1);
  const Outcome outcome = run_loci(trace_command("drawn.json", "drawn.h5", {"--figure", path("drawn.png")}));
  unsetenv("LOCI_PYTHON");
  EXPECT_EQ(outcome.exit_code, 5);
  expect_parts(outcome.err, {"drawn.png", "python3-matplotlib", "LOCI_PYTHON", "drawn.h5 is whole", "plot_trace.py"});
  EXPECT_TRUE(exists("drawn.h5") && !exists("drawn.png"));
  const Outcome again = run_loci(trace_command("drawn.json", "drawn.h5", {"--json", "--figure", path("drawn.png")}));
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(parse_json(again.out, "standard output")["figure"], path("drawn.png"));
  EXPECT_TRUE(read_text_file(path("drawn.png")).starts_with("\x89PNG"));
}

TEST_F(TraceCommandTest, AWindowAsLongAsTheModelIsWarnedOf) {
  write("wide.json", answered_facts(1).dump());
  const auto warned = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> more = {"--overwrite"};
    more.insert(more.end(), flags.begin(), flags.end());
    const Outcome outcome = run_loci(trace_command("wide.json", "wide.h5", more));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.err.find("the model has 3 layers") != std::string::npos;
  };
  EXPECT_TRUE(warned({}));
  EXPECT_TRUE(warned({"--window", "3", "--kinds", "attn"}));
  EXPECT_FALSE(warned({"--window", "2"}));
  EXPECT_FALSE(warned({"--kinds", "state"}));
}

TEST_F(TraceCommandTest, AnInterruptedJobGoesOn) {
  write("many.json", answered_facts(60).dump());
  const auto command = trace_command("many.json", "broken.h5");
  const TemporaryDir streams;
  const pid_t child = start_loci(command, streams.path());
  for (int i = 0; i < 2000 && !exists("broken.h5.parts/unit_000001.done"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  kill(child, SIGKILL);
  wait_for(child, streams.path());
  const Outcome resumed = run_loci(command);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  ASSERT_EQ(run_loci(trace_command("many.json", "whole.h5")).exit_code, 0);
  EXPECT_EQ(canonical_hash(path("broken.h5")), canonical_hash(path("whole.h5")));
  EXPECT_FALSE(exists("broken.h5.parts"));
}

TEST_F(TraceCommandTest, LimitsGrow) {
  write("ten.json", answered_facts(10).dump());
  const std::vector<std::string> sever = {"--sever", "mlp", "--samples", "2"};
  const auto limited = [&](const std::string& limit) {
    auto command = trace_command("ten.json", "grown.h5", sever);
    command.insert(command.end(), {"--limit", limit, "--json"});
    return parse_json(run_loci(command).out, "standard output");
  };
  EXPECT_EQ(limited("6")["done_before"], 0);
  const Json more = limited("9");
  EXPECT_EQ(more["done_before"], 4);
  EXPECT_EQ(more["facts"], 9);
  const Outcome last = run_loci(trace_command("ten.json", "grown.h5", sever));
  ASSERT_EQ(last.exit_code, 0) << last.err;
  EXPECT_NE(last.out.find("8 of 10 facts were done before"), std::string::npos) << last.out;
  ASSERT_EQ(run_loci(trace_command("ten.json", "ten.h5", sever)).exit_code, 0);
  EXPECT_EQ(canonical_hash(path("grown.h5")), canonical_hash(path("ten.h5")));
  const H5File file = H5File::open_read(path("grown.h5"));
  for (const std::string& fact : group_members(file, "/facts")) {
    if (read_int_attribute(file, "/facts/" + fact, "correct_prediction") == 0) continue;  // it has no scores
    EXPECT_TRUE(has_attribute(file, "/facts/" + fact + "/scores_state", "DIMENSION_LIST"));
  }
}

TEST_F(TraceCommandTest, ExportsNpzAndTables) {
  const Json facts = answered_facts(3);
  write("three.json", facts.dump());
  ASSERT_EQ(run_loci(trace_command("three.json", "export.h5", {"--kinds", "state,attn", "--sever", "mlp"})).exit_code,
            0);
  const Outcome npz = run_loci({"export", path("export.h5"), "--format", "npz", "--output", path("npz"), "--json"});
  ASSERT_EQ(npz.exit_code, 0) << npz.err;
  EXPECT_EQ(parse_json(npz.out, "export")["files"], 3 * 2 + 2 * 2);
  const std::string id = std::to_string(facts[0]["known_id"].get<int64_t>());
  const auto state = read_npz(dir_->path() / "npz" / ("knowledge_" + id + ".npz"));
  const auto tokens = static_cast<int64_t>(facts[0]["prompt"].get<std::string>().size());
  EXPECT_EQ(state.at("scores").shape, (std::vector<int64_t>{tokens, 3}));
  EXPECT_EQ(state.at("scores").descr, "<f4");
  EXPECT_EQ(state.at("low_score").descr, "<f8");
  EXPECT_EQ(state.at("high_score").descr, "<f4");
  EXPECT_EQ(state.at("input_ids").descr, "<i8");
  EXPECT_EQ(npy_strings(state.at("input_tokens")).size(), static_cast<size_t>(tokens));
  EXPECT_EQ(npy_string(state.at("answer")), facts[0]["attribute"].get<std::string>());
  EXPECT_EQ(npy_string(state.at("kind")), "");
  EXPECT_EQ(state.at("window").scalar<int64_t>(), 10);
  EXPECT_EQ(npy_string(read_npz(dir_->path() / "npz" / ("knowledge_" + id + "_attn.npz")).at("kind")), "attn");
  const std::string wrong = std::to_string(facts[1]["known_id"].get<int64_t>());
  const auto skipped = read_npz(dir_->path() / "npz" / ("knowledge_" + wrong + ".npz"));
  EXPECT_EQ(skipped.size(), 1u);
  EXPECT_FALSE(npy_boolean(skipped.at("correct_prediction")));
  EXPECT_TRUE(exists("npz/severed_" + id + "_no_mlp.npz"));
  EXPECT_FALSE(exists("npz/severed_" + id + "_no_attn.npz"));
  ASSERT_EQ(run_loci({"export", path("export.h5"), "--format", "csv", "--output", path("csv")}).exit_code, 0);
  const std::string table = read_text_file(path("csv/traces.csv"));
  int64_t cells = 0;
  for (const size_t i : {size_t{0}, size_t{2}})
    cells += 2 * 3 * static_cast<int64_t>(facts[i]["prompt"].get<std::string>().size());
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 1 + cells);
  const std::string severed = read_text_file(path("csv/severed.csv"));
  // Of two facts and their average: three layers, with all modules and without MLPs.
  EXPECT_EQ(std::count(severed.begin(), severed.end(), '\n'), 1 + 3 * 3 * 2);
  EXPECT_NE(severed.find("\n,mlp,2,,,"), std::string::npos) << severed;
  EXPECT_EQ(run_loci({"export", path("export.h5"), "--format", "cases", "--output", path("cases")}).exit_code, 2);
}

TEST_F(TraceCommandTest, NoiseWithTheLawOfAText) {
  write("one.json", answered_facts(1).dump());
  for (const char* noise : {"m", "t3"}) {
    const std::string output = std::string("noise_") + noise + ".h5";
    const Outcome outcome = run_loci(
        trace_command("one.json", output, {"--noise", noise, "--noise-text", path("text.txt"), "--kinds", "state"}));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_GT(read_double_attribute(H5File::open_read(path(output)), "/", "noise_level"), 0);
  }
  for (const std::vector<std::string>& flags : {std::vector<std::string>{"--noise", "m"},
                                                {"--noise", "t2", "--noise-text", path("text.txt")},
                                                {"--noise", "s3", "--noise-text", path("text.txt")},
                                                {"--noise", "loud"},
                                                {"--noise", "1e300"},
                                                {"--noise", "m", "--noise-text", "no"}}) {
    const Outcome outcome = run_loci(trace_command("one.json", "refused.h5", flags));
    EXPECT_EQ(outcome.exit_code, 2) << flags[1];
    EXPECT_NE(outcome.err.find(flags[1] == "m" && flags.size() > 2 ? "no" : "--noise"), std::string::npos)
        << outcome.err;
    EXPECT_FALSE(exists("refused.h5") || exists("refused.h5.parts"));
  }
}

TEST_F(TraceCommandTest, FactsAsPeopleHaveThem) {
  const Json facts = answered_facts(1);
  Json padded = facts[0], bare = facts[0];
  padded["attribute"] = "\u00A0" + padded["attribute"].get<std::string>() + " ";
  padded["prompt"] = padded["prompt"].get<std::string>() + " \n";
  for (const char* field : {"known_id", "attribute"}) bare.erase(field);
  Json again = facts[0];
  again["known_id"] = 1;
  // As many facts as in the other file: rows beside a row may change its last bits.
  write("facts.jsonl", facts[0].dump() + "\n" + again.dump() + "\n");
  write("padded.jsonl", padded.dump() + "\n" + bare.dump() + "\n");
  ASSERT_EQ(run_loci(trace_command("facts.jsonl", "clean.h5", {"--samples", "2", "--noise", "0.1"})).exit_code, 0);
  const Outcome outcome =
      run_loci(trace_command("padded.jsonl", "padded.h5", {"--samples", "2", "--noise", "0.1", "--json"}));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(parse_json(outcome.out, "trace")["traced"], 2);
  EXPECT_NE(outcome.err.find("white space at the ends of 2 texts is left out"), std::string::npos) << outcome.err;
  const H5File file = H5File::open_read(path("padded.h5")), clean = H5File::open_read(path("clean.h5"));
  const std::string id = std::to_string(facts[0]["known_id"].get<int64_t>());
  for (const std::string& group : {"/facts/" + id, std::string("/facts/1")}) {  // the bare one by its place
    EXPECT_EQ(read_string_attribute(file, group, "prompt"), facts[0]["prompt"].get<std::string>());
    EXPECT_EQ(read_dataset<float>(file, group + "/scores_mlp").values,
              read_dataset<float>(clean, group + "/scores_mlp").values);
  }
  EXPECT_EQ(read_string_attribute(file, "/facts/" + id, "attribute"), facts[0]["attribute"].get<std::string>());
  EXPECT_EQ(read_string_attribute(file, "/facts/1", "attribute"), "");
}

TEST_F(TraceCommandTest, TheSubjectIsAWholeWordUnlessThePublishedCodeIsAskedFor) {
  write("art.json", R"([{"subject": "Art", "prompt": "Arthur admires Art"}])");
  const auto range = [](const std::string& output, const std::vector<std::string>& more, const std::string& warning) {
    const Outcome outcome = run_loci(trace_command("art.json", output, more));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.err.find("[Art]hur") != std::string::npos, !warning.empty()) << outcome.err;
    EXPECT_NE(outcome.err.find(warning), std::string::npos) << outcome.err;
    return read_ints_attribute(H5File::open_read(path(output)), "/facts/0", "subject_range");
  };
  EXPECT_EQ(range("word.h5", {}, ""), (std::vector<int64_t>{15, 18}));
  EXPECT_EQ(range("first.h5", {"--compat", "rome"}, "art.json: record 0"), (std::vector<int64_t>{0, 3}));
}

TEST_F(TraceCommandTest, BadFactsStopTheJobBeforeItStarts) {
  Json facts = answered_facts(2);
  Json absent = facts[0];
  absent["known_id"] = 999;
  absent["subject"] = "Nobody";
  facts.push_back(absent);
  write("bad.json", facts.dump());
  const Outcome refused = run_loci(trace_command("bad.json", "bad.h5"));
  EXPECT_EQ(refused.exit_code, 2);
  expect_message(refused.err.substr(0, refused.err.find('\n')),
                 {"bad.json", "record 2", "subject", "Nobody", "--skip-invalid"});
  EXPECT_FALSE(exists("bad.h5") || exists("bad.h5.parts"));
  const Outcome skipped = run_loci(trace_command("bad.json", "bad.h5", {"--skip-invalid", "--json"}));
  ASSERT_EQ(skipped.exit_code, 0) << skipped.err;
  EXPECT_EQ(parse_json(skipped.out, "trace")["skipped"], 1);
  for (const std::vector<std::string>& flags : {std::vector<std::string>{"--kinds", "mlps"},
                                                {"--sever", "state"},
                                                {"--window", "0"},
                                                {"--samples", "-1"},
                                                {"--limit", "-3"},
                                                {"--surprise", "1"}})
    EXPECT_EQ(run_loci(trace_command("bad.json", "flags.h5", flags)).exit_code, 2) << flags[0];
}

}  // namespace
}  // namespace loci::test
