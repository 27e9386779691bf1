#pragma once

#include <filesystem>
#include <string>

#include "model/text/tokenizer.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"

namespace loci::test {

/// What a tokenizer of the 256 bytes is made of: id = byte, no merges.
inline TokenizerDefinition byte_tokenizer_definition() {
  TokenizerDefinition definition;
  for (int byte = 0; byte < 256; ++byte) {
    definition.token_bytes.emplace_back(1, static_cast<char>(byte));
    definition.byte_tokens[byte] = byte;
  }
  return definition;
}

/// A tokenizer of the 256 bytes and nothing else: id = byte.
inline Tokenizer byte_tokenizer() { return Tokenizer(byte_tokenizer_definition()); }

/// vocab.json and merges.txt of a tokenizer with one token a byte (GPT-2's spelling of bytes; id = byte) and
/// `<|endoftext|>`, 256.
inline void write_byte_tokenizer(const std::filesystem::path& dir) {
  Json vocabulary = Json::object();
  int other = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    const int code = printable ? byte : 256 + other++;
    std::string text;
    if (code < 128) {
      text += static_cast<char>(code);
    } else {
      text += static_cast<char>(0xC0 | (code >> 6));
      text += static_cast<char>(0x80 | (code & 0x3F));
    }
    vocabulary[text] = byte;
  }
  vocabulary["<|endoftext|>"] = 256;
  std::filesystem::create_directories(dir);
  write_file_atomically(dir / "vocab.json", vocabulary.dump());
  write_file_atomically(dir / "merges.txt", "#version: 0.2\n");
}

}  // namespace loci::test
