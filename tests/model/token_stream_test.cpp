#include "model/text/token_stream.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "model/text/documents.h"
#include "runtime/error.h"
#include "runtime/io/hdf5.h"
#include "runtime/io/sha256.h"
#include "tests/model/tokenizer_support.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;
using test::SmallTokenizer;

class TokenStreamTest : public ::testing::Test {
 protected:
  std::string text_file(const std::string& name, const std::string& text) {
    std::ofstream(folder_.file(name), std::ios::binary) << text;
    return folder_.file(name);
  }
  TokenStream run(const std::string& path, int threads = 1, std::int64_t limit = Tokenizer::kNoLimit) {
    TextReader reader(path);
    ThreadPool pool(threads);
    return tokenize(pool, tokenizer_, reader, {.max_tokens_per_document = limit, .progress = {}});
  }
  /// Some megabytes: many batches.
  std::string many_records() {
    std::string text;
    std::mt19937 random(9);
    for (int i = 0; i < 9000; ++i) {
      std::string words;
      for (int length = static_cast<int>(random() % 400); length > 0; --length) words.push_back(" the<|"[random() % 6]);
      if (i % 100 == 7) words += "<|endoftext|>";
      text += Json{{"text", words}}.dump() + "\n";
    }
    return text;
  }

  test::TemporaryDir folder_;
  Tokenizer tokenizer_{parse_tokenizer(SmallTokenizer({{" ", "t"}, {" t", "h"}, {" th", "e"}}).files())};
};

TEST_F(TokenStreamTest, KeepsEveryRecordAndItsPlace) {
  const std::string path =
      text_file("a.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"\"}\n{\"text\": \" the<|endoftext|>\"}\n");
  const TokenStream stream = run(path);
  EXPECT_EQ(stream.tokens, (std::vector<std::int32_t>{'a', 'b', 258, 259}));
  EXPECT_EQ(stream.document_offsets, (std::vector<std::int64_t>{0, 2, 2, 4}));
  EXPECT_EQ(stream.documents(), 3);
  EXPECT_EQ(std::vector<std::int32_t>(stream.document(2).begin(), stream.document(2).end()),
            (std::vector<std::int32_t>{258, 259}));
  EXPECT_EQ(stream.source.file, "a.jsonl");
  EXPECT_EQ(stream.source.sha256, sha256_file(path));
  EXPECT_EQ(stream.source.tokenizer_sha256, tokenizer_.sha256());
  EXPECT_EQ(run(text_file("empty.txt", "")).document_offsets, std::vector<std::int64_t>{0});
}

TEST_F(TokenStreamTest, CutsDocuments) {
  const TokenStream stream = run(text_file("a.txt", "abcdef\n the the the\nx\n"), 2, 2);
  EXPECT_EQ(stream.tokens, (std::vector<std::int32_t>{'a', 'b', 258, 258, 'x'}));
  EXPECT_EQ(stream.document_offsets, (std::vector<std::int64_t>{0, 2, 4, 5}));
  TextReader reader(folder_.file("a.txt"));
  ThreadPool pool(1);
  EXPECT_THROW(tokenize(pool, tokenizer_, reader, {.max_tokens_per_document = 0, .progress = {}}), InputError);
}

TEST_F(TokenStreamTest, TheNumberOfThreadsChangesNothing) {
  const std::string path = text_file("a.jsonl", many_records());
  const TokenStream one = run(path, 1);
  EXPECT_EQ(one.documents(), 9000);
  std::string record;
  TextReader reader(path);
  for (std::int64_t i = 0; reader.next(record); ++i) {
    const auto ids = tokenizer_.encode_ids(record);
    ASSERT_TRUE(std::ranges::equal(one.document(i), ids)) << i;
  }
  for (const int threads : {2, 3, 8}) {
    const TokenStream many = run(path, threads);
    EXPECT_EQ(many.tokens, one.tokens) << threads;
    EXPECT_EQ(many.document_offsets, one.document_offsets) << threads;
  }
}

TEST_F(TokenStreamTest, TheFirstBadRecordIsNamedWhateverTheThreads) {
  std::string text = many_records();
  for (const std::size_t place : {text.size() / 2, text.size() / 2 + 5000, text.size() - 5000})
    text.insert(text.find('\n', place) + 1, "{\"nothing\": 1}\n");
  const std::string path = text_file("a.jsonl", text);
  const auto message = [&](int threads) { return error_of<InputError>([&] { run(path, threads); }); };
  const std::string expected = message(1);
  expect_message(expected, {path, "line", "text"});
  for (const int threads : {2, 5}) EXPECT_EQ(message(threads), expected);
}

TEST_F(TokenStreamTest, WhatCannotBeReadOnIsSaidAfterTheDocumentsBeforeIt) {
  const auto damaged = [&](const std::string& text) {
    const std::string path = text_file("a.jsonl", text);
    EXPECT_EQ(std::system(("gzip -f " + path).c_str()), 0);
    std::filesystem::resize_file(path + ".gz", std::filesystem::file_size(path + ".gz") * 9 / 10);
    return path + ".gz";
  };
  const std::string text = many_records();
  const std::string path = damaged(text);
  TextReader reader(path);
  ThreadPool pool(2);
  DocumentEncoder encoder(pool, tokenizer_, reader);
  std::int64_t documents = 0;
  const std::string message = error_of<InputError>([&] {
    for (auto batch = encoder.next_batch(); !batch.empty(); batch = encoder.next_batch())
      for (const EncodedDocument& document : batch) documents += !document.fault;
  });
  expect_message(message, {path, "cut short"});
  EXPECT_GT(documents, 4000);
  EXPECT_EQ(error_of<InputError>([&] { run(path, 2); }), message);
  std::string bad = text;
  bad.insert(bad.find('\n') + 1, "{\"nothing\": 1}\n");
  expect_message(error_of<InputError>([&] { run(damaged(bad), 2); }), {path, "line 2", "text"});
}

TEST_F(TokenStreamTest, ReportsProgress) {
  const std::string path = text_file("a.jsonl", many_records());
  TextReader reader(path);
  std::vector<TokenizeProgress> reports;
  ThreadPool pool(2);
  const TokenStream stream =
      tokenize(pool, tokenizer_, reader, {.progress = [&](const TokenizeProgress& p) { reports.push_back(p); }});
  ASSERT_GT(reports.size(), 2u);
  EXPECT_EQ(reports.back().documents, stream.documents());
  EXPECT_EQ(reports.back().tokens, std::ssize(stream.tokens));
  EXPECT_EQ(reports.back().bytes_read, reports.back().total_bytes);
  EXPECT_LT(reports.front().documents, reports.back().documents);
}

TEST_F(TokenStreamTest, ComesBackFromItsFile) {
  const TokenStream stream = run(text_file("a.txt", "one\n the other\n"), 1, 5);
  const std::string path = folder_.file("a.h5");
  write_token_stream(path, stream, Json{{"command", "tokenize"}}, current_provenance());
  const TokenStream back = read_token_stream(path);
  EXPECT_EQ(back.tokens, stream.tokens);
  EXPECT_EQ(back.document_offsets, stream.document_offsets);
  EXPECT_EQ(back.source.sha256, stream.source.sha256);
  EXPECT_EQ(back.source.max_tokens_per_document, 5);
}

TEST_F(TokenStreamTest, RefusesFilesThatContradictThemselves) {
  const TokenStream good = run(text_file("a.txt", "one\n the other\n"));
  const std::string path = folder_.file("bad.h5");
  const auto refusal = [&](const std::function<void(TokenStream&)>& change) {
    TokenStream stream = good;
    change(stream);
    write_token_stream(path, stream, Json::object(), current_provenance());
    return error_of<InputError>([&] { read_token_stream(path); });
  };
  expect_message(refusal([](TokenStream& s) { s.document_offsets.back() += 1; }), {path, "document_offsets"});
  expect_message(refusal([](TokenStream& s) { s.document_offsets.front() = 1; }), {path, "document_offsets"});
  expect_message(refusal([](TokenStream& s) { std::swap(s.document_offsets[1], s.document_offsets[2]); }),
                 {"document_offsets"});
  expect_message(refusal([](TokenStream& s) { s.document_offsets.clear(); }), {path, "document_offsets"});
  expect_message(refusal([](TokenStream& s) { s.tokens[1] = 260; }), {path, "tokens", "element 1", "260"});
  expect_message(refusal([](TokenStream& s) { s.tokens[1] = -1; }), {path, "element 1", "-1"});
  write_hdf5_atomically(path, [](H5File& file) { create_group(file, "/edits"); });
  expect_message(error_of<InputError>([&] { read_token_stream(path); }), {path, "not a token stream"});
  text_file("bad.h5", "not HDF5");
  expect_message(error_of<InputError>([&] { read_token_stream(path); }), {path});
  expect_message(error_of<InputError>([&] { read_token_stream(folder_.file("absent.h5")); }), {"absent.h5"});
}

}  // namespace
}  // namespace loci
