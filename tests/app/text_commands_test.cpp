// Commands that show tokens and texts, and what reads text: tokenize, predict, generate, cov.
#include <set>

#include "runtime/io/hdf5.h"
#include "tests/app/support.h"

namespace loci::test {
namespace {

class TextCommands : public CommandTest {
 protected:
  static bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
};

TEST_F(TextCommands, TokenizePrintsThePlacesOfTokens) {
  const Json result =
      json_of(run_loci({"tokenize", path("model"), "--prompt", "aé<|endoftext|>", "--json"}))["results"][0];
  EXPECT_EQ(result["prompt"], "aé<|endoftext|>");
  const Json expected = Json::array({{{"id", 'a'}, {"text", "a"}, {"begin", 0}, {"end", 1}},
                                     {{"id", 0xC3}, {"text", "\ufffd"}, {"begin", 1}, {"end", 2}},
                                     {{"id", 0xA9}, {"text", "\ufffd"}, {"begin", 2}, {"end", 3}},
                                     {{"id", 256}, {"text", "<|endoftext|>"}, {"begin", 3}, {"end", 16}}});
  EXPECT_EQ(result["tokens"], expected);
  const Outcome table = run_loci({"tokenize", path("model"), "--prompt", "aé", "--prompt", ""});
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_EQ(table.out,
            "\"aé\": 3 tokens\n"
            "  token       id        bytes  text\n"
            "      0       97          0-1  \"a\"\n"
            "      1      195          1-2  \"\\xc3\"\n"
            "      2      169          2-3  \"\\xa9\"\n"
            "\"\": 0 tokens\n");
}

TEST_F(TextCommands, TokenizeNeedsOneThingToDo) {
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{},
                                             {"--output", path("o.h5")},
                                             {"--text", path("text.txt")},
                                             {"--text", path("text.txt"), "--output", path("o.h5"), "--prompt", "a"}}) {
    std::vector<std::string> command = {"tokenize", path("model")};
    command.insert(command.end(), more.begin(), more.end());
    const Outcome outcome = run_loci(command);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_TRUE(has(outcome.err, "--text") || has(outcome.err, "--output")) << outcome.err;
    EXPECT_FALSE(exists("o.h5"));
  }
}

TEST_F(TextCommands, PromptsComeFromFilesAndStandardInput) {
  const auto prompts_of = [](const Json& object) {
    std::vector<std::string> prompts;
    for (const Json& result : object["results"]) prompts.push_back(result["prompt"]);
    return prompts;
  };
  const std::vector<std::string> expected = {"one", " two"};
  for (const std::string text : {"one\n\n two\r\n", "[\"one\", {\"prompt\": \" two\"}]",
                                 "{\"prompt\": \"one\"}\n{\"prompt\": \" two\"}\n", "\xEF\xBB\xBFone\n two"}) {
    write("prompts", text);
    EXPECT_EQ(prompts_of(json_of(run_loci({"tokenize", path("model"), "--prompts", path("prompts"), "--json"}))),
              expected);
    EXPECT_EQ(prompts_of(json_of(run_loci({"tokenize", path("model"), "--prompts", "-", "--json"}, text))), expected);
  }
  const std::vector<std::string> lines = {"predict", path("model"), "--prompts", "-", "--json"};
  EXPECT_EQ(prompts_of(json_of(run_loci(lines, "one\n two\n"))), expected);
  const Outcome spaced = run_loci(lines, "one \n two\n");
  EXPECT_EQ(prompts_of(json_of(spaced)), (std::vector<std::string>{"one ", " two"}));
  EXPECT_TRUE(has(spaced.err, "a prompt ends in white space")) << spaced.err;
  const Outcome empty = run_loci(lines, "");
  EXPECT_EQ(empty.exit_code, 2);
  EXPECT_TRUE(has(empty.err, "standard input: holds no prompts")) << empty.err;
  const Outcome generated = run_loci({"generate", path("model"), "--prompts", "-", "--json"}, "one\n two\n");
  EXPECT_EQ(prompts_of(json_of(generated)), expected);
}

TEST_F(TextCommands, TextComesFromStandardInput) {
  const std::string text = read_text_file(path("text.txt"));
  const Json from_file =
      json_of(run_loci({"tokenize", path("model"), "--text", path("text.txt"), "--output", path("file.h5"), "--json"}));
  const Json from_stream =
      json_of(run_loci({"tokenize", path("model"), "--text", "-", "--output", path("stream.h5"), "--json"}, text));
  for (const char* field : {"documents", "tokens", "text_sha256"}) EXPECT_EQ(from_file[field], from_stream[field]);
  const Json moments = result_of(json_of(run_loci(
      {"cov", path("model"), "--text", "-", "--layers", "1", "--output", path("stream_cov.h5"), "--json"}, text)));
  EXPECT_EQ(moments["tokens"], from_file["tokens"]);
  const Outcome bad = run_loci({"tokenize", path("model"), "--text", "-", "--output", path("o.h5")}, "a\nb\xff\n");
  EXPECT_EQ(bad.exit_code, 2);
  EXPECT_TRUE(has(bad.err, "standard input: line 2: byte 3")) << bad.err;
  EXPECT_FALSE(exists("o.h5"));
}

TEST_F(TextCommands, AnEmptyPromptIsTheStartOfAText) {
  const auto first = [](const std::string& prompt) {
    const Json tokens = json_of(
        run_loci({"predict", path("model"), "--prompt", prompt, "--top", "3", "--json"}))["results"][0]["tokens"];
    return tokens;
  };
  EXPECT_EQ(first(""), first("<|endoftext|>"));
  const auto text = [](const std::string& prompt) {
    return json_of(run_loci({"generate", path("model"), "--prompt", prompt, "--json"}))["results"][0]["samples"];
  };
  EXPECT_EQ(text(""), text("<|endoftext|>"));
}

TEST_F(TextCommands, SmallProbabilitiesKeepTheirDigits) {
  const Outcome outcome = run_loci({"predict", path("model"), "--prompt", "a", "--top", "257"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_FALSE(has(outcome.out, " 0.00000 "));
  EXPECT_FALSE(has(outcome.out, "  0  ")) << "a probability that was rounded away";
}

TEST_F(TextCommands, GeneratedTextsAreSeparatedAndNumbered) {
  const std::vector<std::string> command = {
      "generate", path("model"),         "--prompt", "a", "--prompt", "b", "--samples", "2", "--max-tokens",
      "3",        "--ignore-end-of-text"};
  const Outcome outcome = run_loci(command);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find("--- prompt 1 of 2, sample 1 of 2\na"), 0u) << outcome.out;
  for (const char* part : {"\n\n--- prompt 1 of 2, sample 2 of 2\na", "\n\n--- prompt 2 of 2, sample 1 of 2\nb",
                           "\n\n--- prompt 2 of 2, sample 2 of 2\nb"})
    EXPECT_TRUE(has(outcome.out, part)) << outcome.out;
  const Outcome single = run_loci({"generate", path("model"), "--prompt", "a", "--max-tokens", "3"});
  EXPECT_EQ(single.out.find("a"), 0u) << "one text stands alone";
}

TEST_F(TextCommands, RowsBeyondTheTokenizerAreListedAndNeverDrawn) {
  write_random_model(path("padded"), 5, 20, 300);
  const Json tokens =
      json_of(run_loci({"predict", path("padded"), "--prompt", "a", "--top", "300", "--json"}))["results"][0]["tokens"];
  ASSERT_EQ(tokens.size(), 300u);
  for (const Json& token : tokens) EXPECT_EQ(token["text"].is_null(), token["id"] > 256) << token;
  const Outcome table = run_loci({"predict", path("padded"), "--prompt", "a", "--top", "300"});
  EXPECT_TRUE(has(table.out, "row 299 of the embedding, which has no token")) << table.err;
  const Json info = json_of(run_loci({"info", path("padded"), "--json"}));
  EXPECT_TRUE(has(info["warnings"].dump(), "43 rows of the embedding have no token"));
  const Json generated = json_of(run_loci({"generate", path("padded"), "--prompt", "", "--samples", "20",
                                           "--max-tokens", "20", "--ignore-end-of-text", "--json"}));
  std::set<int64_t> ids;
  for (const Json& sample : generated["results"][0]["samples"])
    for (const Json& id : sample["tokens"]) ids.insert(id.get<int64_t>());
  EXPECT_GT(ids.size(), 50u);
  EXPECT_LE(*ids.rbegin(), 256);
}

TEST_F(TextCommands, AnAddedTokenWithoutARowRefusesOnlyItsTexts) {
  write_random_model(path("added"), 5);
  write("added/added_tokens.json", R"({"[PAD]": 257, "[FAR]": 300})");
  EXPECT_EQ(run_loci({"predict", path("added"), "--prompt", "a"}).exit_code, 0);
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"predict", path("added"), "--prompt", "x[PAD]"}, {"generate", path("added"), "--prompt", "x[PAD]"}}) {
    const Outcome outcome = run_loci(command);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_TRUE(has(outcome.err, "--prompt: the text \"x[PAD]\" holds the added token \"[PAD]\" (id 257)"))
        << outcome.err;
  }
  const Json info = json_of(run_loci({"info", path("added"), "--json"}));
  EXPECT_TRUE(info["tokenizer"]["ok"].get<bool>());
  EXPECT_TRUE(has(info["warnings"].dump(), "(id 300) has no row"));
  write("padded.txt", "one\ntwo [FAR]\n");
  for (const char* subcommand : {"cov", "tokenize"}) {
    const Outcome outcome =
        run_loci({subcommand, path("added"), "--text", path("padded.txt"), "--output", path("o.h5")});
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_TRUE(has(outcome.err, "padded.txt: line 2: the text \"two [FAR]\"")) << outcome.err;
    EXPECT_FALSE(exists("o.h5"));
  }
}

TEST_F(TextCommands, GenerateStopsAtEveryEndTokenOfTheModel) {
  write_random_model(path("ends"), 5);
  const std::vector<std::string> command = {"generate", path("ends"), "--prompt", "a", "--max-tokens", "12", "--json"};
  const auto tokens = [&] { return json_of(run_loci(command))["results"][0]["samples"][0]["tokens"]; };
  const Json whole = tokens();
  ASSERT_EQ(whole.size(), 12u);
  Json expected = Json::array();
  for (size_t i = 0; whole[i] != whole[4]; ++i) expected.push_back(whole[i]);
  Json config = parse_json_file(path("ends/config.json"));
  config["eos_token_id"] = {256, whole[4]};
  write("ends/config.json", config.dump());
  EXPECT_EQ(tokens(), expected);
  write("ends/generation_config.json", R"({"eos_token_id": 256})");
  EXPECT_EQ(tokens(), whole) << "generation_config.json goes first";
  write("ends/generation_config.json", Json{{"eos_token_id", {whole[4]}}}.dump());
  EXPECT_EQ(tokens(), expected);
}

TEST_F(TextCommands, CovAndTokenizeSayHowMuchWasCut) {
  // 3, 7, 100 and 200 tokens, 314 bytes.
  write("long.txt", "abc\nabcdefg\n" + std::string(100, 'x') + "\n" + std::string(200, 'y') + "\n");
  const auto run = [](const std::string& subcommand, const std::string& output, const std::vector<std::string>& more) {
    std::vector<std::string> command = {subcommand,       path("model"), "--text",
                                        path("long.txt"), "--output",    path(output)};
    command.insert(command.end(), more.begin(), more.end());
    return run_loci(command);
  };
  const auto expect_counts = [](const Json& summary, int64_t documents, int64_t tokens, int64_t cut_documents,
                                int64_t cut_tokens) {
    EXPECT_EQ(summary["documents"], documents);
    EXPECT_EQ(summary["tokens"], tokens);
    EXPECT_EQ(summary["cut_documents"], cut_documents);
    EXPECT_EQ(summary["cut_tokens"], cut_tokens);
  };
  expect_counts(json_of(run("cov", "context.h5", {"--json"})), 4, 3 + 7 + 96 + 96, 2, 4 + 104);
  expect_counts(json_of(run("cov", "five.h5", {"--max-tokens-per-document", "5", "--json"})), 4, 18, 3, 2 + 95 + 195);
  expect_counts(json_of(run("cov", "limit.h5", {"--limit", "3", "--json"})), 3, 3 + 7 + 96, 1, 4);
  expect_counts(json_of(run("tokenize", "all.h5", {"--json"})), 4, 310, 0, 0);
  for (int again = 0; again < 2; ++again)  // the second run finds the first one's result
    expect_counts(json_of(run("tokenize", "cut.h5", {"--max-tokens-per-document", "10", "--json"})), 4, 30, 2, 280);
  const Json of_tokens =
      json_of(run_loci({"cov", path("model"), "--tokens", path("all.h5"), "--output", path("of_tokens.h5"), "--json"}));
  expect_counts(of_tokens, 4, 3 + 7 + 96 + 96, 2, 108);
  const Outcome text = run("cov", "context.h5", {});
  EXPECT_TRUE(has(text.out, "2 of 4 documents were cut to 96 tokens: 108 tokens, 34.8 % of the text, were left out"))
      << text.out;
  EXPECT_TRUE(has(run("tokenize", "cut.h5", {"--max-tokens-per-document", "10"}).out,
                  "2 of 4 documents were cut to 10 tokens"));
  EXPECT_FALSE(has(run("tokenize", "all.h5", {}).out, "cut"));
  EXPECT_TRUE(has(run("tokenize", "fresh.h5", {}).err, "tokenize: 314 bytes done")) << "a small text is counted, too";
}

}  // namespace
}  // namespace loci::test
