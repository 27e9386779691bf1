#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd_math.h"
#include "kernels/small_product.h"

// One (head, sequence) pair is one unit of work: its keys and values are packed once, then tiles of queries meet all
// the keys they see. Query heads that share a key head follow each other and share what is packed. Pairs write disjoint
// rows and columns, so results do not depend on the number of threads.
namespace loci::cpu {
namespace {

constexpr int64_t kQueryTile = 64;

// A run of consecutive positions with their keys and values: a segment or the own rows.
struct Run {
  const float* keys;
  const float* values;
  int64_t key_stride;
  int64_t value_stride;
  int64_t count;
};

// What all pairs of one call share.
struct Job {
  const AttentionBatch& batch;
  const AttentionShape& shape;
  const AttentionInputs& inputs;
  int64_t width;  // of a head

  Job(const AttentionBatch& batch_, const AttentionShape& shape_, const AttentionInputs& inputs_)
      : batch(batch_), shape(shape_), inputs(inputs_), width(inputs.queries.cols / shape.heads) {}

  const AttentionSequence& sequence(int64_t s) const { return batch.sequences.data()[s]; }
  int64_t key_head(int64_t head) const { return head / shape.group(); }

  int64_t segment_keys(const AttentionSequence& s) const {
    int64_t count = 0;
    for (int64_t i = 0; i < s.segments; ++i) count += batch.segments.data()[s.first_segment + i].count;
    return count;
  }

  template <typename Visit>
  void over_runs(const AttentionSequence& s, int64_t key_head, const Visit& visit) const {
    const ConstView &keys = inputs.keys, &values = inputs.values;
    const int64_t column = key_head * width;
    for (int64_t i = 0; i < s.segments; ++i) {
      const AttentionSegment& segment = batch.segments.data()[s.first_segment + i];
      visit(Run{segment.keys + column, segment.values + column, segment.stride, segment.stride, segment.count});
    }
    visit(Run{keys.row(s.first_key) + column, values.row(s.first_key) + column, keys.stride, values.stride, s.keys});
  }
};

void require_consistent(const char* op, const Job& job) {
  for (int64_t i = 0; i < job.batch.sequences.size(); ++i) {
    const AttentionSequence& s = job.sequence(i);
    require<ShapeError>(s.first_query >= 0 && s.queries >= 0 && s.first_query + s.queries <= job.inputs.queries.rows &&
                            s.first_key >= 0 && s.keys >= 0 && s.first_key + s.keys <= job.inputs.keys.rows,
                        "{}: sequence {} lies outside the {} query and {} key rows", op, i, job.inputs.queries.rows,
                        job.inputs.keys.rows);
    require<ShapeError>(
        s.first_segment >= 0 && s.segments >= 0 && s.first_segment + s.segments <= job.batch.segments.size(),
        "{}: sequence {} names segments outside the {} given", op, i, job.batch.segments.size());
    require<ShapeError>(s.queries == 0 || (s.visible_0 >= 0 && s.visible_0 + s.queries - 1 <= s.keys &&
                                           s.visible_0 + job.segment_keys(s) > 0),
                        "{}: sequence {} shows its first query {} of {} own keys and its last one {}", op, i,
                        s.visible_0, s.keys, s.visible_0 + s.queries - 1);
  }
}

// Scratch that grows to the largest pair of a chunk.
class Scratch {
 public:
  float* at_least(int64_t size) {
    if (std::ssize(values_) < size) values_.resize(static_cast<size_t>(size));
    return values_.data();
  }

 private:
  std::vector<float> values_;
};

// to [count, packed(width)], the columns behind `width` zero.
void pack_rows(const float* from, int64_t stride, int64_t count, int64_t width, float* to) {
  const int64_t ld = packed(width);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to + i * ld, from + i * stride, sizeof(float) * static_cast<size_t>(width));
    std::fill(to + i * ld + width, to + (i + 1) * ld, 0.0f);
  }
}

// to [width, ld]: column j is row j of `from`. Plain loads and stores: the compiler's gathers are slower.
void pack_transposed(const float* from, int64_t stride, int64_t count, int64_t width, float* to, int64_t ld) {
  for (int64_t j = 0; j < count; ++j)
    for (int64_t c = 0; c < width; ++c) to[c * ld + j] = from[j * stride + c];
}

void clear_columns(float* rows, int64_t count, int64_t ld, int64_t first) {
  for (int64_t r = 0; r < count; ++r) std::fill(rows + r * ld + first, rows + (r + 1) * ld, 0.0f);
}

LOCI_SIMD void multiply_small(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_step,
                              const float* b, int64_t ldb, float* c, int64_t ldc) {
  small_product(m, n, k, a, a_row, a_step, b, ldb, c, ldc);
}

// Turns `count` raw scores into exp(scale (s - max)) and zeroes the rest of the row; returns (max of scale s, sum).
struct RowSum {
  float maximum;
  float sum;
};
LOCI_SIMD RowSum exponentiate_scores(float* scores, int64_t count, int64_t padded, float scale) {
  float maximum = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : maximum)
  for (int64_t j = 0; j < count; ++j) {
    scores[j] *= scale;
    maximum = scores[j] > maximum ? scores[j] : maximum;
  }
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    scores[j] = simd::exp(scores[j] - maximum);
    sum += scores[j];
  }
  std::fill(scores + count, scores + padded, 0.0f);
  return {maximum, sum};
}

LOCI_SIMD void scale_into(const float* from, int64_t count, float factor, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] * factor;
}

LOCI_SIMD void add_into(const float* from, int64_t count, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// Keys and values of one sequence and key head. `transposed_values` and `keys` are wanted by the backward pass only.
struct PackedPair {
  const AttentionSequence* sequence = nullptr;
  int64_t key_head = 0;
  int64_t segment_keys = 0;
  int64_t total = 0;
  int64_t ld = 0;                      // of the transposed operands
  float* transposed_keys = nullptr;    // [width, ld]
  float* values = nullptr;             // [total, packed(width)]
  float* transposed_values = nullptr;  // [width, ld]
  float* keys = nullptr;               // [total, packed(width)]
};

enum class Pass { forward, backward };

PackedPair pack_pair(const Job& job, const AttentionSequence& s, int64_t key_head, Pass pass, Scratch& scratch) {
  PackedPair pair;
  pair.sequence = &s;
  pair.key_head = key_head;
  const int64_t width = job.width;
  const int64_t wide = packed(width);
  pair.segment_keys = job.segment_keys(s);
  const int64_t own = s.visible_0 + s.queries - 1;  // later own keys are seen by nobody
  pair.total = pair.segment_keys + own;
  pair.ld = packed(pair.total);
  const int64_t one = pair.total * wide;
  const int64_t turned = width * pair.ld;
  float* memory = scratch.at_least(pass == Pass::forward ? one + turned : 2 * (one + turned));
  pair.transposed_keys = memory;
  memory += turned;
  if (pass == Pass::forward) {
    pair.values = memory;
  } else {
    pair.transposed_values = memory;
    pair.keys = memory + turned;
  }
  int64_t offset = 0;
  job.over_runs(s, key_head, [&](const Run& run) {
    const int64_t count = std::min(run.count, pair.total - offset);
    pack_transposed(run.keys, run.key_stride, count, width, pair.transposed_keys + offset, pair.ld);
    if (pair.values) pack_rows(run.values, run.value_stride, count, width, pair.values + offset * wide);
    if (pair.keys) pack_rows(run.keys, run.key_stride, count, width, pair.keys + offset * wide);
    if (pair.transposed_values)
      pack_transposed(run.values, run.value_stride, count, width, pair.transposed_values + offset, pair.ld);
    offset += count;
  });
  clear_columns(pair.transposed_keys, width, pair.ld, pair.total);
  if (pair.transposed_values) clear_columns(pair.transposed_values, width, pair.ld, pair.total);
  return pair;
}

// What a thread keeps from one pair to the next.
struct Workspace {
  Scratch packing, tiles;
  PackedPair pair;

  const PackedPair& pack(const Job& job, const AttentionSequence& s, int64_t key_head, Pass pass) {
    if (pair.sequence != &s || pair.key_head != key_head) pair = pack_pair(job, s, key_head, pass, packing);
    return pair;
  }
};

struct Results {
  View output, log_sums;
};

// Whether no value is NaN or infinite.
LOCI_SIMD bool all_finite(const float* values, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += values[i] * 0.0f;
  return sum == 0.0f;
}

void forward_tile(const Job& job, const PackedPair& pair, int64_t head, int64_t first, int64_t count, Scratch& scratch,
                  const Results& results) {
  const AttentionSequence& s = *pair.sequence;
  const ConstView& queries = job.inputs.queries;
  const int64_t wide = packed(job.width), column = head * job.width;
  const int64_t visible = pair.segment_keys + s.visible_0 + first;  // keys of the tile's first query
  const int64_t padded = packed(visible + count - 1);
  float* scores = scratch.at_least(count * (padded + wide));
  float* sums = scores + count * padded;
  std::fill(scores, sums + count * wide, 0.0f);
  multiply_small(count, padded, job.width, queries.row(s.first_query + first) + column, queries.stride, 1,
                 pair.transposed_keys, pair.ld, scores, padded);
  float inverse[kQueryTile];
  for (int64_t i = 0; i < count; ++i) {
    const RowSum row = exponentiate_scores(scores + i * padded, visible + i, padded, job.shape.scale);
    inverse[i] = 1 / row.sum;
    if (!results.log_sums.empty())
      results.log_sums.row(s.first_query + first + i)[head] = row.maximum + std::log(row.sum);
  }
  if (count == 1 || all_finite(pair.values + visible * wide, (count - 1) * wide)) {
    multiply_small(count, wide, visible + count - 1, scores, padded, 1, pair.values, wide, sums, wide);
  } else {
    // Query by query: a value that a query does not see would meet it with weight zero, and zero times NaN is NaN.
    for (int64_t i = 0; i < count; ++i)
      multiply_small(1, wide, visible + i, scores + i * padded, padded, 1, pair.values, wide, sums + i * wide, wide);
  }
  for (int64_t i = 0; i < count; ++i)
    scale_into(sums + i * wide, job.width, inverse[i], results.output.row(s.first_query + first + i) + column);
}

// Packing pays once it is shared by a few queries.
constexpr int64_t kFewQueries = 2;

LOCI_SIMD void scores_of_run(const float* query, int64_t width, const float* keys, int64_t stride, int64_t count,
                             float* scores) {
  for (int64_t j = 0; j < count; ++j) {
    const float* key = keys + j * stride;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < width; ++c) sum += query[c] * key[c];
    scores[j] = sum;
  }
}

LOCI_SIMD void add_weighted_rows(const float* weights, const float* values, int64_t stride, int64_t count,
                                 int64_t width, float* sum) {
  for (int64_t j = 0; j < count; ++j) {
    const float weight = weights[j];
    const float* value = values + j * stride;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) sum[c] += weight * value[c];
  }
}

// One query against keys and values where they lie: generation, and lanes of one row.
void forward_query(const Job& job, const AttentionSequence& s, int64_t head, int64_t query, Scratch& scratch,
                   const Results& results) {
  const int64_t row = s.first_query + query, column = head * job.width;
  const int64_t visible = job.segment_keys(s) + s.visible_0 + query;
  float* scores = scratch.at_least(visible + job.width);
  float* sum = scores + visible;
  int64_t offset = 0;
  job.over_runs(s, job.key_head(head), [&](const Run& run) {
    const int64_t count = std::min(run.count, visible - offset);
    scores_of_run(job.inputs.queries.row(row) + column, job.width, run.keys, run.key_stride, count, scores + offset);
    offset += count;
  });
  const RowSum total = exponentiate_scores(scores, visible, visible, job.shape.scale);
  std::fill_n(sum, job.width, 0.0f);
  offset = 0;
  job.over_runs(s, job.key_head(head), [&](const Run& run) {
    const int64_t count = std::min(run.count, visible - offset);
    add_weighted_rows(scores + offset, run.values, run.value_stride, count, job.width, sum);
    offset += count;
  });
  scale_into(sum, job.width, 1 / total.sum, results.output.row(row) + column);
  if (!results.log_sums.empty()) results.log_sums.row(row)[head] = total.maximum + std::log(total.sum);
}

// Boundaries of one piece a thread of the pairs of sequences and `heads`, numbered sequence by sequence so that a
// sequence's rows stay in cache for all of its heads, with about the same arithmetic in each piece.
std::vector<int64_t> cut_pairs(const Job& job, int64_t heads, int64_t pieces) {
  constexpr double kFixedCost = 16;  // of a pair, in query-key products
  const int64_t sequences = job.batch.sequences.size();
  std::vector<double> cost(static_cast<size_t>(sequences));
  double whole = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    const AttentionSequence& s = job.sequence(i);
    const double keys = static_cast<double>(job.segment_keys(s) + s.visible_0) + static_cast<double>(s.queries) / 2;
    cost[i] = static_cast<double>(s.queries) * keys + kFixedCost;
    whole += cost[i];
  }
  std::vector<int64_t> bounds{0};
  double before = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    const double one = cost[i];
    while (std::ssize(bounds) < pieces) {
      const double wanted = whole * static_cast<double>(bounds.size()) / static_cast<double>(pieces);
      if (wanted > before + one) break;
      bounds.push_back(i * heads +
                       static_cast<int64_t>(std::round((wanted - before) / one * static_cast<double>(heads))));
    }
    before += one;
  }
  bounds.resize(static_cast<size_t>(pieces), heads * sequences);
  bounds.push_back(heads * sequences);
  return bounds;
}

// Calls visit(sequence, head, workspace) for all sequences with queries and all `heads`, query heads or key heads.
template <typename Visit>
void over_pairs(Context& context, const Job& job, int64_t heads, const Visit& visit) {
  const int64_t sequences = job.batch.sequences.size();
  if (sequences == 0) return;
  // A piece of less than a few microseconds is not worth waking a thread for.
  const int64_t pieces = std::min<int64_t>(context.threads().size(), (job.shape.heads * sequences + 3) / 4);
  const std::vector<int64_t> bounds = cut_pairs(job, heads, pieces);
  context.threads().parallel_for(pieces, 1, [&](int64_t begin, int64_t end) {
    Workspace workspace;
    for (int64_t i = bounds[begin]; i < bounds[end]; ++i) {
      const AttentionSequence& s = job.sequence(i / heads);
      if (s.queries > 0) visit(s, i % heads, workspace);
    }
  });
}

}  // namespace

void attention(Context& context, const AttentionBatch& batch, const AttentionShape& shape,
               const AttentionInputs& inputs, View output, View log_sums) {
  const Job job(batch, shape, inputs);
  const Results results{output, log_sums};
  require_consistent("attention", job);
  over_pairs(context, job, shape.heads, [&](const AttentionSequence& s, int64_t head, Workspace& workspace) {
    if (s.queries <= kFewQueries) {
      for (int64_t i = 0; i < s.queries; ++i) forward_query(job, s, head, i, workspace.tiles, results);
      return;
    }
    const PackedPair& pair = workspace.pack(job, s, job.key_head(head), Pass::forward);
    for (int64_t first = 0; first < s.queries; first += kQueryTile)
      forward_tile(job, pair, head, first, std::min(kQueryTile, s.queries - first), workspace.tiles, results);
  });
}

namespace {

// Gradients of a key head's own keys and values [own, packed(width)], added to the outputs when all tiles of all its
// query heads are done.
struct OwnGradients {
  int64_t own = 0;
  std::vector<float> keys;
  std::vector<float> values;
};

// scores := P from the saved sums; gradients (dP at first) := scale P (dP - D) = dS. Both are zero where nothing is
// seen.
LOCI_SIMD void row_gradients(float* scores, float* gradients, int64_t count, int64_t padded, float scale, float log_sum,
                             float projection) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) {
    const float p = simd::exp(scores[j] * scale - log_sum);
    scores[j] = p;
    gradients[j] = scale * p * (gradients[j] - projection);
  }
  std::fill(scores + count, scores + padded, 0.0f);
  std::fill(gradients + count, gradients + padded, 0.0f);
}

LOCI_SIMD float dot(const float* a, const float* b, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

struct BackwardViews {
  ConstView output, log_sums, output_gradients;
  AttentionGradients gradients;
};

// With P = softmax(scale Q K^T), O = P V:  dP = dO V^T;  dS = scale P (dP - (dO . O) 1^T);  dQ = dS K;  dK += dS^T Q;
// dV += P^T dO.
void backward_tile(const Job& job, const BackwardViews& views, const PackedPair& pair, int64_t head, int64_t first,
                   int64_t count, Scratch& scratch, OwnGradients& own) {
  const AttentionSequence& s = *pair.sequence;
  const int64_t width = job.width;
  const int64_t wide = packed(width);
  const int64_t row = s.first_query + first;
  const int64_t column = head * width;
  const int64_t visible = pair.segment_keys + s.visible_0 + first;
  const int64_t seen = visible + count - 1;
  const int64_t padded = packed(seen);
  float* scores = scratch.at_least(count * (2 * padded + 3 * wide));
  float* gradients = scores + count * padded;
  float* query_gradients = gradients + count * padded;
  float* queries = query_gradients + count * wide;
  float* output_gradients = queries + count * wide;
  std::fill(scores, queries, 0.0f);
  pack_rows(job.inputs.queries.row(row) + column, job.inputs.queries.stride, count, width, queries);
  pack_rows(views.output_gradients.row(row) + column, views.output_gradients.stride, count, width, output_gradients);
  multiply_small(count, padded, width, queries, wide, 1, pair.transposed_keys, pair.ld, scores, padded);
  multiply_small(count, padded, width, output_gradients, wide, 1, pair.transposed_values, pair.ld, gradients, padded);
  for (int64_t i = 0; i < count; ++i) {
    const float projection =
        dot(views.output_gradients.row(row + i) + column, views.output.row(row + i) + column, width);
    row_gradients(scores + i * padded, gradients + i * padded, visible + i, padded, job.shape.scale,
                  views.log_sums.row(row + i)[head], projection);
  }
  multiply_small(count, wide, seen, gradients, padded, 1, pair.keys, wide, query_gradients, wide);
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(views.gradients.queries.row(row + i) + column, query_gradients + i * wide,
                sizeof(float) * static_cast<size_t>(width));
  const int64_t own_seen = seen - pair.segment_keys;
  multiply_small(own_seen, wide, count, gradients + pair.segment_keys, 1, padded, queries, wide, own.keys.data(), wide);
  multiply_small(own_seen, wide, count, scores + pair.segment_keys, 1, padded, output_gradients, wide,
                 own.values.data(), wide);
}

void add_own_gradients(const Job& job, const AttentionGradients& gradients, const PackedPair& pair,
                       const OwnGradients& own) {
  const int64_t wide = packed(job.width);
  const int64_t column = pair.key_head * job.width, first = pair.sequence->first_key;
  for (int64_t i = 0; i < own.own; ++i) {
    add_into(own.keys.data() + i * wide, job.width, gradients.keys.row(first + i) + column);
    add_into(own.values.data() + i * wide, job.width, gradients.values.row(first + i) + column);
  }
}

}  // namespace

void attention_backward(Context& context, const AttentionBatch& batch, const AttentionShape& shape,
                        const AttentionInputs& inputs, ConstView output, ConstView log_sums, ConstView output_gradients,
                        const AttentionGradients& gradients) {
  const Job job(batch, shape, inputs);
  const BackwardViews views{output, log_sums, output_gradients, gradients};
  require_consistent("attention_backward", job);
  over_pairs(context, job, shape.key_heads, [&](const AttentionSequence& s, int64_t key_head, Workspace& workspace) {
    const PackedPair& pair = workspace.pack(job, s, key_head, Pass::backward);
    OwnGradients own;
    own.own = pair.total - pair.segment_keys;
    own.keys.assign(static_cast<size_t>(own.own * packed(job.width)), 0.0f);
    own.values = own.keys;
    for (int64_t head = key_head * shape.group(); head < (key_head + 1) * shape.group(); ++head)
      for (int64_t first = 0; first < s.queries; first += kQueryTile)
        backward_tile(job, views, pair, head, first, std::min(kQueryTile, s.queries - first), workspace.tiles, own);
    add_own_gradients(job, gradients, pair, own);
  });
}

}  // namespace loci::cpu
