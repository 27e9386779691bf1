#include "runtime/jobs/provenance.h"

#include <archive.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include <array>
#include <ctime>

#include <fmt/format.h>

namespace loci {

namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("HDF5 {}.{}.{}", major, minor, release);
}

}  // namespace

Provenance current_provenance() {
  Provenance provenance;
  provenance.version = loci_version();
  provenance.git_commit = loci_git_commit();
  provenance.libraries = {hdf5_version(), OpenSSL_version(OPENSSL_VERSION), archive_version_string()};
  provenance.hostname = host_name();
  provenance.date = utc_now();
  return provenance;
}

void write_provenance(H5File& file, const Json& config, const Provenance& provenance) {
  write_attribute(file, "/", "config", canonical_json(config));
  write_attribute(file, "/", "loci_version", provenance.version);
  write_attribute(file, "/", "git_commit", provenance.git_commit);
  write_attribute(file, "/", "libraries", provenance.libraries);
  write_attribute(file, "/", "hostname", provenance.hostname);
  write_attribute(file, "/", "date", provenance.date);
  write_attribute(file, "/", "world_size", provenance.world_size);
  write_attribute(file, "/", "inputs", canonical_json(provenance.inputs));
  if (!provenance.weights_sha256.empty()) write_attribute(file, "/", "weights_sha256", provenance.weights_sha256);
  if (!provenance.base_edits_sha256.empty())
    write_attribute(file, "/", "base_edits_sha256", provenance.base_edits_sha256);
}

void write_skipped_records(H5File& file, std::span<const std::string> sentences) {
  write_strings(file, "/skipped_records", sentences, {std::ssize(sentences)},
                {.units = "", .long_name = "why records were left out"});
}

std::vector<std::string> read_skipped_records(const H5File& file) {
  return h5_exists(file, "/skipped_records") ? read_strings(file, "/skipped_records").values
                                             : std::vector<std::string>();
}

}  // namespace loci
