#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/io/hdf5.h"
#include "runtime/io/json.h"

namespace loci {

/// Where a result comes from.
struct Provenance {
  /// loci's version, "0.1.0".
  std::string version;
  /// The commit it was built from, with "-dirty" if the tree had changes; "unknown" outside a checkout.
  std::string git_commit;
  /// "HDF5 1.10.8", ...
  std::vector<std::string> libraries;
  std::string hostname;
  /// UTC, "2026-01-31T12:00:00Z".
  std::string date;
  int64_t world_size = 1;
  /// Of the model the result belongs to; Checkpoint::weights_sha256(). Empty if there is none.
  std::string weights_sha256;
  /// Of the edits that this model had on top of its weights, by content. Empty if there were none.
  std::string base_edits_sha256 = {};
  /// The files and folders that were read, as they were named, by the option that named them. What identifies them is
  /// their hashes, in the configuration.
  Json inputs = Json::object();
};

/// Everything but the hashes and inputs, for this process.
Provenance current_provenance();

/// Root attributes `config` (canonical JSON), `loci_version`, `git_commit`, `libraries`, `hostname`, `date`,
/// `world_size`, `inputs` (canonical JSON), and `weights_sha256` and `base_edits_sha256` where there are such.
void write_provenance(H5File& file, const Json& config, const Provenance& provenance);

/// The data set `skipped_records`: one sentence for each record that was left out.
void write_skipped_records(H5File& file, std::span<const std::string> sentences);
std::vector<std::string> read_skipped_records(const H5File& file);

std::string loci_version();
std::string loci_git_commit();

}  // namespace loci
