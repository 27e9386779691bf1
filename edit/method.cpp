#include "edit/method.h"

#include <algorithm>
#include <iterator>

namespace loci {

std::vector<std::span<const PreparedRequest>> cut_into_batches(std::span<const PreparedRequest> requests,
                                                               int64_t batch_size) {
  const size_t size = batch_size > 0 ? static_cast<size_t>(batch_size) : requests.size();
  std::vector<std::span<const PreparedRequest>> batches;
  for (; !requests.empty(); requests = requests.subspan(batches.back().size()))
    batches.push_back(requests.first(std::min(size, requests.size())));
  return batches;
}

std::vector<EditBatch> TwoStepMethod::edit(Executor& executor, std::span<const PreparedRequest> requests,
                                           int64_t batch_size) const {
  std::vector<Edit> found = find(executor, requests);
  std::vector<EditBatch> batches;
  auto next = std::make_move_iterator(found.begin());
  for (const std::span<const PreparedRequest> some : cut_into_batches(requests, batch_size)) {
    batches.push_back(write(executor, some, {next, next + std::ssize(some)}));
    next += std::ssize(some);
  }
  return batches;
}

}  // namespace loci
