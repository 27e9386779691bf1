#include "model/executor/branch.h"

#include "kernels/gemm.h"
#include "kernels/rows.h"

namespace loci {
namespace {

/// Whether it is a term k v^T of an edited projection: these share one op.
bool is_rank_one(const Branch& branch) {
  return branch.neurons() == 1 && !branch.activation && branch.bias.empty() && branch.keys.contiguous() &&
         branch.values.contiguous();
}

/// x K + b.
Tensor before_activation(Context& context, const Branch& branch, ConstView x) {
  Tensor z(context, x.rows, branch.neurons());
  linear(context, x, WeightView::in_out(branch.keys), branch.bias, z.view());
  return z;
}

void add_branch(Context& context, const Branch& branch, ConstView x, View y) {
  Tensor z = before_activation(context, branch, x);
  if (branch.activation) activation(context, *branch.activation, z.view(), z.view());
  gemm(context, Transpose::no, z.view(), Transpose::no, branch.values, y, Write::accumulate);
}

View columns(const Branch& branch, View y) { return y.cols_slice(branch.first_column, branch.values.cols); }

}  // namespace

void add_branches(Context& context, std::span<const BranchRows> branches, ConstView x, View y) {
  std::vector<LowRankRows> terms;
  for (size_t i = 0; i < branches.size(); ++i) {
    const auto& [branch, first, rows] = branches[i];
    if (is_rank_one(*branch)) {
      terms.push_back({first, rows, branch->keys.data, branch->values.data});
      const bool last = i + 1 == branches.size() || !is_rank_one(*branches[i + 1].branch) ||
                        branches[i + 1].branch->first_column != branch->first_column ||
                        branches[i + 1].branch->values.cols != branch->values.cols;
      if (!last) continue;
      add_low_rank(context, x, {context, std::span<const LowRankRows>(terms)}, columns(*branch, y));
      terms.clear();
    } else {
      add_branch(context, *branch, x.rows_slice(first, rows), columns(*branch, y).rows_slice(first, rows));
    }
  }
}

void branch_backward(Context& context, const BranchRows& at, ConstView all_x, ConstView all_dy, View all_dx) {
  const Branch& branch = *at.branch;
  const ConstView x = all_x.rows_slice(at.first_row, at.rows);
  const ConstView dy = all_dy.rows_slice(at.first_row, at.rows).cols_slice(branch.first_column, branch.values.cols);
  Tensor z = before_activation(context, branch, x), dz(context, at.rows, branch.neurons());
  gemm(context, Transpose::no, dy, Transpose::yes, branch.values, dz.view());
  if (branch.activation) activation_backward(context, *branch.activation, z.view(), dz.view(), dz.view());
  gemm(context, Transpose::no, dz.view(), Transpose::yes, branch.keys, all_dx.rows_slice(at.first_row, at.rows),
       Write::accumulate);
  if (!branch.keys_gradient.empty())
    gemm(context, Transpose::yes, x, Transpose::no, dz.view(), branch.keys_gradient, Write::accumulate);
  if (!branch.bias_gradient.empty()) add_column_sums(context, dz.view(), branch.bias_gradient);
  if (branch.values_gradient.empty()) return;
  if (branch.activation) activation(context, *branch.activation, z.view(), z.view());
  gemm(context, Transpose::yes, z.view(), Transpose::no, dy, branch.values_gradient, Write::accumulate);
}

}  // namespace loci
