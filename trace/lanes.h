#pragma once

#include <cstdint>
#include <vector>

#include "model/executor/executor.h"

namespace loci {

/// What a lane's first block changes: all its rows, or only the first one, as where a module's output is replaced
/// there: its other rows then go on after that block as their base has them.
enum class FirstBlock { all_rows, first_row };

/// One intervention on one corrupted sequence: rows first_position .. first_position + rows - 1 from block first_layer
/// on. It asks for the probability of one token after its last row.
struct Lane {
  /// A change of one row.
  struct Patch {
    int64_t position;
    Site site;
    int64_t layer;
    PatchMode mode;
    const float* source;
  };
  RecordingPtr base;
  int64_t first_layer = 0;
  int64_t first_position = 0;
  int64_t rows = 0;
  FirstBlock first_block = FirstBlock::all_rows;
  std::vector<int32_t> tokens;  ///< of its rows, where first_layer = 0
  std::vector<Patch> patches;
  int32_t answer = 0;
  float* probability = nullptr;  ///< written by run_lanes
  /// Lanes that differ from this one only from their first_layer on; their base is this one's recording.
  std::vector<Lane> branches;
};

/// Runs lanes and their branches in waves of at most `max_rows` rows (and of what the memory budget allows). Lanes that
/// join at the same depth share a wave, so that a wave computes nothing where few of its lanes take part.
void run_lanes(Executor& executor, std::vector<Lane> lanes, int64_t max_rows);

float probability_of(float log_probability);

}  // namespace loci
