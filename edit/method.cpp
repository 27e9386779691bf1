#include "edit/method.h"

#include <algorithm>
#include <iterator>

namespace loci {

std::vector<EditBatch> TwoStepMethod::edit(Executor& executor, std::span<const PreparedRequest> requests,
                                           int64_t batch_size) const {
  std::vector<Edit> found = find(executor, requests);
  std::vector<EditBatch> batches;
  const size_t size = batch_size > 0 ? static_cast<size_t>(batch_size) : requests.size();
  for (size_t first = 0; first < requests.size(); first += size) {
    const size_t count = std::min(size, requests.size() - first);
    const auto begin = std::make_move_iterator(found.begin() + static_cast<std::ptrdiff_t>(first));
    batches.push_back(
        write(executor, requests.subspan(first, count), {begin, begin + static_cast<std::ptrdiff_t>(count)}));
  }
  return batches;
}

}  // namespace loci
