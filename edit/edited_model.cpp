#include "edit/edited_model.h"

#include <algorithm>
#include <map>

#include "kernels/rows.h"
#include "runtime/error.h"

namespace loci {

Projection projection_of(Role role) {
  switch (role) {
    case Role::qkv_weight:
      return {Site::attn_in, Site::qkv};
    case Role::out_weight:
      return {Site::attn_heads, Site::attn_out};
    case Role::gate_weight:
    case Role::up_weight:
      return {Site::mlp_in, Site::mlp_pre};
    case Role::down_weight:
      return {Site::mlp_key, Site::mlp_out};
    default:
      throw_error<ShapeError>("role {} is not that of a projection", static_cast<int>(role));
  }
}

namespace {

Projection projection_of(const Change& change) {
  if (std::holds_alternative<Neurons>(change)) return {Site::mlp_in, Site::mlp_out};
  return projection_of(weight_of(change).role);
}

/// Rows of a lane cost as much as so many ranks; above that a copy of the matrix is cheaper.
constexpr int64_t kMostRank = 8;

void add_rows(Context& context, View weight, const Dense& change) {
  std::vector<float> rows = change.delta;
  const int64_t cols = weight.cols;
  const Tensor delta = Tensor::from_host(context, rows, std::ssize(rows) / cols, cols);
  if (change.rows.empty()) return add(context, delta.view(), weight);
  scatter_rows(context, delta.view(), {context, std::span<const int64_t>(change.rows)}, weight, Write::accumulate);
}

}  // namespace

bool EditedModel::runs_in_lanes(const Architecture& architecture) const {
  return std::ranges::all_of(changes_, [&](const Change& change) {
    if (architecture.mlp == Mlp::gated && weight_of(change).role == Role::up_weight) return false;
    const auto* low_rank = std::get_if<LowRank>(&change);
    return std::holds_alternative<Neurons>(change) || (low_rank && low_rank->rank <= kMostRank);
  });
}

int64_t EditedModel::first_layer() const {
  if (changes_.empty()) return 0;
  int64_t lowest = weight_of(changes_[0]).layer;
  for (const Change& change : changes_) lowest = std::min(lowest, weight_of(change).layer);
  const bool only_mlp_out = std::ranges::all_of(changes_, [&](const Change& change) {
    return weight_of(change).layer > lowest || projection_of(change).to == Site::mlp_out;
  });
  return only_mlp_out ? lowest + 1 : lowest;
}

std::vector<BlockSite> EditedModel::joining_sites() const {
  const int64_t below = first_layer() - 1;
  std::vector<BlockSite> sites;
  for (const Change& change : changes_)
    if (weight_of(change).layer == below) sites.push_back({projection_of(change).from, below});
  return sites;
}

void EditedModel::fold_into(Context& context, Model& model) const {
  for (const Change& change : changes_) fold(context, model, change);
}

namespace {

void fold_one(Context& context, Model& model, const LowRank& change) {
  model.add_low_rank(context, change.weight, change.rank, change.keys, change.values);
}

void fold_one(Context& context, Model& model, const Dense& change) {
  add_rows(context, model.own_weight(context, change.weight), change);
}

void fold_one(Context& context, Model& model, const Neurons& change) {
  model.add_neurons(context, change.weight.layer, change.activation, change.keys, change.bias, change.values);
}

}  // namespace

void fold(Context& context, Model& model, const Change& change) {
  std::visit([&](const auto& one) { fold_one(context, model, one); }, change);
}

namespace {

/// `count` keys as a branch reads them, [in, count].
Tensor keys_of(Context& context, std::span<const float> keys, int64_t count) {
  const int64_t in = std::ssize(keys) / count;
  std::vector<float> turned(keys.size());
  for (int64_t k = 0; k < count; ++k)
    for (int64_t i = 0; i < in; ++i) turned[i * count + k] = keys[k * in + i];
  return Tensor::from_host(context, turned, in, count);
}

}  // namespace

DeviceChanges::DeviceChanges(Context& context, std::span<const EditedModel* const> models) : terms_(models.size()) {
  // A wave of rank-one edits is one array of keys and one of values.
  struct Rows {
    std::vector<float> keys, values;
    std::vector<Branch*> branches;
  };
  std::map<Role, Rows> singles;
  std::map<const EditedModel*, size_t> first;
  for (size_t m = 0; m < models.size(); ++m) {
    const auto [known, is_new] = first.try_emplace(models[m], m);
    terms_[m].same_as = known->second;
    if (is_new) terms_[m].branches.resize(models[m]->changes().size());
    for (size_t c = 0; c < terms_[m].branches.size(); ++c) {
      const Change& any = models[m]->changes()[c];
      const Projection projection = projection_of(any);
      Branch& branch = terms_[m].branches[c];
      branch = {.sequence = 0,
                .layer = weight_of(any).layer,
                .keys = {},
                .values = {},
                .from = projection.from,
                .to = projection.to};
      const auto keep = [&](Tensor tensor) { return std::as_const(storage_.emplace_back(std::move(tensor))).view(); };
      const auto keep_values = [&](std::span<const float> values, int64_t rows) {
        return keep(Tensor::from_host(context, values, rows, std::ssize(values) / rows));
      };
      if (const auto* neurons = std::get_if<Neurons>(&any)) {
        branch.activation = neurons->activation;
        branch.keys = keep(keys_of(context, neurons->keys, neurons->count()));
        branch.bias = keep_values(neurons->bias, 1);
        branch.values = keep_values(neurons->values, neurons->count());
        continue;
      }
      const auto* change = std::get_if<LowRank>(&any);
      require<ShapeError>(change != nullptr, "a change of whole rows does not run in lanes");
      if (change->rank == 1) {
        Rows& rows = singles[change->weight.role];
        rows.keys.insert(rows.keys.end(), change->keys.begin(), change->keys.end());
        rows.values.insert(rows.values.end(), change->values.begin(), change->values.end());
        rows.branches.push_back(&branch);
        continue;
      }
      branch.keys = keep(keys_of(context, change->keys, change->rank));
      branch.values = keep_values(change->values, change->rank);
    }
  }
  for (auto& [role, rows] : singles) {
    const auto count = std::ssize(rows.branches);
    const Tensor& keys =
        storage_.emplace_back(Tensor::from_host(context, rows.keys, count, std::ssize(rows.keys) / count));
    const Tensor& values =
        storage_.emplace_back(Tensor::from_host(context, rows.values, count, std::ssize(rows.values) / count));
    for (int64_t i = 0; i < count; ++i) {
      rows.branches[i]->keys = {keys.row(i), keys.cols(), 1};
      rows.branches[i]->values = values.rows_slice(i, 1);
    }
  }
}

void DeviceChanges::add_to(Plan& plan, int64_t sequence, size_t model) const {
  for (Branch branch : terms_[terms_[model].same_as].branches) {
    branch.sequence = sequence;
    plan.branches.push_back(branch);
  }
}

}  // namespace loci
