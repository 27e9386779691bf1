#pragma once

#include <span>

#include "model/executor/plan.h"

/// The arithmetic of branches. Not for other folders.
namespace loci {

/// A branch and the rows of a block that it changes: rows first_row .. first_row + rows - 1 at both of its sites.
struct BranchRows {
  const Branch* branch;
  int64_t first_row;
  int64_t rows;
};

/// y += f(x K + b) V for each branch in turn; x and y are all rows at the sites that the branches share.
void add_branches(Context& context, std::span<const BranchRows> branches, ConstView x, View y);

/// The backward pass of one branch: dx += ..., and the gradients of K, V and b that the branch asks for. dy, dx and x
/// are all rows at its sites.
void branch_backward(Context& context, const BranchRows& branch, ConstView x, ConstView dy, View dx);

}  // namespace loci
