#include "runtime/io/sha256.h"

#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/standard_input.h"

namespace loci {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  require<SystemError>(state_->context != nullptr && EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1,
                       "OpenSSL cannot compute SHA-256 on this system");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

Sha256& Sha256::update(std::span<const std::byte> bytes) {
  require<SystemError>(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1,
                       "OpenSSL failed while computing SHA-256");
  return *this;
}

std::array<std::byte, 32> Sha256::digest() {
  std::array<std::byte, 32> digest{};
  require<SystemError>(
      EVP_DigestFinal_ex(state_->context, reinterpret_cast<unsigned char*>(digest.data()), nullptr) == 1,
      "OpenSSL failed while computing SHA-256");
  return digest;
}

std::string Sha256::hex() {
  std::string text;
  for (const std::byte byte : digest()) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

std::string sha256_hex(std::span<const std::byte> bytes) { return Sha256().update(bytes).hex(); }

std::string sha256_hex(std::string_view text) { return Sha256().update(text).hex(); }

std::string sha256_file(const std::filesystem::path& path) {
  require_regular_file(input_file(path));
  std::ifstream file(input_file(path), std::ios::binary);
  require<InputError>(file.is_open(), "{}: cannot be read: {}", path.string(), std::strerror(errno));
  Sha256 hash;
  std::vector<char> buffer(1 << 20);
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    hash.update(std::string_view(buffer.data(), static_cast<size_t>(file.gcount())));
  }
  require<InputError>(file.eof(), "{}: reading stopped before the end of the file", path.string());
  return hash.hex();
}

}  // namespace loci
